"""The right side of the ledger: what an apply amounts to per tenant and received hour. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from kernel.clock import Micros, day_of, hour_of
from kernel.effects import Apply, DeadLetter, Effects, EventRow, HeldRecord, RecordRow, Unkeepable
from kernel.ids import TenantId
from kernel.limits import INDEX_ROW_BYTES_MAX

TenantHour = tuple[TenantId, Micros]

# Of UTF-8, at four bytes a character; what is left is the tenant's name and the row's own head.
_KEY_BYTES_MAX: Final = INDEX_ROW_BYTES_MAX - 96

_BIGINT_MIN: Final = -(2**63)
_BIGINT_MAX: Final = 2**63 - 1

_content_hash = itemgetter(EventRow._fields.index("content_hash"))
_record = itemgetter(*map(EventRow._fields.index, ("offset", "tenant", "partition", "received_day")))


@dataclass(frozen=True, slots=True)
class Tally:
    """Events of one apply per tenant-hour; `rows` are stored or duplicate, which only the store can tell."""

    rows: Mapping[TenantHour, int]
    quarantined: Mapping[TenantHour, int]
    held: Mapping[TenantHour, int]


@dataclass(frozen=True, slots=True)
class Line:
    """What one tenant-hour's ledger grows by."""

    tenant: TenantId
    hour: Micros
    stored: int
    duplicate: int
    quarantined: int
    held: int


def count(apply: Apply) -> Tally:
    """Counts the effects. Raises ValueError: they do not add up to `accepted`, rows and records do not belong together, the position
    would not move, a key is too long, a number is larger than its column, a time is beyond the calendar."""
    effects = apply.effects
    _check_numbers(effects)
    if not 0 <= apply.expected < apply.next:
        raise ValueError(f"an apply moves a position forward, not from {apply.expected} to {apply.next}")
    _check_records(effects)
    tally = _counted(effects.records, effects.dead_letters, effects.held)
    found = sum((Counter(part) for part in (tally.rows, tally.quarantined, tally.held)), Counter[TenantHour]())
    if found != Counter(effects.accepted):
        raise ValueError("the effects do not add up to what was accepted")
    if any(4 * (len(claim.node) + len(claim.name)) > _KEY_BYTES_MAX for claim in effects.traits):
        raise Unkeepable("a trait's key is longer than an index row may be")
    return tally


def count_here(effects: Effects) -> Tally:
    """Of what this cell accepted itself: the right side of its ledger. What another cell accepted, that one accounts for."""
    if not effects.elsewhere:
        return _counted(effects.records, effects.dead_letters, effects.held)
    return _counted(
        (one for one in effects.records if one.offset not in effects.elsewhere),
        (one for one in effects.dead_letters if one.offset not in effects.elsewhere),
        (one for one in effects.held if one.offset not in effects.elsewhere),
    )


def _counted(records: Iterable[RecordRow], letters: Iterable[DeadLetter], held: Iterable[HeldRecord]) -> Tally:
    rows: Counter[TenantHour] = Counter()
    for kept in records:
        rows[kept.tenant, hour_of(kept.received_at)] += kept.events
    waiting: Counter[TenantHour] = Counter()
    for record in held:
        waiting[record.tenant, hour_of(record.received_at)] += record.events
    return Tally(rows, Counter((letter.tenant, hour_of(letter.received_at)) for letter in letters), waiting)


def _check_records(effects: Effects) -> None:
    """Every row stands in a record of its own tenant and day, every record has all its rows, and an offset is one record's: a row is
    read by what it says of its record, whatever else lies beside it."""
    rows_of = Counter(map(_record, effects.rows))
    if any(record.partition != effects.partition or record.received_day != day_of(record.received_at) for record in effects.records):
        raise ValueError("a record of another partition than its effects, or of another day than it was received on")
    if len({record.offset for record in effects.records}) != len(effects.records):
        raise ValueError("two records at one offset")
    if {(r.offset, r.tenant, r.partition, r.received_day): r.events for r in effects.records} != rows_of:
        raise ValueError("a row stands in no record, or a record's rows are not all there")


def _check_numbers(effects: Effects) -> None:
    """A writer other than ingest may leave any number in a log; what no adapter can keep must be told from what cannot be kept now."""
    numbers = {0, *map(_content_hash, effects.rows), *(record.epoch for record in effects.records)}
    if not _BIGINT_MIN <= min(numbers) <= max(numbers) <= _BIGINT_MAX:
        raise Unkeepable("a content hash or an epoch of more than 64 bits")
    try:
        for _, hour in effects.accepted:
            day_of(hour)
    except OverflowError as error:
        raise Unkeepable("received at a time that no calendar has") from error


def claimed(effects: Effects, tally: Tally) -> frozenset[TenantId]:
    """The tenants whose claim is checked: all that the effects change something of but holding records whole."""
    named = {tenant for tenant, _ in (*tally.rows, *tally.quarantined)}
    return effects.tenants | named | {claim.tenant for claim in effects.identities} | {claim.tenant for claim in effects.traits}


def settle(effects: Effects, repeated: Iterable[EventRow]) -> list[Line]:
    """The ledger's lines, in key order; `repeated` are the rows that were stored already."""
    lines, tally = [], count_here(effects)
    duplicates = _hours_of(effects.records, [row for row in repeated if row.offset not in effects.elsewhere])
    for key in sorted({*tally.rows, *tally.quarantined, *tally.held}):
        again = duplicates.get(key, 0)
        lines.append(Line(*key, tally.rows.get(key, 0) - again, again, tally.quarantined.get(key, 0), tally.held.get(key, 0)))
    return lines


def _hours_of(records: Iterable[RecordRow], rows: Sequence[EventRow]) -> Counter[TenantHour]:
    """`rows` per tenant and received hour, which their records know."""
    hours = {record.offset: (record.tenant, hour_of(record.received_at)) for record in records} if rows else {}
    return Counter(hours[row.offset] for row in rows)

"""The right side of the ledger: what an apply amounts to per tenant and received hour. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from kernel.clock import HOUR, Micros, day_of, hour_of
from kernel.effects import Apply, Effects
from kernel.ids import TenantId
from kernel.limits import INDEX_ROW_BYTES_MAX

TenantHour = tuple[TenantId, Micros]

# Of UTF-8, at four bytes a character; what is left is the tenant's name and the row's own head.
_KEY_BYTES_MAX: Final = INDEX_ROW_BYTES_MAX - 96


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
    """Counts the effects. Raises ValueError: they do not add up to `accepted`, the position would not move, a key is too long."""
    effects = apply.effects
    if not 0 <= apply.expected < apply.next:
        raise ValueError(f"an apply moves a position forward, not from {apply.expected} to {apply.next}")
    hours = Counter([(row.tenant, row.received_at // HOUR) for row in effects.rows])
    rows = {(tenant, Micros(hour * HOUR)): number for (tenant, hour), number in hours.items()}
    quarantined = Counter((letter.tenant, hour_of(letter.received_at)) for letter in effects.dead_letters)
    held: Counter[TenantHour] = Counter()
    for record in effects.held:
        held[record.tenant, hour_of(record.received_at)] += record.events
    tally = Tally(rows, quarantined, held)
    found = sum((Counter(part) for part in (rows, quarantined, held)), Counter[TenantHour]())
    if found != Counter(effects.accepted):
        raise ValueError("the effects do not add up to what was accepted")
    if any(4 * (len(claim.node) + len(claim.name)) > _KEY_BYTES_MAX for claim in effects.traits):
        raise ValueError("a trait's key is longer than an index row may be")
    return tally


def claimed(effects: Effects, tally: Tally) -> frozenset[TenantId]:
    """The tenants whose claim is checked: all that the effects change something of but holding records whole."""
    named = {tenant for tenant, _ in (*tally.rows, *tally.quarantined)}
    return effects.tenants | named | {claim.tenant for claim in effects.identities} | {claim.tenant for claim in effects.traits}


def settle(tally: Tally, stored: Mapping[TenantHour, int]) -> list[Line]:
    """The ledger's lines, in key order; what was not stored of `rows` is duplicate."""
    lines = []
    for key in sorted({*tally.rows, *tally.quarantined, *tally.held}):
        rows, new = tally.rows.get(key, 0), stored.get(key, 0)
        lines.append(Line(key[0], key[1], new, rows - new, tally.quarantined.get(key, 0), tally.held.get(key, 0)))
    return lines


def days_of(effects: Effects) -> set[date]:
    """The received days of the rows, out of `accepted` (some may belong to dead letters or held records alone)."""
    return {day_of(hour) for _, hour in effects.accepted}

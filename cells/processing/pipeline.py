"""The pipeline, as a table of contents. A pure fold: records of one partition in, effects out.

    record -> decode            codec; what cannot be read: a dead letter for each of its events
           -> check the shape   `shape`; tracking plans go here
           -> correct the clock `clock_skew`
           -> claim identities  `identity_claims`
           -> row               what storage finds the event by; the record keeps its body
    (enrichment, consent and PII rules, tenant transformations and routing to destinations take their places between the
    claims and the row; deliveries become one more field of Effects.)

What a cell of `peers` accepted is folded like everything else, and that cell accounts for it.

A record of a tenant in `held` is not opened: it is kept whole, visible as held, until it is redriven (not yet).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from enum import Enum
from itertools import count, islice, repeat

import msgspec

from cells.eventlog import codec
from cells.eventlog.envelope import Columns
from cells.eventlog.log import Entry
from cells.processing import identity_claims, shape
from cells.processing.clock_skew import correct
from kernel.clock import Micros, day_of, hour_of
from kernel.effects import DeadLetter, Effects, EventRow, HeldRecord, IdentityClaim, RecordRow, TraitClaim
from kernel.errors import Reason
from kernel.ids import CellId, TenantId, message_keys
from kernel.limits import APPLY_CLAIMS_MAX, APPLY_FOLD_BYTES_MAX, MESSAGE_ID_CHARS_MAX, SLICE_EVENTS_MAX


class Care(Enum):
    """How much a fold trusts the log: on the QUICK way ingest's checks are taken as done, a STRICT fold reads every payload again,
    and one that is to BURY makes every event a dead letter, because the store refused the record for a reason that no check sees."""

    QUICK = "quick"
    STRICT = "strict"
    BURY = "bury"


@dataclass
class Fold:
    """Gathers the effects of one partition's records, entry by entry, so that a shell can stop for breath in between."""

    partition: int
    held: Set[TenantId] = frozenset()
    care: Care = Care.QUICK
    peers: Set[CellId] = frozenset()
    _bytes: int = 0
    _units: int = 0
    _rows: list[EventRow] = field(default_factory=list)
    _records: list[RecordRow] = field(default_factory=list)
    _identities: list[IdentityClaim] = field(default_factory=list)
    _traits: list[TraitClaim] = field(default_factory=list)
    _dead: list[DeadLetter] = field(default_factory=list)
    _held: list[HeldRecord] = field(default_factory=list)
    _elsewhere: set[int] = field(default_factory=set)
    _accepted: dict[tuple[TenantId, Micros], int] = field(default_factory=lambda: defaultdict(int))

    @property
    def full(self) -> bool:
        """Whether one apply should not hold more: compressed records say little of what is in them."""
        claims = len(self._identities) + len(self._traits)
        return claims >= APPLY_CLAIMS_MAX or self._bytes >= APPLY_FOLD_BYTES_MAX

    def add(self, entry: Entry) -> None:
        """Takes one record in."""
        for _ in self.steps(entry):
            pass

    def steps(self, entry: Entry) -> Iterator[None]:
        """Takes one record in, yielding after every few hundred events and traits for whoever wants to breathe."""
        record = entry.record
        if record.cell in self.peers:
            self._elsewhere.add(entry.offset)
        self._accepted[(record.tenant, hour_of(record.received_at))] += record.events
        if record.tenant in self.held:
            self._held.append(HeldRecord(record.tenant, record.received_at, entry.offset, record.events, record.body))
            return
        try:
            columns = codec.decode_columns(record.body)
        except codec.Undecodable as error:
            yield from self._bury_record(entry, str(error))
            return
        if len(columns.message_ids) != record.events:
            yield from self._bury_record(entry, f"{len(columns.message_ids)} envelopes where the header says {record.events}")
            return
        self._bytes += sum(map(len, columns.payloads))
        yield from self._take(entry, columns)

    def effects(self) -> Effects:
        """All of it."""
        return Effects(
            partition=self.partition,
            rows=tuple(self._rows),
            records=tuple(self._records),
            identities=tuple(dict.fromkeys(self._identities)),
            traits=tuple(self._traits),
            dead_letters=tuple(self._dead),
            held=tuple(self._held),
            accepted=dict(self._accepted),
            elsewhere=frozenset(self._elsewhere),
        )

    def _take(self, entry: Entry, columns: Columns) -> Iterator[None]:
        """The events of one record, a field at a time."""
        record = entry.record
        wrong = self._wrong(columns)
        event_ats = correct(record.received_at, columns.sent_at, columns.original_ats)
        for ordinal in identity_claims.with_traits(columns):
            if ordinal in wrong:
                continue
            try:
                claims = identity_claims.traits(record.tenant, columns, ordinal, event_ats[ordinal])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                wrong[ordinal] = f"traits: {type(error).__name__}"
                continue
            self._traits.extend(claims)
            self._units += len(claims)
            if self._units >= SLICE_EVENTS_MAX:
                self._units = 0
                yield
        for ordinal, why in sorted(wrong.items()):
            self._bury(entry, columns, ordinal, why)
        self._identities.extend(identity_claims.identities(record.tenant, columns, wrong))
        if len(wrong) < record.events:
            rows = self._row_of_each(entry, columns, event_ats)
            while part := list(islice(rows, SLICE_EVENTS_MAX)):
                self._rows.extend(row for row in part if row.ordinal not in wrong)
                yield
            self._records.append(_record_row(self.partition, entry, record.events - len(wrong)))

    def _wrong(self, columns: Columns) -> dict[int, str]:
        """Why which of the events can not be taken."""
        if self.care is Care.BURY:
            return dict.fromkeys(range(len(columns.types)), "shape: the store refused its record")
        return {ordinal: f"shape: {what}" for ordinal, what in shape.violations(columns, self.care is Care.STRICT).items()}

    def _row_of_each(self, entry: Entry, columns: Columns, event_ats: Sequence[Micros]) -> Iterator[EventRow]:
        record = entry.record
        fields = zip(
            repeat(record.tenant),
            message_keys(record.tenant, columns.message_ids),
            repeat(day_of(record.received_at)),
            event_ats,
            repeat(self.partition),
            repeat(entry.offset),
            count(),
            columns.content_hashes,
            columns.types,
            columns.names,
            columns.user_ids,
            columns.anonymous_ids,
            columns.group_ids,
            repeat(record.source),
            strict=False,  # what repeats has no end
        )
        return map(EventRow._make, fields)

    def _bury(self, entry: Entry, columns: Columns, ordinal: int, detail: str) -> None:
        record, reason = entry.record, Reason.UNPROCESSABLE_EVENT.name
        message_id = columns.message_ids[ordinal].replace("\x00", "\ufffd")[:MESSAGE_ID_CHARS_MAX]
        payload = columns.payloads[ordinal]
        self._dead.append(DeadLetter(record.tenant, record.received_at, entry.offset, ordinal, message_id, reason, detail, payload))

    def _bury_record(self, entry: Entry, detail: str) -> Iterator[None]:
        """One dead letter per event of the header's count, so that the ledger adds up; the first keeps the bytes."""
        record, reason = entry.record, Reason.UNDECODABLE_RECORD.name
        for ordinal in range(record.events):
            body = b"" if ordinal else record.body
            self._dead.append(DeadLetter(record.tenant, record.received_at, entry.offset, ordinal, "", reason, detail, body))
            if ordinal % SLICE_EVENTS_MAX == SLICE_EVENTS_MAX - 1:
                yield


def fold(partition: int, entries: Sequence[Entry], held: Set[TenantId] = frozenset(), care: Care = Care.QUICK) -> Effects:
    """The effects of `entries`."""
    work = Fold(partition, held, care)
    for entry in entries:
        work.add(entry)
    return work.effects()


def _record_row(partition: int, entry: Entry, events: int) -> RecordRow:
    record = entry.record
    return RecordRow(
        record.tenant,
        day_of(record.received_at),
        partition,
        entry.offset,
        record.received_at,
        record.epoch,
        record.cell,
        record.source,
        events,
        record.body,
    )

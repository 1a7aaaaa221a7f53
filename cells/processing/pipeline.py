"""The pipeline, as a table of contents. A pure fold: records of one partition in, effects out.

    record -> decode            codec; what cannot be read: a dead letter for each of its events
           -> check the shape   `shape`; tracking plans go here
           -> correct the clock `clock_skew`
           -> claim identities  `identity_claims`
           -> row               what storage finds the event by; the record keeps its body
    (enrichment, consent and PII rules, tenant transformations and routing to destinations take their places between the
    claims and the row; deliveries become one more field of Effects.)

A record of a tenant in `held` is not opened: it is kept whole, visible as held, until it is redriven (not yet: it comes with moves).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from typing import NamedTuple

import msgspec

from cells.eventlog import codec
from cells.eventlog.envelope import Body, Envelope
from cells.eventlog.log import Entry
from cells.processing import identity_claims, shape
from cells.processing.clock_skew import correct
from kernel.clock import Micros, day_of, hour_of
from kernel.effects import DeadLetter, Effects, EventRow, HeldRecord, IdentityClaim, RecordRow, TraitClaim
from kernel.errors import Reason
from kernel.ids import TenantId, message_keys
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
    _bytes: int = 0
    _units: int = 0
    _rows: list[EventRow] = field(default_factory=list)
    _records: list[RecordRow] = field(default_factory=list)
    _said: set[tuple[TenantId, str | None, str | None, str | None]] = field(default_factory=set)
    _identities: list[IdentityClaim] = field(default_factory=list)
    _traits: list[TraitClaim] = field(default_factory=list)
    _dead: list[DeadLetter] = field(default_factory=list)
    _held: list[HeldRecord] = field(default_factory=list)
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
        self._accepted[(record.tenant, hour_of(record.received_at))] += record.events
        if record.tenant in self.held:
            self._held.append(HeldRecord(record.tenant, record.received_at, entry.offset, record.events, record.body))
            return
        try:
            body = codec.decode(record.body)
        except codec.Undecodable as error:
            self._bury_record(entry, str(error))
            return
        if len(body.envelopes) != record.events:
            self._bury_record(entry, f"{len(body.envelopes)} envelopes where the header says {record.events}")
            return
        opened = _Opened(entry, body, day_of(record.received_at), message_keys(record.tenant, [e.message_id for e in body.envelopes]))
        before = len(self._rows)
        for ordinal, envelope in enumerate(body.envelopes):
            self._bytes += len(envelope.payload)
            self._units += 1 + self._take(opened, envelope, ordinal)
            if self._units >= SLICE_EVENTS_MAX:
                self._units = 0
                yield
        if len(self._rows) > before:
            self._records.append(_record_row(self.partition, opened, len(self._rows) - before))

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
        )

    def _take(self, opened: _Opened, envelope: Envelope, ordinal: int) -> int:
        """One event; how many traits it brought."""
        entry, body, day, keys = opened
        record = entry.record
        wrong = "the store refused its record" if self.care is Care.BURY else shape.violation(envelope, self.care is Care.STRICT)
        if wrong is not None:
            self._bury(entry, envelope, ordinal, f"shape: {wrong}")
            return 0
        event_at = correct(record.received_at, body.sent_at, envelope.original_at)
        traits: tuple[TraitClaim, ...] = ()
        if envelope.type == "identify":
            try:
                traits = identity_claims.traits(record.tenant, envelope, event_at)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self._bury(entry, envelope, ordinal, f"traits: {type(error).__name__}")
                return 0
            self._traits.extend(traits)
        self._claim(record.tenant, envelope)
        row = (
            record.tenant,
            keys[ordinal],
            day,
            event_at,
            self.partition,
            entry.offset,
            ordinal,
            envelope.content_hash,
            envelope.type,
            envelope.name,
            envelope.user_id,
            envelope.anonymous_id,
            envelope.group_id,
            record.source,
        )
        self._rows.append(EventRow._make(row))
        return len(traits)

    def _claim(self, tenant: TenantId, envelope: Envelope) -> None:
        """What the event says about who is who; most events say again what one before them said."""
        said = (tenant, envelope.user_id, envelope.anonymous_id, envelope.previous_id)
        if said not in self._said:
            self._said.add(said)
            self._identities.extend(identity_claims.identities(tenant, envelope))

    def _bury(self, entry: Entry, envelope: Envelope, ordinal: int, detail: str) -> None:
        record, reason = entry.record, Reason.UNPROCESSABLE_EVENT.name
        message_id = envelope.message_id.replace("\x00", "\ufffd")[:MESSAGE_ID_CHARS_MAX]
        self._dead.append(
            DeadLetter(record.tenant, record.received_at, entry.offset, ordinal, message_id, reason, detail, envelope.payload)
        )

    def _bury_record(self, entry: Entry, detail: str) -> None:
        """One dead letter per event of the header's count, so that the ledger adds up; the first keeps the bytes."""
        record, reason = entry.record, Reason.UNDECODABLE_RECORD.name
        self._dead.extend(
            DeadLetter(record.tenant, record.received_at, entry.offset, ordinal, "", reason, detail, record.body if ordinal == 0 else b"")
            for ordinal in range(record.events)
        )


def fold(partition: int, entries: Sequence[Entry], held: Set[TenantId] = frozenset(), care: Care = Care.QUICK) -> Effects:
    """The effects of `entries`."""
    work = Fold(partition, held, care)
    for entry in entries:
        work.add(entry)
    return work.effects()


class _Opened(NamedTuple):
    """A record that could be read; `message_keys` stand in the order of its events."""

    entry: Entry
    body: Body
    day: date
    message_keys: list[bytes]


def _record_row(partition: int, opened: _Opened, events: int) -> RecordRow:
    record = opened.entry.record
    return RecordRow(
        record.tenant,
        opened.day,
        partition,
        opened.entry.offset,
        record.received_at,
        record.epoch,
        record.cell,
        record.source,
        events,
        record.body,
    )

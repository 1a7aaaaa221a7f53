"""`store.Store` and `store.Reader` in memory: for the simulation and unit tests. Nothing outlives the object.

An apply is atomic because it never yields: it is decided on what is there and then written.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

from cells.eventlog import codec
from cells.eventlog.envelope import Envelope
from cells.storage import dedup, identity, metrics, own, tally, traits
from cells.storage.chunk import KeptHeld, KeptLetter, KeptRecord, Key, LedgerLine
from cells.storage.convert import partition_of
from cells.storage.held import HELD_RECORDS_MAX, ordinal_in
from cells.storage.profile import profile_of
from cells.storage.store import Cursor, Filter, LedgerRow, Listed, Profile, Stored, Traced
from kernel.clock import Clock, Micros
from kernel.effects import (
    Applied,
    Apply,
    Duplicate,
    Effects,
    EventRow,
    Fenced,
    Outcome,
    RecordRow,
    TraitClaim,
    Unkeepable,
)
from kernel.epoch import Ownership
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId, message_keys
from kernel.metrics import Meter

Place = tuple[int, int, date]


@dataclass
class Kept:
    """What is kept of one tenant. Events by message key; records, dead letters and held records by where they lie; `before` is the ledger
    of cells that it lived in before."""

    events: dict[bytes, list[Stored]] = field(default_factory=dict)
    records: dict[Place, KeptRecord] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    traits: dict[tuple[str, str], TraitClaim] = field(default_factory=dict)
    letters: dict[tuple[int, int, int], KeptLetter] = field(default_factory=dict)
    held: dict[tuple[int, int], KeptHeld] = field(default_factory=dict)
    lines: dict[Micros, LedgerRow] = field(default_factory=dict)
    before: dict[tuple[CellId, Micros], LedgerLine] = field(default_factory=dict)
    changed: dict[object, int] = field(default_factory=dict)
    changes: int = 0

    @property
    def anything(self) -> bool:
        """Whether there is anything."""
        return any((self.events, self.records, self.nodes, self.traits, self.letters, self.held))

    def keys(self) -> set[Key]:
        """Where anything lies."""
        return {place[:2] for place in (*self.records, *self.letters)} | set(self.held)

    def ledger(self) -> list[tuple[TenantId, Micros, int, int, int, int]]:
        """The tenant's lines of this cell, in order."""
        return [(line.tenant, hour, line.stored, line.duplicate, line.quarantined, line.held) for hour, line in sorted(self.lines.items())]

    def merge(self, components: dict[str, str]) -> None:
        """Nodes in their new components."""
        self._change(components)
        self.nodes.update(components)

    def write(self, claim: TraitClaim) -> None:
        """A trait, unless a later one is known."""
        key = (claim.node, claim.name)
        if traits.wins(claim, self.traits.get(key)):
            self._change((key,))
            self.traits[key] = claim

    def _change(self, keys: Iterable[object]) -> None:
        self.changed.update(dict.fromkeys(keys, self.changes))
        self.changes += 1

    def keep(self, row: EventRow, kept: KeptRecord, envelope: Envelope) -> None:
        """An event and its record."""
        record, stored_at = self.records.setdefault((row.partition, row.offset, row.received_day), kept)
        self.events.setdefault(row.message_key, []).append(Stored(row, record._replace(body=b""), envelope, stored_at))


class MemoryStore:
    """See the module's docstring and the port's. Setting `down` makes every call fail as an unreachable database does."""

    def __init__(self, clock: Clock, meter: Meter) -> None:
        self.down = False
        self._clock = clock
        self._meter = meter
        self._positions: dict[int, int] = {}
        self._replicas: dict[tuple[CellId, int], int] = {}
        self._owned: dict[TenantId, Ownership] = {}
        self._tenants: dict[TenantId, Kept] = {}
        self._records: dict[Place, RecordRow] = {}

    async def close(self) -> None:
        """Nothing to release."""

    async def maintain(self) -> None:
        """Nothing to make ahead."""

    async def positions(self) -> dict[int, int]:
        """See the port."""
        self._reach()
        return dict(self._positions)

    async def replicated(self, origin: CellId) -> dict[int, int]:
        """See the port."""
        self._reach()
        return {partition: offset for (cell, partition), offset in self._replicas.items() if cell == origin}

    async def replicate(self, origin: CellId, partition: int, expected: int, following: int) -> bool:
        """See the port."""
        self._reach()
        own.check_forward(expected, following)
        if self._replicas.get((origin, partition), 0) != expected:
            return False
        self._replicas[origin, partition] = following
        return True

    async def ledger(self) -> list[LedgerRow]:
        """See the port."""
        self._reach()
        return [line for tenant in sorted(self._tenants) for _, line in sorted(self._tenants[tenant].lines.items())]

    def reached(self) -> dict[int, int]:
        """The positions, for whoever reads them together with what is kept."""
        self._reach()
        return dict(self._positions)

    def ownership(self, tenant: TenantId) -> Ownership | None:
        """Who owns a tenant here."""
        return self._owned.get(tenant)

    def kept(self, tenant: TenantId) -> Kept:
        """What is kept of a tenant, to be read or changed before anybody else runs."""
        self._reach()
        return self._tenants.setdefault(tenant, Kept())

    def drop(self, tenant: TenantId) -> int:
        """Removes all that is kept of a tenant but this cell's ledger; how many rows."""
        gone = self._tenants.pop(tenant, Kept())
        self._tenants[tenant] = Kept(lines=gone.lines)
        return len(gone.events) + len(gone.records) + len(gone.nodes) + len(gone.traits) + len(gone.letters) + len(gone.held)

    async def own(self, ownerships: Sequence[Ownership], dedicated: Sequence[TenantId]) -> None:
        """See the port. Here every tenant has a schema of its own."""
        self._reach()
        self._owned.update(own.grow(self._owned, ownerships))

    async def apply(self, apply: Apply, deadline: float) -> Outcome:
        """See the port."""
        counted = tally.count(apply)
        self._reach()
        if deadline <= self._clock.monotonic():
            raise Failure(Reason.STORE_UNAVAILABLE, "no time was left")
        effects = apply.effects
        position = self._positions.get(effects.partition, 0)
        if position != apply.expected:
            return Duplicate(position)
        refused = own.fenced(apply.claim, tally.claimed(effects, counted), self._owned)
        if refused:
            return Fenced(refused)
        _refuse_nul(effects)
        sifted = self._sift(effects)
        self._store_rows(effects, sifted.fresh)
        self._store_others(effects)
        lines = tally.settle(effects, sifted.repeated)
        self._store_ledger(lines)
        self._positions[effects.partition] = apply.next
        return Applied(
            stored=sum(line.stored for line in lines),
            duplicate=sum(line.duplicate for line in lines),
            quarantined=sum(line.quarantined for line in lines),
            held=sum(line.held for line in lines),
            conflicts=sifted.conflicts,
        )

    async def list_events(self, tenant: TenantId, which: Filter, page_size: int, after: Cursor | None) -> Listed:
        """See the port. No body is opened here, so none is too many."""
        found = sorted(self._matching(tenant, which), key=_time_key, reverse=True)
        if after is not None:
            found = [stored for stored in found if _time_key(stored) < (after.event_at, after.message_key, after.received_day)]
        return Listed(found[:page_size], len(found) > page_size)

    async def get_event(self, tenant: TenantId, message_id: str) -> Stored | None:
        """See the port."""
        self._reach()
        found = self._tenants.get(tenant, Kept()).events.get(message_keys(tenant, [message_id])[0], [])
        return _shown(min(found, key=lambda stored: stored.row.received_day)) if found else None

    async def count_events(self, tenant: TenantId, which: Filter, bucket_seconds: int) -> list[tuple[Micros, int]]:
        """See the port."""
        width = bucket_seconds * 1_000_000
        counted = Counter(stored.row.event_at // width * width for stored in self._matching(tenant, which))
        return [(Micros(start), counted[start]) for start in sorted(counted)]

    async def profile(self, tenant: TenantId, node: str) -> Profile | None:
        """See the port."""
        self._reach()
        known = self._tenants.get(tenant, Kept())
        component = known.nodes.get(node)
        members = {other for other, name in known.nodes.items() if name == component} if component is not None else {node}
        claims = [claim for (owner, _), claim in known.traits.items() if owner in members]
        return profile_of(members, claims) if component is not None or claims else None

    async def trace(self, tenant: TenantId, message_id: str) -> Traced:
        """See the port."""
        stored = await self.get_event(tenant, message_id)
        if stored is not None:
            return Traced("stored", "", stored.row.partition, stored.row.offset, stored.row.ordinal, stored)
        known = self._tenants.get(tenant, Kept())
        found = [letter for letter in known.letters.values() if letter.message_id == message_id]
        if found:
            last = max(found, key=lambda letter: (letter.received_at, letter.offset))
            return Traced("dead_letter", last.reason, partition_of(last.partition), last.offset, last.ordinal)
        latest = sorted(known.held.values(), key=lambda held: (held.received_at, held.offset), reverse=True)
        for held in latest[:HELD_RECORDS_MAX]:
            index = ordinal_in(held.record, message_id)
            if index is not None:
                return Traced("held", "the cell does not own the tenant", partition_of(held.partition), held.offset, index)
        return Traced("unknown")

    def _reach(self) -> None:
        if self.down:
            raise Failure(Reason.STORE_UNAVAILABLE, "down")

    def _matching(self, tenant: TenantId, which: Filter) -> list[Stored]:
        self._reach()
        kept = self._tenants.get(tenant, Kept()).events.values()
        return [_shown(stored) for same in kept for stored in same if _matches(stored.row, which)]

    def _sift(self, effects: Effects) -> dedup.Sifted:
        stored = [s.row for row in effects.rows for s in self.kept(row.tenant).events.get(row.message_key, [])]
        found = {dedup.Found(row.message_key, row.received_day, row.content_hash) for row in stored}
        return dedup.sift(effects.rows, found, dedup.window_begins(self._clock.now()))

    def _store_rows(self, effects: Effects, fresh: Sequence[EventRow]) -> None:
        now, offsets = self._clock.now(), {row.offset for row in fresh}
        used: dict[Place, RecordRow] = {(r.partition, r.offset, r.received_day): r for r in effects.records if r.offset in offsets}
        if any(place in self._records and _differ(record, self._records[place]) for place, record in used.items()):
            raise Failure(Reason.LOG_REPLACED, f"partition {effects.partition}")
        self._records |= {place: record._replace(body=b"") for place, record in used.items()}
        bodies = {place: codec.decode(record.body) for place, record in used.items()}
        for row in fresh:
            place = (row.partition, row.offset, row.received_day)
            self.kept(row.tenant).keep(row, KeptRecord(used[place], now), bodies[place].envelopes[row.ordinal])

    def _store_others(self, effects: Effects) -> None:
        now, partition = self._clock.now(), effects.partition
        for one in effects.dead_letters:
            said = (one.message_id, one.reason, one.detail, one.payload)
            letter = KeptLetter(partition, one.offset, one.ordinal, one.received_at, *said, now)
            self.kept(one.tenant).letters.setdefault((partition, one.offset, one.ordinal), letter)
        for record in effects.held:
            held = KeptHeld(partition, record.offset, record.received_at, record.events, record.record, now)
            self.kept(record.tenant).held.setdefault((partition, record.offset), held)
        for claim in traits.latest(effects.traits).values():
            self.kept(claim.tenant).write(claim)
        for tenant in {claim.tenant for claim in effects.identities}:
            pairs = [(claim.left, claim.right) for claim in effects.identities if claim.tenant == tenant]
            merged = identity.merge(self.kept(tenant).nodes, pairs)
            self.kept(tenant).merge(merged.changed)
            self._meter.add(metrics.IDENTITY_DROPPED, merged.dropped)

    def _store_ledger(self, lines: Sequence[tally.Line]) -> None:
        for line in lines:
            kept = self.kept(line.tenant).lines
            old = kept.get(line.hour, LedgerRow(line.tenant, line.hour, 0, 0, 0, 0))
            kept[line.hour] = LedgerRow(
                line.tenant,
                line.hour,
                old.stored + line.stored,
                old.duplicate + line.duplicate,
                old.quarantined + line.quarantined,
                old.held + line.held,
            )


def _shown(stored: Stored) -> Stored:
    """As it is read: what lies below zero is said to lie where its own cell's log had it."""
    row, record = stored.row, stored.record
    return replace(
        stored,
        row=row._replace(partition=partition_of(row.partition)),
        record=record._replace(partition=partition_of(record.partition)),
    )


def _refuse_nul(effects: Effects) -> None:
    """What no PostgreSQL keeps is refused here too, so that a simulation sees what a cell would do."""
    kept = itertools.chain(effects.rows, effects.records, effects.identities, effects.traits)
    if any(isinstance(field, str) and "\0" in field for one in kept for field in one):
        raise Unkeepable("a row that can never be kept: text with a NUL")


def _differ(one: RecordRow, other: RecordRow) -> bool:
    return (one.tenant, one.received_at, one.cell) != (other.tenant, other.received_at, other.cell)


def _time_key(stored: Stored) -> tuple[int, bytes, date]:
    return stored.row.event_at, stored.row.message_key, stored.row.received_day


def _matches(row: EventRow, which: Filter) -> bool:
    asked = (
        (which.type, row.type),
        (which.name, row.name),
        (which.user_id, row.user_id),
        (which.anonymous_id, row.anonymous_id),
        (which.source, row.source),
    )
    return which.since <= row.event_at < which.until and all(wanted is None or wanted == found for wanted, found in asked)

"""`store.Store` and `store.Reader` in memory: for the simulation and unit tests. Nothing outlives the object.

An apply is atomic because it never yields: it is decided on what is there and then written.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from cells.eventlog import codec
from cells.storage import dedup, identity, metrics, own, tally, traits
from cells.storage.held import HELD_RECORDS_MAX, ordinal_in
from cells.storage.profile import profile_of
from cells.storage.store import Cursor, Filter, LedgerRow, Listed, Profile, Stored, Traced
from kernel.clock import Clock, Micros
from kernel.effects import (
    Applied,
    Apply,
    DeadLetter,
    Duplicate,
    Effects,
    EventRow,
    Fenced,
    HeldRecord,
    Outcome,
    RecordRow,
    TraitClaim,
    Unkeepable,
)
from kernel.epoch import Ownership
from kernel.errors import Failure, Reason
from kernel.ids import TenantId, message_keys
from kernel.metrics import Meter


@dataclass
class _Tenant:
    """What is kept of one tenant. Events by message key; dead letters and held records by log position."""

    events: dict[bytes, list[Stored]] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)
    traits: dict[tuple[str, str], TraitClaim] = field(default_factory=dict)
    dead_letters: dict[tuple[int, int, int], DeadLetter] = field(default_factory=dict)
    held: dict[tuple[int, int], HeldRecord] = field(default_factory=dict)


class MemoryStore:
    """See the module's docstring and the port's. Setting `down` makes every call fail as an unreachable database does."""

    def __init__(self, clock: Clock, meter: Meter) -> None:
        self.down = False
        self._clock = clock
        self._meter = meter
        self._positions: dict[int, int] = {}
        self._owned: dict[TenantId, Ownership] = {}
        self._tenants: dict[TenantId, _Tenant] = {}
        self._ledger: dict[tally.TenantHour, LedgerRow] = {}
        self._records: dict[tuple[date, int, int], tuple[RecordRow, Micros]] = {}

    async def close(self) -> None:
        """Nothing to release."""

    async def maintain(self) -> None:
        """Nothing to make ahead."""

    async def positions(self) -> dict[int, int]:
        """See the port."""
        self._reach()
        return dict(self._positions)

    async def ledger(self) -> list[LedgerRow]:
        """See the port."""
        self._reach()
        return [self._ledger[key] for key in sorted(self._ledger)]

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
        lines = tally.settle(counted, tally.hours_of(effects.records, sifted.repeated))
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
        found = self._tenants.get(tenant, _Tenant()).events.get(message_keys(tenant, [message_id])[0], [])
        return min(found, key=lambda stored: stored.row.received_day) if found else None

    async def count_events(self, tenant: TenantId, which: Filter, bucket_seconds: int) -> list[tuple[Micros, int]]:
        """See the port."""
        width = bucket_seconds * 1_000_000
        counted = Counter(stored.row.event_at // width * width for stored in self._matching(tenant, which))
        return [(Micros(start), counted[start]) for start in sorted(counted)]

    async def profile(self, tenant: TenantId, node: str) -> Profile | None:
        """See the port."""
        self._reach()
        known = self._tenants.get(tenant, _Tenant())
        component = known.nodes.get(node)
        members = {other for other, name in known.nodes.items() if name == component} if component is not None else {node}
        claims = [claim for (owner, _), claim in known.traits.items() if owner in members]
        return profile_of(members, claims) if component is not None or claims else None

    async def trace(self, tenant: TenantId, message_id: str) -> Traced:
        """See the port."""
        stored = await self.get_event(tenant, message_id)
        if stored is not None:
            return Traced("stored", "", stored.row.partition, stored.row.offset, stored.row.ordinal, stored)
        known = self._tenants.get(tenant, _Tenant())
        letters = known.dead_letters.items()
        found = [(letter.received_at, place, letter.reason) for place, letter in letters if letter.message_id == message_id]
        if found:
            _, (partition, offset, ordinal), reason = max(found, key=lambda item: (item[0], item[1][1]))
            return Traced("dead_letter", reason, partition, offset, ordinal)
        latest = sorted(known.held.items(), key=lambda item: (item[1].received_at, item[1].offset), reverse=True)
        for (partition, offset), record in latest[:HELD_RECORDS_MAX]:
            index = ordinal_in(record.record, message_id)
            if index is not None:
                return Traced("held", "the cell does not own the tenant", partition, offset, index)
        return Traced("unknown")

    def _reach(self) -> None:
        if self.down:
            raise Failure(Reason.STORE_UNAVAILABLE, "down")

    def _of(self, tenant: TenantId) -> _Tenant:
        return self._tenants.setdefault(tenant, _Tenant())

    def _matching(self, tenant: TenantId, which: Filter) -> list[Stored]:
        self._reach()
        kept = self._tenants.get(tenant, _Tenant()).events.values()
        return [stored for same in kept for stored in same if _matches(stored.row, which)]

    def _sift(self, effects: Effects) -> dedup.Sifted:
        stored = [s.row for row in effects.rows for s in self._of(row.tenant).events.get(row.message_key, [])]
        found = {dedup.Found(row.message_key, row.received_day, row.content_hash) for row in stored}
        return dedup.sift(effects.rows, found, dedup.window_begins(self._clock.now()))

    def _store_rows(self, effects: Effects, fresh: Sequence[EventRow]) -> None:
        now, offsets = self._clock.now(), {row.offset for row in fresh}
        used = {(r.received_day, r.partition, r.offset): r for r in effects.records if r.offset in offsets}
        if any(key in self._records and _differ(record, self._records[key][0]) for key, record in used.items()):
            raise Failure(Reason.LOG_REPLACED, f"partition {effects.partition}")
        bodies = {key: codec.decode(record.body) for key, record in used.items()}
        for key, record in used.items():
            self._records.setdefault(key, (record._replace(body=b""), now))
        for row in fresh:
            key = (row.received_day, row.partition, row.offset)
            record, stored_at = self._records[key]
            stored = Stored(row, record, bodies[key].envelopes[row.ordinal], stored_at)
            self._of(row.tenant).events.setdefault(row.message_key, []).append(stored)

    def _store_others(self, effects: Effects) -> None:
        for letter in effects.dead_letters:
            self._of(letter.tenant).dead_letters.setdefault((effects.partition, letter.offset, letter.ordinal), letter)
        for record in effects.held:
            self._of(record.tenant).held.setdefault((effects.partition, record.offset), record)
        for (tenant, node, name), claim in traits.latest(effects.traits).items():
            kept = self._of(tenant).traits
            if traits.wins(claim, kept.get((node, name))):
                kept[node, name] = claim
        for tenant in {claim.tenant for claim in effects.identities}:
            pairs = [(claim.left, claim.right) for claim in effects.identities if claim.tenant == tenant]
            merged = identity.merge(self._of(tenant).nodes, pairs)
            self._of(tenant).nodes.update(merged.changed)
            self._meter.add(metrics.IDENTITY_DROPPED, merged.dropped)

    def _store_ledger(self, lines: Sequence[tally.Line]) -> None:
        for line in lines:
            old = self._ledger.get((line.tenant, line.hour), LedgerRow(line.tenant, line.hour, 0, 0, 0, 0))
            self._ledger[line.tenant, line.hour] = LedgerRow(
                line.tenant,
                line.hour,
                old.stored + line.stored,
                old.duplicate + line.duplicate,
                old.quarantined + line.quarantined,
                old.held + line.held,
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

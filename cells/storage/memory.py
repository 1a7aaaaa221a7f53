"""`store.Store` and `store.Reader` in memory: for the simulation and unit tests. Nothing outlives the object.

An apply is atomic because it never yields: it is decided on what is there and then written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from cells.storage import dedup, identity, metrics, own, tally, traits
from cells.storage.held import HELD_RECORDS_MAX, ordinal_in
from cells.storage.profile import profile_of
from cells.storage.store import Cursor, Filter, LedgerRow, Profile, Stored, Traced
from kernel.clock import Clock, Micros, day_of, hour_of
from kernel.effects import Applied, Apply, DeadLetter, Duplicate, Effects, EventRow, Fenced, HeldRecord, Outcome, TraitClaim
from kernel.epoch import Ownership
from kernel.errors import Failure, Reason
from kernel.ids import TenantId
from kernel.metrics import Meter


@dataclass
class _Tenant:
    """What is kept of one tenant. Events by (message id, received day); dead letters and held records by log position."""

    events: dict[tuple[str, date], Stored] = field(default_factory=dict)
    days: dict[str, list[date]] = field(default_factory=dict)
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
        stored, conflicts = self._store_rows(effects)
        self._store_others(effects)
        lines = tally.settle(counted, stored)
        self._store_ledger(lines)
        self._positions[effects.partition] = apply.next
        return Applied(
            stored=sum(line.stored for line in lines),
            duplicate=sum(line.duplicate for line in lines),
            quarantined=sum(line.quarantined for line in lines),
            held=sum(line.held for line in lines),
            conflicts=conflicts,
        )

    async def list_events(self, tenant: TenantId, which: Filter, page_size: int, after: Cursor | None) -> list[Stored]:
        """See the port."""
        found = sorted(self._matching(tenant, which), key=_time_key, reverse=True)
        if after is not None:
            found = [stored for stored in found if _time_key(stored) < (after.event_at, after.message_id)]
        return found[:page_size]

    async def get_event(self, tenant: TenantId, message_id: str) -> Stored | None:
        """See the port."""
        self._reach()
        known = self._tenants.get(tenant, _Tenant())
        days = known.days.get(message_id)
        return known.events[message_id, min(days)] if days else None

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
            return Traced("stored", "", stored.partition, stored.row.offset, stored.row.ordinal, stored)
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
        return [stored for stored in self._tenants.get(tenant, _Tenant()).events.values() if _matches(stored.row, which)]

    def _store_rows(self, effects: Effects) -> tuple[dict[tally.TenantHour, int], int]:
        now = self._clock.now()
        firsts, repeats = dedup.unique(effects.rows)
        stored: Counter[tally.TenantHour] = Counter()
        for row in firsts:
            if self._first_hash(row, now) is None:
                stored[row.tenant, hour_of(row.received_at)] += 1
                self._remember(Stored(row, effects.partition, now))
        conflicts = sum(self._first_hash(row, now) not in (None, row.content_hash) for row in (*firsts, *repeats))
        return dict(stored), conflicts

    def _remember(self, stored: Stored) -> None:
        row, day = stored.row, day_of(stored.row.received_at)
        known = self._of(row.tenant)
        known.events[row.message_id, day] = stored
        known.days.setdefault(row.message_id, []).append(day)

    def _first_hash(self, row: EventRow, now: Micros) -> int | None:
        """The content hash of the first write that `row` duplicates: by rule 1, else by rule 2."""
        known, day = self._of(row.tenant), day_of(row.received_at)
        same = known.events.get((row.message_id, day))
        if same is not None:
            return same.row.content_hash
        if day < dedup.window_begins(now):
            return None
        near = [other for other in known.days.get(row.message_id, []) if abs(other - day) <= dedup.WINDOW]
        return known.events[row.message_id, min(near)].row.content_hash if near else None

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


def _time_key(stored: Stored) -> tuple[int, str]:
    return stored.row.event_at, stored.row.message_id


def _matches(row: EventRow, which: Filter) -> bool:
    asked = (
        (which.type, row.type),
        (which.name, row.name),
        (which.user_id, row.user_id),
        (which.anonymous_id, row.anonymous_id),
        (which.source, row.source),
    )
    return which.since <= row.event_at < which.until and all(wanted is None or wanted == found for wanted, found in asked)

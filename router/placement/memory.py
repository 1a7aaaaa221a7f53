"""`router.placement.store.Store` in memory: for tests and the simulation."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from kernel import limits
from kernel.chain import BEGINNING, Head, Link, link
from kernel.clock import SECOND
from kernel.errors import Failure, Reason
from kernel.ids import TenantId, ZoneName
from router.placement.capacity import loads_of
from router.placement.entry import ENTRIES_READ_MAX, NOWHERE, Ballot, Chunk, Entry, Place, Request, check_follows, still_held
from router.placement.replica import Agrees
from router.placement.steps import RevokeKey, Step, View, credentials
from router.placement.store import AUDIT_ENTRIES_MAX, CHANGES_KEPT, REPLAY_CHANGES_MAX, Change, Deed, Done, Intent, answered, deed_of
from router.placement.table import UNDER_WAY, Move, Table, Tenant, Topology, cells_of
from router.placement.turns import Asked, Turns


class MemoryStore:
    """See the port, and `router.placement.entry.Replica`. While nobody has to agree nothing awaits: every call is atomic on one loop."""

    def __init__(self, zone: ZoneName, changes_kept: int = CHANGES_KEPT) -> None:
        self.zone = zone
        self.agrees: Agrees | None = None
        self._revision = 0
        self._topology = Topology((), ())
        self._tenants: dict[TenantId, Tenant] = {}
        self._changes: deque[Change] = deque(maxlen=changes_kept)
        self._requests: dict[str, Request] = {}
        self._audit: list[Link[Deed]] = []
        self._settled = NOWHERE
        self._ballot = Ballot()
        self._held: Sequence[Entry] = ()
        self._entries: deque[tuple[Place, Entry]] = deque(maxlen=changes_kept)
        self._turn = asyncio.Lock()
        self.turns = Turns(self._make)

    async def revision(self) -> int:
        """See the port."""
        return self._revision

    async def adopt(self, topology: Topology) -> int:
        """See the port."""
        async with self._turn:
            if topology != self._topology:
                cells = {cell.cell for cell in topology.cells}
                homeless = sorted(t.name for t in self._tenants.values() if not cells_of(t) <= cells)
                if homeless:
                    raise Failure(Reason.SNAPSHOT_REFUSED, f"the topology lacks a cell of {homeless[0]}")
                await self._keep([Entry(self._settled.number + 1, self._revision + 1, topology=topology)])
            return self._revision

    async def table(self) -> Table:
        """See the port."""
        cells = {cell.cell: cell for cell in self._topology.cells}
        tenants = {name: self._tenants[name] for name in sorted(self._tenants)}
        return Table(self.zone, self._revision, tenants, cells, dict(self._topology.zones))

    async def tenant(self, name: TenantId) -> Tenant:
        """See the port."""
        if name not in self._tenants:
            raise Failure(Reason.UNKNOWN_TENANT, name)
        return self._tenants[name]

    async def moving(self) -> Sequence[tuple[TenantId, Move]]:
        """See the port."""
        found = [(t.name, t.move) for t in self._tenants.values() if t.move is not None and t.move.state in UNDER_WAY]
        return sorted(found, key=lambda pair: (pair[1].started_at, pair[0]))

    async def change(self, step: Step, intent: Intent) -> Done:
        """See the port."""
        if self.agrees is not None:
            return await self.turns.ask((step, intent))  # type: ignore[no-any-return]  # what `_taken` gives
        done, entry = self._taken(step, intent)
        if entry is not None:
            self._settle(Place(self._settled.term, entry.number), entry)
        return done

    async def _make(self, together: Sequence[Asked[tuple[Step, Intent]]]) -> None:
        """On a scratch copy, in which each finds what those before it did."""
        async with self._turn:
            scratch, entries, answers = self._scratch(), list[Entry](), list[object]()
            for asked in together:
                try:
                    done, entry = scratch._taken(*asked.what)
                except Failure as failure:
                    answers.append(failure)
                    continue
                answers.append(done)
                if entry is not None:
                    MemoryStore._settle(scratch, Place(self._settled.term, entry.number), entry)
                    entries.append(entry)
            await self._keep(entries)
        for asked, answer in zip(together, answers, strict=True):
            asked.give(answer)

    async def _keep(self, entries: Sequence[Entry]) -> None:
        if self.agrees is None or not entries:
            for entry in entries:
                self._settle(Place(self._settled.term, entry.number), entry)
            return
        async with self.agrees.agreed(entries) as place:
            for entry in entries:
                self._settle(Place(place.term, entry.number), entry)

    def _scratch(self) -> MemoryStore:
        made = MemoryStore(self.zone)
        made._revision, made._topology, made._settled = self._revision, self._topology, self._settled
        made._tenants, made._requests, made._audit = dict(self._tenants), dict(self._requests), list(self._audit)
        return made

    def _taken(self, step: Step, intent: Intent) -> tuple[Done, Entry | None]:
        known = self._requests.get(intent.request_id)
        if known is not None and known.at >= intent.at - limits.REQUESTS_KEPT_SECONDS * SECOND:
            return answered(known.fingerprint, Done(known.tenant, known.revision), intent), None
        held = self._subject(step)
        after = step.take(held, self._view(held))
        intent.check(held)
        self._check_keys(held, after)
        if intent.dry_run:
            return Done(after, self._revision), None
        revision, deed, changed = self._revision, None, after != held
        if changed:
            revision += 1
            after = replace(after, since=revision)
            (deed,) = link(self._head(), [deed_of(step, after, intent)])
        request = Request(intent.request_id, intent.fingerprint, intent.at, revision, after) if intent.request_id else None
        if not changed and request is None:
            return Done(after, revision), None
        return Done(after, revision), Entry(self._settled.number + 1, revision, after if changed else None, None, deed, request)

    def _settle(self, place: Place, entry: Entry) -> None:
        self._revision = entry.revision
        if entry.tenant is not None:
            self._tenants[entry.tenant.name] = entry.tenant
        if entry.topology is not None:
            self._topology = entry.topology
        if entry.tenant is not None or entry.topology is not None:
            self._changes.append(Change(entry.revision, entry.tenant))
        if entry.deed is not None:
            self._audit.append(entry.deed)
        if entry.request is not None:
            oldest = entry.request.at - limits.REQUESTS_KEPT_SECONDS * SECOND
            self._requests = {name: one for name, one in self._requests.items() if one.at >= oldest} | {entry.request.id: entry.request}
        self._settled = place
        self._entries.append((place, entry))

    async def ballot(self) -> Ballot:
        """See the port."""
        return self._ballot

    async def promise(self, ballot: Ballot) -> None:
        """See the port."""
        self._ballot = ballot

    async def hold(self, ballot: Ballot, entries: Sequence[Entry]) -> None:
        """See the port."""
        self._ballot, self._held = ballot, tuple(entries)

    async def held(self) -> tuple[Place, Sequence[Entry]] | None:
        """See the port."""
        left = still_held(self._ballot.last, self._held, self._settled)
        return (self._ballot.last, left) if left else None

    async def settled(self) -> Place:
        """See the port."""
        return self._settled

    async def restate(self, place: Place) -> None:
        """See the port."""
        if place.number == self._settled.number:
            self._settled = max(place, self._settled)

    async def settle(self, place: Place, entry: Entry) -> None:
        """See the port."""
        async with self._turn:
            if entry.number <= self._settled.number:
                return
            check_follows(entry, self._settled.number, self._revision, self._head().hash)
            self._settle(place, entry)

    async def entries(self, after: int, limit: int = ENTRIES_READ_MAX) -> Sequence[tuple[Place, Entry]] | None:
        """See the port."""
        oldest = self._entries[0][0].number if self._entries else self._settled.number + 1
        if after + 1 < oldest:
            return None
        return [one for one in self._entries if one[0].number > after][:limit]

    async def copy(self) -> AsyncIterator[Chunk]:
        """See the port."""
        topology = self._topology if self._settled.number else None
        kept = tuple(self._tenants.values()), tuple(self._audit), tuple(self._requests.values())
        yield Chunk(self._settled, self._revision, topology)
        yield Chunk(None, 0, None, *kept)

    async def take_copy(self, chunks: AsyncIterator[Chunk]) -> None:
        """See the port."""
        found = [chunk async for chunk in chunks]
        async with self._turn:
            first = found[0]
            if first.place is None:
                raise ValueError("a copy that does not say of which place it is")
            if first.place.number <= self._settled.number:
                return
            self._settled, self._revision, self._topology = first.place, first.revision, first.topology or Topology((), ())
            self._tenants = {tenant.name: tenant for chunk in found for tenant in chunk.tenants}
            self._audit = [deed for chunk in found for deed in chunk.deeds]
            self._requests = {request.id: request for chunk in found for request in chunk.requests}
            self._changes.clear()
            self._entries.clear()

    async def changes(self, after: int, limit: int = REPLAY_CHANGES_MAX) -> tuple[Change, ...] | None:
        """See the port."""
        oldest = self._changes[0].revision if self._changes else self._revision + 1
        if after > self._revision or after + 1 < oldest:
            return None
        return tuple(change for change in self._changes if change.revision > after)[:limit]

    async def audit(self, after: int = 0, limit: int = AUDIT_ENTRIES_MAX) -> Sequence[Link[Deed]]:
        """See the port."""
        return self._audit[after : after + limit]

    def _head(self) -> Head:
        return Head(self._audit[-1].seq, self._audit[-1].hash) if self._audit else BEGINNING

    def _subject(self, step: Step) -> Tenant | None:
        if isinstance(step, RevokeKey):
            return next((t for t in self._tenants.values() if any(key.hash == step.subject for key in credentials(t))), None)
        return self._tenants.get(TenantId(step.subject))

    def _view(self, held: Tenant | None) -> View:
        others = (tenant for tenant in self._tenants.values() if tenant is not held)
        return View(self.zone, self._topology.cells, loads_of(others))

    def _check_keys(self, held: Tenant | None, after: Tenant) -> None:
        """Slugs and keys are one tenant's."""
        others = [tenant for tenant in self._tenants.values() if tenant is not held]
        taken = {source.slug for tenant in others for source in tenant.sources} | {key.hash for t in others for key in credentials(t)}
        if not taken.isdisjoint((*(source.slug for source in after.sources), *(key.hash for key in credentials(after)))):
            raise Failure(Reason.KEY_EXISTS)

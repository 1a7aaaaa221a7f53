"""`router.placement.store.Store` in memory: for tests and the simulation."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from kernel import limits
from kernel.chain import BEGINNING, Head, Link, link
from kernel.clock import SECOND, Micros
from kernel.errors import Failure, Reason
from kernel.ids import TenantId, ZoneName
from router.placement.capacity import loads_of
from router.placement.steps import RevokeKey, Step, View, credentials
from router.placement.store import AUDIT_ENTRIES_MAX, CHANGES_KEPT, REPLAY_CHANGES_MAX, Change, Deed, Done, Intent, answered, deed_of
from router.placement.table import UNDER_WAY, Move, Table, Tenant, Topology, cells_of


class _Answer(NamedTuple):
    fingerprint: bytes
    at: Micros
    done: Done


class MemoryStore:
    """See the port. Nothing awaits, so every call is atomic on one event loop."""

    def __init__(self, zone: ZoneName, changes_kept: int = CHANGES_KEPT) -> None:
        self.zone = zone
        self._revision = 0
        self._topology = Topology((), ())
        self._tenants: dict[TenantId, Tenant] = {}
        self._changes: deque[Change] = deque(maxlen=changes_kept)
        self._answers: dict[str, _Answer] = {}
        self._audit: list[Link[Deed]] = []

    async def revision(self) -> int:
        """See the port."""
        return self._revision

    async def adopt(self, topology: Topology) -> int:
        """See the port."""
        if topology != self._topology:
            cells = {cell.cell for cell in topology.cells}
            homeless = sorted(t.name for t in self._tenants.values() if not cells_of(t) <= cells)
            if homeless:
                raise Failure(Reason.SNAPSHOT_REFUSED, f"the topology lacks a cell of {homeless[0]}")
            self._topology = topology
            self._revision += 1
            self._changes.append(Change(self._revision, None))
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
        oldest = intent.at - limits.REQUESTS_KEPT_SECONDS * SECOND
        self._answers = {name: answer for name, answer in self._answers.items() if answer.at >= oldest}
        if (answer := self._answers.get(intent.request_id)) is not None:
            return answered(answer.fingerprint, answer.done, intent)
        held = self._subject(step)
        after = step.take(held, self._view(held))
        intent.check(held)
        self._check_keys(held, after)
        if intent.dry_run:
            return Done(after, self._revision)
        if after != held:
            after = replace(after, since=self._revision + 1)
            self._revision += 1
            self._tenants[after.name] = after
            self._changes.append(Change(self._revision, after))
            self._audit += link(self._head(), [deed_of(step, after, intent)])
        done = Done(after, self._revision)
        if intent.request_id:
            self._answers[intent.request_id] = _Answer(intent.fingerprint, intent.at, done)
        return done

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

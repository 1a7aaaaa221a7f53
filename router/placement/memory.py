"""`router.placement.store.Store` in memory: for tests and the simulation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from kernel.errors import Failure, Reason
from kernel.ids import KeyHash, SourceId, TenantId, ZoneName
from router.placement.store import CHANGES_KEPT, REPLAY_CHANGES_MAX, Change
from router.placement.table import Credential, Source, Table, Tenant, Topology


class MemoryStore:
    """See the port. Nothing awaits, so every call is atomic on one event loop."""

    def __init__(self, zone: ZoneName, changes_kept: int = CHANGES_KEPT) -> None:
        self._zone = zone
        self._revision = 0
        self._topology = Topology((), ())
        self._tenants: dict[TenantId, Tenant] = {}
        self._changes: deque[Change] = deque(maxlen=changes_kept)

    async def revision(self) -> int:
        """See the port."""
        return self._revision

    async def adopt(self, topology: Topology) -> int:
        """See the port."""
        if topology != self._topology:
            cells = {cell.cell for cell in topology.cells}
            homeless = sorted(t.name for t in self._tenants.values() if t.cell not in cells)
            if homeless:
                raise Failure(Reason.SNAPSHOT_REFUSED, f"the topology lacks the home of {homeless[0]}")
            self._topology = topology
            self._revision += 1
            self._changes.append(Change(self._revision, None))
        return self._revision

    async def table(self) -> Table:
        """See the port."""
        cells = {cell.cell: cell for cell in self._topology.cells}
        tenants = {name: self._tenants[name] for name in sorted(self._tenants)}
        return Table(self._zone, self._revision, tenants, cells, dict(self._topology.zones))

    async def tenant(self, name: TenantId) -> Tenant:
        """See the port."""
        if name not in self._tenants:
            raise Failure(Reason.UNKNOWN_TENANT, name)
        return self._tenants[name]

    async def create_tenant(self, tenant: Tenant) -> Tenant:
        """See the port."""
        if tenant.name in self._tenants:
            raise Failure(Reason.TENANT_EXISTS, tenant.name)
        return self._commit(replace(tenant, sources=(), read_keys=()))

    async def suspend(self, name: TenantId, suspended: bool) -> Tenant:
        """See the port."""
        tenant = await self.tenant(name)
        return tenant if tenant.suspended == suspended else self._commit(replace(tenant, suspended=suspended))

    async def add_source(self, name: TenantId, source: Source) -> Tenant:
        """See the port."""
        tenant = await self.tenant(name)
        slugs = {s.slug for t in self._tenants.values() for s in t.sources}
        if source.slug in slugs or any(s.name == source.name for s in tenant.sources):
            raise Failure(Reason.TENANT_EXISTS, source.name)
        for key in source.write_keys:
            self._check_new(key)
        return self._commit(replace(tenant, sources=(*tenant.sources, source)))

    async def add_write_key(self, name: TenantId, source: SourceId, key: Credential) -> Tenant:
        """See the port."""
        tenant = await self.tenant(name)
        if all(s.name != source for s in tenant.sources):
            raise Failure(Reason.UNKNOWN_SOURCE, source)
        self._check_new(key)
        sources = tuple(replace(s, write_keys=(*s.write_keys, key)) if s.name == source else s for s in tenant.sources)
        return self._commit(replace(tenant, sources=sources))

    async def add_read_key(self, name: TenantId, key: Credential) -> Tenant:
        """See the port."""
        tenant = await self.tenant(name)
        self._check_new(key)
        return self._commit(replace(tenant, read_keys=(*tenant.read_keys, key)))

    async def revoke(self, key: KeyHash) -> int:
        """See the port."""
        for tenant in self._tenants.values():
            for credential in _credentials(tenant):
                if credential.hash == key:
                    return self._revision if credential.revoked else self._commit(_revoked(tenant, key)).since
        raise Failure(Reason.UNKNOWN_KEY)

    async def changes(self, after: int, limit: int = REPLAY_CHANGES_MAX) -> tuple[Change, ...] | None:
        """See the port."""
        oldest = self._changes[0].revision if self._changes else self._revision + 1
        if after > self._revision or after + 1 < oldest:
            return None
        return tuple(change for change in self._changes if change.revision > after)[:limit]

    def _commit(self, tenant: Tenant) -> Tenant:
        self._revision += 1
        held = replace(tenant, since=self._revision)
        self._tenants[tenant.name] = held
        self._changes.append(Change(self._revision, held))
        return held

    def _check_new(self, key: Credential) -> None:
        if any(key.hash == known.hash for tenant in self._tenants.values() for known in _credentials(tenant)):
            raise Failure(Reason.TENANT_EXISTS, "the key is known already")


def _credentials(tenant: Tenant) -> Iterator[Credential]:
    for source in tenant.sources:
        yield from source.write_keys
    yield from tenant.read_keys


def _revoked(tenant: Tenant, key: KeyHash) -> Tenant:
    def mark(credentials: tuple[Credential, ...]) -> tuple[Credential, ...]:
        return tuple(replace(c, revoked=True) if c.hash == key else c for c in credentials)

    sources = tuple(replace(s, write_keys=mark(s.write_keys)) for s in tenant.sources)
    return replace(tenant, sources=sources, read_keys=mark(tenant.read_keys))

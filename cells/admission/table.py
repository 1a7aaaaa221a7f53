"""The admission table: an immutable view of the zone's placement at a revision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from immutables import Map

from kernel import placement_rules
from kernel.epoch import FIRST_EPOCH, Claim, Epoch, Ownership, OwnershipState
from kernel.ids import UNREADABLE, CellId, KeyHash, KeyKind, SourceId, TenantId, ZoneName
from kernel.limits import Plan


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant's placement and plan. `credentials` and `slugs` are what leads to it. While it is `fenced` nobody takes its writes: it is
    about to live in another cell. `standby` is the cell that folds what its home accepts, and takes its writes as handoff."""

    name: TenantId
    cell: CellId
    epoch: Epoch
    plan: Plan
    suspended: bool = False
    dedicated: bool = False
    credentials: tuple[Credential, ...] = ()
    slugs: tuple[tuple[str, SourceId], ...] = ()
    fenced: bool = False
    standby: CellId | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """A key by its hash. `source` is empty for read keys."""

    hash: KeyHash
    kind: KeyKind
    source: SourceId
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """A piece of placement. `whole` replaces everything; otherwise it builds on exactly `from_revision`."""

    zone: ZoneName
    from_revision: int
    to_revision: int
    tenants: tuple[Tenant, ...]
    zone_urls: dict[ZoneName, str] | None = None

    @property
    def whole(self) -> bool:
        """Whether it replaces everything."""
        return self.from_revision == 0


@dataclass(frozen=True)
class Admission:
    """Look-ups are by hash or by name; nothing is scanned on the hot path, and a change costs what changes."""

    zone: ZoneName
    revision: int = 0
    tenants: Map[TenantId, Tenant] = field(default_factory=Map)
    keys: Map[KeyHash, tuple[TenantId, Credential]] = field(default_factory=Map)
    slugs: Map[str, tuple[TenantId, SourceId]] = field(default_factory=Map)
    zone_urls: dict[ZoneName, str] = field(default_factory=dict)

    def apply(self, update: Update) -> Admission:
        """The table after `update`. Raises Failure(SNAPSHOT_REFUSED), by the rules that edges share; this table stays good."""
        placement_rules.check(self, update)
        if update.whole:
            return self._replaced(update)
        tenants, keys, slugs = self.tenants.mutate(), self.keys.mutate(), self.slugs.mutate()
        for tenant in update.tenants:
            if (old := tenants.get(tenant.name)) is not None:
                for credential in old.credentials:
                    keys.pop(credential.hash, None)
                for slug, _ in old.slugs:
                    slugs.pop(slug, None)
            tenants[tenant.name] = tenant
            keys.update({credential.hash: (tenant.name, credential) for credential in tenant.credentials})
            slugs.update({slug: (tenant.name, source) for slug, source in tenant.slugs})
        return replace(self, revision=update.to_revision, tenants=tenants.finish(), keys=keys.finish(), slugs=slugs.finish())

    def _replaced(self, update: Update) -> Admission:
        tenants = {tenant.name: tenant for tenant in update.tenants}
        keys = {credential.hash: (tenant.name, credential) for tenant in update.tenants for credential in tenant.credentials}
        slugs = {slug: (tenant.name, source) for tenant in update.tenants for slug, source in tenant.slugs}
        return Admission(self.zone, update.to_revision, Map(tenants), Map(keys), Map(slugs), dict(update.zone_urls or self.zone_urls))

    def claim(self, cell: CellId) -> Claim:
        """What an applier of `cell` may apply: the tenants that live or stand by there, and what nobody can read."""
        return Claim(cell, _Epochs(self.tenants, cell))

    def ownerships(self, cell: CellId, names: Iterable[TenantId] | None = None) -> list[Ownership]:
        """The cell's ownership rows as the directory sees them, of all tenants or of some: see `standing`.
        What nobody can read is every cell's own."""
        named = (self.tenants[name] for name in names if name in self.tenants) if names is not None else self.tenants.values()
        rows = [Ownership(tenant.name, tenant.epoch, standing(tenant, cell)) for tenant in named]
        return [Ownership(UNREADABLE, FIRST_EPOCH, "owner"), *rows] if names is None else rows


def standing(tenant: Tenant, cell: CellId) -> OwnershipState:
    """What the cell is to the tenant."""
    if tenant.cell == cell:
        return "owner"
    return "standby" if tenant.standby == cell else "released"


@dataclass(frozen=True)
class _Epochs(Mapping[TenantId, Epoch]):
    """The epochs of the tenants that one cell applies, looked up when they are asked for: an apply asks for a few of very many."""

    tenants: Mapping[TenantId, Tenant]
    cell: CellId

    def __getitem__(self, name: TenantId) -> Epoch:
        if name == UNREADABLE:
            return FIRST_EPOCH
        tenant = self.tenants[name]
        if standing(tenant, self.cell) == "released":
            raise KeyError(name)
        return tenant.epoch

    def __iter__(self) -> Iterator[TenantId]:
        yield UNREADABLE
        yield from (name for name, tenant in self.tenants.items() if standing(tenant, self.cell) != "released")

    def __len__(self) -> int:
        return sum(1 for _ in self)

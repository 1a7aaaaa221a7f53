"""The admission table: an immutable view of the zone's placement at a revision."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kernel import placement_rules
from kernel.epoch import FIRST_EPOCH, Claim, Epoch, Ownership
from kernel.ids import UNREADABLE, CellId, KeyHash, KeyKind, SourceId, TenantId, ZoneName
from kernel.limits import Plan


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant's placement and plan. `credentials` and `slugs` are what leads to it. While it is `fenced` nobody takes its writes: it is
    about to live in another cell."""

    name: TenantId
    cell: CellId
    epoch: Epoch
    plan: Plan
    suspended: bool = False
    dedicated: bool = False
    credentials: tuple[Credential, ...] = ()
    slugs: tuple[tuple[str, SourceId], ...] = ()
    fenced: bool = False


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
    """Look-ups are by hash or by name; nothing is scanned on the hot path."""

    zone: ZoneName
    revision: int = 0
    tenants: dict[TenantId, Tenant] = field(default_factory=dict)
    keys: dict[KeyHash, tuple[TenantId, Credential]] = field(default_factory=dict)
    slugs: dict[str, tuple[TenantId, SourceId]] = field(default_factory=dict)
    zone_urls: dict[ZoneName, str] = field(default_factory=dict)

    def apply(self, update: Update) -> Admission:
        """The table after `update`. Raises Failure(SNAPSHOT_REFUSED), by the rules that edges share; this table stays good."""
        placement_rules.check(self, update)
        if update.whole:
            return self._replaced(update)
        tenants, keys, slugs = dict(self.tenants), dict(self.keys), dict(self.slugs)
        for tenant in update.tenants:
            if (old := tenants.get(tenant.name)) is not None:
                for credential in old.credentials:
                    keys.pop(credential.hash, None)
                for slug, _ in old.slugs:
                    slugs.pop(slug, None)
            _enter(tenant, tenants, keys, slugs)
        return replace(self, revision=update.to_revision, tenants=tenants, keys=keys, slugs=slugs)

    def _replaced(self, update: Update) -> Admission:
        fresh = Admission(self.zone, update.to_revision, zone_urls=dict(update.zone_urls or self.zone_urls))
        for tenant in update.tenants:
            _enter(tenant, fresh.tenants, fresh.keys, fresh.slugs)
        return fresh

    def claim(self, cell: CellId) -> Claim:
        """What an applier of `cell` may believe that it owns: its tenants, and what nobody can read."""
        return Claim(cell, {UNREADABLE: FIRST_EPOCH} | {name: tenant.epoch for name, tenant in self.tenants.items() if tenant.cell == cell})

    def ownerships(self, cell: CellId) -> list[Ownership]:
        """The cell's ownership rows as the directory sees them: of its own tenants `owner`, of all others `released`. What nobody can
        read is every cell's own."""
        tenants = [Ownership(name, tenant.epoch, "owner" if tenant.cell == cell else "released") for name, tenant in self.tenants.items()]
        return [Ownership(UNREADABLE, FIRST_EPOCH, "owner"), *tenants]


def _enter(
    tenant: Tenant,
    tenants: dict[TenantId, Tenant],
    keys: dict[KeyHash, tuple[TenantId, Credential]],
    slugs: dict[str, tuple[TenantId, SourceId]],
) -> None:
    tenants[tenant.name] = tenant
    for credential in tenant.credentials:
        keys[credential.hash] = (tenant.name, credential)
    for slug, source in tenant.slugs:
        slugs[slug] = (tenant.name, source)

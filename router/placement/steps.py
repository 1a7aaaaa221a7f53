"""What may be asked of a zone's placement: each step a pure function from a tenant as it is to the tenant as it shall be.

A store gives a step the tenant and a view of the zone that no other step can change meanwhile, and keeps what comes back: all of it or,
when the step raises Failure, nothing. A step that asks for what is so already gives the tenant back as it is, and is no change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from kernel.epoch import FIRST_EPOCH
from kernel.errors import Failure, Reason
from kernel.ids import CellId, KeyHash, SourceId, TenantId, ZoneName
from kernel.limits import Plan
from router.placement.capacity import Loads
from router.placement.place import place
from router.placement.table import CellEndpoint, Credential, Pin, Source, Tenant


@dataclass(frozen=True, slots=True)
class View:
    """What a step sees beside its tenant: the zone's cells, and what all other tenants take of them."""

    zone: ZoneName
    cells: Collection[CellEndpoint]
    others: Loads


class Step(Protocol):
    """One change of one tenant. `subject` is its name, or a key of it; `weighs` says whether it looks at what others take."""

    weighs: ClassVar[bool]

    @property
    def subject(self) -> TenantId | KeyHash:
        """Whom it changes."""
        ...

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """The tenant after it; `held` is None when there is none of that name. Raises Failure; see each step."""
        ...


@dataclass(frozen=True, slots=True)
class CreateTenant:
    """Places a tenant. TENANT_EXISTS, UNKNOWN_CELL, CELL_FULL, ZONE_EXHAUSTED."""

    weighs: ClassVar[bool] = True
    subject: TenantId
    plan: Plan
    demand: float
    pin: Pin | None = None
    dedicated_schema: bool = False

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        if held is not None:
            raise Failure(Reason.TENANT_EXISTS, self.subject)
        home = place(self.subject, view.cells, view.others, self.demand, None if self.pin is None else self.pin.cell)
        return Tenant(
            self.subject,
            view.zone,
            home,
            FIRST_EPOCH,
            plan=self.plan,
            dedicated_schema=self.dedicated_schema,
            demand=self.demand,
            pinned=self.pin,
            standby=standby_of(home, view.cells),
        )


@dataclass(frozen=True, slots=True)
class Suspend:
    """Stops or resumes a tenant. UNKNOWN_TENANT."""

    weighs: ClassVar[bool] = False
    subject: TenantId
    suspended: bool

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        return replace(_known(held, self.subject), suspended=self.suspended)


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """What the tenant may ask of its cell. UNKNOWN_TENANT."""

    weighs: ClassVar[bool] = False
    subject: TenantId
    plan: Plan

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        return replace(_known(held, self.subject), plan=self.plan)


@dataclass(frozen=True, slots=True)
class ChangeDemand:
    """What the tenant is expected to send. It never moves the tenant by itself, and a cell that is overcommitted by it stays so until
    something is moved: what is true is kept, whether it fits or not. UNKNOWN_TENANT."""

    weighs: ClassVar[bool] = False
    subject: TenantId
    demand: float

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        return replace(_known(held, self.subject), demand=self.demand)


@dataclass(frozen=True, slots=True)
class PinTenant:
    """Pins a tenant to a cell, or takes its pin away. Where it lives now it stays until it is moved. UNKNOWN_TENANT, UNKNOWN_CELL,
    CELL_FULL."""

    weighs: ClassVar[bool] = True
    subject: TenantId
    pin: Pin | None

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        tenant = _known(held, self.subject)
        if self.pin is not None and self.pin.cell != tenant.cell:
            place(self.subject, view.cells, view.others, tenant.demand, self.pin.cell)
        return replace(tenant, pinned=self.pin)


@dataclass(frozen=True, slots=True)
class AddSource:
    """A source with its keys. UNKNOWN_TENANT, SOURCE_EXISTS; KEY_EXISTS; the store adds KEY_EXISTS for a slug or key of another
    tenant."""

    weighs: ClassVar[bool] = False
    subject: TenantId
    source: Source

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        tenant = _known(held, self.subject)
        if any(known.name == self.source.name for known in tenant.sources):
            raise Failure(Reason.SOURCE_EXISTS, self.source.name)
        _refuse_known(tenant, *self.source.write_keys)
        return replace(tenant, sources=(*tenant.sources, self.source))


@dataclass(frozen=True, slots=True)
class AddWriteKey:
    """Another key of a source, e.g. to rotate. UNKNOWN_TENANT, UNKNOWN_SOURCE, KEY_EXISTS; see AddSource."""

    weighs: ClassVar[bool] = False
    subject: TenantId
    source: SourceId
    key: Credential

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        tenant = _known(held, self.subject)
        if all(known.name != self.source for known in tenant.sources):
            raise Failure(Reason.UNKNOWN_SOURCE, self.source)
        _refuse_known(tenant, self.key)
        sources = (replace(s, write_keys=(*s.write_keys, self.key)) if s.name == self.source else s for s in tenant.sources)
        return replace(tenant, sources=tuple(sources))


@dataclass(frozen=True, slots=True)
class AddReadKey:
    """A read key. UNKNOWN_TENANT, KEY_EXISTS; see AddSource."""

    weighs: ClassVar[bool] = False
    subject: TenantId
    key: Credential

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        tenant = _known(held, self.subject)
        _refuse_known(tenant, self.key)
        return replace(tenant, read_keys=(*tenant.read_keys, self.key))


@dataclass(frozen=True, slots=True)
class RevokeKey:
    """Marks a key as revoked, for ever. UNKNOWN_KEY."""

    weighs: ClassVar[bool] = False
    subject: KeyHash

    def take(self, held: Tenant | None, view: View) -> Tenant:
        """See Step."""
        if held is None:
            raise Failure(Reason.UNKNOWN_KEY)

        def mark(credentials: tuple[Credential, ...]) -> tuple[Credential, ...]:
            return tuple(replace(known, revoked=True) if known.hash == self.subject else known for known in credentials)

        sources = tuple(replace(source, write_keys=mark(source.write_keys)) for source in held.sources)
        return replace(held, sources=sources, read_keys=mark(held.read_keys))


def standby_of(home: CellId, cells: Collection[CellEndpoint]) -> CellId | None:
    """Who stands by for the tenants of a cell: its peer, when that is one of the zone's cells."""
    peer = next((cell.peer for cell in cells if cell.cell == home), None)
    return peer if any(cell.cell == peer for cell in cells) else None


def credentials(tenant: Tenant) -> Iterator[Credential]:
    """All keys of a tenant."""
    for source in tenant.sources:
        yield from source.write_keys
    yield from tenant.read_keys


def _refuse_known(tenant: Tenant, *keys: Credential) -> None:
    hashes = [key.hash for key in keys]
    if len(set(hashes)) < len(hashes) or any(known.hash in hashes for known in credentials(tenant)):
        raise Failure(Reason.KEY_EXISTS)


def _known(held: Tenant | None, name: TenantId) -> Tenant:
    if held is None:
        raise Failure(Reason.UNKNOWN_TENANT, name)
    return held

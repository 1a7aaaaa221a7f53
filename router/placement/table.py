"""The placement table of one residency zone: immutable, at a revision, changed only by updates that pass its rules (router.md, rule 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from immutables import Map

from kernel import placement_rules
from kernel.clock import Micros
from kernel.epoch import Epoch
from kernel.ids import CellId, KeyHash, RegionName, SourceId, TenantId, ZoneName
from kernel.limits import CELL_EVENTS_PER_SECOND_MAX, DEMAND_EVENTS_PER_SECOND, Plan


@dataclass(frozen=True, slots=True)
class Credential:
    """A key by its SHA-256; a revoked one is kept, so that its sender is told why."""

    hash: KeyHash
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """One application that sends events. `slug` is public, unique in the fleet, and stands in paths."""

    name: SourceId
    slug: str
    write_keys: tuple[Credential, ...] = ()


@dataclass(frozen=True, slots=True)
class Pin:
    """An operator's word about a tenant's home, why, and until when; None for good."""

    cell: CellId
    reason: str
    expires_at: Micros | None = None

    def over(self, now: Micros) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now


MoveState = Literal["registered", "copying", "fenced", "joining", "switched", "erasing", "settled", "aborting", "aborted"]
UNDER_WAY: Final[frozenset[MoveState]] = frozenset({"registered", "copying", "fenced", "joining", "switched", "erasing", "aborting"})
BEFORE_SWITCH: Final[frozenset[MoveState]] = frozenset({"registered", "copying", "fenced"})


@dataclass(frozen=True, slots=True)
class Move:
    """A tenant on its way from `source` to `target`. What each state means and what follows it: `router.evacuation.states`.

    `changed_at` is when the state changed last. For `keep_seconds` after the switch the source is kept up to date, so that the move can be
    rolled back. A `paused` one stands still; `remark` is what was said last: why somebody changed it, or what went wrong. `evacuation`
    names the plan that it belongs to. `standby` is a cell that stood by for the tenant before, and keeps what is to be erased. With
    `joins` the tenant stays at home, and `target` becomes its standby.
    """

    id: str
    source: CellId
    target: CellId
    state: MoveState
    reason: str
    started_at: Micros
    changed_at: Micros
    keep_seconds: int
    paused: bool = False
    remark: str = ""
    evacuation: str = ""
    standby: CellId | None = None
    joins: bool = False


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant and its home. While it is `fenced` its home takes no write of it. Its `standby` folds whatever the home accepts, from the
    tenant's first event on, and takes its writes while the home cannot be reached. `demand` is what it is expected to send, in events per
    second; `pinned` is the operator's override, `move` the present move or the last one, and `since` the revision of its last change.
    Followers are told none of these four."""

    name: TenantId
    zone: ZoneName
    cell: CellId
    epoch: Epoch
    suspended: bool = False
    plan: Plan = field(default_factory=Plan)
    dedicated_schema: bool = False
    sources: tuple[Source, ...] = ()
    read_keys: tuple[Credential, ...] = ()
    demand: float = DEMAND_EVENTS_PER_SECOND
    pinned: Pin | None = None
    since: int = 0
    fenced: bool = False
    move: Move | None = None
    standby: CellId | None = None


def cells_of(tenant: Tenant) -> frozenset[CellId]:
    """Where anything of it may be: its home and standby, and the cells that it is on its way from and to."""
    cells: set[CellId | None] = {tenant.cell, tenant.standby}
    if tenant.move is not None and tenant.move.state in UNDER_WAY:
        cells |= {tenant.move.source, tenant.move.target, tenant.move.standby}
    return frozenset(cell for cell in cells if cell is not None)


@dataclass(frozen=True, slots=True)
class CellEndpoint:
    """Where a cell of the zone listens (`host:port`), and `peer`, the cell that stands by for it. The rest matters to the directory alone:
    `weight`, its share of new tenants; `capacity`, the events per second that it was tested for; and `storage_address`, where its storage
    role listens (gRPC) when that is a process of its own."""

    cell: CellId
    region: RegionName
    grpc_address: str
    http_address: str
    weight: float = 1.0
    capacity: float = CELL_EVENTS_PER_SECOND_MAX
    peer: CellId | None = None
    storage_address: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """What is not a tenant: the zone's cells, and the public endpoint (a URL) of every zone."""

    cells: tuple[CellEndpoint, ...]
    zones: tuple[tuple[ZoneName, str], ...]


@dataclass(frozen=True, slots=True)
class Update:
    """A step from one revision to another. One `from_revision` 0 is whole: it alone has a topology and replaces everything."""

    zone: ZoneName
    from_revision: int
    to_revision: int
    tenants: tuple[Tenant, ...]
    topology: Topology | None = None

    @property
    def whole(self) -> bool:
        """Whether it replaces everything."""
        return self.from_revision == 0


@dataclass(frozen=True, slots=True)
class Table:
    """Who lives where, at `revision`. Nothing in it is ever changed in place; `tenants` becomes a map that tables share."""

    zone: ZoneName
    revision: int
    tenants: Mapping[TenantId, Tenant]
    cells: Mapping[CellId, CellEndpoint]
    zones: Mapping[ZoneName, str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tenants", Map(self.tenants))

    def apply(self, update: Update) -> Table:
        """The table after `update`. Raises Failure(SNAPSHOT_REFUSED) when a rule forbids it; this table stays good."""
        return self.apply_all((update,))

    def apply_all(self, updates: Iterable[Update]) -> Table:
        """As `apply` one after another. Each table shares with the one before it what does not change."""
        table, tenants = self, Map(self.tenants)
        for update in updates:
            _check(table, update)
            if update.topology is None:
                tenants = tenants.update({t.name: replace(t, since=update.to_revision) for t in update.tenants})
                table = replace(table, revision=update.to_revision, tenants=tenants)
            else:
                tenants = Map({t.name: _kept(tenants.get(t.name), t, update.to_revision) for t in update.tenants})
                cells = {c.cell: c for c in update.topology.cells}
                table = Table(table.zone, update.to_revision, tenants, cells, dict(update.topology.zones))
        return table

    def whole(self) -> Update:
        """The update that leads a follower without anything here."""
        topology = Topology(tuple(self.cells.values()), tuple(self.zones.items()))
        return Update(self.zone, 0, self.revision, tuple(self.tenants[name] for name in sorted(self.tenants)), topology)


def empty(zone: ZoneName) -> Table:
    """The table of one who has heard nothing yet: revision 0, everybody unknown."""
    return Table(zone, 0, {}, {}, {})


def _kept(held: Tenant | None, told: Tenant, revision: int) -> Tenant:
    """An unchanged tenant keeps its `since`, so that a whole update that says nothing new changes nothing."""
    if held is not None and replace(told, since=held.since, pinned=held.pinned, demand=held.demand, move=held.move) == held:
        return held
    return replace(told, since=told.since or revision)


def _check(table: Table, update: Update) -> None:
    """The rules that cells share, and those of what only an edge is told: addresses."""
    placement_rules.check(table, update)
    if update.whole and (update.topology is None or not update.topology.cells):
        raise placement_rules.refused("it is whole and names no cell")
    if not update.whole and update.topology is not None:
        raise placement_rules.refused("a change brings no topology")
    cells = table.cells if update.topology is None else {c.cell for c in update.topology.cells}
    for tenant in update.tenants:
        if tenant.zone != table.zone:
            raise placement_rules.refused(f"tenant {tenant.name} is of zone {tenant.zone}")
        if tenant.cell not in cells:
            raise placement_rules.refused(f"tenant {tenant.name} lives in an unknown cell {tenant.cell}")

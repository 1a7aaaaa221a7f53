"""Which tenant of a cell that is to be emptied goes where. Pure; a plan is never changed once it is made."""

from __future__ import annotations

from dataclasses import dataclass

from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from router.placement.capacity import Loads, loads_of
from router.placement.place import place
from router.placement.table import BEFORE_SWITCH, UNDER_WAY, Table, Tenant


@dataclass(frozen=True, slots=True)
class Planned:
    """One move of a plan."""

    tenant: TenantId
    target: CellId


@dataclass(frozen=True, slots=True)
class Plan:
    """Moves in the order in which they are made, the largest tenants first: they are the hardest to find room for."""

    cell: CellId
    moves: tuple[Planned, ...]


def evacuate(table: Table, cell: CellId) -> Plan:
    """A place for every tenant of `cell`, with the loads of those that are planned before it.

    Tenants that are on their way out already are left to their moves. Raises Failure for the whole plan, which is made whole or not at
    all: UNKNOWN_CELL; ZONE_EXHAUSTED when there is no other cell or not enough room; TENANT_PINNED for a tenant that is pinned to the
    cell; TENANT_MOVING for one on its way into it.
    """
    if cell not in table.cells:
        raise Failure(Reason.UNKNOWN_CELL, cell)
    others = [other for other in table.cells.values() if other.cell != cell]
    if not others:
        raise Failure(Reason.ZONE_EXHAUSTED, f"{cell} is the last cell of the zone")
    coming = sorted(t.name for t in table.tenants.values() if _coming(t, cell))
    if coming:
        raise Failure(Reason.TENANT_MOVING, f"{coming[0]} is on its way into {cell}: abort that move first")
    leaving = sorted((t for t in table.tenants.values() if _stays(t, cell)), key=lambda t: (-t.demand, t.name))
    pinned = sorted(tenant.name for tenant in leaving if tenant.pinned is not None and tenant.pinned.cell == cell)
    if pinned:
        raise Failure(Reason.TENANT_PINNED, f"{pinned[0]} is pinned to {cell}, as {len(pinned)} of its tenants are: unpin them first")
    loads = dict(loads_of(table.tenants.values()))
    moves = []
    for tenant in leaving:
        target = place(tenant.name, others, Loads(loads), tenant.demand)
        loads[target] = loads.get(target, 0.0) + tenant.demand
        moves.append(Planned(tenant.name, target))
    return Plan(cell, tuple(moves))


def _coming(tenant: Tenant, cell: CellId) -> bool:
    return tenant.move is not None and tenant.move.state in BEFORE_SWITCH and tenant.move.target == cell


def _stays(tenant: Tenant, cell: CellId) -> bool:
    return tenant.cell == cell and (tenant.move is None or tenant.move.state not in UNDER_WAY)

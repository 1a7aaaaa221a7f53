"""Which tenant of a cell that is to be emptied goes where. Pure; a plan is never changed once it is made."""

from __future__ import annotations

from dataclasses import dataclass

from kernel.clock import Micros
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


def evacuate(table: Table, cell: CellId, now: Micros) -> Plan:
    """A place for every tenant of `cell`, with the loads of those that are planned before it.

    Tenants that are on their way out already are left to their moves. Raises Failure for the whole plan, which is made whole or not at
    all: UNKNOWN_CELL; ZONE_EXHAUSTED when there is no other cell or not enough room; TENANT_PINNED for a tenant that is pinned to the
    cell; TENANT_MOVING for one on its way into it, or whose move there, or away and back, has not ended.
    """
    if cell not in table.cells:
        raise Failure(Reason.UNKNOWN_CELL, cell)
    if len(table.cells) == 1:
        raise Failure(Reason.ZONE_EXHAUSTED, f"{cell} is the last cell of the zone")
    bound = sorted(tenant.name for tenant in table.tenants.values() if _bound(tenant, cell))
    if bound:
        raise Failure(Reason.TENANT_MOVING, f"the move of {bound[0]} binds it to {cell}: abort it, or finish it, first")
    leaving = sorted((t for t in table.tenants.values() if t.cell == cell and not _moves(t)), key=lambda t: (-t.demand, t.name))
    pinned = sorted(t.name for t in leaving if t.pinned is not None and t.pinned.cell == cell and not t.pinned.over(now))
    if pinned:
        raise Failure(Reason.TENANT_PINNED, f"{pinned[0]} is pinned to {cell}, as {len(pinned)} of its tenants are: unpin them first")
    loads = dict(loads_of(table.tenants.values()))
    moves = []
    for tenant in leaving:
        target = place(tenant.name, table.cells.values(), Loads(_without(loads, tenant)), tenant.demand, but=cell)
        loads[target] = loads.get(target, 0.0) + tenant.demand
        moves.append(Planned(tenant.name, target))
    return Plan(cell, tuple(moves))


def _bound(tenant: Tenant, cell: CellId) -> bool:
    """Whether the tenant is in the cell, or will be, by a move that is under way; and not on its way out of it."""
    move = tenant.move
    if move is None or not _moves(tenant):
        return False
    leaves = move.state in BEFORE_SWITCH and move.source == cell
    return not leaves and (tenant.cell == cell or (move.state in BEFORE_SWITCH and move.target == cell))


def _moves(tenant: Tenant) -> bool:
    """Whether it is on its way; one that waits for a standby stays where it is, and that gives way."""
    return tenant.move is not None and tenant.move.state in UNDER_WAY and not tenant.move.joins


def _without(loads: dict[CellId, float], tenant: Tenant) -> dict[CellId, float]:
    """What the others take, as each move will be checked when it is started."""
    return {**loads, tenant.cell: loads[tenant.cell] - tenant.demand}

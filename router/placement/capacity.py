"""How much of a zone's cells is taken, and how much room there is: in its own region and as its peer's standby.

A cell has to carry its own tenants and, while a cell that it stands by for is lost, that one's as well. One is lost at a time: a zone
plans for the loss of one region. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NewType

from kernel.ids import CellId
from router.placement.table import BEFORE_SWITCH, CellEndpoint, Tenant

Loads = NewType("Loads", Mapping[CellId, float])
"""Events per second that the tenants of each cell are expected to send; a cell without tenants may be missing."""
NOTHING: Final = Loads({})


def loads_of(tenants: Iterable[Tenant]) -> Loads:
    """What these tenants take, by home, and where they are on their way to. A suspended one keeps its place."""
    found: dict[CellId, float] = {}
    for tenant in tenants:
        found[tenant.cell] = found.get(tenant.cell, 0.0) + tenant.demand
        if tenant.move is not None and tenant.move.state in BEFORE_SWITCH:
            found[tenant.move.target] = found.get(tenant.move.target, 0.0) + tenant.demand
    return Loads(found)


def carries(cell: CellEndpoint, cells: Collection[CellEndpoint], loads: Loads) -> float:
    """Events per second that `cell` must be able to take: its own, and the most that a lost cell would bring."""
    brought = (loads.get(other.cell, 0.0) for other in cells if other.peer == cell.cell)
    return loads.get(cell.cell, 0.0) + max(brought, default=0.0)


def room(cell: CellEndpoint, cells: Collection[CellEndpoint], loads: Loads) -> float:
    """What may come to `cell` so that neither it nor the one that stands by for it must carry more than it was tested for. It is
    negative where a cell is overcommitted already."""
    found = cell.capacity - carries(cell, cells, loads)
    for standby in cells:
        if standby.cell == cell.peer:
            found = min(found, standby.capacity - loads.get(standby.cell, 0.0) - loads.get(cell.cell, 0.0))
    return found

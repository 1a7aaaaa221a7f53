"""The home cell of a tenant: weighted rendezvous hashing, so that one cell more or less moves few tenants (rule 19), among the cells
that have room."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection

from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from router.placement.capacity import NOTHING, Loads, room
from router.placement.table import CellEndpoint

_SPAN = 2**64


def place(
    tenant: TenantId,
    cells: Collection[CellEndpoint],
    others: Loads = NOTHING,
    demand: float = 0.0,
    pin: CellId | None = None,
    but: CellId | None = None,
) -> CellId:
    """The pinned cell, or the one with the highest score among those of `cells`, which are the zone's, that have room for `demand`
    events per second beside what the others take.

    A cell's share is its weight's; while there is room, a tenant's place changes only when a new cell scores higher than all others or
    when its own goes. `but` is the cell that it leaves: nothing is placed there, and those that stand by for it count all the same.

    Raises Failure: UNKNOWN_CELL for a pin outside the zone, CELL_FULL for one without room, ZONE_EXHAUSTED when no cell with a weight has
    room.
    """
    if pin is not None:
        pinned = next((cell for cell in cells if cell.cell == pin), None)
        if pinned is None:
            raise Failure(Reason.UNKNOWN_CELL, pin)
        if room(pinned, cells, others) < demand:
            raise Failure(Reason.CELL_FULL, _why(pinned, cells, others, demand))
        return pin
    for cell in ranked(tenant, cells):
        if cell.cell != but and room(cell, cells, others) >= demand:
            return cell.cell
    raise Failure(Reason.ZONE_EXHAUSTED, f"no cell has room for {demand:,.0f} events/s more")


def ranked(tenant: TenantId, cells: Collection[CellEndpoint]) -> list[CellEndpoint]:
    """The cells that take tenants, the best for this one first."""
    return sorted((cell for cell in cells if cell.weight > 0), key=lambda cell: (_score(tenant, cell), cell.cell), reverse=True)


def _why(cell: CellEndpoint, cells: Collection[CellEndpoint], others: Loads, demand: float) -> str:
    left = max(0.0, room(cell, cells, others))
    return f"{cell.cell} has room for {left:,.0f} events/s beside its peer's failover, {demand:,.0f} are asked for"


def _score(tenant: TenantId, cell: CellEndpoint) -> float:
    digest = hashlib.sha256(f"{cell.cell}\0{tenant}".encode()).digest()
    uniform = (int.from_bytes(digest[:8], "big") + 0.5) / _SPAN
    return cell.weight / -math.log(uniform) if uniform < 1.0 else math.inf

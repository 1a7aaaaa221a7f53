"""The home cell of a new tenant: weighted rendezvous hashing, so that one cell more or less moves few tenants (rule 19)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection

from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from router.placement.table import CellEndpoint

_SPAN = 2**64


def place(tenant: TenantId, cells: Collection[CellEndpoint], pin: CellId | None = None) -> CellId:
    """The pinned cell, or the one with the highest score among `cells`, which are the zone's.

    A tenant moves only when a new cell scores higher than all others or when its own goes; a cell's share is its weight's.
    Raises Failure: UNKNOWN_CELL for a pin outside the zone, ZONE_EXHAUSTED when no cell has a weight.
    """
    if pin is not None:
        if all(cell.cell != pin for cell in cells):
            raise Failure(Reason.UNKNOWN_CELL, pin)
        return pin
    able = [cell for cell in cells if cell.weight > 0]
    if not able:
        raise Failure(Reason.ZONE_EXHAUSTED)
    return max(able, key=lambda cell: (_score(tenant, cell), cell.cell)).cell


def _score(tenant: TenantId, cell: CellEndpoint) -> float:
    digest = hashlib.sha256(f"{cell.cell}\0{tenant}".encode()).digest()
    uniform = (int.from_bytes(digest[:8], "big") + 0.5) / _SPAN
    return cell.weight / -math.log(uniform) if uniform < 1.0 else math.inf

"""Which cell, at which epoch, for this tenant? The one answer that both the directory and the compiled Envoy routes give (rule 20)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kernel.epoch import Epoch
from kernel.errors import Reason
from kernel.ids import CellId, TenantId
from router.placement.table import Table


@dataclass(frozen=True, slots=True)
class Health:
    """Cells that are known to be lost. A cell of which nothing is known counts as well: silence must not refuse traffic."""

    lost: frozenset[CellId] = frozenset()


@dataclass(frozen=True, slots=True)
class Routed:
    """The tenant's home. `revision` is that of the table which says so."""

    cell: CellId
    epoch: Epoch
    revision: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Nobody may take the request, and why."""

    reason: Reason


ALL_WELL: Final = Health()


def decide(tenant: TenantId, table: Table, health: Health = ALL_WELL) -> Routed | Refused:
    """Fails closed: there is no default cell, and no cell outside the table's zone can be named."""
    home = table.tenants.get(tenant)
    if home is None:
        return Refused(Reason.UNKNOWN_TENANT)
    if home.suspended:
        return Refused(Reason.TENANT_SUSPENDED)
    if not table.cells.keys() - health.lost:
        return Refused(Reason.ZONE_EXHAUSTED)
    if home.cell not in table.cells or home.cell in health.lost:
        return Refused(Reason.CELL_UNAVAILABLE)
    return Routed(home.cell, home.epoch, table.revision)

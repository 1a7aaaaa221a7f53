"""Failing a cell over to those that stand by for its tenants: what would be missing, and the deed.

Nothing is copied: who stands by has folded what the lost cell accepted, up to the gap, and goes on from there. What lies in the gap comes
back with the lost cell's disks, over the same link. Whoever does this may be killed at any point: each tenant is failed over by one step of
the directory, many of which are kept together, and asking again fails over the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from kernel.clock import Clock
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from router.evacuation.cells import Gap, Peers
from router.evacuation.steps import FailOver
from router.placement.store import Intent, Store
from router.placement.table import Table, Tenant
from router.placement.turns import TOGETHER_MAX


class Left(NamedTuple):
    """A tenant that stays where it is, and why."""

    tenant: TenantId
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a failover came to, or would come to."""

    gaps: tuple[Gap, ...]
    moved: tuple[Tenant, ...]
    left: tuple[Left, ...]


@dataclass(frozen=True)
class Failovers:
    """Fails cells over. `table` gives the placement as this process knows it, `refresh` makes that as new as it can be."""

    store: Store
    peers: Peers
    clock: Clock
    table: Callable[[], Table]
    refresh: Callable[[], Awaitable[Table]]

    async def run(
        self, lost: CellId, why: str, actor: str, *, force: bool = False, dry_run: bool = False, gap_records_max: int | None = None
    ) -> Outcome:
        """Fails over every tenant of `lost` that somebody stands by for. What it says of a dry run would be so.

        Raises Failure before anything is changed: UNKNOWN_CELL; CELL_ANSWERS, unless by `force`; NO_STANDBY when no tenant of the cell has
        one, or one whose gap is larger; CELL_UNAVAILABLE when a cell that is to take over cannot be reached: a tenant is never given to a
        cell that may be lost as well.
        """
        homeless = _homeless(await self.refresh(), lost)
        if not force and await self.peers.answers(lost):
            raise Failure(Reason.CELL_ANSWERS, lost)
        standbys = sorted({tenant.standby for tenant in homeless if tenant.standby is not None})
        gaps = [await self.peers.gap(cell, lost) for cell in standbys]
        wide = [gap for gap in gaps if gap_records_max is not None and gap.records > gap_records_max]
        if wide:
            raise Failure(Reason.NO_STANDBY, f"{wide[0].cell} lacks {wide[0].records} records of {lost}")
        found: list[Tenant | Left] = []
        for start in range(0, len(homeless), TOGETHER_MAX):
            some = homeless[start : start + TOGETHER_MAX]
            found += await asyncio.gather(*(self._fail_over(tenant.name, lost, why, actor, dry_run) for tenant in some))
        await self.refresh()
        moved, left = tuple(one for one in found if isinstance(one, Tenant)), tuple(one for one in found if isinstance(one, Left))
        return Outcome(tuple(gaps), moved, left)

    async def _fail_over(self, tenant: TenantId, lost: CellId, why: str, actor: str, dry_run: bool) -> Tenant | Left:
        intent = Intent(actor, self.clock.now(), dry_run=dry_run)
        try:
            return (await self.store.change(FailOver(tenant, lost, why, intent.at), intent)).tenant
        except Failure as failure:
            return Left(tenant, failure.message)


def _homeless(table: Table, lost: CellId) -> list[Tenant]:
    """The tenants of a cell, in name order. Raises Failure(UNKNOWN_CELL, NO_STANDBY)."""
    if lost not in table.cells:
        raise Failure(Reason.UNKNOWN_CELL, lost)
    found = [tenant for _, tenant in sorted(table.tenants.items()) if tenant.cell == lost]
    if found and all(tenant.standby is None for tenant in found):
        raise Failure(Reason.NO_STANDBY, f"none of the {len(found)} tenants of {lost} has one")
    return found

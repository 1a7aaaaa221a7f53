"""Sees to it that somebody stands by for every tenant: one that came to its cell by a move has nobody, nor has one of an older fleet.

A standby joins by a copy, like a move without a fence: a few at a time, each waiting for its turn among the moves.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from kernel.clock import Clock
from kernel.errors import Failure
from kernel.ids import TenantId
from kernel.limits import JOINS_MAX
from kernel.metrics import Meter
from router import metrics
from router.evacuation.steps import JoinStandby
from router.placement.steps import standby_of
from router.placement.store import Intent, Store
from router.placement.table import UNDER_WAY, Table, Tenant

ACTOR: Final = "joins"
_LOOK_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Joins:
    """`table` is the placement as this process knows it; `fresh` names a new move; `refresh` tells the followers what was changed."""

    store: Store
    table: Callable[[], Table]
    fresh: Callable[[], str]
    refresh: Callable[[], Awaitable[object]]
    clock: Clock
    meter: Meter

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            await self.look()
            await self.clock.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Registers what is missing, as far as the bound allows."""
        table = self.table()
        for name in heapq.nsmallest(max(0, JOINS_MAX - _joining(table)), alone(table)):
            now = self.clock.now()
            try:
                await self.store.change(JoinStandby(name, self.fresh(), now), Intent(ACTOR, now))
            except Failure as failure:
                self.meter.add(metrics.MOVE_FAILURES, reason=failure.reason.name)
        await self._tell()

    async def _tell(self) -> None:
        try:
            await self.refresh()
        except Failure as failure:
            self.meter.add(metrics.MOVE_FAILURES, reason=failure.reason.name)


def alone(table: Table) -> Iterator[TenantId]:
    """The tenants for whom somebody could stand by and nobody does. One whose join an operator aborted stays as it is."""
    cells = tuple(table.cells.values())
    paired = {cell.cell for cell in cells if standby_of(cell.cell, cells) is not None}
    return (t.name for t in table.tenants.values() if t.standby is None and t.cell in paired and not _busy(t))


def _busy(tenant: Tenant) -> bool:
    move = tenant.move
    return move is not None and (move.state in UNDER_WAY or (move.joins and move.state in ("aborting", "aborted")))


def _joining(table: Table) -> int:
    return sum(t.move is not None and t.move.joins and t.move.state in UNDER_WAY for t in table.tenants.values())

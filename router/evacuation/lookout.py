"""Listens to what the zone's sites say of its cells, and fails a lost one over, if it may.

What was said is kept in memory alone: a directory that starts anew waits until a majority has spoken again, and for as long as a doubt must
last. A failover that is refused is tried again as long as the cell is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from kernel.clock import Clock
from kernel.errors import Failure, Reason
from kernel.ids import CellId
from kernel.limits import FAILOVER_GAP_RECORDS_MAX
from kernel.metrics import Meter
from router import metrics
from router.evacuation.detect import Doubts, View, doubted, reached_by
from router.evacuation.failover import Failovers
from router.evacuation.make import Log
from router.placement.entry import WITNESS
from router.placement.table import Table

ACTOR: Final = "lookout"
_LOOK_SECONDS: Final = 0.2
_AGAIN_SECONDS: Final = 5.0


@dataclass
class Lookout:
    """`after_seconds` is how long a cell must be lost; 0: nobody is failed over without a person's word."""

    failovers: Failovers
    clock: Clock
    meter: Meter
    log: Log
    after_seconds: float
    _views: dict[str, View] = field(default_factory=dict)
    _doubts: Doubts = field(default_factory=Doubts)
    _not_before: dict[CellId, float] = field(default_factory=dict)

    def hear(self, site: str, unreached: Iterable[CellId], table: Table) -> None:
        """What a site sees. Raises Failure(INVALID_FIELD): the zone has no such site."""
        if site not in sites_of(table):
            raise Failure(Reason.INVALID_FIELD, f"site: the zone has no {site!r}")
        self._views[site] = View(self.clock.monotonic(), frozenset(unreached))

    def reached(self, cell: CellId, table: Table) -> tuple[int, int, int]:
        """(sites that reach a cell, sites that do not, sites that there are)."""
        return *reached_by(cell, self._views, self.clock.monotonic()), len(sites_of(table))

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            await self.look(self.failovers.table())
            await self.clock.sleep(_LOOK_SECONDS)

    async def look(self, table: Table) -> None:
        """One look at what was said."""
        now = self.clock.monotonic()
        self._doubts = doubted(self._doubts, table.cells, self._views, len(sites_of(table)), now)
        for cell in sorted(table.cells):
            self.meter.set(metrics.CELL_DOUBTED_SECONDS, now - self._doubts.since.get(cell, now), cell=cell)
        if self.after_seconds <= 0:
            return
        for cell in sorted(self._doubts.lost(now, self.after_seconds)):
            if self._may(cell, table, now):
                await self._fail_over(cell)

    def _may(self, cell: CellId, table: Table, now: float) -> bool:
        """Whether there is anybody to be failed over, to a cell that is not doubted as well."""
        ready = any(t.cell == cell and t.standby is not None and t.standby not in self._doubts.since for t in table.tenants.values())
        return ready and now >= self._not_before.get(cell, 0.0)

    async def _fail_over(self, cell: CellId) -> None:
        why = f"no majority of the zone's sites has reached it for {self.after_seconds:g} s"
        try:
            outcome = await self.failovers.run(cell, why, ACTOR, gap_records_max=FAILOVER_GAP_RECORDS_MAX)
        except Failure as failure:
            self._not_before[cell] = self.clock.monotonic() + _AGAIN_SECONDS
            self.meter.add(metrics.FAILOVERS, outcome=failure.reason.name)
            self.log.error("a lost cell could not be failed over", cell=cell, why=str(failure))
            return
        self.meter.add(metrics.FAILOVERS, outcome="OK")
        gap = {one.cell: [tuple(kept) for kept in one.kept] for one in outcome.gaps}
        self.log.info("a cell was failed over", cell=cell, tenants=len(outcome.moved), left=len(outcome.left), gap=gap)


def sites_of(table: Table) -> frozenset[str]:
    """Who has a voice in a zone: each region with a cell, and the witness."""
    return frozenset({WITNESS, *(cell.region for cell in table.cells.values())})

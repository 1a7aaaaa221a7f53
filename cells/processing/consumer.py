"""One member of the processing group: follows its assignment, with one loop per partition."""

from __future__ import annotations

import asyncio
from typing import Final

from cells.eventlog.log import EventLog, Membership
from cells.processing import metrics
from cells.processing.partition import PartitionLoop, Wiring
from cells.processing.store import Applier
from kernel.errors import Failure
from kernel.metrics import Meter

GROUP: Final = "processing"
_REBALANCE_SECONDS: Final = 2.0


class Consumer:
    """One member of the processing group."""

    def __init__(self, wiring: Wiring, member: str) -> None:
        self._wiring = wiring
        self._member = member
        self._loops: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follows the assignment until it is cancelled; then stops the partitions' loops between two applies."""
        membership: Membership | None = None
        try:
            while True:
                try:
                    if membership is None:
                        membership = await self._wiring.log.join(GROUP, self._member)
                    await self._follow(await membership.assignment())
                except Failure as failure:
                    self._wiring.meter.add(metrics.APPLY_FAILURES, reason=failure.reason.name)
                await self._wiring.clock.sleep(_REBALANCE_SECONDS)
        finally:
            await self._follow(frozenset())
            if membership is not None:
                await membership.leave()

    async def _follow(self, assigned: frozenset[int]) -> None:
        for partition in set(self._loops) - assigned:
            task = self._loops.pop(partition)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for partition in assigned - set(self._loops):
            loop = PartitionLoop(self._wiring, partition)
            self._loops[partition] = asyncio.create_task(loop.run(), name=f"partition-{partition}")
        for task in self._loops.values():
            if task.done():
                task.result()


async def report_lag(log: EventLog, store: Applier, meter: Meter) -> dict[int, int]:
    """Records behind, per partition, also as a metric."""
    bounds, positions = await log.bounds(), await store.positions()
    lags = {partition: bound.next - positions.get(partition, 0) for partition, bound in bounds.items()}
    for partition, lag in lags.items():
        meter.set(metrics.LAG_RECORDS, lag, partition=str(partition))
    return lags

"""One member of the processing group, with one loop per partition; and how far behind it is."""

from __future__ import annotations

from typing import Final

from cells.eventlog.log import EventLog
from cells.eventlog.member import Member
from cells.processing import metrics
from cells.processing.partition import PartitionLoop, Wiring
from cells.processing.store import Applier
from kernel.metrics import Meter

GROUP: Final = "processing"


def consumer(wiring: Wiring, member: str) -> Member:
    """One member of the processing group."""
    return Member(
        wiring.log,
        GROUP,
        member,
        wiring.clock,
        lambda partition: PartitionLoop(wiring, partition).run(),
        lambda failure: wiring.meter.add(metrics.APPLY_FAILURES, reason=failure.reason.name),
    )


async def report_lag(log: EventLog, store: Applier, meter: Meter) -> dict[int, int]:
    """Records behind, per partition, also as a metric."""
    bounds, positions = await log.bounds(), await store.positions()
    lags = {partition: bound.next - positions.get(partition, 0) for partition, bound in bounds.items()}
    for partition, lag in lags.items():
        meter.set(metrics.LAG_RECORDS, lag, partition=str(partition))
    return lags

"""Retention: drops what is old, but never what the store has not applied. Its days are what an erasure promises at the latest for
copies in a log."""

from __future__ import annotations

from collections.abc import Mapping

from cells.eventlog.log import EventLog
from kernel.clock import DAY, Micros
from kernel.limits import LOG_RETENTION_DAYS


async def expire(log: EventLog, positions: Mapping[int, int], now: Micros) -> int:
    """Trims to the retention, or to the oldest record that is not applied, whichever is older. Returns segments dropped: none when the
    log does not show that record now, for how old it is decides."""
    before = now - LOG_RETENTION_DAYS * DAY
    for partition, bounds in (await log.bounds()).items():
        position = max(bounds.first, positions.get(partition, 0))
        if position >= bounds.next:
            continue
        # A leader of a moment ago may show nothing of what it holds.
        if not (waiting := await log.fetch(partition, position, 1, 1, 0.0)):
            return 0
        before = min(before, waiting[0].appended_at)
    return await log.trim(Micros(before))

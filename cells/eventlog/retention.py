"""Retention: drops what is old, but never what the store has not applied. Its days are what an erasure promises at the latest for
copies in a log."""

from __future__ import annotations

from collections.abc import Mapping

from cells.eventlog.log import EventLog
from kernel.clock import DAY, Micros
from kernel.limits import LOG_BYTES_MAX, LOG_HIGH_WATER_SHARE, LOG_RETENTION_DAYS


async def expire(log: EventLog, positions: Mapping[int, int], now: Micros, bytes_max: int = LOG_BYTES_MAX) -> int:
    """Trims to the retention, or to the oldest record that is not applied, whichever is older; a log that is nearly full to fewer days,
    one less at each call, since one that is full takes nothing more. Returns segments dropped: none when the log does not show that
    record now, for how old it is decides."""
    applied = now
    for partition, bounds in (await log.bounds()).items():
        position = max(bounds.first, positions.get(partition, 0))
        if position >= bounds.next:
            continue
        # A leader of a moment ago may show nothing of what it holds.
        if not (waiting := await log.fetch(partition, position, 1, 1, 0.0)):
            return 0
        applied = min(applied, waiting[0].appended_at)
    for days in range(LOG_RETENTION_DAYS, 0, -1):
        dropped = await log.trim(Micros(min(applied, now - days * DAY)))
        if dropped or await log.size_bytes() <= bytes_max * LOG_HIGH_WATER_SHARE:  # what was dropped may be gone from the disk only later
            return dropped
    return 0

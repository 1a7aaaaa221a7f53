"""When did each event become queryable? Not when the store says that it wrote it, but when another session can see the commit.

A poller reads the store's positions, which every apply advances in its own transaction, so an event is visible no later than the
first poll that finds its partition's position behind it. Figures err by one poll interval, to our disadvantage.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Final

import asyncpg

POLL_SECONDS: Final = 0.02
_POSITIONS: Final = "SELECT partition, next_offset FROM cell.position"
_UNAPPLIED: Final = """
    SELECT coalesce(sum(p.next_offset - coalesce(c.next_offset, 0)), 0)::bigint
    FROM eventlog.partition p LEFT JOIN cell.position c USING (partition)
"""


@dataclass(slots=True)
class Timeline:
    """Of one partition: positions as they were found, and when."""

    positions: list[int] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)

    def note(self, position: int, moment: float) -> None:
        """Keeps what is new."""
        if not self.positions or position > self.positions[-1]:
            self.positions.append(position)
            self.moments.append(moment)

    def visible_at(self, offset: int) -> float:
        """The first moment at which the record of `offset` was seen applied."""
        return self.moments[bisect_right(self.positions, offset)]


class Watch:
    """Follows one cell's positions, over a connection of its own."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection
        self._more = True
        self.timelines: dict[int, Timeline] = {}

    async def follow(self) -> None:
        """Until `finish`."""
        while self._more:
            await self._look()
            await asyncio.sleep(POLL_SECONDS)

    async def finish(self, following: asyncio.Task[None], seconds: float) -> bool:
        """Ends `following`; whether all of the log was applied in time."""
        self._more = False
        await following
        deadline = time.monotonic() + seconds
        while waiting := await self._connection.fetchval(_UNAPPLIED):
            if time.monotonic() > deadline:
                break
            await self._look()
            await asyncio.sleep(POLL_SECONDS)
        await self._look()
        return not waiting

    async def _look(self) -> None:
        found = await self._connection.fetch(_POSITIONS)
        now = time.monotonic()
        for partition, position in found:
            self.timelines.setdefault(partition, Timeline()).note(position, now)

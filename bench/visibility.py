"""When did each event become queryable? Not when the store says that it wrote it, but when another session can see the commit.

That session looks at the store's positions, which every apply advances in its own transaction, every 20 ms; an event is visible no
later than the first look that finds its partition's position behind it. So figures err by one look, to our disadvantage. The session
looks by itself, on the server, and tells once a second: fifty round trips a second would be most of a small load's cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from array import array
from bisect import bisect_right
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import asyncpg

LOOK_SECONDS: Final = 0.02
_TURN_SECONDS: Final = 1.0
# Each look is a transaction of its own, so that it sees what was committed and holds nothing back from vacuum.
_WATCH: Final = """
CREATE PROCEDURE pg_temp.watch(
    look double precision, turn double precision, INOUT moments double precision[], INOUT partitions int[], INOUT positions bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    seen bigint[] := '{}';
    at record;
    began timestamptz := clock_timestamp();
BEGIN
    LOOP
        FOR at IN SELECT p.partition + 1 AS number, p.next_offset FROM cell.position p LOOP
            IF at.next_offset > coalesce(seen[at.number], -1) THEN
                seen[at.number] := at.next_offset;
                moments := moments || extract(epoch FROM clock_timestamp())::double precision;
                partitions := partitions || at.number - 1;
                positions := positions || at.next_offset;
            END IF;
        END LOOP;
        COMMIT;
        EXIT WHEN clock_timestamp() > began + turn * interval '1 second';
        PERFORM pg_sleep(look);
    END LOOP;
END $$
"""


@dataclass(slots=True)
class Timeline:
    """Of one partition: positions as they were found, and when, in seconds of the monotonic clock."""

    positions: array[int] = field(default_factory=lambda: array("q"))
    moments: array[float] = field(default_factory=lambda: array("d"))

    def note(self, position: int, moment: float) -> None:
        """Keeps what is new."""
        if not self.positions or position > self.positions[-1]:
            self.positions.append(position)
            self.moments.append(moment)

    def visible_at(self, offset: int) -> float | None:
        """The first moment at which the record of `offset` was seen applied; None while it was not."""
        at = bisect_right(self.positions, offset)
        return self.moments[at] if at < len(self.moments) else None


class Watch:
    """Follows one cell's positions over a connection of its own."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection
        self._ahead = 0.0
        self.timelines: dict[int, Timeline] = {}

    def visible_at(self, partition: int, offset: int) -> float | None:
        """When the record there was first seen applied, in seconds of the monotonic clock; None while it was not."""
        timeline = self.timelines.get(partition)
        return timeline.visible_at(offset) if timeline is not None else None

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Looks from now on until the block ends, and then once more."""
        await self._connection.execute(_WATCH)
        more = True

        async def follow() -> None:
            while more:
                await self._turn()
            await self._turn()

        task = asyncio.create_task(follow())
        try:
            yield
        finally:
            more = False
            await task

    async def _turn(self) -> None:
        """A second of looks. The server's clock is this machine's, so only the time between two kinds of clock is to be told."""
        found = await self._connection.fetchrow("CALL pg_temp.watch($1, $2, '{}', '{}', '{}')", LOOK_SECONDS, _TURN_SECONDS)
        assert found is not None
        ahead = time.time() - time.monotonic()
        for moment, partition, position in zip(*found, strict=True):
            self.timelines.setdefault(partition, Timeline()).note(position, moment - ahead)

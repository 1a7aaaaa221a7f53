"""A clock that tests and simulations move by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from kernel.clock import SECOND, Micros

START = Micros(1_790_000_000 * SECOND)


class ManualClock:
    """`kernel.clock.Clock`: time passes only in `advance`, which wakes sleepers in order."""

    def __init__(self, start: Micros = START) -> None:
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def now(self) -> Micros:
        return Micros(self._start + round(self._elapsed * SECOND))

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._numbers), future))
        await future

    def advance(self, seconds: float) -> None:
        self._elapsed += seconds
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)

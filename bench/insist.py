"""Clients that insist: each request is sent at its moment, and again until it is acknowledged, as a client's library does.

The open loop of `bench.generator` counts what was refused; this one counts each attempt, and what becomes of a request in the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

import aiohttp

from bench.lanes import verdict_of
from bench.outcomes import ACKNOWLEDGED
from bench.schedule import Schedule
from bench.workload import Bodies
from kernel.clock import SECOND, Micros

ATTEMPT_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 30.0
AGAIN_SECONDS: Final = 0.1


class Failed(NamedTuple):
    """An attempt that was not acknowledged: when it began and ended, in seconds after the start, and why."""

    begun: float
    ended: float
    request: int
    why: str


class Insisting:
    """Plays the first sendings of a schedule until it is told to stop; then what is under way ends. Requests take the sessions in turn,
    each of which has connections of its own: so every edge has its share of them.

    By request, in seconds after the start, NaN for never: `acknowledged`, and `begun`, when the attempt began that was. `attempts` has
    the beginnings of all of them; `sent` counts requests.
    """

    def __init__(self, schedule: Schedule, bodies: Bodies, webs: Sequence[aiohttp.ClientSession], keys: Sequence[str]) -> None:
        self._schedule = schedule
        self._bodies = bodies
        self._webs = webs
        self._headers = [{"x-api-key": key, "content-type": "application/json"} for key in keys]
        self._stop = asyncio.Event()
        self._born = 0
        self.began = 0.0
        self.sent = 0
        self.attempts = array("d")
        self.failures: list[Failed] = []
        self.acknowledged = array("d", [math.nan]) * len(schedule.first_due)
        self.begun = array("d", self.acknowledged)

    @property
    def now(self) -> float:
        """Seconds after the start."""
        return time.monotonic() - self.began

    async def run(self) -> None:
        """Returns once everything that was sent is acknowledged or given up."""
        self.began, self._born = time.monotonic(), time.time_ns() // 1_000
        async with asyncio.TaskGroup() as tasks:
            for request, due in enumerate(self._schedule.first_due):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), max(0.0, due - self.now))
                if self._stop.is_set():
                    return
                tasks.create_task(self._deliver(request))
                self.sent += 1

    def stop(self) -> None:
        """Nothing new is sent from now on."""
        self._stop.set()

    async def wait_until_second(self, second: float) -> None:
        """Until so many seconds after the start."""
        await asyncio.sleep(max(0.0, second - self.now))

    async def _deliver(self, request: int) -> None:
        """The same bytes each time: whoever stores an event twice does not know that it is one."""
        due = self._schedule.first_due[request]
        body = self._bodies.make(request, Micros(self._born + int(due * SECOND)))
        while True:
            begun = self.now
            self.attempts.append(begun)
            why = await self._attempt(request, body)
            if why == ACKNOWLEDGED:
                self.begun[request], self.acknowledged[request] = begun, self.now
                return
            self.failures.append(Failed(begun, self.now, request, why))
            if self.now > due + PATIENCE_SECONDS:
                return
            await asyncio.sleep(AGAIN_SECONDS)

    async def _attempt(self, request: int, body: bytes) -> str:
        path, headers = self._bodies.path(request).decode(), self._headers[self._schedule.tenant[request]]
        web = self._webs[request % len(self._webs)]
        try:
            async with web.post(path, data=body, headers=headers) as answer:
                return verdict_of(answer.status, await answer.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__

"""The open loop: each request is sent at its moment, whatever became of those before.

What is due waits in the schedule itself, so nothing is queued: a request is rendered when a lane takes it. When all lanes are busy it
waits there, and its latency runs from the moment it was due all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from array import array
from collections.abc import Callable
from typing import Final

from bench.lanes import Lane, Told
from bench.outcomes import NO_ANSWER, Outcomes
from bench.schedule import Schedule
from bench.workload import Bodies
from kernel.clock import SECOND, Micros

REQUEST_SECONDS_MAX: Final = 30.0
LANES_MAX: Final = 1_500
_LANES_AT_START: Final = 8
_LANES_OPENING_MAX: Final = 32
_SWEEP_SECONDS: Final = 1.0
_REOPEN_SECONDS: Final = 0.1


class OpenLoop:
    """Plays one schedule. `make_lane` makes a lane that tells its verdicts to the function that it is given."""

    def __init__(self, schedule: Schedule, bodies: Bodies, address: str, make_lane: Callable[[Told], Lane]) -> None:
        self._schedule = schedule
        self._bodies = bodies
        self._host, _, self._port = address.rpartition(":")
        self._make_lane = make_lane
        self._lanes: set[Lane] = set()
        self._idle: list[Lane] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._starved = False
        self._started, self._done = asyncio.Event(), asyncio.Event()
        self.outcomes = Outcomes(array("d", [math.nan]) * len(schedule.first_due))
        self.began = 0.0
        self._born = 0

    @property
    def in_flight(self) -> int:
        """Requests that are under way."""
        return len(self._lanes) - len(self._idle)

    async def run(self) -> None:
        """Returns when everything is answered or given up: REQUEST_SECONDS_MAX after the last one was due, at the latest."""
        try:
            await asyncio.gather(*(self._open() for _ in range(_LANES_AT_START)))
            self.began, self._born = time.monotonic(), time.time_ns() // 1_000
            ends = self.began + self._schedule.due[-1] + REQUEST_SECONDS_MAX
            self._started.set()
            self._pump()
            while not self._done.is_set() and time.monotonic() < ends:
                self._sweep()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._done.wait(), _SWEEP_SECONDS)
        finally:
            await self._close()

    async def wait_until_second(self, second: float) -> None:
        """Until so many seconds after the start."""
        await self._started.wait()
        await asyncio.sleep(max(0.0, self.began + second - time.monotonic()))

    def _pump(self) -> None:
        """Sends what is due, as far as there are lanes, and comes again when the next one is."""
        due, outcomes = self._schedule.due, self.outcomes
        now = time.monotonic() - self.began
        while outcomes.sent < len(due) and due[outcomes.sent] <= now:
            lane = self._free_lane()
            self._starved = lane is None
            if lane is None:
                return
            self._send(lane, outcomes.sent)
            outcomes.sent += 1
        if outcomes.sent < len(due):
            # The loop's timers count whole milliseconds: rounding up costs us one at most, rounding down would spin.
            wait = math.ceil((due[outcomes.sent] - now) * 1_000) / 1_000
            self._timer = asyncio.get_running_loop().call_later(wait, self._pump)

    def _send(self, lane: Lane, sending: int) -> None:
        request = self._schedule.request[sending]
        born = Micros(self._born + int(self._schedule.first_due[request] * SECOND))
        lane.request, lane.begun = request, time.monotonic()
        lane.send(self._schedule.tenant[request], self._bodies.path(request), self._bodies.make(request, born))

    def _told(self, lane: Lane, verdict: str) -> None:
        assert lane.request is not None
        self.outcomes.note(lane.request, verdict, time.monotonic() - self.began)
        lane.request = None
        if lane.transport is None:
            self._lanes.discard(lane)
        else:
            self._idle.append(lane)
        if self._starved:
            self._pump()
        if not self.in_flight and self.outcomes.sent == len(self._schedule.due):
            self._done.set()

    def _free_lane(self) -> Lane | None:
        """The one that was used last, whose memory is warm. When there is none one more is opened, and `_pump` called again."""
        while self._idle:
            lane = self._idle.pop()
            if lane.transport is not None:
                return lane
            self._lanes.discard(lane)
        if len(self._opening) < min(_LANES_OPENING_MAX, LANES_MAX - len(self._lanes)):
            task = asyncio.get_running_loop().create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opened)
        return None

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if self._starved and not task.cancelled():
            self._pump()

    async def _open(self) -> None:
        try:
            _, lane = await asyncio.get_running_loop().create_connection(lambda: self._make_lane(self._told), self._host, int(self._port))
        except OSError:
            await asyncio.sleep(_REOPEN_SECONDS)
            return
        self._lanes.add(lane)
        self._idle.append(lane)

    def _sweep(self) -> None:
        """Gives up what is under way for too long; the lane tells it."""
        oldest = time.monotonic() - REQUEST_SECONDS_MAX
        for lane in self._lanes:
            if lane.request is not None and lane.begun < oldest:
                lane.close()

    async def _close(self) -> None:
        """What is still under way ends without an answer."""
        if self._timer is not None:
            self._timer.cancel()
        self._starved = False
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        unheard = [lane for lane in self._lanes if lane.request is not None]
        for lane in list(self._lanes):
            lane.close()
        for lane in unheard:
            self._told(lane, NO_ANSWER)

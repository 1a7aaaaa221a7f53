"""Turns of the loop: how much admission may do before everything else in the process has had its turn, and when that is too much.

A process that admits, appends, folds and applies on one loop must not admit all that has arrived before it goes on: what is
accepted would then wait behind what is still to be judged. So bodies are worked on in the order in which they came, up to a
bound in bytes per turn of the loop - more after a turn that was long, so that admission gets its half of a busy loop - and the
rest wait. Once the one in front has waited too long, no more are taken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, NamedTuple

from kernel import limits
from kernel.clock import Clock
from kernel.errors import Failure, Reason

_RETRY_AFTER_SECONDS: Final = 1


class _Waiting(NamedTuple):
    turn: asyncio.Future[None]
    size: int
    since: float


class Turns:
    """One per process. Every waiter is in the queue once, and what it holds is counted by `Inflight`: so the queue is bounded."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._woken = 0  # whose turn it is, but who have not run yet: nobody overtakes them
        self._left = limits.TURN_BYTES
        self._renewing = False
        self._renewed = 0.0

    def check(self) -> None:
        """Raises Failure(OVERLOADED) while the one in front waits too long: before a body is read, refusing costs little."""
        if self._waiting and self._clock.monotonic() - self._waiting[0].since > limits.TURN_WAIT_SECONDS_MAX:
            raise Failure(Reason.OVERLOADED, retry_after_seconds=_RETRY_AFTER_SECONDS)

    async def take(self, body_bytes: int) -> None:
        """Returns when a request with so large a body may be worked on. One larger than a whole turn takes one, and nobody follows it in
        that turn."""
        size = body_bytes + limits.TURN_REQUEST_BYTES
        if self._waiting or self._woken or self._left <= 0:
            waiting = _Waiting(asyncio.get_running_loop().create_future(), size, self._clock.monotonic())
            self._waiting.append(waiting)
            self._schedule()
            try:
                await waiting.turn
            finally:
                if not waiting.turn.cancelled():
                    self._woken -= 1
            return
        self._spend(size)

    def _spend(self, size: int) -> None:
        self._left -= size
        self._schedule()

    def _schedule(self) -> None:
        if not self._renewing:
            self._renewing, self._renewed = True, self._clock.monotonic()
            asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        """The next turn: runs after all that was ready in this one."""
        self._renewing = False
        lasted = self._clock.monotonic() - self._renewed
        self._left = max(limits.TURN_BYTES, int(lasted * limits.TURN_BYTES_PER_SECOND))
        while self._waiting and self._left > 0:
            waiting = self._waiting.popleft()
            if not waiting.turn.done():
                waiting.turn.set_result(None)
                self._woken += 1
                self._spend(waiting.size)

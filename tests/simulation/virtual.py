"""An asyncio event loop whose time is virtual: when nothing can run, it jumps to the next timer. No wait takes real time, and with
equal inputs every run takes the same steps."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from kernel.clock import SECOND, Micros
from tests.support.clock import START

Result = TypeVar("Result")


class _Jumping(selectors.SelectSelector):
    """Instead of waiting it moves the loop's clock."""

    elapsed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulation is stuck: nothing can run and no timer is set")
        self.elapsed += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is the selector's."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.elapsed


class LoopClock:
    """`kernel.clock.Clock` on the running loop's time."""

    def now(self) -> Micros:
        return Micros(START + round(asyncio.get_running_loop().time() * SECOND))

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs to the end, in no time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)

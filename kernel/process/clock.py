"""The real clock."""

from __future__ import annotations

import asyncio
import time

from kernel.clock import Micros


class SystemClock:
    """`kernel.clock.Clock` on the machine's clocks."""

    def now(self) -> Micros:
        """Wall clock, UTC."""
        return Micros(time.time_ns() // 1_000)

    def monotonic(self) -> float:
        """Seconds since some start."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Yields to other tasks meanwhile."""
        await asyncio.sleep(seconds)

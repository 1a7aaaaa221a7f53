"""What all roles of a cell's process share, and the things that live as long as it does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from starlette.routing import BaseRoute

from cells.admission.follow import Follower
from cells.config import Config
from cells.metrics import CELL_DEGRADED
from cells.pace import Pace
from cells.server import GrpcServer
from cells.tracing import Spans
from kernel.clock import Clock
from kernel.errors import Failure
from kernel.metrics import TURNS_FAILED, Meter


@dataclass
class Process:
    """Roles add routes, services, background tasks and drain steps; `cells.app` runs them. `stack` closes what was opened.

    `degraded` names the parts that do not work now, and why. The process stays ready with them: it refuses what needs them, in words
    that say "later", and serves the rest, while the edge would take an unready one for a lost cell.
    """

    config: Config
    clock: Clock
    meter: Meter
    spans: Spans
    follower: Follower
    grpc: GrpcServer
    stack: AsyncExitStack
    pace: Pace
    routes: list[BaseRoute] = field(default_factory=list)
    services: list[str] = field(default_factory=list)
    tasks: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    drains: list[Callable[[float], Awaitable[None]]] = field(default_factory=list)
    degraded: dict[str, str] = field(default_factory=dict)
    owning: asyncio.Lock = field(default_factory=asyncio.Lock)

    def every(self, name: str, seconds: float, act: Callable[[], Awaitable[object]]) -> None:
        """Runs `act` now and then. A Failure is the weather: the next turn tries again."""

        async def turn() -> None:
            while True:
                try:
                    await act()
                except Failure as failure:
                    self.meter.add(TURNS_FAILED, task=name, reason=failure.reason.name)
                await self.clock.sleep(seconds)

        self.tasks[name] = turn

    def watch(self, part: str, seconds: float, probe: Callable[[], Awaitable[object]]) -> None:
        """Asks `probe` now and then; as long as it raises a Failure, `part` is degraded."""

        async def look() -> None:
            try:
                await probe()
            except Failure as failure:
                self.degraded[part] = failure.message
                self.meter.set(CELL_DEGRADED, 1, part=part)
                raise
            self.degraded.pop(part, None)
            self.meter.set(CELL_DEGRADED, 0, part=part)

        self.every(f"watch the {part}", seconds, look)


async def cancelled(task: asyncio.Future[None]) -> None:
    """Ends a background task and waits until it has ended; its own failure was reported by its owner."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

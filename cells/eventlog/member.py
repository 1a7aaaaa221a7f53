"""One member of a consumer group: follows its assignment, with one task per partition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from cells.eventlog.log import EventLog, Membership
from kernel.clock import Clock
from kernel.errors import Failure

_REBALANCE_SECONDS: Final = 2.0


@dataclass
class Member:
    """`follow` is run for each partition that is assigned, and cancelled when it is no more; `failed` hears of what comes again."""

    log: EventLog
    group: str
    name: str
    clock: Clock
    follow: Callable[[int], Coroutine[Any, Any, None]]
    failed: Callable[[Failure], None]
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self) -> None:
        """Until it is cancelled; then every partition is let go before it is given back."""
        membership: Membership | None = None
        try:
            while True:
                try:
                    if membership is None:
                        membership = await self.log.join(self.group, self.name)
                    await self._keep(await membership.assignment())
                except Failure as failure:
                    self.failed(failure)
                await self.clock.sleep(_REBALANCE_SECONDS)
        finally:
            await self._keep(frozenset())
            if membership is not None:
                await membership.leave()

    async def _keep(self, assigned: frozenset[int]) -> None:
        for partition in set(self._tasks) - assigned:
            task = self._tasks.pop(partition)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for partition in assigned - set(self._tasks):
            self._tasks[partition] = asyncio.create_task(self.follow(partition), name=f"{self.group}-{partition}")
        for task in self._tasks.values():
            if task.done():
                task.result()

"""Makes all moves of a zone, a few at a time: who is worked on, for how long, and what becomes of one that fails.

Whoever runs this may be killed at any point, or run twice; the next one goes on. A tenant whose writes are refused comes first and waits
for nobody. A move that cannot go on gives its place to others and tries again; a defect stops the move that has it, not the directory.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from kernel import limits
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from router import metrics
from router.evacuation.make import Changed, Making, Wiring
from router.evacuation.steps import PauseMove
from router.placement.table import Move, MoveState

_DRIVEN: Final[frozenset[MoveState]] = frozenset({"registered", "copying", "fenced", "joining", "erasing", "aborting"})
_LOOK_SECONDS: Final = 0.1
_KEEP_UP_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
_AGAIN_SECONDS: Final = 5.0


@dataclass
class Executor:
    """See the module's docstring."""

    wiring: Wiring
    at_once: int = limits.MOVES_MAX
    making: Making = field(init=False)
    _tasks: dict[TenantId, asyncio.Task[None]] = field(default_factory=dict)
    _keepers: dict[CellId, asyncio.Task[None]] = field(default_factory=dict)
    _not_before: dict[TenantId | CellId, float] = field(default_factory=dict)
    _stopping: bool = False

    def __post_init__(self) -> None:
        self.making = Making(self.wiring)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then every move stands where it is, but for tenants whose writes are refused: they are switched, or have their
        writes back, first."""
        try:
            while not stop.is_set():
                await self._reap()
                await self._start()
                await self.wiring.clock.sleep(_LOOK_SECONDS)
            self._stopping = True
            await self._let_fenced_end()
        finally:
            tasks = [*self._tasks.values(), *self._keepers.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drive(self, name: TenantId) -> None:
        """Takes a move as far as it goes: until it has switched or ended, or stands still, or gives its place to others."""
        for pause in _RETRY_SECONDS:
            try:
                await self._drive(name)
            except Failure as failure:
                self._waits(name, failure)
                await self.wiring.clock.sleep(pause)
            else:
                return
        self._not_before[name] = self.wiring.clock.monotonic() + _AGAIN_SECONDS

    async def _drive(self, name: TenantId) -> None:
        while True:
            tenant = await self.wiring.store.tenant(name)
            move = tenant.move
            if move is None or move.paused or move.state not in _DRIVEN or (self._stopping and not tenant.fenced):
                return
            try:
                await self.making.step(tenant, move)
            except Changed:
                continue

    async def _start(self) -> None:
        """A task for each move that nobody works on, as far as the bound allows: fenced ones at once, then the oldest; and one for each old
        home that is to be kept up to date."""
        try:
            moving = await self.wiring.store.moving()
        except Failure as failure:
            self.wiring.meter.add(metrics.MOVE_FAILURES, reason=failure.reason.name)
            return
        self.wiring.meter.set(metrics.MOVES, len(moving))
        for name, move in sorted(moving, key=lambda pair: pair[1].state != "fenced"):
            free = move.state == "fenced" or len(self._tasks) < self.at_once
            if free and move.state in _DRIVEN and not move.paused and name not in self._tasks and self._due(name):
                self._tasks[name] = asyncio.create_task(self.drive(name), name=f"move {name}")
        self._keep_homes(moving)
        gone = set(self.making.progress) - {name for name, _ in moving}
        for name in gone:
            del self.making.progress[name]

    def _keep_homes(self, moving: Sequence[tuple[TenantId, Move]]) -> None:
        homes: dict[CellId, list[TenantId]] = defaultdict(list)
        for name, move in moving:
            if move.state == "switched" and not move.paused:
                homes[move.source].append(name)
        for cell, names in homes.items():
            if cell not in self._keepers and self._due(cell):
                self._keepers[cell] = asyncio.create_task(self._keep_up(cell, names), name=f"keep {cell} up to date")

    async def _keep_up(self, cell: CellId, names: Sequence[TenantId]) -> None:
        """One old home, tenant by tenant, each as it is then."""
        for name in names:
            (defect,) = await asyncio.gather(self._keep_one_up(name), return_exceptions=True)
            if isinstance(defect, Failure):
                self._waits(name, defect)
            elif isinstance(defect, Exception) and not isinstance(defect, Changed):
                await self._stop_at(name, defect)
        self._not_before[cell] = self.wiring.clock.monotonic() + _KEEP_UP_SECONDS

    async def _keep_one_up(self, name: TenantId) -> None:
        tenant = await self.wiring.store.tenant(name)
        if tenant.move is not None and tenant.move.state == "switched" and not tenant.move.paused:
            await self.making.keep_up(tenant, tenant.move)

    async def _reap(self) -> None:
        for cell in [cell for cell, task in self._keepers.items() if task.done()]:
            self._keepers.pop(cell).result()
        for name in [name for name, task in self._tasks.items() if task.done()]:
            error = self._tasks.pop(name).exception()
            if error is not None:
                await self._stop_at(name, error)

    async def _stop_at(self, name: TenantId, defect: BaseException) -> None:
        """The move stands still; the tenant has its writes."""
        self.wiring.log.error("a defect in a move", tenant=name, exc_info=defect)
        self.wiring.meter.add(metrics.MOVE_FAILURES, reason=Reason.INTERNAL.name)
        remark = f"a defect: {type(defect).__name__}; see the directory's log"
        try:
            tenant = await self.wiring.store.tenant(name)
            if tenant.move is not None and tenant.fenced:
                await self.making.turn(tenant, tenant.move, "unfence", remark)
            if tenant.move is not None:
                await self.making.change(PauseMove(name, tenant.move.id, True, remark))
        except Failure as failure:
            self.wiring.log.error("the move could not be stopped", tenant=name, why=str(failure))

    async def _let_fenced_end(self) -> None:
        """Whoever has a tenant fenced ends that, within the time that a fence may last."""
        known = {name: self.wiring.look(name) for name in self._tasks}
        fenced = [self._tasks[name] for name, tenant in known.items() if tenant is not None and tenant.fenced]
        if fenced:
            await asyncio.wait(fenced, timeout=limits.MOVE_FENCED_SECONDS_MAX)

    def _due(self, who: TenantId | CellId) -> bool:
        return self.wiring.clock.monotonic() >= self._not_before.get(who, 0.0)

    def _waits(self, name: TenantId, failure: Failure) -> None:
        self.making.of(name).doing = f"waits: {failure}"
        self.wiring.meter.add(metrics.MOVE_FAILURES, reason=failure.reason.name)
        self.wiring.log.error("a move waits", tenant=name, why=str(failure))

"""Makes moves: looks at what state each is in, does what the state asks for, and takes it to the next one.

Nothing is remembered here that matters: a move's state is in the directory's store, how far a copy is in the cell that takes it. Whoever
runs this may be killed at any point, or run twice; the next one goes on. A move that cannot go on waits and tries again; one whose copy
differs stands still and says so; a tenant whose writes are refused for too long is given them back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from kernel import limits
from kernel.clock import SECOND, Clock
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.metrics import Meter
from router import metrics
from router.evacuation import check
from router.evacuation.cells import Cells, Copy, Offsets, Totals
from router.evacuation.states import Turn
from router.evacuation.steps import PauseMove, TurnMove
from router.placement.store import Intent, Store
from router.placement.table import Move, Tenant

ACTOR: Final = "moves"
_LOOK_SECONDS: Final = 0.1
_KEEP_UP_SECONDS: Final = 0.5
_NO_NEWS_SECONDS: Final = 0.005
_RETRY_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)


class Log(Protocol):
    """A structured logger."""

    def info(self, event: str, **values: object) -> None:
        """What happened."""
        ...

    def error(self, event: str, **values: object) -> None:
        """What went wrong."""
        ...


@dataclass
class Progress:
    """How far a move is, for whoever watches. Seconds and counts of events; `pause_seconds` is how long writes were refused."""

    doing: str = "waits"
    events: int = 0
    events_expected: int = 0
    eta_seconds: float = 0.0
    pause_seconds: float = 0.0
    lag_records: int = 0


@dataclass
class _Memory:
    """What saves work when nobody was killed: the totals of a copy that was compared, and how often the tenant was fenced in vain."""

    compared: Copy | None = None
    fences: int = 0
    fenced_at: float | None = None


@dataclass(frozen=True)
class Wiring:
    """What moves are made with. `refresh` tells the followers what was changed; `look` gives a tenant as this process knows it."""

    store: Store
    cells: Cells
    clock: Clock
    meter: Meter
    log: Log
    refresh: Callable[[], Awaitable[object]]
    look: Callable[[TenantId], Tenant | None]


class _Changed(Exception):
    """Somebody paused or ended the move meanwhile."""


@dataclass
class Executor:
    """See the module's docstring."""

    wiring: Wiring
    at_once: int = limits.MOVES_MAX
    progress: dict[TenantId, Progress] = field(default_factory=dict)
    _tasks: dict[TenantId, asyncio.Task[None]] = field(default_factory=dict)
    _memories: dict[str, _Memory] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then every move stands where it is. Raises what is a defect."""
        keeping = asyncio.create_task(self._keep_all_up(), name="keep old homes up to date")
        try:
            while not stop.is_set():
                await self._reap()
                if keeping.done():
                    keeping.result()
                await self._start()
                await self.wiring.clock.sleep(_LOOK_SECONDS)
        finally:
            for task in (keeping, *self._tasks.values()):
                task.cancel()
            await asyncio.gather(keeping, *self._tasks.values(), return_exceptions=True)

    async def drive(self, name: TenantId) -> None:
        """Takes a move as far as it goes: until it has switched or ended, or stands still."""
        failures = 0
        while True:
            try:
                tenant = await self.wiring.store.tenant(name)
                if tenant.move is None or tenant.move.paused or tenant.move.state not in _DRIVEN:
                    return
                await self.step(tenant, tenant.move)
                failures = 0
            except _Changed:
                continue
            except Failure as failure:
                self._of(name).doing = f"waits: {failure}"
                self.wiring.meter.add(metrics.MOVE_FAILURES, reason=failure.reason.name)
                self.wiring.log.error("a move waits", tenant=name, why=str(failure))
                await self.wiring.clock.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1

    async def step(self, tenant: Tenant, move: Move) -> None:
        """What the move's state asks for, to the next state. Raises Failure: then it is where it was, or further."""
        match move.state:
            case "registered":
                await self._turn(tenant, move, "begin")
            case "copying":
                await self._copying(tenant, move)
            case "fenced":
                await self._fenced(tenant, move)
            case "switched":
                await self._switched(tenant, move)
            case "erasing":
                await self._erase(tenant, move, move.source)
            case "aborting":
                await self._erase(tenant, move, move.target)

    async def _copying(self, tenant: Tenant, move: Move) -> None:
        """Copies, catches up, compares, and fences once the end of the source's log is near."""
        memory, cells = self._memories.setdefault(move.id, _Memory()), self.wiring.cells
        copy = await self._begin(tenant, move)
        progress = self._of(tenant.name)
        progress.doing = "copies"
        progress.events_expected = (await cells.digest(move.source, tenant.name)).events
        copy = await self._catch_up(tenant, move, copy, await cells.ends(move.source, tenant.name), copying=True)
        progress.doing = "catches up"
        copy = await self._near(tenant, move, copy)
        progress.doing = "compares"
        await self._standing(tenant, move, "the copy", self._compare(tenant, move, copy))
        memory.compared = copy
        progress.doing = "catches up"
        await self._near(tenant, move, copy)
        self._look(tenant, move)
        memory.fenced_at = self.wiring.clock.monotonic()
        await self._turn(tenant, move, "fence")

    async def _fenced(self, tenant: Tenant, move: Move) -> None:
        """Gives the rest and switches, or gives the tenant its writes back."""
        memory, progress = self._memories.setdefault(move.id, _Memory()), self._of(tenant.name)
        progress.doing = "drains"
        began = self.wiring.clock.monotonic() if memory.fenced_at is None else memory.fenced_at
        try:
            async with asyncio.timeout(limits.MOVE_FENCED_SECONDS_MAX):
                await self._drain(tenant, move, memory.compared)
        except (Failure, TimeoutError) as error:
            remark = str(error) if isinstance(error, Failure) else f"the source was not drained in {limits.MOVE_FENCED_SECONDS_MAX:g} s"
            memory.fences += 1
            memory.compared = None
            await self._turn(tenant, move, "unfence", remark)
            differs = isinstance(error, Failure) and error.reason is Reason.COPY_DIFFERS
            if differs or memory.fences >= limits.MOVE_FENCES_MAX:
                await self._change(PauseMove(tenant.name, move.id, True, remark))
            return
        await self._turn(tenant, move, "switch")
        progress.pause_seconds = self.wiring.clock.monotonic() - began
        progress.doing = "keeps the old home up to date"
        self.wiring.meter.observe(metrics.MOVE_PAUSE_SECONDS, progress.pause_seconds)
        self.wiring.log.info("a tenant has moved", tenant=tenant.name, cell=move.target, pause_seconds=round(progress.pause_seconds, 3))

    async def _drain(self, tenant: Tenant, move: Move, compared: Copy | None) -> None:
        """Everything that the source ever acknowledged is in the target when this returns, and the way back is prepared."""
        cells = self.wiring.cells
        ends = await cells.fence(move.source, tenant.name, tenant.epoch)
        copy = await self._catch_up(tenant, move, await self._begin(tenant, move), ends, whole=True)
        if compared is None:
            await self._compare(tenant, move, copy)
        else:
            tail = await cells.digest(move.source, tenant.name, compared.cursor, copy.cursor)
            check.same("the tail", compared.added + tail, copy.added)
        home, there = await asyncio.gather(cells.digest_profiles(move.source, tenant.name), cells.digest_profiles(move.target, tenant.name))
        check.same("profiles", home, there)
        mark = await cells.mark(move.target, tenant.name, tenant.epoch)
        await cells.begin(move.source, tenant.name, move.target, move.id, mark, tenant.dedicated_schema)

    async def _switched(self, tenant: Tenant, move: Move) -> None:
        """Keeps the source up to date until its time is over; then it is erased, unless it holds something that nobody was given."""
        cells, name = self.wiring.cells, tenant.name
        back = await cells.begin(move.source, name, move.target, move.id, b"", tenant.dedicated_schema)
        more = True
        while more:
            part = await cells.export(move.target, name, tenant.epoch, back.cursor)
            back = await cells.take(move.source, name, tenant.epoch, move.target, back.seq, part)
            more = part.more
        if self.wiring.clock.now() >= move.changed_at + move.keep_seconds * SECOND:
            forth = await cells.begin(move.target, name, move.source, move.id, b"", tenant.dedicated_schema)
            kept = await cells.digest(move.source, name)
            await self._standing(tenant, move, "the old home", _compared(kept, forth.added + back.added))
            await self._turn(tenant, move, "finish")

    async def _erase(self, tenant: Tenant, move: Move, cell: CellId) -> None:
        self._of(tenant.name).doing = f"erases {cell}"
        left = True
        while left:
            began = self.wiring.clock.monotonic()
            removed, left = await self.wiring.cells.erase(cell, tenant.name, tenant.epoch)
            if left and not removed:
                raise Failure(Reason.STORE_UNAVAILABLE, f"something in {cell} cannot be removed")
            await self._rest(began)
        await self._turn(tenant, move, "erased")
        self._memories.pop(move.id, None)

    async def _begin(self, tenant: Tenant, move: Move) -> Copy:
        """The copy in the target. What is left there of an earlier stay is erased: its home has all of it."""
        cells = self.wiring.cells
        while True:
            try:
                return await cells.begin(move.target, tenant.name, move.source, move.id, b"", tenant.dedicated_schema)
            except Failure as failure:
                if failure.reason is not Reason.MOVE_NOT_NOW:
                    raise
            removed, _ = await cells.erase(move.target, tenant.name, tenant.epoch)
            if not removed:
                raise Failure(Reason.STORE_UNAVAILABLE, f"something in {move.target} cannot be removed")

    async def _catch_up(self, tenant: Tenant, move: Move, copy: Copy, ends: Offsets, *, copying: bool = False, whole: bool = False) -> Copy:
        """Parts, until the copy has everything before `ends` and, to be `whole`, the source has nothing more. While `copying`, others have
        the cells in between."""
        cells, progress, started = self.wiring.cells, self._of(tenant.name), self.wiring.clock.monotonic()
        first = copy.added.events
        while True:
            began = self.wiring.clock.monotonic()
            part = await cells.export(move.source, tenant.name, tenant.epoch, copy.cursor)
            copy = await cells.take(move.target, tenant.name, tenant.epoch, move.source, copy.seq, part)
            progress.events, progress.lag_records = copy.added.events, check.lag_records(part.given, ends)
            progress.eta_seconds = _eta(progress, first, self.wiring.clock.monotonic() - started)
            if check.covers(part.given, ends) and not (whole and part.more):
                return copy
            if not whole:
                self._look(tenant, move)
            if not part.more:
                await self.wiring.clock.sleep(_NO_NEWS_SECONDS)
            if copying:
                await self._rest(began)

    async def _near(self, tenant: Tenant, move: Move, copy: Copy) -> Copy:
        """Returns once the end of the source's log can be reached in a moment: what was just done is what a fence will wait for."""
        for _ in range(limits.COPY_ROUNDS_MAX):
            began = self.wiring.clock.monotonic()
            ends = await self.wiring.cells.ends(move.source, tenant.name)
            copy = await self._catch_up(tenant, move, copy, ends)
            if self.wiring.clock.monotonic() - began <= limits.MOVE_PAUSE_SECONDS:
                return copy
            self._look(tenant, move)
            await self._rest(began)
        raise Failure(Reason.CELL_UNAVAILABLE, f"{move.source} stays behind with its log", retry_after_seconds=10)

    async def _compare(self, tenant: Tenant, move: Move, copy: Copy) -> None:
        """Everything that both keep, up to where the copy is."""
        home = await self.wiring.cells.digest(move.source, tenant.name, until=copy.cursor)
        check.same("events", home, await self.wiring.cells.digest(move.target, tenant.name))

    async def _standing(self, tenant: Tenant, move: Move, what: str, comparing: Awaitable[None]) -> None:
        """A move whose copy differs stands still until somebody has looked."""
        try:
            await comparing
        except Failure as failure:
            if failure.reason is Reason.COPY_DIFFERS:
                await self._change(PauseMove(tenant.name, move.id, True, f"{what} differs: {failure.detail}"))
                raise _Changed from failure
            raise

    async def _rest(self, began: float) -> None:
        worked = self.wiring.clock.monotonic() - began
        await self.wiring.clock.sleep(worked * (1.0 / limits.COPY_SHARE - 1.0))

    def _look(self, tenant: Tenant, move: Move) -> None:
        """Raises _Changed when the move is not as it was when this began."""
        now = self.wiring.look(tenant.name)
        if now is not None and now.since > tenant.since and now.move != move:
            raise _Changed

    async def _turn(self, tenant: Tenant, move: Move, turn: Turn, remark: str = "") -> None:
        await self._change(TurnMove(tenant.name, move.id, turn, self.wiring.clock.now(), tenant.epoch, remark))
        self.wiring.meter.add(metrics.MOVE_TURNS, turn=turn)
        self.wiring.log.info("a move goes on", tenant=tenant.name, move=move.id, turn=turn, remark=remark)

    async def _change(self, step: TurnMove | PauseMove) -> None:
        await self.wiring.store.change(step, Intent(ACTOR, self.wiring.clock.now()))
        await self.wiring.refresh()

    def _of(self, name: TenantId) -> Progress:
        return self.progress.setdefault(name, Progress())

    async def _start(self) -> None:
        """A task for each move that nobody works on, as far as the bound allows; the oldest first."""
        try:
            moving = await self.wiring.store.moving()
        except Failure as failure:
            self.wiring.meter.add(metrics.MOVE_FAILURES, reason=failure.reason.name)
            return
        self.wiring.meter.set(metrics.MOVES, len(moving))
        for tenant in moving:
            driven = tenant.move is not None and not tenant.move.paused and tenant.move.state in _DRIVEN
            if driven and tenant.name not in self._tasks and len(self._tasks) < self.at_once:
                self._tasks[tenant.name] = asyncio.create_task(self.drive(tenant.name), name=f"move {tenant.name}")
        for name in set(self.progress) - {tenant.name for tenant in moving}:
            del self.progress[name]

    async def _reap(self) -> None:
        for name in [name for name, task in self._tasks.items() if task.done()]:
            error = self._tasks.pop(name).exception()
            if error is not None:
                await self._stop_at(name, error)

    async def _stop_at(self, name: TenantId, defect: BaseException) -> None:
        """A defect in one move stops that move, not the directory; the tenant has its writes."""
        self.wiring.log.error("a defect in a move", tenant=name, exc_info=defect)
        self.wiring.meter.add(metrics.MOVE_FAILURES, reason=Reason.INTERNAL.name)
        remark = f"a defect: {type(defect).__name__}; see the directory's log"
        try:
            tenant = await self.wiring.store.tenant(name)
            if tenant.move is not None and tenant.fenced:
                await self._turn(tenant, tenant.move, "unfence", remark)
            if tenant.move is not None:
                await self._change(PauseMove(name, tenant.move.id, True, remark))
        except Failure as failure:
            self.wiring.log.error("the move could not be stopped", tenant=name, why=str(failure))

    async def _keep_all_up(self) -> None:
        """One after the other: an old home may be a moment late."""
        while True:
            for tenant in await self._with_old_homes():
                (defect,) = await asyncio.gather(self._keep_up(tenant), return_exceptions=True)
                if isinstance(defect, Exception):
                    await self._stop_at(tenant.name, defect)
            await self.wiring.clock.sleep(_KEEP_UP_SECONDS)

    async def _keep_up(self, tenant: Tenant) -> None:
        try:
            if tenant.move is not None:
                await self._switched(tenant, tenant.move)
        except _Changed:
            return
        except Failure as failure:
            self._of(tenant.name).doing = f"waits: {failure}"
            self.wiring.meter.add(metrics.MOVE_FAILURES, reason=failure.reason.name)

    async def _with_old_homes(self) -> list[Tenant]:
        try:
            moving = await self.wiring.store.moving()
        except Failure:
            return []
        return [t for t in moving if t.move is not None and t.move.state == "switched" and not t.move.paused]


async def _compared(home: Totals, copy: Totals) -> None:
    check.same("what it keeps", home, copy)


def _eta(progress: Progress, first: int, seconds: float) -> float:
    """Seconds, at the pace so far."""
    done, left = progress.events - first, max(0, progress.events_expected - progress.events)
    return left * seconds / done if done > 0 else 0.0


_DRIVEN: Final = ("registered", "copying", "fenced", "erasing", "aborting")

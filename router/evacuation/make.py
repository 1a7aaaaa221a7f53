"""What each state of a move asks for, done through two cells.

Each function may fail anywhere and be called again: what is known of a move is in the directory's store, how far a copy is in the cell that
takes it; what is remembered here only saves work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from kernel import limits
from kernel.clock import SECOND, Clock
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.metrics import Meter
from router import metrics
from router.evacuation import check, standby
from router.evacuation.cells import Cells, Copy, Offsets
from router.evacuation.states import Turn
from router.evacuation.steps import PauseMove, TurnMove
from router.placement.store import Intent, Store
from router.placement.table import Move, Tenant, cells_of

ACTOR: Final = "moves"
_NO_NEWS_SECONDS: Final = 0.005
_AFTER_FENCE_SECONDS_MAX: Final = 30.0
_JOIN_LOOK_SECONDS: Final = 0.05
_JOIN_LOOKS_MAX: Final = 100
_CLEAR_SECONDS_MAX: Final = 2.0 * limits.FENCE_PATIENCE_SECONDS  # what no standby folds any more is held after that patience
_PARTS_MAX: Final = 200  # of one look after an old home: others have theirs


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


@dataclass(frozen=True)
class Wiring:
    """What moves are made with. `refresh` tells the followers what was changed; `look` gives a tenant as this process knows it; `peer_of` a
    cell's peer, which may have taken writes for it."""

    store: Store
    cells: Cells
    clock: Clock
    meter: Meter
    log: Log
    refresh: Callable[[], Awaitable[object]]
    look: Callable[[TenantId], Tenant | None]
    peer_of: Callable[[CellId], CellId | None]


class Changed(Exception):
    """The move is not what it was when this began."""


@dataclass
class _Memory:
    """Of a move: whether its target is clear for a copy, the copy that was compared last, how often the tenant was fenced in vain, and when
    it was fenced."""

    clear: bool = False
    compared: Copy | None = None
    fences: int = 0
    fenced_at: float | None = None


@dataclass
class Making:
    """See the module's docstring. Everything raises Failure: then the move is where it was, or further; or Changed."""

    wiring: Wiring
    progress: dict[TenantId, Progress] = field(default_factory=dict)
    _memories: dict[str, _Memory] = field(default_factory=dict)

    async def step(self, tenant: Tenant, move: Move) -> None:
        """To the next state."""
        match move.state:
            case "registered":
                await self.turn(tenant, move, "begin")
            case "copying" if tenant.standby == move.target and not move.joins:
                await self._approach(tenant, move)
            case "copying":
                await self._copy(tenant, move)
            case "fenced":
                await self._switch(tenant, move)
            case "joining":
                await self._join(tenant, move)
            case "erasing":
                await self._forget(tenant, move)
                await self._erase(tenant, move, move.source)
            case "aborting":
                await self._forget(tenant, move)
                await self._erase(tenant, move, move.target)

    async def keep_up(self, tenant: Tenant, move: Move) -> None:
        """Gives the old home of a switched move what the new one took. When its time is over it is to be erased, unless it holds something
        that nobody was given: a write that came late, which somebody has to look at."""
        if tenant.standby == move.source:  # it keeps itself up to date, and stays
            if self.wiring.clock.now() >= move.changed_at + move.keep_seconds * SECOND:
                await self.turn(tenant, move, "finish")
            return
        cells, name, dedicated = self.wiring.cells, tenant.name, tenant.dedicated_schema
        back = await cells.begin(move.source, name, move.target, move.id, b"", dedicated)
        if not back.cursor:
            raise Changed  # it was erased meanwhile, or never prepared: nothing is to come here
        ends = await cells.ends(move.target, name)
        for _ in range(_PARTS_MAX):
            began = self.wiring.clock.monotonic()
            part = await cells.export(move.target, name, tenant.epoch, back.cursor)
            back = await cells.take(move.source, name, tenant.epoch, move.target, move.id, back.seq, part)
            if check.reaches(part, ends, whole=True):
                break
            self._look(tenant, move)
            await self._rest(began)
        if self.wiring.clock.now() < move.changed_at + move.keep_seconds * SECOND:
            return
        forth = await cells.begin(move.target, name, move.source, move.id, b"", dedicated)
        kept = await cells.digest(move.source, name)
        if (await cells.begin(move.source, name, move.target, move.id, b"", dedicated)).seq != back.seq:
            raise Changed
        await self._standing(tenant, move, "the old home", lambda: check.same("what it keeps", kept, forth.added + back.added))
        await self.turn(tenant, move, "finish")

    async def turn(self, tenant: Tenant, move: Move, turn: Turn, remark: str = "") -> None:
        """Takes the move on."""
        await self.change(TurnMove(tenant.name, move.id, turn, self.wiring.clock.now(), tenant.epoch, remark, asked=False))
        self.wiring.meter.add(metrics.MOVE_TURNS, turn=turn)
        self.wiring.log.info("a move goes on", tenant=tenant.name, move=move.id, turn=turn, remark=remark)

    async def change(self, step: TurnMove | PauseMove) -> None:
        """A step of the directory's own."""
        await self.wiring.store.change(step, Intent(ACTOR, self.wiring.clock.now()))
        await self.wiring.refresh()

    def of(self, name: TenantId) -> Progress:
        """A tenant's progress."""
        return self.progress.setdefault(name, Progress())

    async def _copy(self, tenant: Tenant, move: Move) -> None:
        """Copies, catches up, compares, and fences once the end of the source's log is near."""
        memory, progress, cells = self._memories.setdefault(move.id, _Memory()), self.of(tenant.name), self.wiring.cells
        if not memory.clear and move.target == self.wiring.peer_of(move.source):
            await self._clear(tenant, move, move.target)
        memory.clear = True
        progress.doing = "copies"
        copy = await self._begin(tenant, move)
        copy = await self._catch_up(tenant, move, copy, await cells.ends(move.source, tenant.name), copying=True)
        progress.doing = "catches up"
        copy = await self._near(tenant, move, copy)
        progress.doing = "compares"
        home = await cells.digest(move.source, tenant.name, until=copy.cursor)
        there = await cells.digest(move.target, tenant.name)
        await self._standing(tenant, move, "the copy", lambda: check.same("events", home, there))
        progress.doing = "catches up"
        last = await self._near(tenant, move, copy)
        tail = await cells.digest(move.source, tenant.name, copy.cursor, last.cursor)
        await self._standing(tenant, move, "the copy", lambda: check.same("the tail", copy.added + tail, last.added))
        self._look(tenant, move)
        if move.joins:
            await self.turn(tenant, move, "join")
            return
        await self._rehearse(tenant, move)
        memory.compared = last
        memory.fenced_at = self.wiring.clock.monotonic()
        await self.turn(tenant, move, "fence")

    async def _rehearse(self, tenant: Tenant, move: Move) -> None:
        """Nobody is fenced while the home does not read what its standby takes for it, or took while it was one."""
        cells, clock = self.wiring.cells, self.wiring.clock
        if tenant.standby is not None:
            taken = await cells.ends(tenant.standby, tenant.name)
            waits = standby.wait_until_read(cells, clock, move.source, tenant.standby, taken)
            await self._read(tenant.standby, move, waits, limits.MOVE_PAUSE_SECONDS)
        elif (peer := self.wiring.peer_of(move.source)) not in (None, move.target):
            await self._clear(tenant, move, peer)

    async def _clear(self, tenant: Tenant, move: Move, peer: CellId) -> None:
        self.of(tenant.name).doing = f"waits for {peer}"
        waits = standby.wait_until_clear(self.wiring.cells, self.wiring.clock, move.source, peer, tenant.since)
        await self._read(peer, move, waits, _CLEAR_SECONDS_MAX)

    async def _read(self, peer: CellId, move: Move, waits: Awaitable[None], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await waits
        except TimeoutError as error:
            why = f"{move.source} has not read what {peer} took for it"
            raise Failure(Reason.CELL_UNAVAILABLE, why, retry_after_seconds=10) from error

    async def _join(self, tenant: Tenant, move: Move) -> None:
        """Gives the target what it passed over of the home's log before it knew that it stands by for the tenant."""
        cells = self.wiring.cells
        self.of(tenant.name).doing = "joins"
        for _ in range(_JOIN_LOOKS_MAX):
            gap = await cells.gap(move.target, move.source)
            if gap.revision >= tenant.since:
                break
            self._look(tenant, move)
            await self.wiring.clock.sleep(_JOIN_LOOK_SECONDS)
        else:
            raise Failure(Reason.CELL_UNAVAILABLE, f"{move.target} does not hear that it stands by", retry_after_seconds=10)
        ends = {one.partition: one.until for one in gap.kept}
        await self._catch_up(tenant, move, await self._begin(tenant, move), ends, whole=True)
        await self.turn(tenant, move, "joined")

    async def _approach(self, tenant: Tenant, move: Move) -> None:
        """Fences once the target, which stands by for the tenant, is level with its home in a moment."""
        self.of(tenant.name).doing = "waits for the standby"
        cells, clock = self.wiring.cells, self.wiring.clock
        for _ in range(limits.COPY_ROUNDS_MAX):
            began = clock.monotonic()
            ends = await cells.ends(move.source, tenant.name)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limits.MOVE_FENCED_SECONDS_MAX):
                    await standby.wait_until_level(cells, clock, move.source, move.target, ends)
            if clock.monotonic() - began <= limits.MOVE_PAUSE_SECONDS:
                self._memories.setdefault(move.id, _Memory()).fenced_at = clock.monotonic()
                await self.turn(tenant, move, "fence")
                return
            self._look(tenant, move)
            await self._rest(began)
        raise Failure(Reason.CELL_UNAVAILABLE, f"{move.target} stays behind {move.source}", retry_after_seconds=10)

    async def _switch(self, tenant: Tenant, move: Move) -> None:
        """Gives the rest and switches, or gives the tenant its writes back."""
        memory, progress = self._memories.setdefault(move.id, _Memory()), self.of(tenant.name)
        progress.doing = "drains"
        began = self.wiring.clock.monotonic() if memory.fenced_at is None else memory.fenced_at
        compared, memory.compared, memory.fenced_at = memory.compared, None, None
        try:
            async with asyncio.timeout(limits.MOVE_FENCED_SECONDS_MAX):
                await self._drain(tenant, move, compared)
        except (Failure, TimeoutError) as error:
            await self._open(tenant, move, memory, error)
            return
        await self.turn(tenant, move, "switch")
        progress.pause_seconds = self.wiring.clock.monotonic() - began
        progress.doing = "keeps the old home up to date"
        self.wiring.meter.observe(metrics.MOVE_PAUSE_SECONDS, progress.pause_seconds)
        self.wiring.log.info("a tenant has moved", tenant=tenant.name, cell=move.target, pause_seconds=round(progress.pause_seconds, 3))

    async def _open(self, tenant: Tenant, move: Move, memory: _Memory, error: Failure | TimeoutError) -> None:
        """The fence was in vain: the source takes writes again, for longer each time; a move that fails so often stands still."""
        remark = str(error) if isinstance(error, Failure) else f"the source was not drained in {limits.MOVE_FENCED_SECONDS_MAX:g} s"
        memory.fences += 1
        await self.turn(tenant, move, "unfence", remark)
        differs = isinstance(error, Failure) and error.reason is Reason.COPY_DIFFERS
        if differs or memory.fences >= limits.MOVE_FENCES_MAX:
            memory.fences = 0
            await self.change(PauseMove(tenant.name, move.id, True, remark))
        self.of(tenant.name).doing = "waits after a fence in vain"
        await self.wiring.clock.sleep(min(_AFTER_FENCE_SECONDS_MAX, 2.0**memory.fences))

    async def _drain(self, tenant: Tenant, move: Move, compared: Copy | None) -> None:
        """Everything that the source ever acknowledged is in the target when this returns, and what its standby took for it. The way back
        is prepared."""
        cells, name = self.wiring.cells, tenant.name
        ends = await cells.fence(move.source, name, tenant.epoch)
        if tenant.standby == move.target:
            await standby.wait_until_level(cells, self.wiring.clock, move.source, move.target, ends)
            await standby.compare_people(cells, move.source, move.target, name)
            return
        if tenant.standby is not None:
            taken = await cells.fence(tenant.standby, name, tenant.epoch)
            await standby.wait_until_read(cells, self.wiring.clock, move.source, tenant.standby, taken)
            ends = await cells.ends(move.source, name)
        copy = await self._catch_up(tenant, move, await self._begin(tenant, move), ends, whole=True)
        if compared is None:
            home = await cells.digest(move.source, name, until=copy.cursor)
            check.same("events", home, await cells.digest(move.target, name))
        else:
            tail = await cells.digest(move.source, name, compared.cursor, copy.cursor)
            check.same("the tail", compared.added + tail, copy.added)
        home, there = await asyncio.gather(cells.digest_profiles(move.source, name), cells.digest_profiles(move.target, name))
        check.same("profiles", home, there)
        mark = await cells.mark(move.target, name, tenant.epoch)
        await cells.begin(move.source, name, move.target, move.id, mark, tenant.dedicated_schema)

    async def _erase(self, tenant: Tenant, move: Move, cell: CellId) -> None:
        self.of(tenant.name).doing = f"erases {cell}"
        left = cell not in cells_of(replace(tenant, move=None))  # its home and its standby keep what they have
        while left:
            left = await self._erase_some(tenant, move, cell)
        await self.turn(tenant, move, "erased")
        self._memories.pop(move.id, None)

    async def _forget(self, tenant: Tenant, move: Move) -> None:
        """Erases what the cell folded that stood by for the tenant until it was switched: this move has no copy there. What it took itself
        had come home before the switch."""
        if move.standby is None or move.standby in cells_of(replace(tenant, move=None)):
            return
        self.of(tenant.name).doing = f"erases {move.standby}"
        await self._begin(tenant, move, move.standby)
        while await self._erase_some(tenant, move, move.standby):
            pass

    async def _erase_some(self, tenant: Tenant, move: Move, cell: CellId) -> bool:
        """Whether anything may be left."""
        began = self.wiring.clock.monotonic()
        removed, left = await self.wiring.cells.erase(cell, tenant.name, tenant.epoch, move.id)
        if left and not removed:
            raise Failure(Reason.STORE_UNAVAILABLE, f"something in {cell} cannot be removed")
        await self._rest(began)
        return left

    async def _begin(self, tenant: Tenant, move: Move, cell: CellId | None = None) -> Copy:
        """The copy in the target, or in another cell. What is left there of an earlier stay is erased: its home has all of it."""
        cell = cell or move.target
        while True:
            try:
                return await self.wiring.cells.begin(cell, tenant.name, move.source, move.id, b"", tenant.dedicated_schema)
            except Failure as failure:
                if failure.reason is not Reason.MOVE_NOT_NOW:
                    raise
            await self._erase_some(tenant, move, cell)

    async def _catch_up(self, tenant: Tenant, move: Move, copy: Copy, ends: Offsets, *, copying: bool = False, whole: bool = False) -> Copy:
        """Parts, until the copy reaches `ends`. While `copying`, others have the cells in between."""
        cells, progress, clock = self.wiring.cells, self.of(tenant.name), self.wiring.clock
        started, first = clock.monotonic(), copy.added.events
        while True:
            began = clock.monotonic()
            part = await cells.export(move.source, tenant.name, tenant.epoch, copy.cursor)
            copy = await cells.take(move.target, tenant.name, tenant.epoch, move.source, move.id, copy.seq, part)
            progress.events, progress.events_expected = copy.added.events, part.events_kept
            progress.lag_records = check.lag_records(part.given, ends)
            progress.eta_seconds = _eta(progress, first, clock.monotonic() - started)
            if check.reaches(part, ends, whole=whole):
                return copy
            if not tenant.fenced:
                self._look(tenant, move)
            if not part.more:
                await clock.sleep(_NO_NEWS_SECONDS)
            if copying:
                await self._rest(began)

    async def _near(self, tenant: Tenant, move: Move, copy: Copy) -> Copy:
        """Returns once the end of the source's log can be reached in a moment: what was just done is what a fence will wait for."""
        for _ in range(limits.COPY_ROUNDS_MAX):
            began = self.wiring.clock.monotonic()
            ends = await self.wiring.cells.ends(move.source, tenant.name)
            copy = await self._catch_up(tenant, move, copy, ends, whole=True)
            if self.wiring.clock.monotonic() - began <= limits.MOVE_PAUSE_SECONDS:
                return copy
            self._look(tenant, move)
            await self._rest(began)
        raise Failure(Reason.CELL_UNAVAILABLE, f"{move.source} stays behind with its log", retry_after_seconds=10)

    async def _standing(self, tenant: Tenant, move: Move, what: str, compare: Callable[[], None]) -> None:
        """A move whose copy differs stands still until somebody has looked."""
        try:
            compare()
        except Failure as failure:
            await self.change(PauseMove(tenant.name, move.id, True, f"{what} differs: {failure.detail}"))
            raise Changed from failure

    async def _rest(self, began: float) -> None:
        worked = self.wiring.clock.monotonic() - began
        await self.wiring.clock.sleep(worked * (1.0 / limits.COPY_SHARE - 1.0))

    def _look(self, tenant: Tenant, move: Move) -> None:
        """Raises Changed when the move is not as it was when this began."""
        now = self.wiring.look(tenant.name)
        if now is not None and now.since > tenant.since and now.move != move:
            raise Changed


def _eta(progress: Progress, first: int, seconds: float) -> float:
    """Seconds, at the pace so far."""
    done, left = progress.events - first, max(0, progress.events_expected - progress.events)
    return left * seconds / done if done > 0 else 0.0

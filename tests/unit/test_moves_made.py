"""What makes moves, against cells that damage a copy at each moment of it: nothing is switched, nothing is erased, and somebody is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import pytest
from msgspec.structs import replace

from cells.replication.replicator import Replicator
from cells.storage import chunk as wire
from cells.storage.memory import MemoryStore
from cells.storage.memory_copies import MemoryCopies
from kernel.effects import Applied, Apply
from kernel.epoch import Claim, Epoch, Ownership
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.limits import Plan
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock
from router.evacuation.cells import Copy, Part, Totals
from router.evacuation.execute import Executor
from router.evacuation.make import Changed, Wiring
from router.evacuation.steps import StartMove, TurnMove
from router.placement.memory import MemoryStore as Directory
from router.placement.steps import CreateTenant
from router.placement.store import Intent
from router.placement.table import Move, Tenant, Topology
from tests.simulation.cells import SimCells
from tests.simulation.faults import Weather
from tests.support.edge_room import QuietLog
from tests.support.router_words import EU, ZONES, cell
from tests.support.storage_room import ACME, effects, event

A, B = CellId("a1"), CellId("b1")
Answer = TypeVar("Answer")


class Log:
    """The end of a cell's log is where its store stands: everything is applied at once."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def ends(self) -> dict[int, int]:
        return self._store.reached()

    async def ends_behind(self, tenant: TenantId, epoch: Epoch, deadline: float) -> dict[int, int]:
        return self._store.reached()


@dataclass
class Asked:
    """A cell, as far as moves go."""

    name: CellId
    clock: Any = field(default_factory=SystemClock)
    acceptor: Any = None
    admission: Any = None
    log: Any = None
    replicators: dict[CellId, Replicator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = MemoryStore(self.clock, MemoryMeter())
        self.copies = MemoryCopies(self.store, self.name)
        self.fence: Any = Log(self.store)

    async def serve(self, deed: Coroutine[Any, Any, Answer]) -> Answer:
        return await deed

    async def put(self, message_id: str, epoch: int) -> None:
        """An event of acme's."""
        at = self.store.reached().get(0, 0)
        made = effects(event(message_id, offset=at, cell=self.name))
        applied = await self.store.apply(Apply(made, Claim(self.name, {ACME: Epoch(epoch)}), at, at + 1), 1e12)
        assert isinstance(applied, Applied)

    @property
    def events(self) -> int:
        """How many of acme's it holds."""
        return len(self.store.kept(ACME).events)


class Damaging(SimCells):
    """Leaves an event out of a part while it damages; tells of each digest that was asked for."""

    damages = False
    away = False
    digests = 0
    after_digest: Callable[[int], Coroutine[Any, Any, None]] | None = None

    async def begin(self, cell: CellId, tenant: TenantId, origin: CellId, move: str, cursor: bytes, dedicated: bool) -> Copy:
        if self.away:
            raise Failure(Reason.CELL_UNAVAILABLE, "away")
        return await super().begin(cell, tenant, origin, move, cursor, dedicated)

    async def take(self, cell: CellId, tenant: TenantId, epoch: Epoch, origin: CellId, move: str, seq: int, part: Part) -> Copy:
        if self.damages:
            chunk = wire.decode(part.chunk)
            part = Part(wire.encode(replace(chunk, rows=chunk.rows[:-1])), part.cursor, part.given, part.settled, part.past, part.more, 0)
        return await super().take(cell, tenant, epoch, origin, move, seq, part)

    async def digest(self, cell: CellId, tenant: TenantId, after: bytes = b"", until: bytes = b"") -> Totals:
        found = await super().digest(cell, tenant, after, until)
        self.digests += 1
        if self.after_digest is not None:
            await self.after_digest(self.digests)
        return found


@dataclass
class Room:
    """Two cells and a directory. A hook is called when the move comes into that state."""

    hooks: dict[str, Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.a, self.b = Asked(A), Asked(B)
        weather = Weather(Random(1))
        weather.calm()
        self.cells = Damaging({A: self.a, B: self.b}, weather)
        self.directory = Directory(EU)
        known = self.directory._tenants  # what the directory's mirror holds
        wiring = Wiring(self.directory, self.cells, SystemClock(), MemoryMeter(), QuietLog(), self.refresh, known.get, lambda _: None)
        self.executor = Executor(wiring)

    async def begin(self, keep_seconds: int = 0) -> None:
        """Acme lives in `a`, and is to move to `b`."""
        await self.directory.adopt(Topology((cell("a1"), cell("b1", 7_100)), tuple(ZONES.items())))
        await self.change(CreateTenant(ACME, Plan(), 1.0))
        if (await self.acme())[0].cell != A:
            self.a, self.b = self.b, self.a
        await self.refresh()
        for number in range(3):
            await self.a.put(f"m{number}", 1)
        await self.change(StartMove(ACME, "m1", None, "why", SystemClock().now(), keep_seconds))

    async def acme(self) -> tuple[Tenant, Move]:
        """The tenant and its move, once it has one."""
        tenant = await self.directory.tenant(ACME)
        nothing = Move("", A, B, "aborted", "", SystemClock().now(), SystemClock().now(), 0)
        return tenant, tenant.move or nothing

    async def change(self, step: CreateTenant | StartMove | TurnMove) -> None:
        """A person's."""
        await self.directory.change(step, Intent("a test", SystemClock().now()))

    async def refresh(self) -> None:
        """Both cells hear of it at once; then whatever the test does in that state."""
        tenant, move = await self.acme()
        for asked in (self.a, self.b):
            state: Any = "owner" if asked.name == tenant.cell else "released"
            await asked.store.own([Ownership(ACME, tenant.epoch, state)], [])
        if (hook := self.hooks.pop(move.state, None)) is not None:
            await hook()

    async def damage(self) -> None:
        """One more event comes, and from now on parts are damaged."""
        await self.a.put("late", 1)
        self.cells.damages = True


async def test_a_move_from_its_beginning_to_its_end() -> None:
    """The control: undamaged, it switches, settles, and the old home is empty."""
    room = Room()
    await room.begin()
    await room.executor.drive(ACME)
    tenant, move = await room.acme()
    assert (move.state, tenant.cell, tenant.epoch) == ("switched", room.b.name, 2)
    await room.executor._keep_one_up(ACME)
    await room.executor.drive(ACME)
    assert (await room.acme())[1].state == "settled"
    assert (room.a.events, room.b.events) == (0, 3)


@pytest.mark.parametrize("when", ["in the copy", "behind the comparison", "behind the fence"])
async def test_a_damaged_copy_is_never_switched_to(when: str) -> None:
    """Law: an event that is left out of the copy, at whatever moment, is found before the switch; the move stands still at home."""
    room = Room()
    await room.begin()

    async def compared(count: int) -> None:
        if count == 2:
            await room.damage()

    if when == "in the copy":
        room.cells.damages = True
    elif when == "behind the comparison":
        room.cells.after_digest = compared
    else:
        room.hooks["fenced"] = room.damage
    driving = asyncio.create_task(room.executor.drive(ACME))
    await asyncio.wait((driving,), timeout=10)
    driving.cancel()
    tenant, move = await room.acme()
    assert (tenant.cell, tenant.fenced, move.state, move.paused) == (room.a.name, False, "copying", True)
    assert "differ" in move.remark.lower()


async def test_an_old_home_that_holds_more_is_not_erased() -> None:
    """Law: what nobody was given out of the old home, or into it, is kept until a person has looked."""
    room = Room()
    await room.begin()
    await room.executor.drive(ACME)
    owned = room.a.store._owned
    owned[ACME] = Ownership(ACME, Epoch(3), "owner")
    await room.a.put("stray", 3)
    owned[ACME] = Ownership(ACME, Epoch(2), "released")
    with pytest.raises(Changed):
        await room.executor._keep_one_up(ACME)
    _, move = await room.acme()
    assert (move.state, move.paused) == ("switched", True)
    assert "the old home differs" in move.remark
    assert room.a.events == 4


async def test_who_still_keeps_an_erased_home_up_to_date_brings_nothing_back() -> None:
    """Law: a worker that has not heard of the move's end finds nothing to fill."""
    room = Room()
    await room.begin(keep_seconds=1_000)
    await room.executor.drive(ACME)
    stale, move = await room.acme()
    await room.change(TurnMove(ACME, "m1", "finish", SystemClock().now()))
    await room.executor.drive(ACME)
    assert room.a.events == 0
    with pytest.raises(Changed):
        await room.executor.making.keep_up(stale, move)
    assert room.a.events == 0
    assert all(not copy.seq for _, copy in room.a.copies._copies.values()), "no part was taken"


async def test_a_cell_that_cannot_be_reached_gives_its_place_to_others() -> None:
    """Law: a move that fails is left for a while, and says why."""
    room = Room()
    await room.begin()
    room.cells.away = True
    await room.executor.drive(ACME)
    assert not room.executor._due(ACME)
    assert "CELL_UNAVAILABLE" in room.executor.making.of(ACME).doing
    assert (await room.acme())[1].state == "copying"

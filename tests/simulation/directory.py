"""A zone's directory in the simulation: its store, the edge that follows it, and the process that makes moves, which is killed at times."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from random import Random

from kernel.epoch import Epoch
from kernel.errors import Failure
from kernel.ids import CellId, KeyHash, SourceId, TenantId, ZoneName
from kernel.limits import Plan
from kernel.metrics import MemoryMeter
from router.evacuation.execute import Executor
from router.evacuation.failover import Failovers, Outcome
from router.evacuation.joins import Joins, alone
from router.evacuation.make import Wiring
from router.evacuation.states import TURNS, Turn
from router.evacuation.steps import PauseMove, StartMove, TurnMove
from router.placement import codec
from router.placement.memory import MemoryStore
from router.placement.steps import AddSource, CreateTenant, Step, standby_of
from router.placement.store import Done, Intent
from router.placement.table import UNDER_WAY, Credential, Source, Table, Tenant, Topology, Update, empty
from tests.simulation.cells import SimCells
from tests.simulation.faults import Weather
from tests.simulation.virtual import LoopClock

_QUIET_SECONDS = 120
_LOOKS = 6
_WHIMS: Mapping[str, float] = {"fenced": 0.3, "switched": 0.2, "joining": 0.2}
"""How often an operator's mind changes when a move is met in a state. In these it stays for a moment only."""


class CountingStore(MemoryStore):
    """Counts the turns of moves, and loses an answer now and then behind the deed."""

    def __init__(self, zone: ZoneName, weather: Weather, turns: Counter[tuple[str, str]]) -> None:
        super().__init__(zone)
        self._weather = weather
        self._turns = turns
        self.joined: set[TenantId] = set()
        self.placed: dict[tuple[TenantId, Epoch], set[tuple[CellId, CellId | None]]] = defaultdict(set)

    async def change(self, step: Step, intent: Intent) -> Done:
        held = self._tenants.get(TenantId(step.subject))
        done = await super().change(step, intent)
        self.placed[done.tenant.name, done.tenant.epoch].add((done.tenant.cell, done.tenant.standby))
        if isinstance(step, TurnMove) and held is not None and held.move is not None:
            self._turns[held.move.state, step.turn] += 1
            self.joined |= {held.name} if step.turn == "join" else set()
        return done


class SimDirectory:
    """See the module's docstring."""

    def __init__(self, zone: ZoneName, topology: Topology, random: Random, weather: Weather, clock: LoopClock, cells: SimCells) -> None:
        self.zone = zone
        self.edge: Table = empty(zone)
        self.turns: Counter[tuple[str, str]] = Counter()
        self.kills = 0
        self._topology = topology
        self._random = random
        self._weather = weather
        self._clock = clock
        self._cells = cells
        self._store = CountingStore(zone, weather, self.turns)
        self._failovers = Failovers(self._store, cells, clock, lambda: self.edge, self._store.table)
        self._tasks: list[asyncio.Task[None]] = []
        self._making: list[asyncio.Task[None]] = []
        self.twins = 0
        self._joins = itertools.count()
        self.failed_over: set[TenantId] = set()

    async def create(self, name: TenantId, plan: Plan, key: KeyHash, dedicated: bool, early: bool) -> None:
        """A tenant with one source; an `early` one is older than the cells' peers, so that nobody stands by for it."""
        alone = tuple(replace(cell, peer=None) for cell in self._topology.cells)
        await self._store.adopt(replace(self._topology, cells=alone) if early else self._topology)
        await self._change(CreateTenant(name, plan, 1.0, dedicated_schema=dedicated))
        await self._change(AddSource(name, Source(SourceId("web"), f"{name}-web", (Credential(key),))))

    async def whole(self) -> bytes:
        """Everything, as it is told."""
        await self._store.adopt(self._topology)
        return codec.update_bytes((await self._store.table()).whole())

    def hear(self, data: bytes) -> None:
        """The edge takes an update."""
        self.edge = self.edge.apply(codec.parse_update(data))

    async def tell(self, at: Callable[[], int], hear: Callable[[bytes], Awaitable[None]]) -> None:
        """Each change to one follower, as it comes, late."""
        while True:
            await asyncio.sleep(0.005 + self._random.random() * 0.05)
            for change in await self._store.changes(at()) or ():
                await self._weather.travel()
                if change.tenant is not None and change.revision == at() + 1:
                    await hear(codec.update_bytes(Update(self.zone, change.revision - 1, change.revision, (change.tenant,))))

    def start(self) -> None:
        """The edge follows; moves are made."""

        async def hear(data: bytes) -> None:
            self.hear(data)

        self._tasks.append(asyncio.create_task(self.tell(lambda: self.edge.revision, hear)))
        self._make_moves()

    async def stop(self) -> None:
        """Ends what runs."""
        await self._kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def unrest(self, moves: int) -> None:
        """Starts moves, changes its mind about them, and kills who makes them."""
        for number in range(moves):
            await asyncio.sleep(self._random.random() * 0.3)
            tenants = await self._tenants()
            tenant = tenants[self._random.randrange(len(tenants))]
            await self._try(StartMove(tenant.name, f"{self.zone}-{number}", None, "unrest", self._clock.now(), self._random.randrange(6)))
            for _ in range(_LOOKS):
                await asyncio.sleep(self._random.random() * 2 / _LOOKS)
                await self._change_minds()
            if self._random.random() < 0.2:
                self._make_moves()  # another process of the directory, which does not know of the first
                self.twins += 1
            if self._random.random() < 0.3:
                await self._kill()
                self.kills += 1
                await asyncio.sleep(self._random.random())
                self._make_moves()

    @property
    def placed(self) -> Mapping[tuple[TenantId, Epoch], set[tuple[CellId, CellId | None]]]:
        """Each tenant's homes and standbys, by epoch."""
        return self._store.placed

    @property
    def kept_twice(self) -> set[TenantId]:
        """Tenants whose standby became a home, or was copied: each cell tells its own ledger of them."""
        return self.failed_over | self._store.joined

    async def fail_over(self, lost: CellId) -> Outcome | None:
        """Fails a cell over; None when that is refused now."""
        try:
            outcome = await self._failovers.run(lost, "lost", "simulation")
        except Failure:
            return None
        self.failed_over |= {tenant.name for tenant in outcome.moved}
        return outcome

    async def settle_moves(self) -> list[str]:
        """Every move comes to its end (I6), but for those that are named here, whose copy differs: they stand still."""
        deadline = self._clock.monotonic() + _QUIET_SECONDS
        while (under_way := [t for t in await self._tenants() if t.move is not None and t.move.state in UNDER_WAY]) or any(
            alone(await self._store.table())
        ):
            for tenant in under_way:
                if tenant.move is not None and tenant.move.paused:
                    await self._try(PauseMove(tenant.name, tenant.move.id, False))
            if self._clock.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)
        while self.edge.revision != await self._store.revision():
            await asyncio.sleep(0.1)
        return [f"stuck: the move of {tenant.name} does not end: {tenant.move}" for tenant in under_way]

    async def _change_minds(self) -> None:
        for tenant in await self._tenants():
            if tenant.move is None or tenant.move.state not in UNDER_WAY:
                continue
            if self._random.random() > _WHIMS.get(tenant.move.state, 0.02):
                continue
            turns: list[Turn] = [turn for state, turn in TURNS if state == tenant.move.state and turn in ("abort", "roll back", "finish")]
            if turns and self._random.random() < 0.7:
                turn = turns[self._random.randrange(len(turns))]
                await self._try(TurnMove(tenant.name, tenant.move.id, turn, self._clock.now(), remark="unrest"))
            else:
                await self._try(PauseMove(tenant.name, tenant.move.id, not tenant.move.paused, "unrest"))

    def _make_moves(self) -> None:
        async def refreshed() -> None:
            return

        log = _Quiet()
        known: dict[TenantId, Tenant] = self._store._tenants  # what the directory's mirror holds
        wiring = Wiring(self._store, self._cells, self._clock, MemoryMeter(), log, refreshed, known.get, self._peer_of)
        self._making.append(asyncio.create_task(Executor(wiring).run(asyncio.Event())))
        joins = Joins(self._store, lambda: self.edge, lambda: f"join-{next(self._joins)}", refreshed, self._clock, MemoryMeter())
        self._making.append(asyncio.create_task(joins.run(asyncio.Event())))

    def _peer_of(self, cell: CellId) -> CellId | None:
        return standby_of(cell, self._topology.cells)

    async def _kill(self) -> None:
        making, self._making = self._making, []
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)

    async def _tenants(self) -> list[Tenant]:
        return list((await self._store.table()).tenants.values())

    async def _try(self, step: Step) -> None:
        """What is refused was asked for at a bad moment."""
        try:
            await self._change(step)
        except Failure:
            return

    async def _change(self, step: Step) -> None:
        await self._store.change(step, Intent("simulation", self._clock.now()))


class _Quiet:
    def info(self, event: str, **values: object) -> None:
        """Nobody listens."""

    def error(self, event: str, **values: object) -> None:
        """A defect must not pass as weather."""
        if "exc_info" in values:
            raise AssertionError(event) from values["exc_info"]  # type: ignore[misc]  # it is an exception

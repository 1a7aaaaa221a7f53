"""Three cells with real logs, replicators, folds and stores, of which two stand by for each other: they go on by one record at a time, in
an order that a seed decides, and only while somebody looks. No tests in here."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from immutables import Map

from cells.admission.table import Admission
from cells.admission.table import Tenant as Admitted
from cells.eventlog.log import Bounds, Entry
from cells.eventlog.memory import MemoryLog
from cells.processing import partition as processing
from cells.processing.partition import PartitionLoop
from cells.replication import replicator
from cells.replication.replicator import Replicator
from cells.storage.memory import MemoryStore
from cells.storage.memory_copies import MemoryCopies
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.limits import Plan
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock
from router.evacuation.cells import Copy, Gap, Offsets, Part, Totals
from router.evacuation.execute import Executor
from router.evacuation.make import Wiring
from router.evacuation.states import Turn
from router.evacuation.steps import FailOver, JoinStandby, PauseMove, StartMove, TurnMove
from router.placement.memory import MemoryStore as Directory
from router.placement.steps import CreateTenant, PinTenant
from router.placement.store import Intent
from router.placement.table import Move, Pin, Tenant, Topology
from tests.simulation.cells import SimCells
from tests.simulation.faults import Weather
from tests.support.edge_room import QuietLog
from tests.support.records import envelope, record
from tests.support.router_words import EU, ZONES, cell

A, B, C = CellId("a1"), CellId("b1"), CellId("c1")
ACME, OTHER = TenantId("acme"), TenantId("other")
PARTITIONS = 2
Deed = Callable[[], Coroutine[Any, Any, object]]


class HastyClock(SystemClock):
    """Waits are short."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.002))


class OneByOne(MemoryLog):
    """Gives a record at a time, and waits for none."""

    async def fetch(self, partition: int, offset: int, records_max: int, bytes_max: int, wait_seconds: float) -> list[Entry]:
        return await super().fetch(partition, offset, 1, bytes_max, 0.0)


@dataclass
class OriginOf:
    """Another cell's log, over no wire."""

    log: OneByOne

    async def fetch(self, partition: int, offset: int) -> list[Entry]:
        return await self.log.fetch(partition, offset, 1, 1, 0.0)

    async def bounds(self) -> dict[int, Bounds]:
        return await self.log.bounds()


class Home:
    """One cell. `stuck`: it keeps nothing more of its peer's log. It is its own fence: whoever writes in here asks first."""

    def __init__(self, name: CellId) -> None:
        self.name, self.clock = name, HastyClock()
        self.log, self.store = OneByOne(PARTITIONS, self.clock), MemoryStore(self.clock, MemoryMeter())
        self.copies = MemoryCopies(self.store, name)
        self.admission, self.replicators, self.stuck = Admission(EU), dict[CellId, Replicator](), False
        self.acceptor: Any = None
        self.fence: Any = self
        self._peers: dict[CellId, OriginOf] = {}
        self._loops: list[PartitionLoop] = []

    def wire(self, peers: list[Home]) -> None:
        """It keeps what these accept."""
        for peer in peers:
            origin = self._peers[peer.name] = OriginOf(peer.log)
            tenants = lambda: self.admission.tenants  # noqa: E731  # as the wiring asks for it
            wiring = replicator.Wiring(self.name, peer.name, origin, self.log, self.store, tenants, self.clock, MemoryMeter())
            self.replicators[peer.name] = Replicator(wiring)
        names = frozenset(peer.name for peer in peers)
        claim = lambda: self.admission.claim(self.name)  # noqa: E731  # as above
        folds = processing.Wiring(self.log, self.store, claim, self.own, self.clock, MemoryMeter(), peers=names)
        self._loops = [PartitionLoop(folds, number) for number in range(PARTITIONS)]

    async def own(self) -> None:
        """Its store hears what it has heard."""
        await self.store.own(self.admission.ownerships(self.name), [])

    async def hear(self, tenants: list[Tenant], revision: int) -> None:
        """The directory's word."""
        told = [Admitted(t.name, t.cell, t.epoch, Plan(), fenced=t.fenced, standby=t.standby) for t in tenants]
        self.admission = Admission(EU, revision, Map({tenant.name: tenant for tenant in told}))
        await self.own()

    async def serve(self, deed: Coroutine[Any, Any, Any]) -> Any:
        return await deed

    async def ends(self) -> Offsets:
        return {number: bound.next for number, bound in (await self.log.bounds()).items()}

    async def ends_behind(self, tenant: TenantId, epoch: Epoch, deadline: float) -> Offsets:
        known = self.admission.tenants[tenant]
        assert (known.fenced, known.epoch) == (True, epoch)
        return await self.ends()

    async def put(self, message_id: str, tenant: TenantId = ACME, partition: int = 0) -> None:
        """It accepts an event."""
        made = record(envelope(message_id, user_id=f"user-of-{message_id}"), tenant=tenant)
        await self.log.append(partition, replace(made, cell=self.name), self.clock.monotonic() + 5)

    async def deeds(self) -> list[tuple[str, Deed]]:
        """What it could do next: keep a record of a peer's log, or fold one of its own."""
        possible: list[tuple[str, Deed]] = []
        for name, kept in () if self.stuck else self.replicators.items():
            at, ends = await self.store.replicated(name), await self._peers[name].bounds()
            behind = [number for number, bound in ends.items() if at.get(number, 0) < bound.next]
            possible += [(f"{self.name} keeps", partial(kept.step, number, at.get(number, 0))) for number in behind]
        at, ends = await self.store.positions(), await self.log.bounds()
        behind = [number for number, bound in ends.items() if at.get(number, 0) < bound.next]
        return possible + [(f"{self.name} folds", partial(self._loops[number].step, at.get(number, 0))) for number in behind]

    def events(self, tenant: TenantId = ACME) -> int:
        """How many it keeps."""
        return len(self.store.kept(tenant).events)


class Asked(SimCells):
    """Counts what is asked for and erased, and lets the cells do one thing when they are looked at: some deeds are put off for long."""

    def __init__(self, homes: dict[CellId, Home], random: Random) -> None:
        weather = Weather(Random(1))
        weather.calm()
        super().__init__(homes, weather)  # type: ignore[arg-type]  # another clock
        self.homes, self.random = homes, random
        self._eager: dict[str, int] = {}
        self.away: set[CellId] = set()
        self.asked, self.erasing, self.erased = Counter[str](), set[CellId](), Counter[tuple[CellId, TenantId]]()

    async def one_deed(self) -> bool:
        """Whether there was one to do."""
        possible = [deed for home in self.homes.values() for deed in await home.deeds()]
        if possible:
            eager = [self._eager.setdefault(name, self.random.choice((1, 50))) for name, _ in possible]
            ((_, deed),) = self.random.choices(possible, eager)
            await deed()
        return bool(possible)

    async def gap(self, cell: CellId, origin: CellId) -> Gap:
        if cell in self.away:
            raise Failure(Reason.CELL_UNAVAILABLE, cell)
        await self.one_deed()
        self.asked["gap"] += 1
        return await super().gap(cell, origin)

    async def begin(self, cell: CellId, tenant: TenantId, origin: CellId, move: str, cursor: bytes, dedicated: bool) -> Copy:
        self.asked["begin"] += 1
        return await super().begin(cell, tenant, origin, move, cursor, dedicated)

    async def export(self, cell: CellId, tenant: TenantId, epoch: Epoch, cursor: bytes) -> Part:
        self.asked["export"] += 1
        await self.one_deed()
        return await super().export(cell, tenant, epoch, cursor)

    async def take(self, cell: CellId, tenant: TenantId, epoch: Epoch, origin: CellId, move: str, seq: int, part: Part) -> Copy:
        self.asked["take"] += 1
        return await super().take(cell, tenant, epoch, origin, move, seq, part)

    async def digest(self, cell: CellId, tenant: TenantId, after: bytes = b"", until: bytes = b"") -> Totals:
        self.asked["digest"] += 1
        return await super().digest(cell, tenant, after, until)

    async def erase(self, cell: CellId, tenant: TenantId, epoch: Epoch, move: str) -> tuple[int, bool]:
        removed, left = await super().erase(cell, tenant, epoch, move)
        self.erasing.add(cell)
        self.erased[cell, tenant] += removed
        return removed, left


@dataclass
class Room:
    """`a1` and `b1` stand by for each other, and nobody for `c1`. A hook is called when the move comes into that state."""

    seed: int = 1
    hooks: dict[str, Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        print(f"seed {self.seed}")
        self.homes = {name: Home(name) for name in (A, B, C)}
        self.a, self.b, self.c = self.homes.values()
        self.a.wire([self.b])
        self.b.wire([self.a])
        self.c.wire([])
        self.cells, self.directory = Asked(self.homes, Random(self.seed)), Directory(EU)
        known = self.directory._tenants  # what the directory's mirror holds
        wiring = Wiring(self.directory, self.cells, HastyClock(), MemoryMeter(), QuietLog(), self.refresh, known.get, {A: B, B: A}.get)
        self.executor = Executor(wiring)

    async def begin(self, target: CellId = B, keep_seconds: int = 0, *turns: Turn) -> Room:
        """Acme and another tenant live in `a1`, with some events; acme is to move."""
        await self.directory.adopt(Topology((cell("a1", peer="b1"), cell("b1", 7_100, peer="a1"), cell("c1", 7_200)), tuple(ZONES.items())))
        for name in (ACME, OTHER):
            await self.change(CreateTenant(name, Plan(), 1.0, Pin(A, "")), PinTenant(name, None))
            for number in range(3):
                await self.a.put(f"{name}-{number}", name, number % PARTITIONS)
        await self.b.put("handed-over", partition=1)
        await self.change(StartMove(ACME, "m1", target, "why", SystemClock().now(), keep_seconds))
        for turn in turns:
            await self.turn(turn)
        return self

    async def acme(self) -> tuple[Tenant, Move]:
        """The tenant and its move."""
        tenant = await self.directory.tenant(ACME)
        return tenant, tenant.move or Move("", A, B, "aborted", "", SystemClock().now(), SystemClock().now(), 0)

    async def change(self, *steps: CreateTenant | PinTenant | StartMove | TurnMove | PauseMove | FailOver | JoinStandby) -> None:
        """A person's."""
        for step in steps:
            await self.directory.change(step, Intent("a test", SystemClock().now()))
            await self.refresh()

    async def turn(self, turn: Turn) -> None:
        """A person's."""
        await self.change(TurnMove(ACME, "m1", turn, SystemClock().now()))

    async def fail_over(self) -> None:
        """Acme's home is lost, as far as the directory knows."""
        await self.change(FailOver(ACME, (await self.acme())[0].cell, "lost", SystemClock().now()))

    async def refresh(self) -> None:
        """All cells hear of it at once; then whatever the test does in that state."""
        table = await self.directory.table()
        for home in self.homes.values():
            await home.hear(list(table.tenants.values()), table.revision)
        _, move = await self.acme()
        if (hook := self.hooks.pop(move.state, None)) is not None:
            await hook()

    async def drive(self, seconds: float = 20.0) -> str:
        """The move as far as it goes; its state."""
        async with asyncio.timeout(seconds):
            await self.executor.drive(ACME)
        return (await self.acme())[1].state

    async def drive_to_the_end(self) -> str:
        """Past the time that the old home is kept up to date."""
        await self.drive()
        for _ in range(3):
            await self.executor._keep_one_up(ACME)
            await self.drive()
        return (await self.acme())[1].state

    async def where(self) -> tuple[CellId, CellId | None, int, bool]:
        """Home, standby, epoch, and whether it is fenced."""
        tenant, _ = await self.acme()
        return tenant.cell, tenant.standby, tenant.epoch, tenant.fenced

    async def wait_until_quiet(self) -> dict[CellId, int]:
        """Nobody has anything to do: how many of acme's events each cell keeps."""
        while await self.cells.one_deed():
            pass
        return {name: home.events() for name, home in self.homes.items()}

"""A zone's three sites from one seed: two that keep its directory and a witness, with kills, cuts, delays and lost answers between them.

The code is the real one - votes, leaders, sites, stores - over the adapters in memory. What a kill keeps is what is on the disk: the store
of a region, the ballot of the witness. Clients' own list of what they were told is the truth that the oracle compares with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from kernel.chain import verify
from kernel.errors import Failure, Reason
from kernel.ids import TenantId
from kernel.limits import Plan
from kernel.metrics import MemoryMeter
from router.placement.entry import WITNESS, Ballot, Chunk, Entry, Place
from router.placement.memory import MemoryStore
from router.placement.steps import ChangeDemand, CreateTenant
from router.placement.store import Intent
from router.placement.table import Topology
from router.quorum.election import Election
from router.quorum.peers import Peer
from router.quorum.rules import Append, Appended, Candidacy, Vote
from router.quorum.site import Site
from router.quorum.voter import Voter
from tests.simulation.faults import Weather
from tests.simulation.virtual import LoopClock
from tests.support.router_words import EU, ZONES, cell

EAST, WEST = "east", "west"
REGIONS = (EAST, WEST)
TENANTS = tuple(TenantId(f"tenant-{number}") for number in range(3))
TOPOLOGY = Topology((cell("a1"), cell("b1", 7_100)), tuple(sorted(ZONES.items())))
_CALL_SECONDS = 1.0
_DISK_SECONDS = 0.3
_TRIM = 12
"""So few entries are kept that a site which was away for a while needs a copy."""
Answer = TypeVar("Answer")


class Disk(MemoryStore):
    """A region's store; everything that is settled in it is told to `world`."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(EU, _TRIM)
        self._world, self._name = world, name

    def _settle(self, place: Place, entry: Entry) -> None:
        super()._settle(place, entry)
        self._world.settled(self._name, entry)

    async def ballot(self) -> Ballot:
        await self._world.turn()
        return await super().ballot()

    async def promise(self, ballot: Ballot) -> None:
        await self._world.turn()
        await super().promise(ballot)
        await self._world.turn()

    async def hold(self, ballot: Ballot, entries: Sequence[Entry]) -> None:
        await self._world.turn()
        await super().hold(ballot, entries)
        await self._world.turn()

    async def held(self) -> tuple[Place, Sequence[Entry]] | None:
        await self._world.turn()
        return await super().held()

    async def settled(self) -> Place:
        found = await super().settled()
        await self._world.turn()
        return found

    async def settle(self, place: Place, entry: Entry) -> None:
        await self._world.turn()
        await super().settle(place, entry)
        await self._world.turn()


class BallotDisk:
    """The witness's."""

    def __init__(self, world: World) -> None:
        self.kept = Ballot()
        self._world = world

    async def ballot(self) -> Ballot:
        await self._world.turn()
        return self.kept

    async def promise(self, ballot: Ballot) -> None:
        await self._world.turn()
        self.kept = ballot
        await self._world.turn()


@dataclass
class Machine:
    """One site: its disk, and a process that can be killed."""

    world: World
    name: str
    disk: Disk | BallotDisk
    voter: Voter | None = None
    election: Election | None = None
    serves: bool = False
    kills: int = 0
    _task: asyncio.Task[None] | None = None
    _calls: dict[asyncio.Task[object], None] = field(default_factory=dict)

    def start(self) -> None:
        world = self.world
        if isinstance(self.disk, BallotDisk):
            self.voter = world.voter(self.name, self.disk, world.clock)
            return
        peers: dict[str, Peer] = {name: Link(world, self.name, name) for name in (*REGIONS, WITNESS) if name != self.name}
        site = world.site(self.name, self.disk, peers, world.clock)
        self.voter = site
        self.election = Election(site, self.name == EAST, world.random.random, MemoryMeter(), world)
        self.disk.agrees = self.election
        self._task = asyncio.create_task(self.election.run(self._lead, asyncio.Event()))

    async def kill(self) -> None:
        self.kills += 1
        doomed = [*self._calls, *([] if self._task is None else [self._task])]
        self.voter, self.election, self.serves = None, None, False
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self.world.problems.append(f"ended: {self.name}: {self._task.exception()}")
        for task in doomed:
            task.cancel()
        if isinstance(self.disk, Disk):
            await self.disk.turns.abandon()
        await asyncio.gather(*doomed, return_exceptions=True)
        self._task = None

    async def serve(self, deed: Callable[[Voter], Awaitable[Answer]]) -> Answer:
        """As a task of its process."""
        if self.voter is None:
            raise Failure(Reason.STORE_UNAVAILABLE, "the site is down")
        task = asyncio.ensure_future(deed(self.voter))
        self._calls[task] = None
        task.add_done_callback(lambda done: self._calls.pop(done, None))
        try:
            return await asyncio.shield(task)  # a caller that hangs up stops nothing there
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise Failure(Reason.STORE_UNAVAILABLE, "the site was killed") from None
        except ValueError as error:
            self.world.problems.append(f"broken: {self.name}: {error}")
            raise Failure(Reason.STORE_UNAVAILABLE, str(error)) from error

    async def _lead(self, over: asyncio.Event) -> None:
        assert isinstance(self.disk, Disk)
        self.world.led(self.name)
        await self.disk.adopt(TOPOLOGY)
        self.serves = True
        try:
            await over.wait()
        finally:
            self.serves = False


@dataclass
class Link:
    """A site as another one sees it, through the weather and past what is cut."""

    world: World
    here: str
    there: str

    async def vote(self, asked: Candidacy) -> Vote:
        return await self._ask(lambda voter: voter.vote(asked))

    async def append(self, append: Append) -> Appended:
        return await self._ask(lambda voter: voter.append(append))

    async def entries(self, after: int) -> Sequence[tuple[Place, Entry]] | None:
        disk = self.world.machines[self.there].disk
        assert isinstance(disk, Disk)
        return await self._ask(lambda _: disk.entries(after, 5))

    async def copy(self) -> AsyncIterator[Chunk]:
        disk = self.world.machines[self.there].disk
        assert isinstance(disk, Disk)

        async def all_of_it(_: Voter) -> list[Chunk]:
            self.world.copies += 1
            return [chunk async for chunk in disk.copy()]

        for chunk in await self._ask(all_of_it):
            yield chunk

    async def _ask(self, deed: Callable[[Voter], Awaitable[Answer]]) -> Answer:
        world = self.world
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await world.weather.travel()
                if world.weather.strikes(world.weather.refused) or world.cut(self.here, self.there):
                    raise Failure(Reason.STORE_UNAVAILABLE, "nobody answers")
                answer = await world.machines[self.there].serve(deed)
                await world.weather.travel()
                if world.weather.strikes(world.weather.answer_lost) or world.cut(self.there, self.here):
                    raise Failure(Reason.STORE_UNAVAILABLE, "the answer was lost")
                return answer
        except TimeoutError:
            raise Failure(Reason.STORE_UNAVAILABLE, "no answer in time") from None


class World:
    """Everything, made from one seed. The kinds of voter and site are for planted defects."""

    def __init__(self, seed: int, voter: type[Voter] = Voter, site: type[Site] = Site) -> None:
        self.random = Random(seed)
        self.clock = LoopClock()
        self.weather = Weather(self.random)
        self.voter, self.site = voter, site
        self.machines: dict[str, Machine] = {name: Machine(self, name, Disk(self, name)) for name in REGIONS}
        self.machines[WITNESS] = Machine(self, WITNESS, BallotDisk(self))
        self.copies = 0
        self.mute_once_settled = ""
        self.ended_at = 0.0
        self.terms: dict[int, str] = {}
        self.problems: list[str] = []
        self.answers: dict[str, str] = {}
        self._cuts: set[tuple[str, str]] = set()
        self.entries: dict[int, Entry] = {}
        self._changes: dict[str, int] = defaultdict(int)

    def info(self, event: str, **values: object) -> None:
        """The sites' log."""
        if event == "leads" and isinstance(term := values["term"], int):
            if term in self.terms:
                self.problems.append(f"two leaders: term {term} has led before")
            self.terms[term] = ""

    def led(self, name: str) -> None:
        """A site begins to lead."""
        self._changes[name] += 1

    def settled(self, name: str, entry: Entry) -> None:
        """A region keeps an entry: all of them keep the same one at each number."""
        if name == self.mute_once_settled:
            self.mute_once_settled = ""
            self._cuts = {(name, other) for other in self.machines}
        if self.entries.setdefault(entry.number, entry) != entry:
            self.problems.append(f"apart: {name} keeps another entry {entry.number} than others")

    def cut(self, one: str, other: str) -> bool:
        """Whether nothing goes from one to the other."""
        return (one, other) in self._cuts

    def heal(self) -> None:
        """Nothing is cut any more."""
        self._cuts = set()

    @property
    def leaders(self) -> int:
        """How many regions have led."""
        return sum(count > 0 for count in self._changes.values())

    async def run(self, changes: int = 60, faults: int = 25) -> World:
        """Clients and faults, then calm, then what is left to see."""
        for machine in self.machines.values():
            machine.start()
        await asyncio.gather(self._faults(faults), *(self._client(number, changes) for number in range(4)))
        self._cuts.clear()
        self.weather.calm()
        for machine in self.machines.values():
            if machine.voter is None:
                machine.start()
        await self._become_quiet()
        self._judge()
        await self._lose_each()
        self.ended_at = self.clock.monotonic()
        for machine in self.machines.values():
            await machine.kill()
        return self

    async def change_once(self, name: str) -> bool:
        """One change that a client waits for."""
        return await self._change(name, TENANTS[0], float(len(self.answers) + 1))

    async def wait_until_served(self, seconds: float = 30.0) -> str:
        """Who serves then; nobody when that takes longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    for machine in self.machines.values():
                        if machine.serves:
                            return machine.name
                    await asyncio.sleep(0.1)
        return ""

    async def _lose_each(self) -> None:
        """Any two of three are enough."""
        for lost in self.machines.values():
            await lost.kill()
            await self._become_quiet(lost.name)
            lost.start()
            await self._become_quiet()

    async def turn(self) -> None:
        """A disk takes its time, now and then."""
        if self.weather.delay_max and self.random.random() < 0.5:
            await asyncio.sleep(_DISK_SECONDS * self.random.random() ** 2)

    async def _client(self, number: int, changes: int) -> None:
        """One change after the other, to whoever serves; each has a name, and is asked for again until it has its answer."""
        for count in range(changes):
            await asyncio.sleep(self.random.random() * 0.2)
            name = f"request-{number}-{count}"
            tenant = TENANTS[self.random.randrange(len(TENANTS))]
            for _ in range(1 + self.random.randrange(4)):
                if await self._change(name, tenant, 1.0 + count):
                    break
                await asyncio.sleep(self.random.random())

    async def _change(self, name: str, tenant: TenantId, demand: float) -> bool:
        serving = [machine for machine in self.machines.values() if machine.serves]
        if not serving:
            return False
        disk = serving[self.random.randrange(len(serving))].disk
        assert isinstance(disk, Disk)
        intent = Intent("client", self.clock.now(), name, name.encode())
        known = await disk.table()
        step = ChangeDemand(tenant, demand) if tenant in known.tenants else CreateTenant(tenant, Plan(), demand)
        self.answers.setdefault(name, "unknown")
        try:
            async with asyncio.timeout(0.5 + self.random.random() * 4):
                await disk.change(step, intent)
        except (Failure, TimeoutError, asyncio.CancelledError):  # the last one: its process was killed
            return False
        self.answers[name] = "acknowledged"
        return True

    async def _faults(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(self.random.random() * 4)
            name = self._victim()
            if self.random.random() < 0.5:
                await self.machines[name].kill()
                await asyncio.sleep(self.random.random() * 6)
                self.machines[name].start()
                continue
            others = [other for other in self.machines if other != name]
            self._cuts = {
                pair
                for other in others
                if self.random.random() < 0.7
                for pair in ((name, other), (other, name))
                if self.random.random() < 0.8
            }
            await asyncio.sleep(self.random.random() * 8)
            self._cuts = set()

    def _victim(self) -> str:
        """Often who leads: between the parts of a change that is under way."""
        leading = [name for name, machine in self.machines.items() if machine.serves]
        return leading[0] if leading and self.random.random() < 0.4 else (*REGIONS, WITNESS)[self.random.randrange(3)]

    async def _become_quiet(self, lost: str = "") -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(120):
                while not await self._level(lost):
                    await asyncio.sleep(0.5)
                return
        self.problems.append(f"stuck: nobody leads, or a region stays behind{lost and f', without {lost}'}")

    async def _level(self, lost: str) -> bool:
        there = [machine for machine in self.machines.values() if machine.name != lost]
        places = [await machine.disk.settled() for machine in there if isinstance(machine.disk, Disk)]
        return sum(machine.serves for machine in there) == 1 and len({place.number for place in places}) == 1

    def _judge(self) -> None:
        disks = [machine.disk for machine in self.machines.values() if isinstance(machine.disk, Disk)]
        for disk in disks:
            kept = {link.fields.request_id for link in disk._audit} | set(disk._requests)
            lost = sorted(name for name, answer in self.answers.items() if answer == "acknowledged" and name not in kept)
            if lost:
                self.problems.append(f"lost: {disk._name} lacks {lost}")
            if verify(disk._audit).broken_at is not None:
                self.problems.append(f"broken: the audit chain of {disk._name}")
            twice = sorted(name for name in kept if sum(link.fields.request_id == name for link in disk._audit) > 1)
            if twice:
                self.problems.append(f"twice: {disk._name} did {twice} more than once")
        first, *others = [(disk._tenants, disk._audit, disk._revision, disk._topology) for disk in disks]
        if any(other != first for other in others):
            self.problems.append("apart: regions keep different zones")

"""A zone of two cells that stand by for each other loses a region under load, fails it over, and has it back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import asyncpg

from bench import resources, stored
from bench.insist import ATTEMPT_SECONDS, Insisting
from bench.latency import Samples
from bench.loss import Gap, Loss, Marks, Scenario
from bench.measure import settle
from bench.moves import HOME as LOST
from bench.moves import TARGET as PEER
from bench.moves import ZONE, fleet
from bench.schedule import Leg, Load, Schedule, Stream, plan
from bench.verdict import Ledger, Verdict
from bench.visibility import Watch
from bench.workload import RUN_CHARS, Bodies
from cli.local.fleet import LocalFleet
from dataflow.routing.v1 import routing_pb2 as pb
from kernel.clock import SECOND

BATCH: Final = 20
PEERS_SHARE: Final = 0.25  # of the load: the peer's own tenants
TENANTS_OF_LOST, TENANTS_OF_PEER = range(6), range(6, 8)
REGION: Final = "eu-west-1"
OTHER_DIRECTORY: Final = "directory/eu-central-1"
_RATE_FREE: Final = 1e6
_LIVE_SECONDS: Final = 60.0
_UP_SECONDS: Final = 120.0
_ANSWERING_SECONDS: Final = 60.0
_SETTLE_SECONDS: Final = 120.0
_LOAD_SECONDS_MAX: Final = 600.0
_LOOK_SECONDS: Final = 0.05
_REST_SECONDS: Final = 1.0
_TOLD_SECONDS: Final = 2.5  # a watch tells what it saw once a second
_PROBES: Final = 8
_SESSIONS: Final = 16
OK, EMPTY = 200, 400  # EMPTY: whoever sends a batch of nothing with a key that is known
_ENDS: Final = "SELECT partition, next_offset FROM eventlog.partition"


@dataclass(frozen=True, slots=True)
class How:
    """`rate` in events per second of all tenants; seconds of load before the kill, from there to the failover's command, from the command
    to the region's return at the least, and from when it is ready again to the end. For `stall_seconds` before the kill the peer's
    processes stand still, as a control: then there must be a gap."""

    rate: float = 2_000.0
    before_seconds: float = 15.0
    delay_seconds: float = 5.0
    away_seconds: float = 20.0
    after_seconds: float = 15.0
    stall_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Tenant:
    """One that sends, and is asked."""

    name: str
    write_key: str
    read_key: str


@dataclass(frozen=True, slots=True)
class Store:
    """A cell's, as its superuser sees it."""

    session: asyncpg.Connection[asyncpg.Record]
    watch: Watch


@dataclass
class Room:
    """A running zone, its tenants by index, and what plays the load."""

    fleet: LocalFleet
    web: aiohttp.ClientSession
    tenants: Sequence[Tenant]
    run: str
    schedule: Schedule
    clients: Insisting

    def lose(self, names: Sequence[str]) -> float:
        """SIGKILL to all of these processes, which stay away; when, in seconds after the start."""
        for name in names:
            self.fleet.hold(name)
        killed = self.clients.now
        for name in names:
            self.fleet.kill(name)
        return killed

    def stall(self, stopped: bool) -> None:
        """The peer's cell stands still, and is not replaced; or goes on."""
        name = f"cell/{PEER}"
        if stopped:
            self.fleet.hold(name)
        self.fleet.kill(name, signal.SIGSTOP if stopped else signal.SIGCONT)
        if not stopped:
            self.fleet.release(name)

    def bring_back(self, names: Sequence[str]) -> float:
        """They are started again, with the disks that they had; when."""
        for name in names:
            self.fleet.release(name)
        return self.clients.now

    async def fail_over(self) -> tuple[float, pb.Gap]:
        """When the directory was asked, and the gap that it told."""
        async with self.fleet.access.directory(ZONE) as directory:
            commanded = self.clients.now
            outcome = await directory.fail_over_cell(LOST, "a benchmark", force=False)
        if len(outcome.tenants) != len(TENANTS_OF_LOST) or outcome.left:
            raise RuntimeError(f"not every tenant was failed over: {outcome}")
        (gap,) = outcome.gaps
        return commanded, gap

    async def wait_until_answering(self) -> float:
        """Until the zone answers a query of each tenant of the lost cell; when. Raises TimeoutError."""

        async def answered(tenant: Tenant) -> None:
            while True:
                if await _status(self.web, "GET", "/v1/events", tenant.read_key) == OK:
                    return
                await asyncio.sleep(_LOOK_SECONDS)

        async with asyncio.timeout(_ANSWERING_SECONDS):
            await asyncio.gather(*(answered(self.tenants[number]) for number in TENANTS_OF_LOST))
        return self.clients.now

    async def judge(self, store: Store) -> tuple[Verdict, array[float]]:
        """What a cell holds, and by request when it was seen there, in seconds after the start."""
        ledger, names = Ledger(BATCH, self.schedule.tenant), [tenant.name for tenant in self.tenants]
        parts = stored.parts(store.session, self.run, names, {})
        seen = await settle(parts, ledger, store.watch, self.clients.began, len(self.schedule.first_due))
        return ledger.verdict(self.clients.acknowledged), seen


def load_of(rate: float) -> Load:
    """The lost cell's tenants and its peer's, each by Zipf's law, for as long as it may take. Nothing is sent again but what failed."""
    ours, theirs = rate * (1 - PEERS_SHARE), rate * PEERS_SHARE
    streams = (
        Stream((Leg(_LOAD_SECONDS_MAX, ours, ours),), TENANTS_OF_LOST),
        Stream((Leg(_LOAD_SECONDS_MAX, theirs, theirs),), TENANTS_OF_PEER),
    )
    return Load(streams, BATCH, repeated=0.0)


def killed_in(scenario: Scenario) -> tuple[str, ...]:
    """The processes of the region that a scenario takes away."""
    rest = (f"envoy/{REGION}", f"agent/{REGION}", f"directory/{REGION}", f"postgres/{REGION}") if scenario == "edge-lost" else ()
    return (f"cell/{LOST}", f"postgres/{LOST}", *rest)


async def lose(scenario: Scenario, how: How, say: Callable[[str], None]) -> Loss:
    """The whole story, on a fleet of its own."""
    say(f"{scenario}: starting two cells, their edges, a directory in both regions")
    async with contextlib.AsyncExitStack() as stack:
        made = await stack.enter_async_context(fleet(sites=True))
        await _have_it_lead(made)
        webs = [await stack.enter_async_context(_session(made)) for _ in range(_SESSIONS)]
        tenants = await _tenants(made)
        await _wait_until_live(webs[0], tenants)
        schedule, run = plan(load_of(how.rate)), secrets.token_hex(RUN_CHARS // 2)
        clients = Insisting(schedule, Bodies("http", run, BATCH), webs, [tenant.write_key for tenant in tenants])
        room = Room(made, webs[0], tenants, run, schedule, clients)
        async with _watching(made, PEER) as peer, _sending(clients) as sending:
            return await _told(room, scenario, how, peer, sending, say)


async def _have_it_lead(made: LocalFleet) -> None:
    """The directory of the region that is going to be lost leads. Raises TimeoutError."""
    made.hold(OTHER_DIRECTORY)
    made.kill(OTHER_DIRECTORY)
    port = made.layout.ports[f"directory-http/{REGION}"]
    async with asyncio.timeout(_UP_SECONDS), aiohttp.ClientSession() as web:
        while True:
            async with web.get(f"http://127.0.0.1:{port}/status") as answer:
                if (await answer.json())["leads"]:
                    break
            await asyncio.sleep(_LOOK_SECONDS)
    made.release(OTHER_DIRECTORY)
    await made.wait_until_ready(_UP_SECONDS)


def _session(made: LocalFleet) -> aiohttp.ClientSession:
    """With as many connections to the zone's endpoint as it takes."""
    timeout, connector = aiohttp.ClientTimeout(total=ATTEMPT_SECONDS), aiohttp.TCPConnector(limit=0)
    return aiohttp.ClientSession(made.access.zone_endpoint(ZONE), timeout=timeout, connector=connector)


async def _told(room: Room, scenario: Scenario, how: How, peer: Store, sending: asyncio.Task[None], say: Callable[[str], None]) -> Loss:
    """From the first request to the verdict."""
    clients, names = room.clients, killed_in(scenario)
    say(f"{how.rate:,.0f} events/s; killing {', '.join(names)} after {how.before_seconds:.0f} s")
    others = await _others_share(room, how.before_seconds)
    if how.stall_seconds:
        room.stall(True)
        await asyncio.sleep(how.stall_seconds)
    killed = room.lose(names)
    if how.stall_seconds:
        room.stall(False)
    await clients.wait_until_second(killed + how.delay_seconds)
    commanded, gap = await room.fail_over()
    told = clients.now
    answering = await room.wait_until_answering()
    await _wait_until_applied(peer.session)
    say(f"failed over, queries are answered after {answering - commanded:.2f} s; the region returns")
    await clients.wait_until_second(commanded + how.away_seconds)
    returned = room.bring_back(names)
    await room.fleet.wait_until_ready(_UP_SECONDS, [f"postgres/{LOST}"])
    async with _watching(room.fleet, LOST) as home:
        await room.fleet.wait_until_ready(_UP_SECONDS)
        ready = clients.now
        await clients.wait_until_second(ready + how.after_seconds)
        ended = clients.now
        clients.stop()
        await sending
        say("the load has ended; waiting until both cells have everything")
        await _wait_until_merged(room, (peer, home))
        await asyncio.sleep(_TOLD_SECONDS)
        behind = await stored.behind(home.session, room.run, LOST, {one.partition: one.until for one in gap.kept})
        (peers, there), (homes, here) = await room.judge(peer), await room.judge(home)
    return Loss(
        scenario,
        Marks(killed, commanded, told, answering, returned, ready, ended),
        Samples(BATCH, room.schedule.first_due, clients.acknowledged, there, room.schedule.stream),
        here,
        clients.begun,
        clients.sent,
        len(clients.attempts),
        clients.failures,
        Gap(sum(one.end - one.until for one in gap.kept), (gap.asked_at - gap.heard_at) / SECOND if gap.heard_at else None, behind),
        {PEER: peers, LOST: homes},
        others,
    )


async def _others_share(room: Room, until: float) -> float:
    """The share of the machine that processes which are not ours take until a second of the load."""
    pids = {"fleet": [one.pid for one in room.fleet.statuses.values() if one.pid is not None], "bench": [os.getpid()]}
    before = resources.usage(pids)
    await room.clients.wait_until_second(until)
    return resources.spent(before, resources.usage(pids)).others_share


async def _wait_until_applied(session: asyncpg.Connection[asyncpg.Record]) -> None:
    """Until a cell's store has everything that its log holds now. Raises TimeoutError."""
    ends = {row["partition"]: row["next_offset"] for row in await session.fetch(_ENDS)}
    async with asyncio.timeout(_ANSWERING_SECONDS):
        while True:
            found = await stored.positions(session)
            if all(found.get(partition, 0) >= end for partition, end in ends.items()):
                return
            await asyncio.sleep(_LOOK_SECONDS)


async def _wait_until_merged(room: Room, stores: Sequence[Store]) -> None:
    """Until each store has everything that was acknowledged, or has had time enough."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    for store in stores:
        while time.monotonic() < deadline:
            verdict, _ = await room.judge(store)
            if not verdict.missing:
                break
            await asyncio.sleep(_REST_SECONDS)


async def _tenants(made: LocalFleet) -> list[Tenant]:
    """By index, each in its cell, pinned to nothing, and free to send at any rate."""
    tenants = []
    limits = pb.Plan(events_per_second=_RATE_FREE, burst_events=_RATE_FREE, requests_per_second=_RATE_FREE)
    async with made.access.directory(ZONE) as directory:
        for number in (*TENANTS_OF_LOST, *TENANTS_OF_PEER):
            name = f"bench-{number:02}"
            await directory.create_tenant(name, pinned_cell=LOST if number in TENANTS_OF_LOST else PEER, plan=limits)
            await directory.pin_tenant(name, None)
            write_key = (await directory.create_source(name, "web"))[1]
            tenants.append(Tenant(name, write_key, await directory.create_read_key(name)))
    return tenants


async def _wait_until_live(web: aiohttp.ClientSession, tenants: Sequence[Tenant]) -> None:
    """Every edge knows every key: so many requests at once take connections of their own. Raises TimeoutError."""
    async with asyncio.timeout(_LIVE_SECONDS):
        for tenant in tenants:
            while True:
                writes = (_status(web, "POST", "/v1/batch", tenant.write_key, b'{"batch":[]}') for _ in range(_PROBES))
                reads = (_status(web, "GET", "/v1/events", tenant.read_key) for _ in range(_PROBES))
                if set(await asyncio.gather(*writes)) == {EMPTY} and set(await asyncio.gather(*reads)) == {OK}:
                    break
                await asyncio.sleep(_LOOK_SECONDS)


async def _status(web: aiohttp.ClientSession, method: str, path: str, key: str, body: bytes = b"") -> int:
    """Of an answer; 0 when there is none."""
    try:
        headers = {"x-api-key": key, "content-type": "application/json"}
        async with web.request(method, path, headers=headers, data=body or None) as answer:
            await answer.read()
            return answer.status
    except (aiohttp.ClientError, TimeoutError):
        return 0


@contextlib.asynccontextmanager
async def _watching(made: LocalFleet, cell: str) -> AsyncIterator[Store]:
    """A cell's store is looked at until the block ends."""
    session, looking = await asyncpg.connect(made.dsn(cell)), await asyncpg.connect(made.dsn(cell))
    try:
        watch = Watch(looking)
        async with watch.following():
            yield Store(session, watch)
    finally:
        await session.close()
        await looking.close()


@contextlib.asynccontextmanager
async def _sending(clients: Insisting) -> AsyncIterator[asyncio.Task[None]]:
    """The load, from now on; nothing of it is left behind."""
    task = asyncio.create_task(clients.run())
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        clients.stop()
        await task

"""A region is lost under load: its peer takes the writes, then the tenants; what nobody else had comes back with the disks."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from cells.eventlog import codec
from cli.errors import Unable
from dataflow.routing.v1 import routing_pb2 as pb
from kernel.process.clock import SystemClock
from tests.support.fleet import UP_SECONDS, Running, Source, running
from tests.support.processes import eventually

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.envoy,
    pytest.mark.postgres,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]
LOST, PEER = "eu-west-1-a", "eu-central-1-a"
REGION = "eu-west-1"
CELL_OF_REGION = (f"cell/{LOST}", f"postgres/{LOST}")
REST_OF_REGION = (f"envoy/{REGION}", f"agent/{REGION}", f"directory/{REGION}", f"postgres/{REGION}")
BATCH_EVENTS = 20
_PACE_SECONDS = 0.1
_LOG_SQL = 'SELECT partition, "offset", cell, body FROM eventlog.record WHERE tenant = $1'
_numbers = itertools.count()


@dataclass
class Client:
    """One sequential client: the next batch when the one before is acknowledged, the same one again until then; ten a second at most."""

    running: Running
    source: Source
    acknowledged: list[str] = field(default_factory=list)
    attempts: int = 0
    failed: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0
    stop: bool = False

    async def run(self) -> None:
        """Until `stop`."""
        for number in itertools.count():
            if self.stop:
                return
            ids = [f"{number:05}-{n:02}" for n in range(BATCH_EVENTS)]
            pace = asyncio.create_task(SystemClock().sleep(_PACE_SECONDS))
            began = time.monotonic()
            while not await self._sent(ids):
                await SystemClock().sleep(0.02)
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
            self.acknowledged += ids
            await pace

    async def _sent(self, ids: Sequence[str]) -> bool:
        self.attempts += 1
        try:
            answer = await self.running.send(self.source, ids)
        except (aiohttp.ClientError, TimeoutError) as error:
            self.failed.append(type(error).__name__)
            return False
        if answer.status != 200:
            self.failed.append(f"{answer.status} {answer.body.decode()[:120]}")
        return answer.status == 200


@dataclass
class Room:
    """A zone of two cells that stand by for each other. Both regions keep its directory."""

    running: Running

    async def tenants(self, cell: str, count: int) -> list[Source]:
        """Fresh tenants of a cell."""
        return [await self.running.add(f"{cell[:4]}-{next(_numbers)}", cell) for _ in range(count)]

    @asynccontextmanager
    async def clients(self, tenants: Sequence[Source]) -> AsyncIterator[list[Client]]:
        """One of each, from before the block until after it."""
        made = [Client(self.running, source) for source in tenants]
        tasks = [asyncio.create_task(client.run()) for client in made]
        await self.go_on(made)
        try:
            yield made
        finally:
            for client in made:
                client.stop = True
            await asyncio.gather(*tasks)

    async def go_on(self, clients: Sequence[Client], batches: int = 5) -> None:
        """Every client has this many more batches acknowledged."""
        before = [len(client.acknowledged) for client in clients]

        def further() -> bool:
            return all(len(c.acknowledged) >= n + batches * BATCH_EVENTS for c, n in zip(clients, before, strict=True))

        await eventually(further, "all clients go on", 30)

    def lose(self, *names: str) -> None:
        """SIGKILL to these processes, which stay away until they are brought back."""
        for name in names:
            self.running.fleet.hold(name)
        for name in names:
            self.running.fleet.kill(name)

    async def bring_back(self, *names: str) -> None:
        """With the disks that they had."""
        for name in names:
            self.running.fleet.release(name)
        await self.running.fleet.wait_until_ready(UP_SECONDS)

    async def have_it_lead(self, region: str) -> None:
        """The region's directory leads the zone when this returns."""
        if not await self.leads(region):
            await eventually(self.are_level, "no region lacks anything: one that does cannot lead", 20)
            others = [name for name in self.running.fleet.statuses if name.startswith("directory/") and name != f"directory/{region}"]
            self.lose(*others)
            await eventually(lambda: self.leads(region), f"{region} leads", 20)
            await self.bring_back(*others)
        assert await self.leads(region)

    async def are_level(self) -> bool:
        """Whether all sites say that the directory is at the same entry of the same term."""
        ports = self.running.fleet.layout.ports
        names = [name for name in ports if name.startswith(("directory-http/eu-", "witness-http/eu"))]
        said = [await self._status(ports[name]) for name in names]
        return len(said) == 3 and len({(one["term"], one["entry"]) for one in said}) == 1

    async def _status(self, port: int) -> dict[str, object]:
        async with self.running.web.get(f"http://127.0.0.1:{port}/status") as answer:
            return dict(await answer.json())

    async def leads(self, region: str) -> bool:
        """Whether its directory does, as its own page says."""
        return bool((await self._status(self.running.fleet.layout.ports[f"directory-http/{region}"]))["leads"])

    async def fail_over(self, cell: str, *, force: bool = False, dry_run: bool = False) -> pb.FailOverCellResponse:
        """By the directory's word."""
        async with self.running.fleet.access.directory("eu") as directory:
            return await directory.fail_over_cell(cell, "a test", force, dry_run)

    async def acknowledged_behind(self, gap: pb.Gap, source: Source) -> set[str]:
        """The message ids that the lost cell's log holds behind the gap that was told: its disks are back."""
        until = {one.partition: one.until for one in gap.kept}
        return {
            envelope.message_id
            for row in await self.log_of(LOST, source.tenant)
            if row["cell"] == LOST and row["offset"] >= until[row["partition"]]
            for envelope in codec.decode(row["body"]).envelopes
        }

    async def log_of(self, cell: str, tenant: str) -> list[asyncpg.Record]:
        """A tenant's records in a cell's log."""
        connection = await asyncpg.connect(self.running.fleet.dsn(cell))
        try:
            return list(await connection.fetch(_LOG_SQL, tenant))
        finally:
            await connection.close()

    async def wait_until_kept(self, source: Source, cell: str, wanted: Sequence[str]) -> None:
        """A cell's store has exactly these events of the tenant, once each."""
        await self.running.wait_until_stored(replace(source, cell=cell), wanted)

    async def queried(self, source: Source) -> int:
        """The status of a query through the zone's endpoint."""
        return (await self.running.ask("GET", "eu", "/v1/events", source.read_key)).status


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def room() -> AsyncIterator[Room]:
    async with running([LOST, PEER], sites=True) as fleet:
        yield Room(fleet)


def _told(clients: Sequence[Client]) -> None:
    attempts, failed = sum(c.attempts for c in clients), [why for c in clients for why in c.failed]
    print(f"{attempts} attempts, {len(failed)} failed: {failed[:5]}; longest {max(c.longest_seconds for c in clients):.2f} s")


async def test_whoever_stands_by_keeps_what_its_peer_keeps(room: Room) -> None:
    """Law: both ways, all the time; nobody can read it there."""
    here, there = (await room.tenants(LOST, 1))[0], (await room.tenants(PEER, 1))[0]
    async with room.clients([here, there]) as clients:
        pass
    for client, standby in zip(clients, (PEER, LOST), strict=True):
        await room.wait_until_kept(client.source, client.source.cell, client.acknowledged)
        await room.wait_until_kept(client.source, standby, client.acknowledged)
        port = room.running.fleet.layout.ports[f"cell-http/{standby}"]
        headers = {"authorization": f"Bearer {client.source.read_key}"}
        async with room.running.web.get(f"http://127.0.0.1:{port}/v1/events", headers=headers) as answer:
            assert (answer.status, (await answer.json())["code"]) == (503, "MOVED")


async def test_a_cell_that_is_away_for_a_while_is_handed_what_its_peer_took(room: Room) -> None:
    """Law: nobody decides anything; clients go on, and the cell has everything when it is back."""
    tenants = await room.tenants(LOST, 3)
    async with room.clients(tenants) as clients:
        room.lose(f"cell/{LOST}", f"postgres/{LOST}")
        await room.go_on(clients, 10)
        taken = [row for source in tenants for row in await room.log_of(PEER, source.tenant) if row["cell"] == PEER]
        assert taken, "the peer took nothing: the run is void"
        with pytest.raises(Unable):
            await room.fail_over(PEER)  # it answers
        await room.bring_back(f"postgres/{LOST}", f"cell/{LOST}")
        await room.go_on(clients)
    _told(clients)
    for client in clients:
        await room.wait_until_kept(client.source, LOST, client.acknowledged)
        await room.wait_until_kept(client.source, PEER, client.acknowledged)


@pytest.mark.parametrize("rest", [(), REST_OF_REGION], ids=["its cell", "with its edge and its directory"])
async def test_a_region_is_lost_failed_over_and_comes_back(room: Room, rest: tuple[str, ...]) -> None:
    """Law: what is missing at the peer is what lies in the gap that was told, event by event, and nothing once the disks are back. The peer
    is stopped for a moment before, so that there is a gap. With the whole region its directory is lost, while it leads: the
    other region's does then."""
    tenants, bystanders = await room.tenants(LOST, 4), await room.tenants(PEER, 1)
    if rest:
        await room.have_it_lead(REGION)
    async with room.clients(tenants) as clients, room.clients(bystanders):
        room.running.pause(f"cell/{PEER}")
        await room.go_on(clients, 3)
        room.lose(*CELL_OF_REGION, *rest)
        room.running.resume(f"cell/{PEER}")
        await room.go_on(clients)
        outcome = await room.fail_over(LOST)
        assert {tenant.cell for tenant in outcome.tenants} == {PEER}
        assert {source.tenant for source in tenants} <= {tenant.name for tenant in outcome.tenants}

        async def answers() -> bool:
            return {await room.queried(source) for source in tenants} == {200}

        await eventually(answers, "the peer answers queries", 20)
        await room.go_on(clients)
    _told(clients)
    (gap,) = outcome.gaps
    kept = {}
    for client in clients:
        there = replace(client.source, cell=PEER)
        await room.running.wait_until_stored_some(there, client.acknowledged[-1])
        kept[client.source.tenant] = set(await room.running.stored(there))
    await room.bring_back(*CELL_OF_REGION, *rest)
    missing_of_all = 0
    for client in clients:
        missing = set(client.acknowledged) - kept[client.source.tenant]
        missing_of_all += len(missing)
        assert missing == (await room.acknowledged_behind(gap, client.source) & set(client.acknowledged)) - kept[client.source.tenant]
        await room.wait_until_kept(client.source, PEER, client.acknowledged)
        await room.wait_until_kept(client.source, LOST, client.acknowledged)
    print(f"the gap held {missing_of_all} events of {sum(len(c.acknowledged) for c in clients)}")
    assert missing_of_all, "there was no gap: the run is void"


async def test_tenants_go_home_without_being_copied(room: Room) -> None:
    """Law: a move to who stands by is a planned failover without a gap: order and every event are kept, and the old home stands by."""
    tenants = await room.tenants(PEER, 3)
    async with room.clients(tenants) as clients:
        async with room.running.fleet.access.directory("eu") as directory:
            for source in tenants:
                await directory.pin_tenant(source.tenant, None)
                await directory.start_move(source.tenant, LOST, "home again", 0)

        async def home() -> bool:
            async with room.running.fleet.access.directory("eu") as directory:
                found = {one.tenant: one.move.state for one in await directory.list_moves(ended=True)}
            return all(found.get(source.tenant) == "settled" for source in tenants)

        await eventually(home, "all live at home", 60)
        await room.go_on(clients)
    _told(clients)
    for client in clients:
        await room.wait_until_kept(client.source, LOST, client.acknowledged)
        await room.wait_until_kept(client.source, PEER, client.acknowledged)


async def test_a_lost_region_is_failed_over_by_a_majority_of_sites() -> None:
    """Law: nobody orders anything, and who led the directory is lost too. Clients go on all the time."""
    async with running([LOST, PEER], settings={"failover_after_seconds": "2"}, sites=True) as fleet:
        room = Room(fleet)
        (source,) = await room.tenants(LOST, 1)
        await room.have_it_lead(REGION)
        async with room.clients([source]) as (client,):
            room.lose(*CELL_OF_REGION, *REST_OF_REGION)
            lost_at = time.monotonic()

            async def lives_with_its_peer() -> bool:
                async with fleet.fleet.access.directory("eu") as directory:
                    found = await directory.find_tenant(source.tenant)
                return found is not None and found.cell == PEER

            await eventually(lives_with_its_peer, "its peer is its home", 30)
            await room.go_on([client])

            async def answers() -> bool:
                return await room.queried(source) == 200

            await eventually(answers, "its peer answers queries", 20)
            print(f"a region and its directory were lost: its peer answers after {time.monotonic() - lost_at:.1f} s")
            await room.bring_back(*CELL_OF_REGION, *REST_OF_REGION)
            await room.go_on([client])
        _told([client])
        await room.wait_until_kept(source, PEER, client.acknowledged)
        await room.wait_until_kept(source, LOST, client.acknowledged)


async def test_a_leader_that_stands_still_is_left(room: Room) -> None:
    """Law: it closes no connection, and yet nobody waits for it: the other region leads, and edges and cells hear of a new tenant there.
    When it goes on it stands back."""
    await room.have_it_lead(REGION)
    room.running.pause(f"directory/{REGION}")
    began = time.monotonic()
    try:
        (source,) = await room.tenants(LOST, 1)
        async with room.clients([source]) as (client,):
            print(f"a leader stood still: a new tenant's events are taken after {time.monotonic() - began:.1f} s")
    finally:
        room.running.resume(f"directory/{REGION}")
    await room.wait_until_kept(source, LOST, client.acknowledged)

    async def stood_back() -> bool:
        return not await room.leads(REGION)

    await eventually(stood_back, "it stands back", 10)


async def test_who_leads_is_shown(room: Room) -> None:
    """Law: one of a zone's sites, whom all hear in one term; the command line says of it what its own page says."""
    await room.have_it_lead(REGION)
    argv = (sys.executable, "-m", "cli.main", "sites", "list", "--output", "json", "--state", str(room.running.state))

    async def told() -> list[dict[str, object]]:
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        return [json.loads(line) for line in said.splitlines()]

    async def agree() -> bool:
        found = await told()
        return [one.get("leader") for one in found] == [REGION] * 3 and len({(one["term"], one["entry"]) for one in found}) == 1

    await eventually(agree, "all sites hear the one that leads, and are where it is", 20)
    found = await told()
    assert {one["site"]: one.get("leads", False) for one in found} == {"eu-central-1": False, REGION: True, "witness": False}

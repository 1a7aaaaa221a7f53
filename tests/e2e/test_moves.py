"""Tenants move between real cells while their clients send: nothing acknowledged is lost, nothing is there twice, order is kept."""

from __future__ import annotations

import asyncio
import itertools
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
from kernel.limits import MOVE_FENCED_SECONDS_MAX
from kernel.process.clock import SystemClock
from tests.support.fleet import UP_SECONDS, Running, Source, event, running
from tests.support.processes import eventually

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.envoy,
    pytest.mark.postgres,
    pytest.mark.timeout(240),
    pytest.mark.asyncio(loop_scope="module"),
]
HOME, TARGET = "eu-west-1-a", "eu-central-1-a"
BATCH_EVENTS = 20
_PACE_SECONDS = 0.1
_ORDER_SQL = (
    "SELECT r.epoch, e.log_offset, e.ordinal, r.body FROM tenants.event_row e JOIN tenants.record r"
    " USING (partition, log_offset, received_day) WHERE e.tenant = $1 ORDER BY r.epoch, e.log_offset, e.ordinal"
)
_TABLES = ("event_row", "record", "node", "trait", "dead_letter", "held")
_numbers = itertools.count()


@dataclass
class Client:
    """One sequential client: the next batch when the one before is acknowledged, the same one again until then; ten a second at most."""

    running: Running
    source: Source
    acknowledged: list[str] = field(default_factory=list)
    stop: bool = False

    async def run(self) -> None:
        """Until `stop`."""
        for number in itertools.count():
            if self.stop:
                return
            ids = [f"{number:05}-{n:02}" for n in range(BATCH_EVENTS)]
            pace = asyncio.create_task(SystemClock().sleep(_PACE_SECONDS))
            await self.running.send_until_taken(self.source, ids, 60)
            self.acknowledged += ids
            await pace


@dataclass
class Room:
    """A zone of two cells."""

    running: Running

    async def tenants(self, count: int) -> list[Source]:
        """Fresh tenants of HOME, pinned to nothing."""
        made = [await self.running.add(f"mover-{next(_numbers)}", HOME) for _ in range(count)]
        async with self.running.fleet.access.directory("eu") as directory:
            for source in made:
                await directory.pin_tenant(source.tenant, None)
        return made

    async def move(self, tenants: Sequence[Source], keep_seconds: int = 3_600) -> None:
        """Starts a move of each to TARGET."""
        async with self.running.fleet.access.directory("eu") as directory:
            for source in tenants:
                await directory.start_move(source.tenant, TARGET, "a test", keep_seconds)

    async def change(self, source: Source, change: pb.MoveChange.ValueType) -> pb.Tenant:
        """Of a tenant's move."""
        async with self.running.fleet.access.directory("eu") as directory:
            return await directory.change_move(source.tenant, change, "a test")

    async def states(self) -> dict[str, pb.MovingTenant]:
        """Every tenant's move, present or last; nothing while the directory is away."""
        try:
            async with self.running.fleet.access.directory("eu") as directory:
                return {one.tenant: one for one in await directory.list_moves(ended=True)}
        except Unable:
            return {}

    async def wait_until_all(self, tenants: Sequence[Source], *states: str) -> dict[str, pb.MovingTenant]:
        """All of them are in one of these states."""
        found: dict[str, pb.MovingTenant] = {}

        async def there() -> bool:
            nonlocal found
            found = await self.states()
            return all(source.tenant in found and found[source.tenant].move.state in states for source in tenants)

        try:
            await eventually(there, f"{len(tenants)} moves are {' or '.join(states)}", 90)
        except AssertionError:
            print(found)
            raise
        return found

    async def wait_until_told(self, tenants: Sequence[Source]) -> dict[str, pb.MovingTenant]:
        """How long each was refused is told, a moment after its switch: the pause ends when everybody has heard of that."""

        async def there() -> bool:
            found = await self.states()
            return all(found[source.tenant].progress.pause_seconds > 0 for source in tenants)

        await eventually(there, "the pauses are told", 10)
        return await self.states()

    @asynccontextmanager
    async def clients(self, tenants: Sequence[Source]) -> AsyncIterator[list[Client]]:
        """One of each, from before the block until after it."""
        made = [Client(self.running, source) for source in tenants]
        tasks = [asyncio.create_task(client.run()) for client in made]
        await eventually(lambda: all(len(client.acknowledged) >= 5 * BATCH_EVENTS for client in made), "all clients send", 30)
        try:
            yield made
        finally:
            for client in made:
                client.stop = True
            await asyncio.gather(*tasks)

    async def order(self, source: Source) -> list[str]:
        """The tenant's message ids as its cell's log has them, home after home."""
        connection = await asyncpg.connect(self.running.fleet.dsn(source.cell))
        try:
            rows = await connection.fetch(_ORDER_SQL, source.tenant)
        finally:
            await connection.close()
        found = [codec.decode(row["body"]).envelopes[row["ordinal"]].message_id for row in rows]
        return [message_id for message_id in found if not message_id.startswith("hello-")]

    async def left(self, tenant: str, cell: str) -> dict[str, int]:
        """What a cell's tables hold of a tenant."""
        connection = await asyncpg.connect(self.running.fleet.dsn(cell))
        try:
            counts = {name: await connection.fetchval(f"SELECT count(*) FROM tenants.{name} WHERE tenant = $1", tenant) for name in _TABLES}  # noqa: S608  # our own words
        finally:
            await connection.close()
        return {name: rows for name, rows in counts.items() if rows}

    async def settled(self, client: Client, cell: str) -> None:
        """What the client was told is in the cell, once, in its order, and nothing else."""
        source = replace(client.source, cell=cell)
        await self.running.wait_until_stored(source, client.acknowledged)
        assert await self.order(source) == client.acknowledged

    async def ask_cell(self, cell: str, source: Source) -> tuple[int, str]:
        """A write straight to a cell, past the edge: (status, code)."""
        port = self.running.fleet.layout.ports[f"cell-http/{cell}"]
        headers = {"authorization": f"Bearer {source.write_key}"}
        async with self.running.web.post(f"http://127.0.0.1:{port}/v1/track", json=event("stray"), headers=headers) as answer:
            return answer.status, (await answer.json()).get("code", "")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def room() -> AsyncIterator[Room]:
    async with running([HOME, TARGET], peers=False) as fleet:
        yield Room(fleet)


async def test_ten_tenants_move_under_load(room: Room) -> None:
    """Law: with clients that send all the time, every acknowledged event is at the new home, once, in each client's order. The longest
    pauses are printed; `bench/moves.py` measures them."""
    tenants = await room.tenants(10)
    async with room.clients(tenants) as clients:
        await room.move(tenants)
        await room.wait_until_all(tenants, "switched")
        before = [len(client.acknowledged) for client in clients]
        await eventually(lambda: all(len(c.acknowledged) > n for c, n in zip(clients, before, strict=True)), "they go on there", 30)
    for client in clients:
        await room.settled(client, TARGET)
    pauses = sorted(one.progress.pause_seconds for one in (await room.wait_until_told(tenants)).values())
    print(f"writes were refused for {pauses[0]:.3f} to {pauses[-1]:.3f} s")
    assert pauses[-1] < MOVE_FENCED_SECONDS_MAX


async def test_there_and_back_and_erased_with_proof(room: Room) -> None:
    """Law: a rolled back tenant has everything that it sent meanwhile; a finished move leaves nothing in the old home's tables, and the old
    home refuses the tenant, also when it starts anew without any directory."""
    (source,) = await room.tenants(1)
    async with room.clients([source]) as (client,):
        await room.move([source])
        await room.wait_until_all([source], "switched")
        assert (await room.ask_cell(HOME, source)) == (503, "MOVED")
        await room.change(source, pb.MOVE_CHANGE_ROLL_BACK)
        await room.wait_until_all([source], "switched")
    await room.settled(client, HOME)
    await room.change(source, pb.MOVE_CHANGE_FINISH)
    await room.wait_until_all([source], "settled")
    assert await room.left(source.tenant, TARGET) == {}
    assert await room.left(source.tenant, HOME) != {}, "the search is not blind"
    room.running.fleet.hold("directory/eu")
    room.running.fleet.kill("directory/eu")
    room.running.fleet.kill(f"cell/{TARGET}")

    async def refused() -> bool:
        try:
            return await room.ask_cell(TARGET, source) == (503, "MOVED")
        except aiohttp.ClientError:
            return False

    await eventually(refused, "the old home is back, and refuses", 30)
    room.running.fleet.release("directory/eu")
    await room.running.fleet.wait_until_ready(UP_SECONDS)


async def test_whoever_is_killed_meanwhile_the_moves_come_to_their_end(room: Room) -> None:
    """Law: directory, old and new home die in the middle of moves under load; all of it comes to its end, and nothing is lost."""
    tenants = await room.tenants(4)
    async with room.clients(tenants) as clients:
        await room.move(tenants)
        for name in ("directory/eu", f"cell/{TARGET}", "directory/eu", f"cell/{HOME}", "directory/eu"):
            room.running.fleet.kill(name)
            await room.running.fleet.wait_until_ready(UP_SECONDS)
        await room.wait_until_all(tenants, "switched")
    for client in clients:
        await room.settled(client, TARGET)


async def test_an_aborted_move_leaves_nothing_behind(room: Room) -> None:
    """Law: before the switch a move can be taken back at any time; the tenant goes on, and the other cell holds nothing of it."""
    (source,) = await room.tenants(1)
    async with room.clients([source]) as (client,):
        await room.move([source])
        state = (await room.change(source, pb.MOVE_CHANGE_ABORT)).move.state
        assert state in ("aborting", "aborted")
        await room.wait_until_all([source], "aborted")
        assert await room.left(source.tenant, TARGET) == {}
    await room.settled(client, HOME)

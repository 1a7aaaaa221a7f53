"""What fails in a real fleet, and what its clients notice: nothing acknowledged is lost, nothing is stored twice, neighbours go on."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
import grpc
import psutil
import pytest
import pytest_asyncio

from dataflow.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from dataflow.types.v1 import event_pb2
from kernel.limits import APPEND_SECONDS_MAX, DRAIN_SECONDS_MAX, QUERY_SECONDS_MAX
from tests.support.fleet import UP_SECONDS, Answer, Running, Source, running
from tests.support.processes import eventually

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.envoy,
    pytest.mark.postgres,
    pytest.mark.timeout(200),
    pytest.mark.asyncio(loop_scope="module"),
]
CELL, OTHER_CELL = "eu-west-1-a", "eu-central-1-a"
SLACK_SECONDS = 4.0
_numbers = itertools.count()


@dataclass
class Room:
    """A zone of two cells with an edge each."""

    running: Running

    async def tenant(self, cell: str = CELL) -> Source:
        """A fresh tenant of the cell."""
        return await self.running.add(f"tenant-{next(_numbers)}", cell)

    async def ready(self) -> None:
        """Everything stands again, and every edge knows it: each looks by itself, a little later than the supervisor."""
        await self.running.fleet.wait_until_ready(UP_SECONDS)
        prober = await self.tenant()

        async def served() -> bool:
            # So many at once take connections of their own, and connections take the edges in turn.
            answers = await asyncio.gather(*(self.running.send(prober, [f"probe-{next(_numbers)}"]) for _ in range(8)))
            return {answer.status for answer in answers} == {200}

        await eventually(served, "every edge serves the cell", 15)

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """The process and its descendants neither work nor die meanwhile."""
        self.running.pause(name)
        try:
            yield
        finally:
            self.running.resume(name)

    async def readiness(self) -> str:
        """What the cell's own probe says; empty when nobody answers."""
        port = self.running.fleet.layout.ports[f"cell-http/{CELL}"]
        try:
            async with self.running.web.get(f"http://127.0.0.1:{port}/readyz") as answer:
                return await answer.text()
        except aiohttp.ClientError:
            return ""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def room() -> AsyncIterator[Room]:
    async with running([CELL, OTHER_CELL]) as fleet:
        yield Room(fleet)


@dataclass
class Traffic:
    """A client that sends batch after batch, each again until it is acknowledged, as an SDK does."""

    room: Room
    source: Source
    acknowledged: list[str]
    stop: asyncio.Event

    async def flows(self, events: int) -> None:
        """Waits until so many more are acknowledged."""
        goal = len(self.acknowledged) + events
        await eventually(lambda: len(self.acknowledged) >= goal, "traffic flows", 30)

    async def run(self) -> None:
        """Until `stop`."""
        for number in itertools.count():
            if self.stop.is_set():
                return
            ids = [f"batch-{number}-{n}" for n in range(20)]
            await self.room.running.send_until_taken(self.source, ids)
            self.acknowledged.extend(ids)


async def test_a_cell_is_killed_in_the_middle_of_traffic(room: Room) -> None:
    """Law: every acknowledged event is stored, once, although the cell is killed twice meanwhile and clients repeat their requests."""
    source = await room.tenant()
    traffic = Traffic(room, source, [], asyncio.Event())
    client = asyncio.create_task(traffic.run())
    for _ in range(2):
        await traffic.flows(400)
        room.running.fleet.kill(f"cell/{CELL}")
    await room.ready()
    traffic.stop.set()
    await client
    await room.running.wait_until_stored(source, traffic.acknowledged)


async def test_a_message_id_that_comes_again_is_stored_once(room: Room) -> None:
    """Law: in another batch, in another order, and after the cell was killed: one row for each message id."""
    source, fleet = await room.tenant(), room.running
    ids = [f"again-{n}" for n in range(50)]
    await fleet.send_until_taken(source, ids)
    await fleet.send_until_taken(source, ids[::-1])
    await fleet.wait_until_stored_some(source, ids[-1])
    fleet.fleet.kill(f"cell/{CELL}")
    await fleet.send_until_taken(source, ids[10:])
    await fleet.send_until_taken(source, [*ids[20:30], "the-last"])  # one tenant's records are applied in order
    await fleet.wait_until_stored(source, [*ids, "the-last"])
    await room.ready()


async def test_a_database_that_hangs_sheds_and_nothing_is_lost(room: Room) -> None:
    """Law: while a cell's PostgreSQL is paused its clients read 429 with Retry-After, in time, and questions 503; the other cell does
    not notice; afterwards everything that was ever acknowledged is stored, once."""
    source, neighbour = await room.tenant(), await room.tenant(OTHER_CELL)
    fleet = room.running
    assert (await fleet.send(source, ["before"])).status == 200
    with room.paused(f"postgres/{CELL}"):
        pending = [asyncio.create_task(fleet.send(source, [f"during-{n}"])) for n in range(10)]
        asked = asyncio.create_task(fleet.ask("GET", "eu", "/v1/events", source.read_key))
        while not all(task.done() for task in pending):
            answer = await fleet.send(neighbour, [f"aside-{next(_numbers)}"])
            assert (answer.status, answer.seconds < SLACK_SECONDS) == (200, True)
        for answer in await asyncio.gather(*pending):
            assert_shed(answer)
        question = await asked
        assert (question.status, question.json()["code"]) == (503, "STORE_UNAVAILABLE")
        assert question.seconds < QUERY_SECONDS_MAX + SLACK_SECONDS
    await fleet.send_until_taken(source, ["after"])
    await fleet.send_until_taken(source, [f"during-{n}" for n in range(10)])
    await fleet.wait_until_stored(source, ["before", "after", *[f"during-{n}" for n in range(10)]])
    await room.ready()


def assert_shed(answer: Answer) -> None:
    """429 with the two things that a client needs, in time."""
    assert (answer.status, answer.json()["code"]) == (429, "LOG_UNAVAILABLE")
    assert 1 <= int(answer.headers["retry-after"]) <= 300
    assert answer.seconds < APPEND_SECONDS_MAX + SLACK_SECONDS


async def test_a_cell_that_is_asked_to_stop_drains(room: Room) -> None:
    """Law: on SIGTERM readiness goes off first; streams are told to come again; a request in flight is still answered, and its
    event is stored, once; then the process ends by itself, in time."""
    source, fleet = await room.tenant(), room.running
    process = psutil.Process(fleet.fleet.pid(f"cell/{CELL}"))
    async with grpc.aio.insecure_channel(fleet.fleet.access.zone_address("eu")) as channel:
        stub: ingest_pb2_grpc.IngestServiceAsyncStub = ingest_pb2_grpc.IngestServiceStub(channel)
        stream = stub.IngestStream(metadata=(("x-api-key", source.write_key),), timeout=30)
        one = event_pb2.Event(type=event_pb2.EVENT_TYPE_TRACK, name="E", user_id="u", message_id="streamed")
        await stream.write(ingest_pb2.IngestStreamRequest(sequence=1, batch=ingest_pb2.IngestRequest(events=[one])))
        assert isinstance(await stream.read(), ingest_pb2.IngestStreamResponse)
        with room.paused(f"postgres/{CELL}"):
            in_flight = asyncio.create_task(fleet.send(source, ["in-flight"]))
            await eventually(lambda: in_cell(room, in_flight), "the request is in the cell", 3)
            fleet.fleet.kill(f"cell/{CELL}", signal.SIGTERM)
            began = time.monotonic()
            await eventually(lambda: drains(room), "readiness goes off", 3)
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await stream.read()
            assert told.value.code() is grpc.StatusCode.UNAVAILABLE
            assert (process.is_running(), in_flight.done()) == (True, False)
        assert (await in_flight).status == 200
    await eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "it ends", DRAIN_SECONDS_MAX)
    assert time.monotonic() - began < DRAIN_SECONDS_MAX + SLACK_SECONDS
    await room.ready()
    await fleet.wait_until_stored(source, ["streamed", "in-flight"])


async def in_cell(room: Room, request: asyncio.Task[Answer]) -> bool:
    """Whether the cell holds the bytes of a request that is not answered."""
    assert not request.done()
    port = room.running.fleet.layout.ports[f"cell-http/{CELL}"]
    async with room.running.web.get(f"http://127.0.0.1:{port}/metrics") as answer:
        page = await answer.text()
    return any(line.split()[1] != "0.0" for line in page.splitlines() if line.startswith("dataflow_ingest_inflight_bytes "))


async def drains(room: Room) -> bool:
    """Whether the cell's probe says so while the cell still runs."""
    return '"drain"' in await room.readiness()


async def test_without_a_control_plane_events_are_taken_and_questions_answered(room: Room) -> None:
    """Law: with the directory gone, and agents, Envoys and the cell started again without it, what was sent before is read and new
    events become readable."""
    source, fleet = await room.tenant(), room.running
    await fleet.send_until_taken(source, ["before"])
    fleet.fleet.hold("directory/eu")
    fleet.fleet.kill("directory/eu")
    names = [f"cell/{CELL}", "agent/eu-west-1", "agent/eu-central-1", "envoy/eu-west-1", "envoy/eu-central-1"]
    for name in names:
        fleet.fleet.kill(name)
    await fleet.fleet.wait_until_ready(UP_SECONDS, [*names, "endpoint/eu"])
    await fleet.send_until_taken(source, ["without"])
    await fleet.wait_until_stored(source, ["before", "without"])
    read = await fleet.ask("GET", "eu", "/v1/events", source.read_key)
    assert {"before", "without"} <= {one["messageId"] for one in read.json()["events"]}
    assert fleet.fleet.statuses["directory/eu"].state == "held"
    fleet.fleet.release("directory/eu")
    await room.ready()

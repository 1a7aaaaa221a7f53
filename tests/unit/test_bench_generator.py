"""The open loop on real sockets: over HTTP/1.1 and gRPC, against a server that answers, stalls, refuses, goes away."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import grpc
import grpc.aio
import pytest

from bench.generator import OpenLoop
from bench.lanes import HttpLane, http_heads
from bench.lanes_grpc import GrpcLane, grpc_heads, status_of
from bench.latency import Samples, percentiles
from bench.outcomes import ACKNOWLEDGED, NO_ANSWER
from bench.schedule import Load, Schedule, plan, steady
from bench.workload import ID_CHARS, Bodies, Protocol, message_id
from dataflow.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from dataflow.types.v1 import event_pb2

KEYS = [f"key-{number}" for number in range(21)]
RUN = "0a1b2c3d"
STALL_SECONDS = 0.3
_OK = b'HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{"success": true}'
_BUSY = b'HTTP/1.1 429 Too Many\r\nserver: x\r\ncontent-length: 37\r\n\r\n{"code":"QUOTA_EXCEEDED","message":1}'
_PARTLY = b'HTTP/1.1 200 OK\r\ncontent-length: 55\r\n\r\n{"success":true,"rejected":[{"index":0,"code":"NO_ID"}]}'


@dataclass
class HttpServer:
    """Answers with what `answer` says to the number of a request; None closes the connection instead."""

    answer: Callable[[int], bytes | None] = lambda _: _OK
    pieces: int = 1
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    bodies: list[bytes] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self.connections[task] = writer
        try:
            await self.converse(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Request by request, until one of them has no answer."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.rpartition(b"content-length: ")[2])
            self.heads.append(head)
            self.bodies.append(await reader.readexactly(length))
            answer = self.answer(len(self.bodies) - 1)
            await self.gate.wait()
            if answer is None:
                return
            await self._write(writer, answer)

    async def _write(self, writer: asyncio.StreamWriter, answer: bytes) -> None:
        size = math.ceil(len(answer) / self.pieces)
        for start in range(0, len(answer), size):
            writer.write(answer[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)


class LeavingServer(HttpServer):
    """Speaks HTTP/2, answers one stream of each connection, wants no more of it, says goodbye in the same breath, and reads on."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[int] = []

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Frame by frame: length, kind, flags, stream."""
        await reader.readexactly(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        status = b"\x00\x0bgrpc-status\x010"
        while True:
            high, low, kind, flags, stream = struct.unpack(">HBBBI", await reader.readexactly(9))
            await reader.readexactly(high << 8 | low)
            if kind == 0 and flags & 1:
                self.streams.append(stream)
                answer = struct.pack(">HBBBI", 0, len(status), 1, 5, stream) + status
                reset = struct.pack(">HBBBI", 0, 4, 3, 0, stream) + bytes(4)
                goodbye = struct.pack(">HBBBI", 0, 8, 7, 0, 0) + bytes(8)
                update = struct.pack(">HBBBI", 0, 4, 8, 0, 0) + bytes(4)
                writer.write(answer + reset + goodbye + update)


class GrpcServer(ingest_pb2_grpc.IngestServiceServicer):
    """The same over gRPC: `answer` gives the response, or the status to abort with."""

    def __init__(self, answer: Callable[[int], ingest_pb2.IngestResponse | grpc.StatusCode]) -> None:
        self._answer = answer
        self.requests: list[ingest_pb2.IngestRequest] = []
        self.keys: set[object] = set()

    async def Ingest(
        self, request: ingest_pb2.IngestRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> ingest_pb2.IngestResponse:
        """One batch."""
        self.requests.append(request)
        self.keys.add(dict(context.invocation_metadata() or ()).get("authorization"))
        answer = self._answer(len(self.requests) - 1)
        if isinstance(answer, ingest_pb2.IngestResponse):
            return answer
        await context.abort(answer, "as the test says")
        raise AssertionError("abort returns never")

    def IngestStream(
        self, request_iterator: AsyncIterator[ingest_pb2.IngestStreamRequest], context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[ingest_pb2.IngestStreamResponse]:
        """The load has no streams."""
        raise AssertionError("nobody calls it")


@asynccontextmanager
async def over_http(server: HttpServer) -> AsyncIterator[str]:
    """Its address."""
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield "127.0.0.1:{1}".format(*listening.sockets[0].getsockname())
    finally:
        listening.close()
        for writer in server.connections.values():
            writer.close()
        await asyncio.gather(*server.connections, return_exceptions=True)


@asynccontextmanager
async def over_grpc(server: GrpcServer) -> AsyncIterator[str]:
    """Its address."""
    serving = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    ingest_pb2_grpc.add_IngestServiceServicer_to_server(server, serving)
    port = serving.add_insecure_port("127.0.0.1:0")
    await serving.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await serving.stop(None)


def loop_of(load: Load, address: str, protocol: Protocol = "http") -> tuple[OpenLoop, Schedule]:
    """What plays the load."""
    schedule, bodies = plan(load), Bodies(protocol, RUN, load.batch)
    if protocol == "http":
        return OpenLoop(schedule, bodies, address, partial(HttpLane, heads=http_heads(address, KEYS))), schedule
    return OpenLoop(schedule, bodies, address, partial(GrpcLane, heads=grpc_heads(address, KEYS))), schedule


def samples_of(loop: OpenLoop, schedule: Schedule, batch: int) -> Samples:
    """As a run makes them; the store is of no matter here."""
    acknowledged = loop.outcomes.acknowledged
    return Samples(batch, schedule.first_due, acknowledged, acknowledged, schedule.stream)


@pytest.mark.parametrize("pieces", [1, 5])
async def test_everything_is_sent_and_heard(pieces: int) -> None:
    """Law: each sending of the schedule arrives, with the key of its tenant and its ids, and is acknowledged, however answers are cut."""
    server = HttpServer(pieces=pieces)
    server.gate.set()
    async with over_http(server) as address:
        loop, schedule = loop_of(steady(20_000, 0.5, batch=10), address)
        await loop.run()
    assert loop.outcomes.sendings == {ACKNOWLEDGED: len(schedule.due)}
    assert loop.in_flight == 0
    assert not any(map(math.isnan, loop.outcomes.acknowledged))
    numbers = {message_id(RUN, request, 0).encode(): request for request in schedule.request}
    assert Counter(numbers[body[len(b'{"batch":[{"messageId":"') :][:ID_CHARS]] for body in server.bodies) == Counter(schedule.request)
    keys = {head.partition(b"authorization: Basic ")[2].partition(b"\r")[0] for head in server.heads}
    assert keys == {base64.b64encode(f"{KEYS[tenant]}:".encode()) for tenant in schedule.tenant}


async def test_a_server_that_stalls_is_not_forgiven() -> None:
    """Law: when a server stands still, everything that was due meanwhile is late, by as long as it was due before the end: the stall
    is in p99.9 and in the median of what was due in it, although the generator could have sent none of it."""
    server = HttpServer()
    server.gate.set()
    async with over_http(server) as address:
        load = steady(1_000, 1.0, batch=1)
        loop, schedule = loop_of(load, address)

        async def stall() -> None:
            await loop.wait_until_second(0.3)
            server.gate.clear()
            asyncio.get_running_loop().call_later(STALL_SECONDS, server.gate.set)

        await asyncio.gather(loop.run(), stall())
    samples = samples_of(loop, schedule, 1)
    whole = percentiles(samples.histogram("acknowledged"))
    stalled = percentiles(samples.histogram("acknowledged", 0.3, 0.3 + STALL_SECONDS))
    assert whole["p99.9"] > STALL_SECONDS * 900
    assert stalled["p50"] > STALL_SECONDS * 400


async def test_refusals_are_counted_by_their_code() -> None:
    """Law: what is refused, in whole or in part, is not acknowledged, and counts under the code that the server gave."""
    answers = {1: _BUSY, 2: _PARTLY, 3: b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno"}
    server = HttpServer(lambda number: answers.get(number, _OK))
    server.gate.set()
    async with over_http(server) as address:
        loop, schedule = loop_of(Load(steady(1_000, 0.3, batch=10).streams, 10, repeated=0.0), address)
        await loop.run()
    assert loop.outcomes.refused() == {"QUOTA_EXCEEDED": 1, "NO_ID": 1, "HTTP 503": 1}
    assert loop.outcomes.sendings[ACKNOWLEDGED] == len(schedule.due) - 3


async def test_a_lost_connection_is_no_answer_and_replaced() -> None:
    """Law: a request whose connection dies has no answer; what is due later goes over another one."""
    server = HttpServer(lambda number: None if number < 9 else _OK)
    server.gate.set()
    async with over_http(server) as address:
        loop, schedule = loop_of(Load(steady(5_000, 0.3, batch=10).streams, 10, repeated=0.0), address)
        await loop.run()
    assert loop.outcomes.sendings == {NO_ANSWER: 9, ACKNOWLEDGED: len(schedule.due) - 9}
    assert loop.outcomes.refused() == {NO_ANSWER: 9}


async def test_a_repeat_that_is_acknowledged_acknowledges_the_request() -> None:
    """Law: a request counts as acknowledged when any of its sendings was, from the moment it was first due."""
    server = HttpServer(lambda number: _BUSY if number == 0 else _OK)
    server.gate.set()
    async with over_http(server) as address:
        loop, schedule = loop_of(Load(steady(100, 0.2, batch=10).streams, 10, repeated=1.0), address)
        await loop.run()
    assert loop.outcomes.refused() == {}
    assert loop.outcomes.acknowledged[0] >= schedule.due[list(schedule.request).index(0, 1)]


async def test_nobody_listens() -> None:
    """Law: without a server nothing is sent; a loop that is cancelled leaves no task behind."""
    server = HttpServer()
    async with over_http(server) as address:
        pass
    loop, _ = loop_of(steady(1_000, 0.1, batch=10), address)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loop.run(), 0.5)
    assert (loop.outcomes.sent, loop.in_flight) == (0, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("batch", [1, 100, 1_000])
async def test_grpc_says_what_was_meant(batch: int) -> None:
    """Law: a real server of gRPC understands every request, also one that is larger than a window, and its answers are understood."""
    server = GrpcServer(lambda _: ingest_pb2.IngestResponse(accepted=batch))
    async with over_grpc(server) as address:
        loop, schedule = loop_of(steady(batch * 40, 0.5, batch), address, "grpc")
        await loop.run()
    assert loop.outcomes.sendings == {ACKNOWLEDGED: len(schedule.due)}
    expected = Counter(message_id(RUN, request, batch - 1) for request in schedule.request)
    assert Counter(request.events[-1].message_id for request in server.requests) == expected
    assert {len(request.events) for request in server.requests} == {batch}
    assert server.keys == {f"Bearer {KEYS[tenant]}" for tenant in schedule.tenant}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_grpc_refusals_are_counted_by_their_code(code: grpc.StatusCode) -> None:
    """Law: every status is read from a real server's trailers."""
    server = GrpcServer(lambda _: code)
    async with over_grpc(server) as address:
        loop, schedule = loop_of(steady(1_000, 0.05, 10), address, "grpc")
        await loop.run()
    assert loop.outcomes.sendings == {code.name: len(schedule.due)}


async def test_a_connection_that_says_goodbye_gets_no_further_request() -> None:
    """Law: an answer that comes with RST_STREAM and GOAWAY counts, the next request goes over another connection, and none is lost
    between."""
    server = LeavingServer()
    async with over_http(server) as address:
        loop, schedule = loop_of(steady(200, 0.3, 1), address, "grpc")
        await loop.run()
    assert loop.outcomes.sendings == {ACKNOWLEDGED: len(schedule.due)}
    assert server.streams == [1] * len(schedule.due)


async def test_a_rejected_event_over_grpc_is_no_acknowledgement() -> None:
    """Law: a verdict on an event refuses its request, under the verdict's code."""
    verdict = event_pb2.Verdict(index=3, outcome=event_pb2.Verdict.OUTCOME_REJECTED, code="NO_ID")
    server = GrpcServer(lambda _: ingest_pb2.IngestResponse(accepted=9, verdicts=[verdict]))
    async with over_grpc(server) as address:
        loop, schedule = loop_of(steady(1_000, 0.05, 10), address, "grpc")
        await loop.run()
    assert loop.outcomes.sendings == {"NO_ID": len(schedule.due)}


def test_a_status_that_cannot_be_read_is_none() -> None:
    """Law: an answer without a status, or with one that nobody knows, is not taken for one."""
    assert status_of(b"\x88") is None
    assert status_of(b"\x00\x0bgrpc-status\x0299") is None
    assert status_of(b"\x00\x0bgrpc-status\x018") == 8

"""Spans, logs and answers of a process when something goes wrong: told to the operator, without what a customer sent."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator

import aiohttp
import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from opentelemetry import trace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cells.defects import HttpShell
from cells.server import GrpcServer, HttpServer
from cells.tracing import OFF, Spans, current_traceparent, traceparent_of
from dataflow.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from kernel.errors import Failure, Reason
from kernel.metrics import LOOP_DELAY_SECONDS, MemoryMeter
from kernel.process import logs, telemetry
from kernel.process.clock import SystemClock
from tests.support.otlp import collecting
from tests.support.processes import eventually, free_port

WORD = "ada@example.com"
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


class Broken(ingest_pb2_grpc.IngestServiceServicer):
    """Has a defect in every method."""

    async def Ingest(self, request: ingest_pb2.IngestRequest, context: object) -> ingest_pb2.IngestResponse:
        raise KeyError(WORD)

    async def IngestStream(
        self, request_iterator: AsyncIterator[ingest_pb2.IngestStreamRequest], context: object
    ) -> AsyncIterator[ingest_pb2.IngestStreamResponse]:
        yield ingest_pb2.IngestStreamResponse(sequence=1)
        raise KeyError(WORD)


async def broken(_: Request) -> Response:
    """Has a defect, and a cause."""
    try:
        raise ValueError(WORD)
    except ValueError as error:
        raise KeyError(WORD) from error


async def test_a_defect_behind_http_is_an_answer_with_a_code_and_a_line_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    """Law: 500 INTERNAL as JSON with Retry-After; the log names the places and the classes, never the message."""
    log = logs.configure("test")
    server = HttpServer(
        HttpShell([Route("/v1/x", broken)], lambda where, defect: log.error("a defect", where=where, exc_info=defect)), "127.0.0.1:0"
    )
    port = await server.start()
    async with aiohttp.ClientSession() as web:
        for _ in range(2):
            async with web.get(f"http://127.0.0.1:{port}/v1/x?user={WORD}") as answer:
                told = await answer.json()
    await server.stop()
    assert (answer.status, told["code"], set(told)) == (500, "INTERNAL", {"code", "message"})
    assert answer.headers["retry-after"] == "1"
    said = capsys.readouterr().err
    assert WORD not in said
    first = json.loads(said.splitlines()[0])
    assert (first["where"], first["error"]) == ("GET broken", ["KeyError", "ValueError"])
    assert " broken" in first["at"][-1]


async def test_a_defect_behind_grpc_is_internal_with_details() -> None:
    """Law: INTERNAL with an ErrorInfo and a RetryInfo, in unary calls and in streams; what was answered before stays answered."""
    told: list[tuple[str, type[BaseException]]] = []
    server = GrpcServer("127.0.0.1:0", lambda where, defect: told.append((where, type(defect))))
    ingest_pb2_grpc.add_IngestServiceServicer_to_server(Broken(), server.server)
    port = await server.start(["dataflow.ingest.v1.IngestService"])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: ingest_pb2_grpc.IngestServiceAsyncStub = ingest_pb2_grpc.IngestServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await stub.Ingest(ingest_pb2.IngestRequest())
        call = stub.IngestStream()
        assert isinstance(await call.read(), ingest_pb2.IngestStreamResponse)
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            await call.read()
    await server.stop(0)
    for raised in (unary, streamed):
        status = rpc_status.from_call(raised.value)  # type: ignore[arg-type]  # its stubs know synchronous calls only
        info = error_details_pb2.ErrorInfo()
        assert status is not None
        assert status.details[0].Unpack(info)
        assert (raised.value.code(), info.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert WORD not in str(raised.value)
    assert told == [(f"/dataflow.ingest.v1.IngestService/{name}", KeyError) for name in ("Ingest", "IngestStream")]


def test_a_failure_keeps_its_words_in_the_log_and_others_lose_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    """Law: our own reasons are written out; whatever a library says is not, through structlog and through logging."""
    log = logs.configure("test")
    for error in (Failure(Reason.MOVED, "epoch 7"), ValueError(WORD)):
        try:
            raise error
        except (Failure, ValueError):
            log.error("one", exc_info=sys.exc_info())
            logging.getLogger("some.library").exception("two")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["error"] for line in lines] == [["MOVED: epoch 7"]] * 2 + [["ValueError"]] * 2
    assert WORD not in json.dumps(lines)


def work(spans: Spans) -> None:
    """A span in a span; the outer one fails."""
    with spans.start("outer", TRACEPARENT, [TRACEPARENT, TRACEPARENT, "", "nonsense"]) as outer:
        outer.note("tenant", "shop")
        with spans.start("inner", kind=trace.SpanKind.CLIENT) as inner:
            assert inner.traceparent == current_traceparent()
        raise ValueError(WORD)


async def test_spans_are_exported_when_the_process_ends() -> None:
    """Law: what was made in the last moment still arrives; parents, links and failures are as they were, and no message is told."""
    async with collecting(free_port()) as collector:
        tracing = telemetry.tracing("test", {"dataflow.cell": "c"}, collector.endpoint)
        spans = Spans(tracing.tracer)
        with pytest.raises(ValueError, match=WORD):
            work(spans)
        with pytest.raises(Failure), spans.start("refused"):
            raise Failure(Reason.UNKNOWN_KEY)
        await tracing.close()
        await tracing.close()
        found = {told.name: told for told in collector.spans}
        assert (found["outer"].trace, found["outer"].parent, found["outer"].links) == ("a" * 32, "b" * 16, {("a" * 32, "b" * 16)})
        assert found["outer"].attributes == {"dataflow.tenant": "shop", "error.type": "ValueError"}
        assert (found["inner"].parent, found["inner"].trace) == (found["outer"].id, "a" * 32)
        assert found["refused"].attributes == {"error.type": "UNKNOWN_KEY"}
        assert [found[name].span.status.code for name in ("outer", "inner", "refused")] == [2, 0, 0]
        assert WORD.encode() not in b"".join(collector.bodies)
        assert current_traceparent() == ""


async def test_a_collector_that_hangs_holds_up_nobody() -> None:
    """Law: a process ends in time although its collector takes the connection and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        tracing = telemetry.tracing("test", {}, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with Spans(tracing.tracer).start("one"):
            pass
        began = time.monotonic()
        await tracing.close()
        assert time.monotonic() - began < telemetry.FLUSH_SECONDS_MAX + 1.0


async def test_without_a_collector_there_are_no_spans() -> None:
    """Law: one shared object does nothing, whatever is asked of it, and nothing is current."""
    tracing = telemetry.tracing("test", {}, "")
    spans = Spans(tracing.tracer)
    with spans.start("x", TRACEPARENT, [TRACEPARENT]) as span:
        span.note("events", 1)
        assert (span.traceparent, current_traceparent()) == ("", "")
    assert spans.start("x") is OFF.start("y")
    await tracing.close()


@pytest.mark.parametrize("text", [None, "", "x", TRACEPARENT + "\n", "ff" + TRACEPARENT[2:], f"00-{'0' * 32}-{'b' * 16}-01", WORD])
def test_only_a_traceparent_is_taken_over(text: str | None) -> None:
    """Law: what a client sends as traceparent reaches the log only if it is one."""
    assert traceparent_of(text) == ""
    assert traceparent_of(TRACEPARENT) == TRACEPARENT


async def test_a_slice_that_is_too_long_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the gauge shows for how long the loop was held."""
    monkeypatch.setattr(telemetry, "LOOP_PERIOD_SECONDS", 0.2)
    meter, clock = MemoryMeter(), SystemClock()
    watching = asyncio.create_task(telemetry.watch_loop(meter, clock))

    def hold() -> None:
        ends = time.monotonic() + 0.15
        while time.monotonic() < ends:
            pass

    def seen() -> bool:
        hold()
        return meter.values.get((LOOP_DELAY_SECONDS.name, ()), 0.0) > 0.1

    await eventually(seen, "the slice is seen", 5)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

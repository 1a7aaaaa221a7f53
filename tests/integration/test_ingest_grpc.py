"""The gRPC contract on real sockets, over a log in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf import struct_pb2, timestamp_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from dataflow.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from dataflow.types.v1 import event_pb2
from kernel import limits
from kernel.limits import BATCH_EVENTS_MAX, STREAM_WINDOW_BATCHES
from tests.support.cell import FOREIGN_KEY, KEY, QUOTA_KEY, UNKNOWN_KEY, Ingest, running_ingest
from tests.support.processes import eventually

AUTH = (("authorization", f"Bearer {KEY}"),)


@pytest.fixture
async def ingest() -> AsyncIterator[Ingest]:
    async with running_ingest() as running:
        yield running


@pytest.fixture
async def channel(ingest: Ingest) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(ingest.grpc) as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> ingest_pb2_grpc.IngestServiceAsyncStub:
    return ingest_pb2_grpc.IngestServiceStub(channel)


def event(message_id: str = "m1", **fields: object) -> event_pb2.Event:
    """A good track event with some fields replaced."""
    values: dict[str, object] = {"message_id": message_id, "type": event_pb2.EVENT_TYPE_TRACK, "user_id": "u1", "name": "E", **fields}
    return event_pb2.Event(**values)  # type: ignore[arg-type]  # the fields of an event by name


def request(*events: event_pb2.Event) -> ingest_pb2.IngestRequest:
    return ingest_pb2.IngestRequest(events=events)


async def test_a_unary_batch_is_in_the_log_when_it_is_answered(ingest: Ingest, stub: ingest_pb2_grpc.IngestServiceAsyncStub) -> None:
    """And what went in is what stands there."""
    moment = timestamp_pb2.Timestamp(seconds=1_790_000_000, nanos=123_456_000)
    sent = event(json=b'{"total": 9.99, "n": 12345678901234567890}', timestamp=moment, anonymous_id="a", context_json=b'{"ip": "::1"}')
    answer = await stub.Ingest(request(sent), metadata=AUTH)
    assert (answer.accepted, list(answer.verdicts)) == (1, [])
    (envelope,) = await ingest.envelopes()
    assert json.loads(envelope.payload) == {
        "type": "track",
        "messageId": "m1",
        "userId": "u1",
        "anonymousId": "a",
        "event": "E",
        "timestamp": "2026-09-21T14:13:20.123456Z",
        "properties": {"total": 9.99, "n": 12345678901234567890},
        "context": {"ip": "::1"},
    }
    assert envelope.original_at == 1_790_000_000_123_456


async def test_a_struct_is_taken_like_json(ingest: Ingest, stub: ingest_pb2_grpc.IngestServiceAsyncStub) -> None:
    """The client's choice; unicode and numbers included."""
    struct = struct_pb2.Struct()
    struct.update({"name": "Zoë 😀", "total": 9.5, "list": [1, None, True]})
    await stub.Ingest(request(event(struct=struct)), metadata=AUTH)
    (envelope,) = await ingest.envelopes()
    assert json.loads(envelope.payload)["properties"] == {"name": "Zoë 😀", "total": 9.5, "list": [1, None, True]}


@pytest.mark.parametrize(
    "bad",
    [
        event(json=b"{"),
        event(json=b'{}, "userId": "somebody else"'),
        event(json=b'{"x": NaN}'),
        event(json=b"\xff"),
        event(json=b"[1]"),
        event(context_json=b"}"),
        event(type=0),
        event(user_id=""),
        event(name=""),
        event(user_id="a\x00b"),
        event(timestamp=timestamp_pb2.Timestamp(seconds=10**12)),
        event(struct=struct_pb2.Struct(fields={"x": struct_pb2.Value(number_value=float("nan"))})),
    ],
)
async def test_a_bad_event_is_rejected_alone(ingest: Ingest, stub: ingest_pb2_grpc.IngestServiceAsyncStub, bad: event_pb2.Event) -> None:
    """OK for the RPC, REJECTED with a code for the one, nothing for its neighbours."""
    bad = event_pb2.Event.FromString(bad.SerializeToString())
    bad.message_id = "bad"
    answer = await stub.Ingest(request(event("a"), bad, event("b")), metadata=AUTH)
    assert answer.accepted == 2
    assert [(v.index, v.outcome, bool(v.code)) for v in answer.verdicts] == [(1, event_pb2.Verdict.OUTCOME_REJECTED, True)]
    assert [e.message_id for e in await ingest.envelopes()] == ["a", "b"]


async def test_repeats_and_all_verdicts(stub: ingest_pb2_grpc.IngestServiceAsyncStub) -> None:
    """A repeat inside the request is DUPLICATE; `x-verdicts: all` lists every event."""
    answer = await stub.Ingest(request(event("a"), event("a")), metadata=(*AUTH, ("x-verdicts", "all")))
    assert [v.outcome for v in answer.verdicts] == [event_pb2.Verdict.OUTCOME_ACCEPTED, event_pb2.Verdict.OUTCOME_DUPLICATE]


def reason_of(error: grpc.aio.AioRpcError) -> tuple[str, float]:
    """ErrorInfo's reason, and RetryInfo's delay in seconds (0 when there is none)."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads code, details and trailing metadata only
    assert status is not None
    reason, delay = "", 0.0
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        if detail.Unpack(retry):
            delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return reason, delay


@pytest.mark.parametrize(
    ("key", "code", "reason"),
    [
        (None, grpc.StatusCode.UNAUTHENTICATED, "NO_CREDENTIAL"),
        (UNKNOWN_KEY, grpc.StatusCode.UNAUTHENTICATED, "UNKNOWN_KEY"),
        (FOREIGN_KEY, grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_ZONE"),
    ],
)
async def test_refusals_carry_error_details(
    stub: ingest_pb2_grpc.IngestServiceAsyncStub, key: str | None, code: grpc.StatusCode, reason: str
) -> None:
    """google.rpc.ErrorInfo names the reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Ingest(request(event()), metadata=(("authorization", f"Bearer {key}"),) if key else ())
    assert (caught.value.code(), reason_of(caught.value)[0]) == (code, reason)


async def test_the_quota_is_resource_exhausted_with_retry_info(stub: ingest_pb2_grpc.IngestServiceAsyncStub) -> None:
    """The client is told how long to wait."""
    auth = (("x-api-key", QUOTA_KEY),)
    await stub.Ingest(request(*(event(f"m{n}") for n in range(5))), metadata=auth)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Ingest(request(event("later")), metadata=auth)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    reason, delay = reason_of(caught.value)
    assert reason == "QUOTA_EXCEEDED"
    assert delay >= 1


async def test_an_empty_batch_is_an_invalid_argument(stub: ingest_pb2_grpc.IngestServiceAsyncStub) -> None:
    """Not a silent OK."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Ingest(request(), metadata=AUTH)
    assert (caught.value.code(), reason_of(caught.value)[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "EMPTY_BATCH")


async def batches(count: int, size: int = 1) -> AsyncIterator[ingest_pb2.IngestStreamRequest]:
    for number in range(count):
        events = [event(f"{number:04}-{n:04}") for n in range(size)]
        yield ingest_pb2.IngestStreamRequest(sequence=number, batch=request(*events))


async def test_a_stream_acknowledges_every_batch_in_order(ingest: Ingest, stub: ingest_pb2_grpc.IngestServiceAsyncStub) -> None:
    """More batches than the window holds, and the log keeps the stream's order."""
    count = STREAM_WINDOW_BATCHES * 3
    answers = [answer async for answer in stub.IngestStream(batches(count), metadata=AUTH)]
    assert [answer.sequence for answer in answers] == list(range(count))
    assert all(answer.result.accepted == 1 for answer in answers)
    stored = [e.message_id for e in await ingest.envelopes()]
    assert stored == sorted(stored)
    assert len(stored) == count


async def test_a_stream_of_uneven_batches_keeps_its_order(ingest: Ingest, stub: ingest_pb2_grpc.IngestServiceAsyncStub) -> None:
    """A large batch, admitted in slices, is not overtaken by the small one behind it."""

    async def uneven() -> AsyncIterator[ingest_pb2.IngestStreamRequest]:
        for number, size in enumerate((BATCH_EVENTS_MAX, 1, BATCH_EVENTS_MAX, 1, 1)):
            yield ingest_pb2.IngestStreamRequest(sequence=number, batch=request(*(event(f"{number}-{n:04}") for n in range(size))))

    assert [answer.sequence async for answer in stub.IngestStream(uneven(), metadata=AUTH)] == list(range(5))
    stored = [e.message_id for e in await ingest.envelopes()]
    assert stored == sorted(stored)
    assert len(stored) == 2 * BATCH_EVENTS_MAX + 3


async def test_a_refused_batch_does_not_end_the_stream(stub: ingest_pb2_grpc.IngestServiceAsyncStub) -> None:
    """It is answered with its error, and the next one with its result."""

    async def mixed() -> AsyncIterator[ingest_pb2.IngestStreamRequest]:
        yield ingest_pb2.IngestStreamRequest(sequence=1, batch=request())
        yield ingest_pb2.IngestStreamRequest(sequence=2, batch=request(event()))

    first, second = [answer async for answer in stub.IngestStream(mixed(), metadata=AUTH)]
    assert (first.error.code, first.error.retriable) == ("EMPTY_BATCH", False)
    assert (second.sequence, second.result.accepted, second.error.code) == (2, 1, "")


async def test_a_stream_whose_sequence_falls_is_ended(stub: ingest_pb2_grpc.IngestServiceAsyncStub) -> None:
    """What was acknowledged before stays so."""

    async def falling() -> AsyncIterator[ingest_pb2.IngestStreamRequest]:
        yield ingest_pb2.IngestStreamRequest(sequence=2, batch=request(event("a")))
        yield ingest_pb2.IngestStreamRequest(sequence=2, batch=request(event("b")))

    call = stub.IngestStream(falling(), metadata=AUTH)
    first = await call.read()
    assert isinstance(first, ingest_pb2.IngestStreamResponse)
    assert first.sequence == 2
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_draining_server_ends_open_streams_with_unavailable(ingest: Ingest, stub: ingest_pb2_grpc.IngestServiceAsyncStub) -> None:
    """After the batches in flight; the client opens another stream elsewhere."""
    call = stub.IngestStream(metadata=AUTH)
    await call.write(ingest_pb2.IngestStreamRequest(sequence=1, batch=request(event())))
    answer = await call.read()
    assert isinstance(answer, ingest_pb2.IngestStreamResponse)
    assert answer.result.accepted == 1
    assert ingest.servicer is not None
    ingest.servicer.drain()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(5):
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_vanishes_in_mid_stream_leaves_no_task(ingest: Ingest) -> None:
    """What it sent before is in the log, and nothing of its stream runs on."""
    channel = grpc.aio.insecure_channel(ingest.grpc)
    call = ingest_pb2_grpc.IngestServiceStub(channel).IngestStream(metadata=AUTH)
    await call.write(ingest_pb2.IngestStreamRequest(sequence=1, batch=request(event())))
    await call.read()
    await channel.close()

    def is_quiet() -> bool:
        return not any(task.get_name().startswith("ingest-") for task in asyncio.all_tasks())

    await eventually(is_quiet, "no task of the stream")
    assert len(await ingest.envelopes()) == 1


async def test_bytes_that_are_no_message_are_a_malformed_body(channel: grpc.aio.Channel) -> None:
    """Law: an RPC, unary or stream, whose message cannot be parsed ends soon with INVALID_ARGUMENT and MALFORMED_BODY."""
    service, garbage = "/dataflow.ingest.v1.IngestService/", b"\xff\xff\xff"

    async def lines() -> AsyncIterator[bytes]:
        yield ingest_pb2.IngestStreamRequest(sequence=1, batch=request(event())).SerializeToString()
        yield garbage

    async with asyncio.timeout(5):
        unary_of: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(service + "Ingest")
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await unary_of(garbage, metadata=AUTH)
        stream_of: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(service + "IngestStream")
        stream = stream_of(lines(), metadata=AUTH)
        first = await stream.read()
        assert isinstance(first, bytes)
        assert ingest_pb2.IngestStreamResponse.FromString(first).result.accepted == 1
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            await stream.read()
    for caught in (unary, streamed):
        assert (caught.value.code(), reason_of(caught.value)[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_BODY")


async def test_a_stream_that_grew_old_is_ended_with_a_reason_of_its_own(
    stub: ingest_pb2_grpc.IngestServiceAsyncStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: UNAVAILABLE, STREAM_ENDED and a delay; nobody has moved."""
    monkeypatch.setattr(limits, "STREAM_SECONDS_MAX", 0.1)
    call = stub.IngestStream(metadata=AUTH)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(5):
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert reason_of(caught.value) == ("STREAM_ENDED", 1.0)


async def test_health_and_reflection_answer(channel: grpc.aio.Channel) -> None:
    """For Envoy's checks and for grpcurl."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    health = await check(health_pb2.HealthCheckRequest(service="dataflow.ingest.v1.IngestService"))
    assert health.status == health_pb2.HealthCheckResponse.SERVING

    async def asking() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    reflect = channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    async for answer in reflect(asking()):
        assert "dataflow.ingest.v1.IngestService" in [s.name for s in answer.list_services_response.service]
        break

"""The gRPC shell: unary batches, and a stream of batches with acknowledgements in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
from opentelemetry.trace import SpanKind

from cells.admission.table import Admission
from cells.answers import abort, retry_after
from cells.ingest.accept import Acceptor, Batch, slices
from cells.ingest.authenticate import Credentials, Sender, authenticate_sender, key_of_headers
from cells.ingest.codec_grpc import item_of, micros, response_of
from cells.ingest.stamp import stamp_of
from cells.tracing import HEADER, OFF, Spans, traceparent_of
from dataflow.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from kernel import limits
from kernel.clock import Clock
from kernel.errors import Failure, Reason, Retry

Context = grpc.aio.ServicerContext[object, object]


class IngestGrpc(ingest_pb2_grpc.IngestServiceServicer):
    """`dataflow.ingest.v1.IngestService`."""

    def __init__(self, acceptor: Acceptor, admission: Callable[[], Admission], clock: Clock, spans: Spans = OFF) -> None:
        self._acceptor = acceptor
        self._admission = admission
        self._clock = clock
        self._spans = spans
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Tells open streams to end after the batches that they have in flight."""
        self._draining.set()

    async def Ingest(self, request: ingest_pb2.IngestRequest, context: Context) -> ingest_pb2.IngestResponse:
        """One batch."""
        headers = _headers(context)
        try:
            return await self._take(request, headers, self._deadline(context))
        except Failure as failure:
            await abort(context, failure)

    async def IngestStream(
        self, request_iterator: AsyncIterator[ingest_pb2.IngestStreamRequest], context: Context
    ) -> AsyncIterator[ingest_pb2.IngestStreamResponse]:
        """Batches in flight are bounded by the window: the next one is read when the oldest is answered."""
        headers = _headers(context)
        ends = self._clock.monotonic() + limits.STREAM_SECONDS_MAX
        try:
            with self._acceptor.request():
                self._sender(headers)
                stamp_of(headers)
        except Failure as failure:
            await abort(context, failure)
        window: asyncio.Queue[asyncio.Task[ingest_pb2.IngestStreamResponse] | None] = asyncio.Queue(limits.STREAM_WINDOW_BATCHES)
        reader = asyncio.create_task(self._read(request_iterator, window, headers, ends), name="ingest-stream")
        try:
            while (task := await window.get()) is not None:
                yield await task
            if why := await reader:
                await abort(context, why)
        finally:
            reader.cancel()
            while not window.empty():
                if (left := window.get_nowait()) is not None:
                    left.cancel()

    async def _read(
        self,
        requests: AsyncIterator[ingest_pb2.IngestStreamRequest],
        window: asyncio.Queue[asyncio.Task[ingest_pb2.IngestStreamResponse] | None],
        headers: dict[str, str],
        ends: float,
    ) -> Failure | None:
        """Starts each batch as it comes; why the stream must end, or None when the client ended it."""
        source = aiter(requests)
        last = -1
        try:
            while (request := await self._next(source, ends)) is not None:
                if request.sequence <= last:
                    raise Failure(Reason.INVALID_FIELD, "sequence must grow")
                last = request.sequence
                task = asyncio.create_task(self._one(request, headers), name="ingest-batch")
                await window.put(task)
                # Tasks reach their append in the order of the stream, but for a batch that is worked on in slices: it is waited for.
                if len(request.batch.events) > limits.SLICE_EVENTS_MAX or request.batch.ByteSize() > limits.SLICE_BYTES_MAX // 2:
                    await asyncio.wait((task,))
        except Failure as failure:
            return failure
        finally:
            await window.put(None)  # whatever happened, the handler is not left waiting
        return None

    async def _next(self, source: AsyncIterator[ingest_pb2.IngestStreamRequest], ends: float) -> ingest_pb2.IngestStreamRequest | None:
        """The next request; None at the client's end. Raises Failure: DRAINING, STREAM_ENDED of an old stream, MALFORMED_BODY."""
        coming = asyncio.ensure_future(anext(source, None))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((coming, draining), timeout=max(0.0, ends - self._clock.monotonic()), return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                return coming.result()
            raise Failure(Reason.DRAINING if draining.done() else Reason.STREAM_ENDED, retry_after_seconds=1)
        finally:
            draining.cancel()
            if not coming.done():
                coming.cancel()

    async def _one(self, request: ingest_pb2.IngestStreamRequest, headers: dict[str, str]) -> ingest_pb2.IngestStreamResponse:
        answer = ingest_pb2.IngestStreamResponse(sequence=request.sequence)
        try:
            deadline = self._clock.monotonic() + limits.APPEND_SECONDS_MAX
            result = await self._take(request.batch, headers, deadline)
            answer.result.CopyFrom(result)
        except Failure as failure:
            answer.error.code = failure.reason.name
            answer.error.message = failure.message
            answer.error.retriable = failure.reason.spec.retry is Retry.LATER
            answer.error.retry_after_ms = int((retry_after(failure) or 0) * 1_000)
        return answer

    async def _take(self, request: ingest_pb2.IngestRequest, headers: dict[str, str], deadline: float) -> ingest_pb2.IngestResponse:
        came_with = traceparent_of(headers.get(HEADER))
        with self._acceptor.request() as held:
            sender = self._sender(headers)
            held.belong(sender.tenant.name)
            size = request.ByteSize()
            held.resize(size)
            await self._acceptor.turn(size)
            with self._spans.start("ingest", came_with, kind=SpanKind.SERVER) as span:
                span.note("tenant", sender.tenant.name)
                span.note("events", len(request.events))
                batch = await _batch(request, sender, span.traceparent or came_with)
                admitted = await self._acceptor.accept(sender, stamp_of(headers), batch, deadline)
        return response_of(admitted, headers.get("x-verdicts") == "all")

    def _sender(self, headers: dict[str, str]) -> Sender:
        key = key_of_headers(headers.get("authorization"), headers.get("x-api-key"))
        return authenticate_sender(Credentials(header_key=key), self._admission())

    def _deadline(self, context: Context) -> float:
        """The client's deadline, and no later than our own."""
        left = context.time_remaining()
        return self._clock.monotonic() + min(limits.BODY_READ_SECONDS, left if left is not None else limits.BODY_READ_SECONDS)


async def _batch(request: ingest_pb2.IngestRequest, sender: Sender, trace: str) -> Batch:
    plan = sender.tenant.plan
    if not request.events:
        raise Failure(Reason.EMPTY_BATCH)
    if len(request.events) > plan.batch_events_max:
        raise Failure(Reason.TOO_MANY_EVENTS, f"{len(request.events)} events, at most {plan.batch_events_max}")
    if request.ByteSize() > plan.batch_bytes_max:
        raise Failure(Reason.BODY_TOO_LARGE, f"more than {plan.batch_bytes_max} bytes")
    sent_at = micros(request.sent_at.seconds, request.sent_at.nanos) if request.HasField("sent_at") else None
    items: list[bytes] = []
    for start, end in slices([event.ByteSize() for event in request.events]):
        if start:
            await asyncio.sleep(0)
        items += (item_of(event) for event in request.events[start:end])
    return Batch(items, sent_at, trace)


def _headers(context: Context) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}

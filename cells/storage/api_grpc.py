"""The gRPC shells: QueryService for a tenant's analysts, StorageService for the processing role of the same cell.

StorageService authenticates nobody itself: it must be bound where only workloads of the cell reach it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

import grpc
from opentelemetry.trace import SpanKind

from cells.answers import abort
from cells.storage import codec_grpc as codec
from cells.storage.ask import Asker, Authenticate, Questions
from cells.storage.store import Store
from cells.tracing import HEADER, OFF, Spans, traceparent_of
from dataflow.storage.v1 import query_pb2, query_pb2_grpc, storage_pb2, storage_pb2_grpc
from kernel.clock import Clock
from kernel.effects import Unkeepable
from kernel.errors import Failure, Reason
from kernel.ids import CellId
from kernel.limits import APPLY_SECONDS_MAX

Context = grpc.aio.ServicerContext[Any, Any]
Message = TypeVar("Message")


class QueryGrpc(query_pb2_grpc.QueryServiceServicer):
    """See query.proto."""

    def __init__(self, questions: Questions, authenticate: Authenticate) -> None:
        self._questions = questions
        self._authenticate = authenticate

    async def ListEvents(self, request: query_pb2.ListEventsRequest, context: Context) -> query_pb2.ListEventsResponse:
        """A page."""

        async def answer() -> query_pb2.ListEventsResponse:
            asked = codec.asked_of(request.filter)
            events, token = await self._questions.list_events(self._asker(context), asked, request.page_size, request.page_token)
            return query_pb2.ListEventsResponse(events=[codec.event_proto(event) for event in events], next_page_token=token)

        return await _answer(context, answer())

    async def GetEvent(self, request: query_pb2.GetEventRequest, context: Context) -> query_pb2.StoredEvent:
        """One event."""

        async def answer() -> query_pb2.StoredEvent:
            return codec.event_proto(await self._questions.get_event(self._asker(context), request.message_id))

        return await _answer(context, answer())

    async def CountEvents(self, request: query_pb2.CountEventsRequest, context: Context) -> query_pb2.CountEventsResponse:
        """Counts over time."""

        async def answer() -> query_pb2.CountEventsResponse:
            asked = codec.asked_of(request.filter)
            found = await self._questions.count_events(self._asker(context), asked, request.bucket_seconds)
            return query_pb2.CountEventsResponse(
                buckets=[query_pb2.Bucket(start=codec.timestamp(start), events=events) for start, events in found]
            )

        return await _answer(context, answer())

    async def GetProfile(self, request: query_pb2.GetProfileRequest, context: Context) -> query_pb2.Profile:
        """One person."""

        async def answer() -> query_pb2.Profile:
            found = await self._questions.profile(self._asker(context), request.user_id or None, request.anonymous_id or None)
            return codec.profile_proto(found)

        return await _answer(context, answer())

    async def TraceEvent(self, request: query_pb2.TraceEventRequest, context: Context) -> query_pb2.TraceEventResponse:
        """Where an event is."""

        async def answer() -> query_pb2.TraceEventResponse:
            return codec.trace_proto(await self._questions.trace(self._asker(context), request.message_id))

        return await _answer(context, answer())

    def _asker(self, context: Context) -> Asker:
        metadata = context.invocation_metadata() or ()
        headers = {key: value for key, value in metadata if isinstance(value, str)}
        return Asker(*self._authenticate(headers), traceparent_of(headers.get(HEADER)))


class StorageGrpc(storage_pb2_grpc.StorageServiceServicer):
    """See storage.proto."""

    def __init__(self, store: Store, clock: Clock, spans: Spans = OFF) -> None:
        self._store = store
        self._clock = clock
        self._spans = spans

    async def Apply(self, request: storage_pb2.ApplyRequest, context: Context) -> storage_pb2.ApplyResponse:
        """One transaction. INVALID_ARGUMENT: values that can never be kept, trying again is useless."""
        remaining = context.time_remaining()
        seconds = APPLY_SECONDS_MAX if remaining is None else min(remaining, APPLY_SECONDS_MAX)
        deadline = self._clock.monotonic() + seconds

        async def answer() -> storage_pb2.ApplyResponse:
            parent = traceparent_of(dict(context.invocation_metadata() or ()).get(HEADER))
            try:
                with self._spans.start("storage.apply", parent, kind=SpanKind.SERVER):
                    return codec.apply_response(await self._store.apply(codec.apply_of(request), deadline))
            except Unkeepable as error:
                raise Failure(Reason.INVALID_FIELD, str(error)) from error

        return await _answer(context, answer())

    async def Positions(self, request: storage_pb2.PositionsRequest, context: Context) -> storage_pb2.PositionsResponse:
        """The next offsets."""

        async def answer() -> storage_pb2.PositionsResponse:
            return storage_pb2.PositionsResponse(positions=await self._store.positions())

        return await _answer(context, answer())

    async def Replicated(self, request: storage_pb2.ReplicatedRequest, context: Context) -> storage_pb2.PositionsResponse:
        """The next offsets of another log."""

        async def answer() -> storage_pb2.PositionsResponse:
            return storage_pb2.PositionsResponse(positions=await self._store.replicated(CellId(request.origin)))

        return await _answer(context, answer())

    async def Replicate(self, request: storage_pb2.ReplicateRequest, context: Context) -> storage_pb2.ReplicateResponse:
        """One of them moves."""

        async def answer() -> storage_pb2.ReplicateResponse:
            try:
                moved = await self._store.replicate(CellId(request.origin), request.partition, request.expected, request.next)
            except ValueError as error:
                raise Failure(Reason.INVALID_FIELD, str(error)) from error
            return storage_pb2.ReplicateResponse(moved=moved)

        return await _answer(context, answer())


async def _answer(context: Context, answer: Awaitable[Message]) -> Message:
    try:
        return await answer
    except Failure as failure:
        await abort(context, failure)

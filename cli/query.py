"""A client of a tenant's cell for reading (`dataflow.storage.v1.QueryService`), through its zone's endpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio

from cli.directory import explain
from cli.errors import Unable
from dataflow.storage.v1 import query_pb2 as pb
from dataflow.storage.v1 import query_pb2_grpc

CALL_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.1


class Query:
    """`async with Query("127.0.0.1:7400", read_key) as query`. Every method raises Unable with the cell's own words.

    A key that was just minted is unknown to edge and cell for a moment: for `patience_seconds` from now on that is tried again.
    """

    def __init__(self, address: str, read_key: str, patience_seconds: float = 0.0) -> None:
        self._patient_until = time.monotonic() + patience_seconds
        self._address = address
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = query_pb2_grpc.QueryServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {read_key}"),)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._channel.close()

    async def page(self, filters: pb.EventFilter, size: int = 0, token: str = "") -> pb.ListEventsResponse:
        """One page, newest first."""
        request = pb.ListEventsRequest(filter=filters, page_size=size, page_token=token)
        answer: pb.ListEventsResponse = await self._call(self._stub.ListEvents, request)
        return answer

    async def events(self, filters: pb.EventFilter, limit: int) -> AsyncIterator[pb.StoredEvent]:
        """At most `limit` events, newest first, over as many pages as it takes."""
        token = ""
        while limit > 0:
            found = await self.page(filters, min(limit, 1_000), token)
            for event in found.events[:limit]:
                yield event
            limit -= len(found.events)
            token = found.next_page_token
            if not token:
                return

    async def trace(self, message_id: str) -> pb.TraceEventResponse:
        """Where an event is, and why."""
        answer: pb.TraceEventResponse = await self._call(self._stub.TraceEvent, pb.TraceEventRequest(message_id=message_id))
        return answer

    async def _call(self, method: Any, request: object) -> Any:
        while True:
            try:
                return await method(request, metadata=self._metadata, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAUTHENTICATED or time.monotonic() > self._patient_until:
                    raise Unable(*explain(error, f"the cell behind {self._address}")) from error
            await asyncio.sleep(_PAUSE_SECONDS)

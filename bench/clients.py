"""The lean clients of the generator: HTTP/1.1 over raw connections, gRPC with bodies that are bytes already."""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, cast

import grpc
import grpc.aio

from dataflow.ingest.v1 import ingest_pb2

REQUEST_SECONDS_MAX: Final = 30.0
_INGEST: Final = "/dataflow.ingest.v1.IngestService/Ingest"
_GRPC_CHANNELS: Final = 4
_NO_ANSWER: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_ENDED: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length: "


class Client(Protocol):
    """Sends one body for the tenant of an index. True: every event of it was acknowledged."""

    async def send(self, tenant: int, path: str, body: bytes) -> bool:
        """Raises OSError or TimeoutError when there is no answer."""
        ...

    async def close(self) -> None:
        """Closes its connections."""
        ...


class _Lane(asyncio.Protocol):
    """One connection, one request at a time. An answer is (status, body); Envoy always states the length."""

    def __init__(self) -> None:
        self._data = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        head = self._data.find(_ENDED)
        if head < 0 or self._answer is None or self._answer.done():
            return
        at = self._data.find(_LENGTH, 0, head)
        length = int(self._data[at + len(_LENGTH) : self._data.find(b"\r", at)]) if at >= 0 else 0
        if len(self._data) >= head + len(_ENDED) + length:
            self._answer.set_result((int(self._data[9:12]), self._data[head + len(_ENDED) :]))
            self._data = b""

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the connection was closed"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Raises OSError when the connection is lost."""
        if self.transport is None:
            raise ConnectionResetError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer


class HttpClient:
    """At most `connections` at once; a request that finds none idle waits, and its wait counts."""

    def __init__(self, address: str, keys: Sequence[str], connections: int = 128) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._heads = [
            b" HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\nauthorization: Basic %s\r\ncontent-length: "
            % (address.encode(), base64.b64encode(f"{key}:".encode()))
            for key in keys
        ]
        self._idle: deque[_Lane] = deque()
        self._turns = asyncio.Semaphore(connections)

    async def send(self, tenant: int, path: str, body: bytes) -> bool:
        """See Client."""
        request = b"POST %s%s%d\r\n\r\n%s" % (path.encode(), self._heads[tenant], len(body), body)
        async with self._turns:
            lane = await self._lane()
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                status, text = await lane.ask(request)
            self._idle.append(lane)
        return status == 200 and b"rejected" not in text

    async def _lane(self) -> _Lane:
        while self._idle:
            lane = self._idle.pop()
            if lane.transport is not None:
                return lane
        _, lane = await asyncio.get_running_loop().create_connection(_Lane, self._host, self._port)
        return lane

    async def close(self) -> None:
        """See Client."""
        for lane in self._idle:
            if lane.transport is not None:
                lane.transport.close()


class GrpcClient:
    """A few channels, as a service with several pods would have."""

    def __init__(self, address: str, keys: Sequence[str]) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(_GRPC_CHANNELS)]
        self._calls: list[grpc.aio.UnaryUnaryMultiCallable[bytes, ingest_pb2.IngestResponse]] = [
            channel.unary_unary(_INGEST, request_serializer=None, response_deserializer=ingest_pb2.IngestResponse.FromString)
            for channel in self._channels
        ]
        self._metadata = [(("authorization", f"Bearer {key}"),) for key in keys]
        self._next = 0

    async def send(self, tenant: int, path: str, body: bytes) -> bool:
        """See Client."""
        self._next = (self._next + 1) % len(self._calls)
        try:
            answer = await self._calls[self._next](body, metadata=self._metadata[tenant], timeout=REQUEST_SECONDS_MAX)
        except grpc.aio.AioRpcError as error:
            if error.code() in _NO_ANSWER:
                raise ConnectionResetError(error.details()) from error
            return False
        return not answer.verdicts

    async def close(self) -> None:
        """See Client."""
        for channel in self._channels:
            await channel.close()

"""The directory over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc

from dataflow.routing.v1 import routing_pb2, routing_pb2_grpc
from kernel.journal import Signed

_OPTIONS = (
    ("grpc.max_receive_message_length", 256 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class GrpcDirectory:
    """`cells.admission.follow.Directory`."""

    def __init__(self, address: str, token: str, follower: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub = routing_pb2_grpc.RouterServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._follower = follower

    async def watch(self, after_revision: int) -> AsyncGenerator[Signed, None]:
        """Ends or raises ConnectionError when the directory goes away."""
        request = routing_pb2.WatchRequest(after_revision=after_revision, follower=self._follower)
        call = self._stub.Watch(request, metadata=self._metadata)
        try:
            async for update in call:
                yield Signed(update.update, update.signature)
        except grpc.aio.AioRpcError as error:
            raise ConnectionError(f"the directory answers {error.code().name}") from error
        finally:
            call.cancel()

    async def close(self) -> None:
        """Ends the watch."""
        await self._channel.close()

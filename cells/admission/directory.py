"""The directory over gRPC: a fresh connection for every watch, to the next address after each that is lost, since of a directory at several
sites only the leader answers."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator

import grpc

from dataflow.routing.v1 import routing_pb2, routing_pb2_grpc
from kernel.journal import Signed

_OPTIONS = (
    ("grpc.max_receive_message_length", 256 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # how long a connection may take: an address that is silent is not waited for
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),  # else gRPC waits a minute, whatever stands above
    ("grpc.http2.max_pings_without_data", 0),  # a watch is silent for as long as nothing changes
)


class GrpcDirectory:
    """`cells.admission.follow.Directory`. `addresses` are host:port, separated by commas."""

    def __init__(self, addresses: str, token: str, follower: str) -> None:
        self._addresses = deque(addresses.split(","))
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._follower = follower

    async def watch(self, after_revision: int) -> AsyncGenerator[Signed, None]:
        """Ends or raises ConnectionError when the directory goes away."""
        request = routing_pb2.WatchRequest(after_revision=after_revision, follower=self._follower)
        async with grpc.aio.insecure_channel(self._addresses[0], options=_OPTIONS) as channel:
            call = routing_pb2_grpc.RouterServiceStub(channel).Watch(request, metadata=self._metadata)
            try:
                async for update in call:
                    yield Signed(update.update, update.signature)
            except grpc.aio.AioRpcError as error:
                self._addresses.rotate(-1)
                raise ConnectionError(f"the directory answers {error.code().name}") from error
            finally:
                call.cancel()

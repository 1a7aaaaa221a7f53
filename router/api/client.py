"""The follower's end of Watch: a fresh connection for every attempt, so that no backoff of gRPC's own comes on top of ours; to the next
address after each that is lost, since of a directory at several sites only the leader answers."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Final

import grpc

from dataflow.routing.v1 import routing_pb2, routing_pb2_grpc
from kernel.journal import Signed
from router.agent.feed import FeedLost

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # how long a connection may take: an address that is silent is not waited for
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),  # else gRPC waits a minute, whatever stands above
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


class DirectoryFeed:
    """`router.agent.feed.Feed` over gRPC. `addresses` are host:port, separated by commas."""

    def __init__(self, addresses: str, token: str, follower: str) -> None:
        self._addresses = deque(addresses.split(","))
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._follower = follower

    async def watch(self, after_revision: int, connected: Callable[[], None]) -> AsyncGenerator[Signed, None]:
        """Signed updates until the connection is lost, which raises FeedLost. `connected` is called once the directory answers."""
        async with grpc.aio.insecure_channel(self._addresses[0], options=_OPTIONS) as channel:
            request = routing_pb2.WatchRequest(after_revision=after_revision, follower=self._follower)
            call = routing_pb2_grpc.RouterServiceStub(channel).Watch(request, metadata=self._metadata)
            try:
                await call.initial_metadata()
                if not call.done():
                    connected()
                async for message in call:
                    yield Signed(message.update, message.signature)
            except grpc.aio.AioRpcError as error:
                self._addresses.rotate(-1)
                raise FeedLost(f"{error.code().name}: {error.details()}") from error
            raise FeedLost("the directory ended the stream")

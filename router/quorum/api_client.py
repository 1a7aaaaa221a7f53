"""`peers.Peer` over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Final, TypeVar

import grpc
import msgspec

from dataflow.routing.v1 import quorum_pb2 as pb
from dataflow.routing.v1 import quorum_pb2_grpc
from kernel.errors import Failure, Reason
from kernel.ids import ZoneName
from router.placement.entry import WITNESS, Chunk, Entry, Place
from router.quorum import codec
from router.quorum.rules import Append, Appended, Candidacy, Vote

_CALL_SECONDS: Final = 2.0
_CHUNK_SECONDS: Final = 60.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", codec.MESSAGE_BYTES_MAX),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 1_000),
    ("grpc.http2.ping_timeout_ms", 1_000),  # else gRPC waits a minute, whatever stands above
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
Answer = TypeVar("Answer")


class GrpcPeer:
    """See the port. `site` is the other site's name, `address` host:port of its QuorumService."""

    def __init__(self, zone: ZoneName, site: str, address: str, token: str) -> None:
        self._zone = zone
        self._site = site
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub: quorum_pb2_grpc.QuorumServiceAsyncStub = quorum_pb2_grpc.QuorumServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def close(self) -> None:
        """Cuts the channel."""
        await self._channel.close(None)

    async def vote(self, asked: Candidacy) -> Vote:
        """See the port."""
        request = codec.candidacy(self._zone, asked)
        answer = await self._asked(self._stub.RequestVote(request, metadata=self._metadata, timeout=_CALL_SECONDS))
        return Vote(answer.granted, answer.term, answer.blank)

    async def append(self, append: Append) -> Appended:
        """See the port."""
        request = codec.append(self._zone, append, self._site == WITNESS)
        answer = await self._asked(self._stub.AppendEntries(request, metadata=self._metadata, timeout=_CALL_SECONDS))
        return Appended(answer.accepted, answer.term)

    async def entries(self, after: int) -> Sequence[tuple[Place, Entry]] | None:
        """See the port."""
        request = pb.ListEntriesRequest(zone=self._zone, after=after)
        answer = await self._asked(self._stub.ListEntries(request, metadata=self._metadata, timeout=_CALL_SECONDS))
        return None if answer.trimmed else [codec.placed_of(one) for one in answer.entries]

    async def copy(self) -> AsyncIterator[Chunk]:
        """See the port."""
        request = pb.ReadCopyRequest(zone=self._zone)
        try:
            call = self._stub.ReadCopy(request, metadata=self._metadata)
            chunks = aiter(call)
            while (message := await asyncio.wait_for(anext(chunks, None), _CHUNK_SECONDS)) is not None:
                yield msgspec.json.decode(message.chunk, type=Chunk)
        except TimeoutError as error:
            call.cancel()
            raise Failure(Reason.STORE_UNAVAILABLE, f"site {self._site}: its copy does not go on") from error
        except grpc.aio.AioRpcError as error:
            raise self._lost(error) from error

    async def _asked(self, call: Awaitable[Answer]) -> Answer:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._lost(error) from error

    def _lost(self, error: grpc.aio.AioRpcError) -> Failure:
        return Failure(Reason.STORE_UNAVAILABLE, f"site {self._site}: {error.code().name}: {error.details()}")

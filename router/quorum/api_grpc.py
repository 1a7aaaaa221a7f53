"""QuorumService over gRPC: what other sites ask this one."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, TypeVar

import grpc
import msgspec
from grpc_status import rpc_status

from dataflow.routing.v1 import quorum_pb2 as pb
from dataflow.routing.v1 import quorum_pb2_grpc
from kernel.errors import Failure, Reason
from kernel.ids import ZoneName
from router.api.errors import status_of
from router.placement.replica import Replica
from router.quorum import codec
from router.quorum.voter import Voter

_CALLS_MAX: Final = 100
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", codec.MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", codec.MESSAGE_BYTES_MAX),
    ("grpc.keepalive_permit_without_calls", 1),  # sites that do not lead look after their connections too
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
)
Answer = TypeVar("Answer")


class QuorumGrpc(quorum_pb2_grpc.QuorumServiceServicer):
    """See quorum.proto. `replica` is None at a witness."""

    def __init__(self, zone: ZoneName, token: str, voter: Voter, replica: Replica | None) -> None:
        self._zone = zone
        self._token = f"Bearer {token}".encode()
        self._voter = voter
        self._replica = replica

    async def RequestVote(self, request: pb.RequestVoteRequest, context: Any) -> pb.RequestVoteResponse:
        """A vote."""

        async def answer() -> pb.RequestVoteResponse:
            self._check(request.zone, context)
            vote = await self._voter.vote(codec.candidacy_of(request))
            return pb.RequestVoteResponse(granted=vote.granted, term=vote.term, blank=vote.blank)

        return await _answer(context, answer())

    async def AppendEntries(self, request: pb.AppendEntriesRequest, context: Any) -> pb.AppendEntriesResponse:
        """A leader's word."""

        async def answer() -> pb.AppendEntriesResponse:
            self._check(request.zone, context)
            appended = await self._voter.append(codec.append_of(request))
            return pb.AppendEntriesResponse(accepted=appended.accepted, term=appended.term)

        return await _answer(context, answer())

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Any) -> pb.ListEntriesResponse:
        """Entries."""

        async def answer() -> pb.ListEntriesResponse:
            found = await self._kept(request.zone, context).entries(request.after)
            if found is None:
                return pb.ListEntriesResponse(trimmed=True)
            return pb.ListEntriesResponse(entries=[codec.placed(*one) for one in found])

        return await _answer(context, answer())

    async def ReadCopy(self, request: pb.ReadCopyRequest, context: Any) -> AsyncIterator[pb.ReadCopyResponse]:
        """Everything."""
        try:
            async for chunk in self._kept(request.zone, context).copy():
                yield pb.ReadCopyResponse(chunk=msgspec.json.encode(chunk))
        except Failure as failure:
            await context.abort_with_status(rpc_status.to_status(status_of(failure)))

    def _kept(self, zone: str, context: Any) -> Replica:
        """Raises Failure(PEER_REFUSED)."""
        self._check(zone, context)
        if self._replica is None:
            raise Failure(Reason.PEER_REFUSED, "a witness keeps nothing of the zone")
        return self._replica

    def _check(self, zone: str, context: Any) -> None:
        """Raises Failure(PEER_REFUSED)."""
        token = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not hmac.compare_digest(token.encode() if isinstance(token, str) else token, self._token):
            raise Failure(Reason.PEER_REFUSED, "the token is not that of this zone's sites")
        if zone != self._zone:
            raise Failure(Reason.PEER_REFUSED, f"this is a site of zone {self._zone}, not of {zone}")


async def serve(servicer: QuorumGrpc, bind: str) -> grpc.aio.Server:
    """Serves on `bind`. Raises Failure(INTERNAL) when the port is taken."""
    server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_CALLS_MAX)
    quorum_pb2_grpc.add_QuorumServiceServicer_to_server(servicer, server)
    try:
        server.add_insecure_port(bind)
    except RuntimeError as error:
        raise Failure(Reason.INTERNAL, f"cannot listen on {bind}") from error
    await server.start()
    return server


async def _answer(context: Any, answer: Coroutine[Any, Any, Answer]) -> Answer:
    """A caller that hangs up stops nothing halfway: what a site promises is on its disk before the next one is promised."""
    try:
        return await asyncio.shield(asyncio.ensure_future(answer))
    except Failure as failure:
        await context.abort_with_status(rpc_status.to_status(status_of(failure)))
        raise

"""ReplicationService over gRPC: gives this cell's log to the cells that are wired to it, and says what it keeps of theirs."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import grpc

from cells.answers import abort
from cells.eventlog.log import EventLog
from cells.orders import Orders
from cells.replication import link
from cells.replication.codec import record_message
from cells.replication.link import Link
from cells.replication.replicator import Kept, Replicator
from dataflow.replication.v1 import replication_pb2 as pb
from dataflow.replication.v1 import replication_pb2_grpc
from kernel.clock import Clock
from kernel.errors import Failure, Reason
from kernel.ids import CellId, ZoneName
from kernel.limits import FETCH_BYTES_MAX, FETCH_RECORDS_MAX, FETCH_WAIT_SECONDS
from kernel.orders import NOBODY

SERVICE: Final = pb.DESCRIPTOR.services_by_name["ReplicationService"].full_name
Context = grpc.aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer")


class ReplicationGrpc(replication_pb2_grpc.ReplicationServiceServicer):
    """See replication.proto. `replicators` are this cell's own, by the cell whose log they keep: that cell alone may read this one's.
    `revision` is that of the placement that they choose by."""

    def __init__(
        self,
        zone: ZoneName,
        cell: CellId,
        log: EventLog,
        replicators: Mapping[CellId, Replicator],
        orders: Orders,
        token: str,
        clock: Clock,
        revision: Callable[[], int],
    ) -> None:
        self._revision = revision
        self._zone = zone
        self._cell = cell
        self._log = log
        self._replicators = replicators
        self._orders = orders
        self._token = f"Bearer {token}".encode()
        self._clock = clock

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> pb.FetchResponse:
        """Records."""

        async def answer() -> pb.FetchResponse:
            known = self._known(request.link, context)
            if request.partition >= self._log.partitions:
                raise Failure(Reason.INVALID_FIELD, f"partition: there are {self._log.partitions}")
            entries = await self._log.fetch(request.partition, request.offset, FETCH_RECORDS_MAX, FETCH_BYTES_MAX, FETCH_WAIT_SECONDS)
            return pb.FetchResponse(link=_message(known), records=map(record_message, entries))

        return await _answer(context, answer())

    async def Bounds(self, request: pb.BoundsRequest, context: Context) -> pb.BoundsResponse:
        """Bounds."""

        async def answer() -> pb.BoundsResponse:
            known, found = self._known(request.link, context), await self._log.bounds()
            bounds = {partition: pb.Bound(first=bound.first, next=bound.next) for partition, bound in found.items()}
            return pb.BoundsResponse(link=_message(known), bounds=bounds)

        return await _answer(context, answer())

    async def Standing(self, request: pb.StandingRequest, context: Context) -> pb.StandingResponse:
        """What is kept here."""

        async def answer() -> pb.StandingResponse:
            self._orders.check(dict(context.invocation_metadata() or ()), NOBODY, "Standing")
            replicator = self._replicators.get(CellId(request.origin))
            if replicator is None:
                raise Failure(Reason.PEER_REFUSED, f"cell {self._cell} keeps nothing of cell {request.origin}")
            revision = self._revision()
            kept, heard_at = await replicator.standing_now()
            own = await replicator.applied()
            return pb.StandingResponse(kept=_kept(kept), heard_at=heard_at, now=self._clock.now(), own=_kept(own), revision=revision)

        return await _answer(context, answer())

    def _known(self, said: pb.Link, context: Context) -> Link:
        """The link as this end knows it. Raises Failure(PEER_REFUSED)."""
        token = dict(context.invocation_metadata() or ()).get("authorization", "")
        if not hmac.compare_digest(token.encode() if isinstance(token, str) else token, self._token):
            raise Failure(Reason.PEER_REFUSED, "the token is not this zone's")
        known = Link(self._zone, self._cell, CellId(said.follower))
        link.check(Link(ZoneName(said.zone), CellId(said.origin), known.follower), known)
        if known.follower not in self._replicators:
            raise Failure(Reason.PEER_REFUSED, f"cell {known.follower} is not wired to cell {self._cell}")
        return known


def _kept(found: Mapping[int, Kept]) -> dict[int, pb.Kept]:
    return {partition: pb.Kept(until=one.until, end=one.end) for partition, one in found.items()}


def _message(known: Link) -> pb.Link:
    return pb.Link(zone=known.zone, origin=known.origin, follower=known.follower)


async def _answer(context: Context, answer: Awaitable[Answer]) -> Answer:
    try:
        return await answer
    except Failure as failure:
        await abort(context, failure)

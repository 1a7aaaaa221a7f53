"""`origin.Origin` over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypedDict, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cells.eventlog.log import Bounds, Entry
from cells.replication import link
from cells.replication.codec import entry_of
from cells.replication.link import Link
from dataflow.replication.v1 import replication_pb2 as pb
from dataflow.replication.v1 import replication_pb2_grpc
from kernel.errors import Failure, Reason
from kernel.ids import CellId, ZoneName
from kernel.limits import FETCH_WAIT_SECONDS, RECORD_BYTES_MAX, REPLICATION_SECONDS_MAX

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 2 * RECORD_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
Answer = TypeVar("Answer", pb.FetchResponse, pb.BoundsResponse)


class _Called(TypedDict):
    """What every call takes."""

    metadata: tuple[tuple[str, str]]
    timeout: float


class GrpcOrigin:
    """See the port. `address` is where the other cell's log is served, `token` the zone's."""

    def __init__(self, known: Link, address: str, token: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._stub: replication_pb2_grpc.ReplicationServiceAsyncStub = replication_pb2_grpc.ReplicationServiceStub(self._channel)
        self._known = known
        self._link = pb.Link(zone=known.zone, origin=known.origin, follower=known.follower)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def close(self) -> None:
        """Cuts the channel. Idempotent."""
        await self._channel.close(None)

    async def fetch(self, partition: int, offset: int) -> list[Entry]:
        """See the port."""
        request = pb.FetchRequest(link=self._link, partition=partition, offset=offset)
        answer = await self._asked(self._stub.Fetch(request, **self._call(FETCH_WAIT_SECONDS)))
        return [entry_of(record) for record in answer.records]

    async def bounds(self) -> dict[int, Bounds]:
        """See the port."""
        answer = await self._asked(self._stub.Bounds(pb.BoundsRequest(link=self._link), **self._call()))
        return {partition: Bounds(bound.first, bound.next) for partition, bound in answer.bounds.items()}

    def _call(self, waiting_seconds: float = 0.0) -> _Called:
        return {"metadata": self._metadata, "timeout": REPLICATION_SECONDS_MAX + waiting_seconds}

    async def _asked(self, call: Awaitable[Answer]) -> Answer:
        """The answer of the one who was asked, and of nobody else."""
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        said = answer.link
        link.check(Link(ZoneName(said.zone), CellId(said.origin), CellId(said.follower)), self._known)
        return answer


def _failure(error: grpc.aio.AioRpcError) -> Failure:
    """The other end's own reason where it gave one."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what both kinds of errors have
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status is not None else ():
        given = next((reason for reason in Reason if detail.Unpack(info) and reason.name == info.reason), None)
        if given is not None:
            return Failure(given, error.details() or "")
    return Failure(Reason.CELL_UNAVAILABLE, error.code().name, retry_after_seconds=1)

"""`cells.Cells` over gRPC (`dataflow.moves.v1`), with an order that the directory signs for each call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol, TypedDict, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from dataflow.moves.v1 import moves_pb2 as pb
from dataflow.moves.v1 import moves_pb2_grpc
from dataflow.replication.v1 import replication_pb2, replication_pb2_grpc
from kernel.clock import Clock, Micros
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.journal import Signed
from kernel.limits import APPLY_SECONDS_MAX, COPY_BYTES, COPY_PIECE_BYTES, DIGEST_SECONDS_MAX, FENCE_SECONDS_MAX
from kernel.orders import HEADER, NOBODY, order_now, packed
from router.evacuation.cells import Copy, Gap, Kept, Offsets, Part, Totals
from router.placement.table import CellEndpoint

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 8 * COPY_PIECE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
_HEALTH_SECONDS: Final = 1.0
Answer = TypeVar("Answer")


class Signs(Protocol):
    """The zone's signature."""

    def sign(self, update: bytes) -> Signed:
        """Bytes with their signature."""
        ...


class _Ordered(TypedDict):
    """What every call takes."""

    metadata: tuple[tuple[str, bytes]]
    timeout: float


class GrpcCells:
    """See the port. `find` names where a cell listens; None when the zone has no such cell."""

    def __init__(self, find: Callable[[CellId], CellEndpoint | None], signer: Signs, clock: Clock) -> None:
        self._find = find
        self._signer = signer
        self._clock = clock
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        """Ends what runs."""
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()

    async def ends(self, cell: CellId, tenant: TenantId) -> Offsets:
        """See the port."""
        answer = await _called(self._fences(cell).Ends(pb.EndsRequest(tenant=tenant), **self._order("Ends", cell, tenant)))
        return dict(answer.ends)

    async def fence(self, cell: CellId, tenant: TenantId, epoch: Epoch) -> Offsets:
        """See the port."""
        request = pb.FenceRequest(tenant=tenant, epoch=epoch)
        answer = await _called(self._fences(cell).Fence(request, **self._order("Fence", cell, tenant, FENCE_SECONDS_MAX + 1)))
        return dict(answer.ends)

    async def export(self, cell: CellId, tenant: TenantId, epoch: Epoch, cursor: bytes) -> Part:
        """See the port."""
        request = pb.ExportRequest(tenant=tenant, epoch=epoch, cursor=cursor, bytes_max=COPY_BYTES)
        call = self._copies(cell).Export(request, **self._order("Export", cell, tenant))

        async def read() -> list[pb.ExportResponse]:
            return [piece async for piece in call]

        pieces = await _called(read())
        if not pieces:
            raise Failure(Reason.CELL_UNAVAILABLE, f"{cell} gave nothing")
        first, chunk = pieces[0], b"".join(piece.chunk for piece in pieces)
        return Part(chunk, first.cursor, dict(first.given), dict(first.settled), first.past, first.more, first.events_kept)

    async def mark(self, cell: CellId, tenant: TenantId, epoch: Epoch) -> bytes:
        """See the port."""
        request = pb.MarkRequest(tenant=tenant, epoch=epoch)
        return (await _called(self._copies(cell).Mark(request, **self._order("Mark", cell, tenant)))).cursor

    async def begin(self, cell: CellId, tenant: TenantId, origin: CellId, move: str, cursor: bytes, dedicated: bool) -> Copy:
        """See the port."""
        request = pb.BeginRequest(tenant=tenant, origin=origin, move=move, cursor=cursor, dedicated_schema=dedicated)
        return _copy(await _called(self._copies(cell).Begin(request, **self._order("Begin", cell, tenant))))

    async def take(self, cell: CellId, tenant: TenantId, epoch: Epoch, origin: CellId, move: str, seq: int, part: Part) -> Copy:
        """See the port."""

        async def pieces() -> AsyncIterator[pb.TakeRequest]:
            head = pb.TakeRequest(tenant=tenant, origin=origin, epoch=epoch, move=move, seq=seq, cursor=part.cursor)
            head.chunk = part.chunk[:COPY_PIECE_BYTES]
            yield head
            for start in range(COPY_PIECE_BYTES, len(part.chunk), COPY_PIECE_BYTES):
                yield pb.TakeRequest(chunk=part.chunk[start : start + COPY_PIECE_BYTES])

        return _copy(await _called(self._copies(cell).Take(pieces(), **self._order("Take", cell, tenant))))

    async def digest(self, cell: CellId, tenant: TenantId, after: bytes = b"", until: bytes = b"") -> Totals:
        """See the port."""
        return await self._digest(cell, pb.DigestRequest(tenant=tenant, after=after, until=until))

    async def digest_profiles(self, cell: CellId, tenant: TenantId) -> Totals:
        """See the port."""
        return await self._digest(cell, pb.DigestRequest(tenant=tenant, profiles=True))

    async def erase(self, cell: CellId, tenant: TenantId, epoch: Epoch, move: str) -> tuple[int, bool]:
        """See the port."""
        request = pb.EraseRequest(tenant=tenant, epoch=epoch, move=move)
        answer = await _called(self._copies(cell).Erase(request, **self._order("Erase", cell, tenant)))
        return answer.removed, answer.left

    async def answers(self, cell: CellId) -> bool:
        """See the port."""
        stub = health_pb2_grpc.HealthStub(self._channel(self._endpoint(cell).grpc_address))
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_SECONDS)  # type: ignore[attr-defined]  # it has no stubs
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def gap(self, cell: CellId, origin: CellId) -> Gap:
        """See the port."""
        stub = _replication_stub(self._channel(self._endpoint(cell).grpc_address))
        answer = await _called(stub.Standing(replication_pb2.StandingRequest(origin=origin), **self._order("Standing", cell, NOBODY)))
        kept = tuple(Kept(partition, one.until, one.end) for partition, one in sorted(answer.kept.items()))
        own = tuple(Kept(partition, one.until, one.end) for partition, one in sorted(answer.own.items()))
        return Gap(cell, kept, Micros(answer.heard_at), Micros(answer.now), own, answer.revision)

    async def _digest(self, cell: CellId, request: pb.DigestRequest) -> Totals:
        order = self._order("Digest", cell, TenantId(request.tenant), DIGEST_SECONDS_MAX)
        return _totals((await _called(self._copies(cell).Digest(request, **order))).totals)

    def _order(self, deed: str, cell: CellId, tenant: TenantId, seconds: float = APPLY_SECONDS_MAX) -> _Ordered:
        order = order_now(cell, tenant, deed, self._clock.now())
        return {"metadata": ((HEADER, packed(self._signer.sign(order.text()))),), "timeout": seconds}

    def _fences(self, cell: CellId) -> moves_pb2_grpc.FenceServiceAsyncStub:
        return _fence_stub(self._channel(self._endpoint(cell).grpc_address))

    def _copies(self, cell: CellId) -> moves_pb2_grpc.CopyServiceAsyncStub:
        endpoint = self._endpoint(cell)
        return _copy_stub(self._channel(endpoint.storage_address or endpoint.grpc_address))

    def _endpoint(self, cell: CellId) -> CellEndpoint:
        found = self._find(cell)
        if found is None:
            raise Failure(Reason.UNKNOWN_CELL, cell)
        return found

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=_OPTIONS)
        return self._channels[address]


async def _called(call: Awaitable[Answer]) -> Answer:
    """The answer. Raises Failure with the cell's own reason, or CELL_UNAVAILABLE."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        reason = _reason(error)
        raise Failure(reason or Reason.CELL_UNAVAILABLE, error.details() or error.code().name) from error


def _reason(error: grpc.aio.AioRpcError) -> Reason | None:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what both kinds of errors have
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return next((reason for reason in Reason if reason.name == info.reason), None)
    return None


def _copy(message: pb.Copy) -> Copy:
    return Copy(message.seq, message.cursor, _totals(message.added))


def _totals(m: pb.Totals) -> Totals:
    sums = (int(text or "0") for text in (m.events_sum, m.records_sum, m.others_sum))
    events_sum, records_sum, others_sum = sums
    return Totals(m.events, events_sum, m.records, records_sum, m.others, others_sum)


def _fence_stub(channel: grpc.aio.Channel) -> moves_pb2_grpc.FenceServiceAsyncStub:
    return moves_pb2_grpc.FenceServiceStub(channel)


def _replication_stub(channel: grpc.aio.Channel) -> replication_pb2_grpc.ReplicationServiceAsyncStub:
    return replication_pb2_grpc.ReplicationServiceStub(channel)


def _copy_stub(channel: grpc.aio.Channel) -> moves_pb2_grpc.CopyServiceAsyncStub:
    return moves_pb2_grpc.CopyServiceStub(channel)

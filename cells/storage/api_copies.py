"""CopyService: a tenant's copy over gRPC, for whoever brings the directory's order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from cells.answers import abort
from cells.orders import Orders
from cells.storage import chunk as wire
from cells.storage.copies import Copies, Copy, Totals
from dataflow.moves.v1 import moves_pb2 as pb
from dataflow.moves.v1 import moves_pb2_grpc
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.limits import COPY_BYTES, COPY_BYTES_MAX, COPY_PART_BYTES_MAX, COPY_PIECE_BYTES

SERVICE = pb.DESCRIPTOR.services_by_name["CopyService"].full_name
Context = grpc.aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer")


class CopyGrpc(moves_pb2_grpc.CopyServiceServicer):
    """See moves.proto."""

    def __init__(self, copies: Copies, orders: Orders) -> None:
        self._copies = copies
        self._orders = orders

    async def Export(self, request: pb.ExportRequest, context: Context) -> AsyncIterator[pb.ExportResponse]:
        """A part, in pieces."""

        async def answer(tenant: TenantId) -> tuple[bytes, pb.ExportResponse]:
            bytes_max = min(request.bytes_max or COPY_BYTES, COPY_BYTES_MAX)
            part = await self._copies.export(tenant, Epoch(request.epoch), wire.decode_cursor(request.cursor), bytes_max)
            return wire.encode(part.chunk), pb.ExportResponse(
                cursor=wire.encode(part.cursor),
                reached=part.reached,
                given=part.cursor.given,
                settled=part.cursor.settled or {},
                past=part.cursor.past,
                more=part.more,
                events_kept=part.events_kept,
            )

        chunk, first = await self._answer(context, request.tenant, "Export", answer)
        first.chunk = chunk[:COPY_PIECE_BYTES]
        yield first
        for start in range(COPY_PIECE_BYTES, len(chunk), COPY_PIECE_BYTES):
            yield pb.ExportResponse(chunk=chunk[start : start + COPY_PIECE_BYTES])

    async def Mark(self, request: pb.MarkRequest, context: Context) -> pb.MarkResponse:
        """A cursor."""

        async def answer(tenant: TenantId) -> pb.MarkResponse:
            return pb.MarkResponse(cursor=wire.encode(await self._copies.mark(tenant, Epoch(request.epoch))))

        return await self._answer(context, request.tenant, "Mark", answer)

    async def Begin(self, request: pb.BeginRequest, context: Context) -> pb.Copy:
        """A copy."""

        async def answer(tenant: TenantId) -> pb.Copy:
            cursor = wire.decode_cursor(request.cursor)
            copy = await self._copies.begin(tenant, CellId(request.origin), request.move, cursor, request.dedicated_schema)
            return _copy(copy)

        return await self._answer(context, request.tenant, "Begin", answer)

    async def Take(self, request_iterator: AsyncIterator[pb.TakeRequest], context: Context) -> pb.Copy:
        """A part, once."""
        first = await anext(aiter(request_iterator), pb.TakeRequest())

        async def answer(tenant: TenantId) -> pb.Copy:
            pieces, left = [first.chunk], COPY_PART_BYTES_MAX - len(first.chunk)
            async for request in request_iterator:
                pieces.append(request.chunk)
                left -= len(request.chunk)
                if left < 0:
                    raise Failure(Reason.BODY_TOO_LARGE, f"more than {COPY_PART_BYTES_MAX} bytes")
            chunk, cursor = wire.decode(b"".join(pieces)), wire.decode_cursor(first.cursor)
            if chunk.tenant != tenant or chunk.epoch != first.epoch:
                raise Failure(Reason.INVALID_FIELD, "chunk: it is of another tenant or epoch than is asked for")
            if cursor is None:
                raise Failure(Reason.INVALID_FIELD, "cursor: it is missing")
            return _copy(await self._copies.take(CellId(first.origin), first.move, first.seq, chunk, cursor))

        return await self._answer(context, first.tenant, "Take", answer)

    async def Digest(self, request: pb.DigestRequest, context: Context) -> pb.DigestResponse:
        """Counts and sums."""

        async def answer(tenant: TenantId) -> pb.DigestResponse:
            if request.profiles:
                return pb.DigestResponse(totals=_totals(await self._copies.digest_profiles(tenant)))
            after, until = wire.decode_cursor(request.after), wire.decode_cursor(request.until)
            return pb.DigestResponse(totals=_totals(await self._copies.digest(tenant, after, until)))

        return await self._answer(context, request.tenant, "Digest", answer)

    async def Erase(self, request: pb.EraseRequest, context: Context) -> pb.EraseResponse:
        """Some of it."""

        async def answer(tenant: TenantId) -> pb.EraseResponse:
            removed, left = await self._copies.erase(tenant, Epoch(request.epoch), request.move)
            return pb.EraseResponse(removed=removed, left=left)

        return await self._answer(context, request.tenant, "Erase", answer)

    async def _answer(self, context: Context, tenant: str, deed: str, answer: Callable[[TenantId], Awaitable[Answer]]) -> Answer:
        try:
            self._orders.check(dict(context.invocation_metadata() or ()), TenantId(tenant), deed)
            return await answer(TenantId(tenant))
        except Failure as failure:
            await abort(context, failure)


def _copy(copy: Copy) -> pb.Copy:
    cursor = b"" if copy.cursor is None else wire.encode(copy.cursor)
    return pb.Copy(seq=copy.seq, cursor=cursor, added=_totals(copy.added))


def _totals(totals: Totals) -> pb.Totals:
    return pb.Totals(
        events=totals.events,
        events_sum=str(totals.events_sum),
        records=totals.records,
        records_sum=str(totals.records_sum),
        others=totals.others,
        others_sum=str(totals.others_sum),
    )

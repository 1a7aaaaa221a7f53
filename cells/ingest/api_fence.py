"""FenceService over gRPC, for whoever brings the directory's order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from cells.answers import abort
from cells.ingest.fence import Fence
from cells.orders import Orders
from dataflow.moves.v1 import moves_pb2 as pb
from dataflow.moves.v1 import moves_pb2_grpc
from kernel.clock import Clock
from kernel.epoch import Epoch
from kernel.errors import Failure
from kernel.ids import TenantId
from kernel.limits import FENCE_SECONDS_MAX

SERVICE: Final = pb.DESCRIPTOR.services_by_name["FenceService"].full_name
Context = grpc.aio.ServicerContext[Any, Any]


class FenceGrpc(moves_pb2_grpc.FenceServiceServicer):
    """See moves.proto."""

    def __init__(self, fence: Fence, orders: Orders, clock: Clock) -> None:
        self._fence = fence
        self._orders = orders
        self._clock = clock

    async def Ends(self, request: pb.EndsRequest, context: Context) -> pb.EndsResponse:
        """Where the log ends."""
        return await self._answer(context, TenantId(request.tenant), "Ends", self._fence.ends)

    async def Fence(self, request: pb.FenceRequest, context: Context) -> pb.EndsResponse:
        """Where it ends for the tenant."""
        tenant, left = TenantId(request.tenant), context.time_remaining()
        deadline = self._clock.monotonic() + min(FENCE_SECONDS_MAX, FENCE_SECONDS_MAX if left is None else left)
        return await self._answer(context, tenant, "Fence", lambda: self._fence.ends_behind(tenant, Epoch(request.epoch), deadline))

    async def _answer(self, context: Context, tenant: TenantId, deed: str, ask: Callable[[], Awaitable[dict[int, int]]]) -> pb.EndsResponse:
        try:
            self._orders.check(dict(context.invocation_metadata() or ()), tenant, deed)
            return pb.EndsResponse(ends=await ask())
        except Failure as failure:
            await abort(context, failure)

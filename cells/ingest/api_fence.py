"""FenceService: the door of ingest, shut for one tenant, over gRPC, for whoever brings the directory's order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc

from cells.admission.table import Admission
from cells.answers import abort
from cells.eventlog.log import EventLog
from cells.ingest.accept import Acceptor
from cells.orders import Orders
from dataflow.moves.v1 import moves_pb2 as pb
from dataflow.moves.v1 import moves_pb2_grpc
from kernel.clock import Clock
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import TenantId
from kernel.limits import FENCE_SECONDS_MAX

SERVICE: Final = pb.DESCRIPTOR.services_by_name["FenceService"].full_name
Context = grpc.aio.ServicerContext[Any, Any]
_LOOK_SECONDS: Final = 0.005


class FenceGrpc(moves_pb2_grpc.FenceServiceServicer):
    """See moves.proto. `admission` is the newest table, `on_disk` says whether a restart would find it."""

    def __init__(
        self,
        acceptor: Acceptor,
        log: EventLog,
        admission: Callable[[], Admission],
        on_disk: Callable[[], bool],
        orders: Orders,
        clock: Clock,
    ) -> None:
        self._acceptor = acceptor
        self._log = log
        self._admission = admission
        self._on_disk = on_disk
        self._orders = orders
        self._clock = clock

    async def Ends(self, request: pb.EndsRequest, context: Context) -> pb.EndsResponse:
        """Where the log ends."""
        try:
            self._orders.check(dict(context.invocation_metadata() or ()), TenantId(request.tenant))
            return await self._ends()
        except Failure as failure:
            await abort(context, failure)

    async def Fence(self, request: pb.FenceRequest, context: Context) -> pb.EndsResponse:
        """Where it ends for the tenant."""
        tenant = TenantId(request.tenant)
        left = context.time_remaining()
        deadline = self._clock.monotonic() + min(FENCE_SECONDS_MAX, FENCE_SECONDS_MAX if left is None else left)
        try:
            self._orders.check(dict(context.invocation_metadata() or ()), tenant)
            await self._wait_until_fenced(tenant, Epoch(request.epoch), deadline)
            await self._acceptor.wait_until_quiet(tenant, deadline)
            return await self._ends()
        except Failure as failure:
            await abort(context, failure)

    async def _wait_until_fenced(self, tenant: TenantId, epoch: Epoch, deadline: float) -> None:
        """Raises Failure(MOVED)."""
        while True:
            known = self._admission().tenants.get(tenant)
            if known is not None and known.fenced and known.epoch == epoch and self._on_disk():
                return
            if self._clock.monotonic() >= deadline or (known is not None and known.epoch > epoch):
                raise Failure(Reason.MOVED, "the cell knows of no fence, or not on its disk", retry_after_seconds=1)
            await self._clock.sleep(_LOOK_SECONDS)

    async def _ends(self) -> pb.EndsResponse:
        return pb.EndsResponse(ends={partition: bounds.next for partition, bounds in (await self._log.bounds()).items()})

"""`observe.Sights` over gRPC: the health service of cells, and the directory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dataflow.routing.v1 import routing_pb2, routing_pb2_grpc
from kernel.errors import Failure, Reason
from kernel.ids import CellId

# A cell that answers, however late, is slow and not lost: its peer would be slow next.
_PROBE_SECONDS: Final = 1.0
_REPORT_SECONDS: Final = 1.0
_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class GrpcSights:
    """`directory` is host:port of the zone's directory, of each of its sites separated by commas; `token` is a follower's. Whoever answered
    last is asked first."""

    def __init__(self, directory: str, token: str) -> None:
        self._directories = deque(grpc.aio.insecure_channel(address, options=_OPTIONS) for address in directory.split(","))
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        """Cuts all channels."""
        for channel in (*self._directories, *self._channels.values()):
            await channel.close(None)

    async def reaches(self, address: str) -> bool:
        """See the port."""
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, options=_OPTIONS)
        stub = health_pb2_grpc.HealthStub(self._channels[address])
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_SECONDS)  # type: ignore[attr-defined]  # it has no stubs
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def report(self, site: str, unreached: Iterable[CellId]) -> dict[CellId, str]:
        """See the port."""
        request = routing_pb2.ReportViewRequest(site=site, unreached=unreached)
        stub: routing_pb2_grpc.RouterServiceAsyncStub = routing_pb2_grpc.RouterServiceStub(self._directories[0])
        try:
            answer = await stub.ReportView(request, metadata=self._metadata, timeout=_REPORT_SECONDS)
        except grpc.aio.AioRpcError as error:
            self._directories.rotate(-1)
            raise Failure(Reason.STORE_UNAVAILABLE, f"the directory answers {error.code().name}") from error
        return {CellId(cell.cell): cell.grpc_address for cell in answer.cells}

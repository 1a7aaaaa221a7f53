"""A client of a zone's directory (`dataflow.routing.v1.RouterService`), with an operator's token."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.errors import Unable
from dataflow.routing.v1 import routing_pb2 as pb
from dataflow.routing.v1 import routing_pb2_grpc

CALL_SECONDS: Final = 10.0
_LEADER_SECONDS: Final = 10.0  # in which the sites elect another one
_PLAN_SECONDS: Final = 300.0  # for a step of each tenant of a cell


class Directory:
    """`async with Directory(["127.0.0.1:7420"], token) as directory`. Of a directory at several sites, whose leader alone listens, it asks
    the one that does. Every method raises Unable with the directory's own words."""

    def __init__(self, addresses: Sequence[str], token: str) -> None:
        self._addresses = addresses
        self._address = addresses[0]
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def __aenter__(self) -> Self:
        if len(self._addresses) > 1:
            self._address = await _listening(self._addresses)
        self._channel = grpc.aio.insecure_channel(self._address)
        self._stub = routing_pb2_grpc.RouterServiceStub(self._channel)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._channel.close()

    async def create_tenant(
        self,
        name: str,
        *,
        pinned_cell: str = "",
        dedicated_schema: bool = False,
        plan: pb.Plan | None = None,
        demand: float = 0.0,
        pin: pb.Pin | None = None,
        intent: pb.Intent | None = None,
    ) -> pb.Tenant:
        """A new tenant, placed by the directory unless pinned."""
        request = pb.CreateTenantRequest(
            name=name, pinned_cell=pinned_cell, dedicated_schema=dedicated_schema, plan=plan, demand=demand, pin=pin, intent=intent
        )
        answer: pb.Tenant = await self._call(self._stub.CreateTenant, request)
        return answer

    async def find_tenant(self, name: str) -> pb.Tenant | None:
        """The tenant, or None when the zone has none of that name."""
        try:
            found: pb.Tenant = await self._stub.GetTenant(pb.GetTenantRequest(tenant=name), metadata=self._metadata, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise Unable(*explain(error, f"the directory at {self._address}")) from error
        return found

    async def list_tenants(self) -> Sequence[pb.Tenant]:
        """All tenants of the zone in name order."""
        answer: pb.ListTenantsResponse = await self._call(self._stub.ListTenants, pb.ListTenantsRequest())
        return answer.tenants

    async def suspend_tenant(self, tenant: str, suspended: bool, intent: pb.Intent | None = None) -> pb.Tenant:
        """Stops or resumes it."""
        request = pb.SuspendTenantRequest(tenant=tenant, suspended=suspended, intent=intent)
        answer: pb.Tenant = await self._call(self._stub.SuspendTenant, request)
        return answer

    async def set_plan(self, tenant: str, plan: pb.Plan, intent: pb.Intent | None = None) -> pb.Tenant:
        """The whole plan."""
        answer: pb.Tenant = await self._call(self._stub.SetPlan, pb.SetPlanRequest(tenant=tenant, plan=plan, intent=intent))
        return answer

    async def set_demand(self, tenant: str, demand: float, intent: pb.Intent | None = None) -> pb.Tenant:
        """Events per second that it is expected to send."""
        answer: pb.Tenant = await self._call(self._stub.SetDemand, pb.SetDemandRequest(tenant=tenant, demand=demand, intent=intent))
        return answer

    async def pin_tenant(self, tenant: str, pin: pb.Pin | None, intent: pb.Intent | None = None) -> pb.Tenant:
        """Pins it; None takes the pin away."""
        answer: pb.Tenant = await self._call(self._stub.PinTenant, pb.PinTenantRequest(tenant=tenant, pin=pin, intent=intent))
        return answer

    async def start_move(
        self, tenant: str, target: str, reason: str, keep_seconds: int | None = None, intent: pb.Intent | None = None
    ) -> pb.Tenant:
        """Registers a move; to the best other cell when `target` is empty."""
        request = pb.StartMoveRequest(tenant=tenant, target=target, reason=reason, keep_seconds=keep_seconds, intent=intent)
        answer: pb.Tenant = await self._call(self._stub.StartMove, request)
        return answer

    async def list_moves(self, ended: bool = False) -> Sequence[pb.MovingTenant]:
        """The moves that are under way, in tenant order; with `ended` also the last one of each other tenant."""
        answer: pb.ListMovesResponse = await self._call(self._stub.ListMoves, pb.ListMovesRequest(ended=ended))
        return answer.moves

    async def change_move(self, tenant: str, change: pb.MoveChange.ValueType, reason: str, intent: pb.Intent | None = None) -> pb.Tenant:
        """Says what shall become of the tenant's move."""
        request = pb.ChangeMoveRequest(tenant=tenant, change=change, reason=reason, intent=intent)
        answer: pb.Tenant = await self._call(self._stub.ChangeMove, request)
        return answer

    async def evacuate_cell(self, cell: str, reason: str, keep_seconds: int | None, intent: pb.Intent) -> Sequence[pb.MovingTenant]:
        """The moves that empty a cell."""
        request = pb.EvacuateCellRequest(cell=cell, reason=reason, keep_seconds=keep_seconds, intent=intent)
        answer: pb.EvacuateCellResponse = await self._call(self._stub.EvacuateCell, request, _PLAN_SECONDS)
        return answer.moves

    async def fail_over_cell(self, cell: str, reason: str, force: bool, dry_run: bool = False) -> pb.FailOverCellResponse:
        """Gives a lost cell's tenants to those that stand by for them."""
        request = pb.FailOverCellRequest(cell=cell, reason=reason, force=force, intent=pb.Intent(dry_run=dry_run))
        answer: pb.FailOverCellResponse = await self._call(self._stub.FailOverCell, request, _PLAN_SECONDS)
        return answer

    async def create_source(self, tenant: str, name: str, intent: pb.Intent | None = None) -> tuple[pb.Source, str]:
        """A new source and its write key, which nobody can show again."""
        request = pb.CreateSourceRequest(tenant=tenant, name=name, intent=intent)
        answer: pb.CreateSourceResponse = await self._call(self._stub.CreateSource, request)
        return answer.source, answer.write_key

    async def create_write_key(self, tenant: str, source: str, intent: pb.Intent | None = None) -> tuple[pb.Source, str]:
        """The source and another write key of it, which nobody can show again."""
        request = pb.CreateWriteKeyRequest(tenant=tenant, source=source, intent=intent)
        answer: pb.CreateWriteKeyResponse = await self._call(self._stub.CreateWriteKey, request)
        return answer.source, answer.write_key

    async def create_read_key(self, tenant: str, intent: pb.Intent | None = None) -> str:
        """A new read key of the tenant, which nobody can show again."""
        request = pb.CreateReadKeyRequest(tenant=tenant, intent=intent)
        answer: pb.CreateReadKeyResponse = await self._call(self._stub.CreateReadKey, request)
        return answer.read_key

    async def list_cells(self) -> Sequence[pb.CellState]:
        """The zone's cells in name order."""
        answer: pb.ListCellsResponse = await self._call(self._stub.ListCells, pb.ListCellsRequest())
        return answer.cells

    async def list_audit(self, after: int = 0, limit: int = 0) -> Sequence[pb.AuditEntry]:
        """What was done, oldest first."""
        answer: pb.ListAuditResponse = await self._call(self._stub.ListAudit, pb.ListAuditRequest(after=after, limit=limit))
        return answer.entries

    async def resolve(self, tenant: str) -> pb.ResolveResponse:
        """Where the tenant lives."""
        answer: pb.ResolveResponse = await self._call(self._stub.Resolve, pb.ResolveRequest(tenant=tenant))
        return answer

    async def revoke_key(self, key_hash: str, intent: pb.Intent | None = None) -> int:
        """The revision from which on the key is refused."""
        answer: pb.RevokeKeyResponse = await self._call(self._stub.RevokeKey, pb.RevokeKeyRequest(hash=key_hash, intent=intent))
        return answer.revision

    async def _call(self, method: Any, request: object, seconds: float = CALL_SECONDS) -> Any:
        try:
            return await method(request, metadata=self._metadata, timeout=seconds, wait_for_ready=False)
        except grpc.aio.AioRpcError as error:
            raise Unable(*explain(error, f"the directory at {self._address}")) from error


def explain(error: grpc.aio.AioRpcError, who: str) -> tuple[str, str]:
    """(problem, remedy) of a failed call. gRPC says UNAVAILABLE of the way to a server, a directory of a zone: with details it answers."""
    answered = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
    if error.code() is grpc.StatusCode.UNAVAILABLE and not answered:
        return f"{who} cannot be reached ({error.details()})", "is the fleet running? `dataflow status` tells, `dataflow up` starts it"
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{who} did not answer in time", "see `dataflow status`"
    return f"{who} says: {error.details()} ({error.code().name})", ""


async def _listening(addresses: Sequence[str]) -> str:
    """The one at which somebody listens. Raises Unable when nobody does for a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LEADER_SECONDS):
            while True:
                for address in addresses:
                    if await _answers(address):
                        return address
                await asyncio.sleep(0.1)
    raise Unable(
        f"none of the directory's sites leads: {', '.join(addresses)}", "two of a zone's three sites must be up; see `dataflow status`"
    )


async def _answers(address: str) -> bool:
    async with grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)  # type: ignore[attr-defined]  # it has no stubs
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

"""RouterService: wire <-> domain, nothing else."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import grpc

from dataflow.routing.v1 import routing_pb2 as pb
from dataflow.routing.v1 import routing_pb2_grpc
from kernel import limits
from kernel.clock import Clock
from kernel.errors import Failure, Reason
from kernel.ids import SECRET_BYTES, CellId, Key, KeyHash, SourceId, TenantId, ZoneName, mint_key
from kernel.journal import Signed
from kernel.metrics import Meter
from router import metrics
from router.api import asked
from router.api.mirror import Mirror
from router.api.tokens import caller
from router.evacuation.cells import Gap
from router.evacuation.lookout import Lookout
from router.evacuation.make import Progress
from router.evacuation.plan import evacuate
from router.evacuation.states import Turn
from router.evacuation.steps import PauseMove, TurnMove
from router.evacuation.steps import StartMove as Start
from router.placement import codec
from router.placement.capacity import NOTHING, loads_of, room
from router.placement.decide import Refused, decide
from router.placement.steps import (
    AddReadKey,
    AddSource,
    AddWriteKey,
    ChangeDemand,
    ChangePlan,
    CreateTenant,
    PinTenant,
    RevokeKey,
    Step,
    Suspend,
    View,
)
from router.placement.store import AUDIT_ENTRIES_MAX, REPLAY_CHANGES_MAX, Done, Intent, Store
from router.placement.table import UNDER_WAY, Credential, Pin, Source, Table, Tenant, Update

SLUG_BYTES: Final = 10
_SIGNED_KEPT: Final = 64
_HASH_CHARS: Final = 64
_ID_BYTES: Final = 6
_TURNS: Final[Mapping[int, Turn]] = {
    pb.MOVE_CHANGE_ABORT: "abort",
    pb.MOVE_CHANGE_FINISH: "finish",
    pb.MOVE_CHANGE_ROLL_BACK: "roll back",
}


class Signs(Protocol):
    """The zone's signature."""

    def sign(self, update: bytes) -> Signed:
        """The update with its signature."""
        ...


class _Changing(Protocol):
    """A request that changes something."""

    @property
    def intent(self) -> pb.Intent:
        """How."""
        ...

    def SerializeToString(self, *, deterministic: bool = False) -> bytes:
        """Its bytes."""
        ...


class _Signed(NamedTuple):
    """A signed update, and the revision at which it leaves the watcher."""

    signed: pb.SignedUpdate
    revision: int


class RouterService(routing_pb2_grpc.RouterServiceServicer):
    """The directory of one zone. `entropy(n)` gives n random bytes; `lookout` knows which cells are lost;
    `progress` is that of the moves which this process makes."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        signer: Signs,
        meter: Meter,
        clock: Clock,
        entropy: Callable[[int], bytes],
        lookout: Lookout,
        progress: Mapping[TenantId, Progress] = MappingProxyType({}),
    ) -> None:
        self._lookout = lookout
        self._store = store
        self._clock = clock
        self._mirror = mirror
        self._signer = signer
        self._meter = meter
        self._entropy = entropy
        self._progress = progress
        self._watchers = 0
        self._signed: OrderedDict[tuple[int, int], pb.SignedUpdate] = OrderedDict()

    @property
    def _zone(self) -> ZoneName:
        return self._mirror.table.zone

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Any) -> pb.Tenant:
        """See the proto; and INVALID_NAME, UNKNOWN_CELL, CELL_FULL, ZONE_EXHAUSTED, INVALID_FIELD for a plan above the hard limits."""
        pin = asked.pin(request.pin) if request.HasField("pin") else None
        if pin is None and request.pinned_cell:
            pin = Pin(CellId(request.pinned_cell), "")
        demand = asked.rate("demand", request.demand) or limits.DEMAND_EVENTS_PER_SECOND
        step = CreateTenant(TenantId(asked.name(request.name)), asked.plan(request.plan), demand, pin, request.dedicated_schema)
        return codec.tenant_message((await self._change(step, request)).tenant)

    async def GetTenant(self, request: pb.GetTenantRequest, context: Any) -> pb.Tenant:
        """See the proto."""
        return codec.tenant_message(await self._store.tenant(TenantId(asked.name(request.tenant))))

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Any) -> pb.ListTenantsResponse:
        """See the proto."""
        table = await self._mirror.refresh()
        tenants = [codec.tenant_message(table.tenants[name]) for name in sorted(table.tenants)]
        return pb.ListTenantsResponse(tenants=tenants, revision=table.revision)

    async def SuspendTenant(self, request: pb.SuspendTenantRequest, context: Any) -> pb.Tenant:
        """See the proto."""
        step = Suspend(TenantId(asked.name(request.tenant)), request.suspended)
        return codec.tenant_message((await self._change(step, request)).tenant)

    async def SetPlan(self, request: pb.SetPlanRequest, context: Any) -> pb.Tenant:
        """See the proto; and INVALID_FIELD for a plan above the hard limits."""
        step = ChangePlan(TenantId(asked.name(request.tenant)), asked.plan(request.plan))
        return codec.tenant_message((await self._change(step, request)).tenant)

    async def SetDemand(self, request: pb.SetDemandRequest, context: Any) -> pb.Tenant:
        """See the proto; and INVALID_FIELD for what is no rate."""
        step = ChangeDemand(TenantId(asked.name(request.tenant)), asked.rate("demand", request.demand))
        return codec.tenant_message((await self._change(step, request)).tenant)

    async def PinTenant(self, request: pb.PinTenantRequest, context: Any) -> pb.Tenant:
        """See the proto; and UNKNOWN_CELL, CELL_FULL, INVALID_FIELD for a pin that is over already."""
        pin = asked.pin(request.pin) if request.HasField("pin") else None
        if pin is not None and pin.expires_at is not None and pin.expires_at <= self._clock.now():
            raise Failure(Reason.INVALID_FIELD, "pin.expires_at: it is over already")
        return codec.tenant_message((await self._change(PinTenant(TenantId(asked.name(request.tenant)), pin), request)).tenant)

    async def CreateSource(self, request: pb.CreateSourceRequest, context: Any) -> pb.CreateSourceResponse:
        """See the proto. A slug is `<zone>-<80 random bits in base32>`: public, and telling of its zone."""
        key = mint_key("wk", self._zone, self._entropy(SECRET_BYTES))
        slug = f"{self._zone}-{base64.b32encode(self._entropy(SLUG_BYTES)).decode().lower()}"
        source = Source(SourceId(asked.name(request.name)), slug, (Credential(key.hash),))
        done = await self._change(AddSource(TenantId(asked.name(request.tenant)), source), request)
        return pb.CreateSourceResponse(source=_source(done.tenant, source.name), write_key=_shown(done, key, request))

    async def CreateWriteKey(self, request: pb.CreateWriteKeyRequest, context: Any) -> pb.CreateWriteKeyResponse:
        """See the proto."""
        key = mint_key("wk", self._zone, self._entropy(SECRET_BYTES))
        source = SourceId(asked.name(request.source))
        done = await self._change(AddWriteKey(TenantId(asked.name(request.tenant)), source, Credential(key.hash)), request)
        return pb.CreateWriteKeyResponse(source=_source(done.tenant, source), write_key=_shown(done, key, request))

    async def CreateReadKey(self, request: pb.CreateReadKeyRequest, context: Any) -> pb.CreateReadKeyResponse:
        """See the proto."""
        key = mint_key("rk", self._zone, self._entropy(SECRET_BYTES))
        done = await self._change(AddReadKey(TenantId(asked.name(request.tenant)), Credential(key.hash)), request)
        return pb.CreateReadKeyResponse(read_key=_shown(done, key, request))

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Any) -> pb.RevokeKeyResponse:
        """See the proto. The revision is that of the tenant's last change: from then on at the latest the key is refused."""
        if len(request.hash) != _HASH_CHARS or not set(request.hash) <= set("0123456789abcdef"):
            raise Failure(Reason.INVALID_FIELD, "hash: 64 lower-case hex digits")
        done = await self._change(RevokeKey(KeyHash(request.hash)), request)
        return pb.RevokeKeyResponse(revision=done.revision)

    async def Resolve(self, request: pb.ResolveRequest, context: Any) -> pb.ResolveResponse:
        """See the proto."""
        outcome = decide(TenantId(asked.name(request.tenant)), await self._mirror.refresh())
        if isinstance(outcome, Refused):
            raise Failure(outcome.reason)
        return pb.ResolveResponse(cell=outcome.cell, epoch=outcome.epoch, revision=outcome.revision)

    async def StartMove(self, request: pb.StartMoveRequest, context: Any) -> pb.Tenant:
        """See the proto; and UNKNOWN_TENANT, TENANT_MOVING, TENANT_PINNED, UNKNOWN_CELL, CELL_FULL, ZONE_EXHAUSTED, INVALID_FIELD."""
        keep = asked.keep(request.keep_seconds if request.HasField("keep_seconds") else None)
        target = CellId(request.target) if request.target else None
        subject, reason = TenantId(asked.name(request.tenant)), asked.reason("reason", request.reason)
        step = Start(subject, self._fresh("move"), target, reason, self._clock.now(), keep)
        return codec.tenant_message((await self._change(step, request)).tenant)

    async def ListMoves(self, request: pb.ListMovesRequest, context: Any) -> pb.ListMovesResponse:
        """See the proto."""
        table = await self._mirror.refresh()
        moved = (table.tenants[name] for name in sorted(table.tenants))
        shown = [self._moving(t) for t in moved if t.move is not None and (request.ended or t.move.state in UNDER_WAY)]
        return pb.ListMovesResponse(moves=shown)

    async def ChangeMove(self, request: pb.ChangeMoveRequest, context: Any) -> pb.Tenant:
        """See the proto; and UNKNOWN_TENANT, NOT_MOVING, MOVE_NOT_NOW."""
        name, why = TenantId(asked.name(request.tenant)), asked.reason("reason", request.reason)
        move = (await self._store.tenant(name)).move
        if move is None:
            raise Failure(Reason.NOT_MOVING, name)
        if request.change in (pb.MOVE_CHANGE_PAUSE, pb.MOVE_CHANGE_RESUME):
            step: Step = PauseMove(name, move.id, request.change == pb.MOVE_CHANGE_PAUSE, why)
        elif (turn := _TURNS.get(request.change)) is not None:
            step = TurnMove(name, move.id, turn, self._clock.now(), remark=why)
        else:
            raise Failure(Reason.INVALID_FIELD, "change: pause, resume, abort, finish or roll back")
        return codec.tenant_message((await self._change(step, request)).tenant)

    async def EvacuateCell(self, request: pb.EvacuateCellRequest, context: Any) -> pb.EvacuateCellResponse:
        """See the proto; and what `router.evacuation.plan` refuses. The plan is made whole; a move of it that cannot be started any more
        when its turn comes is left out."""
        why, keep = asked.reason("reason", request.reason), asked.keep(request.keep_seconds if request.HasField("keep_seconds") else None)
        table = await self._mirror.refresh()
        plan = evacuate(table, CellId(request.cell), self._clock.now())
        name, now, shown = asked.request_id(request.intent) or self._fresh("evacuation"), self._clock.now(), []
        for planned in plan.moves:
            step = Start(planned.tenant, self._fresh("move"), planned.target, why, now, keep, name)
            with contextlib.suppress(Failure):
                shown.append(self._moving(await self._begin(step, table, request.intent.dry_run)))
        await self._mirror.refresh()
        return pb.EvacuateCellResponse(moves=shown)

    async def FailOverCell(self, request: pb.FailOverCellRequest, context: Any) -> pb.FailOverCellResponse:
        """See the proto; and what `router.evacuation.failover` refuses. Asked again it fails over what is left."""
        why, lost = asked.reason("reason", request.reason), CellId(asked.name(request.cell))
        outcome = await self._lookout.failovers.run(lost, why, caller.get(), force=request.force, dry_run=request.intent.dry_run)
        return pb.FailOverCellResponse(
            tenants=map(codec.tenant_message, outcome.moved),
            left=[pb.LeftTenant(tenant=one.tenant, why=one.why) for one in outcome.left],
            gaps=map(_gap, outcome.gaps),
        )

    async def ReportView(self, request: pb.ReportViewRequest, context: Any) -> pb.ReportViewResponse:
        """See the proto; and INVALID_FIELD for a site that the zone does not have."""
        table = self._mirror.table
        self._lookout.hear(request.site, map(CellId, request.unreached), table)
        return pb.ReportViewResponse(cells=map(codec.endpoint_message, table.cells.values()))

    async def ListCells(self, request: pb.ListCellsRequest, context: Any) -> pb.ListCellsResponse:
        """See the proto."""
        table = await self._mirror.refresh()
        cells, loads = tuple(table.cells.values()), loads_of(table.tenants.values())
        counts = Counter(tenant.cell for tenant in table.tenants.values())
        states = []
        for cell in sorted(cells, key=lambda cell: cell.cell):
            reached_by, _, sites = self._lookout.reached(cell.cell, table)
            state = pb.CellState(cell=cell.cell, region=cell.region, peer=cell.peer or "", weight=cell.weight, capacity=cell.capacity)
            state.demand, state.room = loads.get(cell.cell, 0.0), room(cell, cells, loads)
            state.tenants, state.reached_by, state.sites = counts[cell.cell], reached_by, sites
            states.append(state)
        return pb.ListCellsResponse(cells=states, revision=table.revision)

    async def ListAudit(self, request: pb.ListAuditRequest, context: Any) -> pb.ListAuditResponse:
        """See the proto."""
        limit = min(request.limit or AUDIT_ENTRIES_MAX, AUDIT_ENTRIES_MAX)
        return pb.ListAuditResponse(entries=[codec.entry_message(entry) for entry in await self._store.audit(request.after, limit)])

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.SignedUpdate]:
        """Ends with the caller or the server only. Nothing is sent while nothing changes: HTTP/2 pings keep the line open."""
        self._watching(1)
        try:
            await context.send_initial_metadata(())
            at = request.after_revision
            table = await self._mirror.refresh()
            while True:
                if at != table.revision:
                    for step in await self._steps(at, table):
                        yield step.signed
                        at = step.revision
                table = await self._mirror.wait_until_beyond(at)
        finally:
            self._watching(-1)

    async def _begin(self, step: Start, table: Table, dry_run: bool) -> Tenant:
        """A dry run of very many is answered from the table."""
        if dry_run:
            view = View(table.zone, tuple(table.cells.values()), NOTHING)
            return step.take(table.tenants[step.subject], view)
        return (await self._store.change(step, Intent(caller.get(), self._clock.now()))).tenant

    def _moving(self, tenant: Tenant) -> pb.MovingTenant:
        message = pb.MovingTenant(tenant=tenant.name)
        if tenant.move is not None:
            message.move.CopyFrom(codec.move_message(tenant.move))
        if (progress := self._progress.get(tenant.name)) is not None:
            message.progress.CopyFrom(pb.MoveProgress(**asdict(progress)))
        return message

    def _fresh(self, kind: str) -> str:
        return f"{kind}-{self._entropy(_ID_BYTES).hex()}"

    async def _steps(self, at: int, table: Table) -> list[_Signed]:
        """What leads a watcher on from `at`: its next changes, or one whole update when these cannot be replayed."""
        if 0 < at < table.revision <= at + REPLAY_CHANGES_MAX:
            changes = self._mirror.changes(at) or await self._store.changes(at)
            if changes and all(change.tenant is not None for change in changes):
                # The store may be ahead of the table: a watcher that is told more would be taken for one that knows too much.
                told = [change for change in changes if change.revision <= table.revision]
                steps = [Update(table.zone, c.revision - 1, c.revision, (c.tenant,)) for c in told if c.tenant is not None]
                return [_Signed(self._sign(step), step.to_revision) for step in steps]
        return [_Signed(self._sign(table.whole()), table.revision)]

    def _sign(self, update: Update) -> pb.SignedUpdate:
        """Signed once for all watchers, as long as it is among the last ones."""
        key = (update.from_revision, update.to_revision)
        if key not in self._signed:
            signed = self._signer.sign(codec.update_bytes(update))
            self._signed[key] = pb.SignedUpdate(update=signed.update, signature=signed.signature)
            if update.whole:  # large: the newest is enough
                for old in [k for k in self._signed if k[0] == 0 and k != key]:
                    del self._signed[old]
            while len(self._signed) > _SIGNED_KEPT:
                self._signed.popitem(last=False)
        self._meter.add(metrics.DIRECTORY_UPDATES, kind="whole" if update.whole else "change")
        return self._signed[key]

    async def _change(self, step: Step, request: _Changing) -> Done:
        """Takes a step as the caller asks for it, and wakes the watchers of this process at once."""
        wanted = request.intent
        request_id = asked.request_id(wanted)
        named = f"{type(request).__name__}\0".encode() + request.SerializeToString(deterministic=True)
        intent = Intent(
            caller.get(),
            self._clock.now(),
            request_id,
            hashlib.sha256(named).digest(),
            wanted.if_revision if wanted.HasField("if_revision") else None,
            wanted.dry_run,
        )
        done = await self._store.change(step, intent)
        await self._mirror.refresh()
        return done

    def _watching(self, change: int) -> None:
        self._watchers += change
        self._meter.set(metrics.DIRECTORY_WATCHERS, self._watchers)


def add_to(server: grpc.aio.Server, service: RouterService) -> None:
    """Registers the service."""
    routing_pb2_grpc.add_RouterServiceServicer_to_server(service, server)


def _source(tenant: Tenant, name: SourceId) -> pb.Source:
    return next(codec.source_message(source) for source in tenant.sources if source.name == name)


def _gap(gap: Gap) -> pb.Gap:
    kept = [pb.KeptPartition(**one._asdict()) for one in gap.kept]
    return pb.Gap(cell=gap.cell, kept=kept, heard_at=gap.heard_at, asked_at=gap.asked_at)


def _shown(done: Done, key: Key, request: _Changing) -> str:
    """A key is shown when it was kept, which is once."""
    return "" if done.repeated or request.intent.dry_run else key.text

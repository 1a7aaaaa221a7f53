"""RouterService: wire <-> domain, nothing else."""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple, Protocol

import grpc

from dataflow.routing.v1 import routing_pb2 as pb
from dataflow.routing.v1 import routing_pb2_grpc
from kernel import limits
from kernel.epoch import FIRST_EPOCH
from kernel.errors import Failure, Reason
from kernel.ids import SECRET_BYTES, CellId, KeyHash, SourceId, TenantId, ZoneName, is_name, mint_key
from kernel.journal import Signed
from kernel.limits import Plan
from kernel.metrics import Meter
from router import metrics
from router.api.mirror import Mirror
from router.placement import codec
from router.placement.decide import Refused, decide
from router.placement.place import place
from router.placement.store import REPLAY_CHANGES_MAX, Store
from router.placement.table import Credential, Source, Table, Tenant, Update

SLUG_BYTES: Final = 10
_SIGNED_KEPT: Final = 64
_HASH_CHARS: Final = 64


class Signs(Protocol):
    """The zone's signature."""

    def sign(self, update: bytes) -> Signed:
        """The update with its signature."""
        ...


class _Step(NamedTuple):
    """A signed update, and the revision at which it leaves the watcher."""

    signed: pb.SignedUpdate
    revision: int


class RouterService(routing_pb2_grpc.RouterServiceServicer):
    """The directory of one zone. `entropy(n)` gives n random bytes."""

    def __init__(self, store: Store, mirror: Mirror, signer: Signs, meter: Meter, entropy: Callable[[int], bytes]) -> None:
        self._store = store
        self._mirror = mirror
        self._signer = signer
        self._meter = meter
        self._entropy = entropy
        self._watchers = 0
        self._signed: OrderedDict[tuple[int, int], pb.SignedUpdate] = OrderedDict()

    @property
    def _zone(self) -> ZoneName:
        return self._mirror.table.zone

    async def CreateTenant(self, request: pb.CreateTenantRequest, context: Any) -> pb.Tenant:
        """See the proto; and INVALID_NAME, UNKNOWN_CELL, ZONE_EXHAUSTED, INVALID_FIELD for a plan above the hard limits."""
        name = TenantId(_name(request.name))
        pin = CellId(request.pinned_cell) if request.pinned_cell else None
        plan = _plan(request)
        cells = (await self._mirror.refresh()).cells
        home = place(name, tuple(cells.values()), pin)
        tenant = Tenant(name, self._zone, home, FIRST_EPOCH, plan=plan, dedicated_schema=request.dedicated_schema, pin=pin)
        return codec.tenant_message(await self._told(await self._store.create_tenant(tenant)))

    async def ListTenants(self, request: pb.ListTenantsRequest, context: Any) -> pb.ListTenantsResponse:
        """See the proto."""
        table = await self._mirror.refresh()
        tenants = [codec.tenant_message(table.tenants[name]) for name in sorted(table.tenants)]
        return pb.ListTenantsResponse(tenants=tenants, revision=table.revision)

    async def SuspendTenant(self, request: pb.SuspendTenantRequest, context: Any) -> pb.Tenant:
        """See the proto."""
        tenant = await self._store.suspend(TenantId(_name(request.tenant)), request.suspended)
        return codec.tenant_message(await self._told(tenant))

    async def CreateSource(self, request: pb.CreateSourceRequest, context: Any) -> pb.CreateSourceResponse:
        """See the proto. A slug is `<zone>-<80 random bits in base32>`: public, and telling of its zone."""
        key = mint_key("wk", self._zone, self._entropy(SECRET_BYTES))
        slug = f"{self._zone}-{base64.b32encode(self._entropy(SLUG_BYTES)).decode().lower()}"
        source = Source(SourceId(_name(request.name)), slug, (Credential(key.hash),))
        await self._told(await self._store.add_source(TenantId(_name(request.tenant)), source))
        return pb.CreateSourceResponse(source=codec.source_message(source), write_key=key.text)

    async def CreateReadKey(self, request: pb.CreateReadKeyRequest, context: Any) -> pb.CreateReadKeyResponse:
        """See the proto."""
        key = mint_key("rk", self._zone, self._entropy(SECRET_BYTES))
        await self._told(await self._store.add_read_key(TenantId(_name(request.tenant)), Credential(key.hash)))
        return pb.CreateReadKeyResponse(read_key=key.text)

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Any) -> pb.RevokeKeyResponse:
        """See the proto."""
        if len(request.hash) != _HASH_CHARS or not set(request.hash) <= set("0123456789abcdef"):
            raise Failure(Reason.INVALID_FIELD, "hash: 64 lower-case hex digits")
        revision = await self._store.revoke(KeyHash(request.hash))
        await self._mirror.refresh()
        return pb.RevokeKeyResponse(revision=revision)

    async def Resolve(self, request: pb.ResolveRequest, context: Any) -> pb.ResolveResponse:
        """See the proto."""
        outcome = decide(TenantId(_name(request.tenant)), await self._mirror.refresh())
        if isinstance(outcome, Refused):
            raise Failure(outcome.reason)
        return pb.ResolveResponse(cell=outcome.cell, epoch=outcome.epoch, revision=outcome.revision)

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

    async def _steps(self, at: int, table: Table) -> list[_Step]:
        """What leads a watcher on from `at`: its next changes, or one whole update when these cannot be replayed."""
        if 0 < at < table.revision <= at + REPLAY_CHANGES_MAX:
            changes = await self._store.changes(at)
            if changes and all(change.tenant is not None for change in changes):
                steps = [Update(table.zone, c.revision - 1, c.revision, (c.tenant,)) for c in changes if c.tenant is not None]
                return [_Step(self._sign(step), step.to_revision) for step in steps]
        return [_Step(self._sign(table.whole()), table.revision)]

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

    async def _told(self, tenant: Tenant) -> Tenant:
        """Wakes the watchers of this process at once."""
        await self._mirror.refresh()
        return tenant

    def _watching(self, change: int) -> None:
        self._watchers += change
        self._meter.set(metrics.DIRECTORY_WATCHERS, self._watchers)


def add_to(server: grpc.aio.Server, service: RouterService) -> None:
    """Registers the service."""
    routing_pb2_grpc.add_RouterServiceServicer_to_server(service, server)


def _name(text: str) -> str:
    if not is_name(text):
        raise Failure(Reason.INVALID_NAME)
    return text


def _plan(request: pb.CreateTenantRequest) -> Plan:
    plan = codec.parse_plan(request.plan)
    fits = (
        plan.events_per_second > 0
        and plan.burst_events >= 1
        and plan.batch_bytes_max <= limits.BATCH_BYTES_HARD_MAX
        and plan.batch_events_max <= limits.APPLY_EVENTS_MAX
        and plan.spread <= limits.LOG_PARTITIONS
    )
    if not fits:
        raise Failure(Reason.INVALID_FIELD, "plan: above the hard limits")
    return plan

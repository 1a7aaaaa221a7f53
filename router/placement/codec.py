"""The placement's words <-> `dataflow.routing.v1`. Bytes that are no message raise Failure(SNAPSHOT_REFUSED)."""

from __future__ import annotations

from dataclasses import asdict

from google.protobuf.message import DecodeError

from dataflow.routing.v1 import routing_pb2 as pb
from kernel.chain import Link
from kernel.clock import Micros
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, KeyHash, RegionName, SourceId, TenantId, ZoneName
from kernel.limits import Plan
from router.placement.store import Deed
from router.placement.table import CellEndpoint, Credential, Move, Pin, Source, Tenant, Topology, Update


def update_bytes(update: Update) -> bytes:
    """What is signed. The same update gives the same bytes."""
    message = pb.Update(zone=update.zone, from_revision=update.from_revision, to_revision=update.to_revision)
    message.tenants.extend(followed_message(tenant) for tenant in update.tenants)
    if update.topology is not None:
        message.cells.extend(map(endpoint_message, update.topology.cells))
        message.zones.extend(pb.ZoneEndpoint(zone=zone, url=url) for zone, url in update.topology.zones)
    return message.SerializeToString(deterministic=True)


def parse_update(data: bytes) -> Update:
    """The update in `data`. What matters to the directory alone is not on the wire."""
    try:
        message = pb.Update.FromString(data)
    except DecodeError as error:
        raise Failure(Reason.SNAPSHOT_REFUSED, "it is no Update") from error
    cells = tuple(_endpoint(c) for c in message.cells)
    zones = tuple((ZoneName(z.zone), z.url) for z in message.zones)
    return Update(
        ZoneName(message.zone),
        message.from_revision,
        message.to_revision,
        tuple(_tenant(t) for t in message.tenants),
        Topology(cells, zones) if cells or zones or message.from_revision == 0 else None,
    )


def tenant_message(tenant: Tenant) -> pb.Tenant:
    """The tenant as it is told to operators."""
    message = followed_message(tenant)
    message.demand, message.revision = tenant.demand, tenant.since
    if tenant.move is not None:
        message.move.CopyFrom(move_message(tenant.move))
    if tenant.pinned is not None:
        message.pin.CopyFrom(pb.Pin(cell=tenant.pinned.cell, reason=tenant.pinned.reason, expires_at=tenant.pinned.expires_at or 0))
    return message


def followed_message(tenant: Tenant) -> pb.Tenant:
    """The tenant as it is told to followers."""
    return pb.Tenant(
        name=tenant.name,
        zone=tenant.zone,
        cell=tenant.cell,
        epoch=tenant.epoch,
        suspended=tenant.suspended,
        plan=plan_message(tenant.plan),
        dedicated_schema=tenant.dedicated_schema,
        sources=[source_message(s) for s in tenant.sources],
        read_keys=[pb.Credential(hash=k.hash, revoked=k.revoked) for k in tenant.read_keys],
        fenced=tenant.fenced,
        standby=tenant.standby or "",
    )


def move_message(move: Move) -> pb.Move:
    """A move as it is told to operators."""
    return pb.Move(**{**asdict(move), "standby": move.standby or ""})


def source_message(source: Source) -> pb.Source:
    """A source with its keys' hashes."""
    keys = [pb.Credential(hash=k.hash, revoked=k.revoked) for k in source.write_keys]
    return pb.Source(name=source.name, slug=source.slug, write_keys=keys)


def plan_message(plan: Plan) -> pb.Plan:
    """A plan."""
    return pb.Plan(
        events_per_second=plan.events_per_second,
        burst_events=plan.burst_events,
        batch_bytes_max=plan.batch_bytes_max,
        batch_events_max=plan.batch_events_max,
        spread=plan.spread,
        requests_per_second=plan.requests_per_second,
    )


def parse_plan(message: pb.Plan) -> Plan:
    """A plan; numbers that were left at 0 are the default plan's."""
    default = Plan()
    return Plan(
        events_per_second=message.events_per_second or default.events_per_second,
        burst_events=message.burst_events or default.burst_events,
        batch_bytes_max=message.batch_bytes_max or default.batch_bytes_max,
        batch_events_max=message.batch_events_max or default.batch_events_max,
        spread=message.spread or default.spread,
        requests_per_second=message.requests_per_second or default.requests_per_second,
    )


def parse_pin(message: pb.Pin) -> Pin:
    """A pin."""
    return Pin(CellId(message.cell), message.reason, Micros(message.expires_at) if message.expires_at else None)


def entry_message(entry: Link[Deed]) -> pb.AuditEntry:
    """An entry of the audit chain."""
    return pb.AuditEntry(seq=entry.seq, **entry.fields._asdict(), prev_hash=entry.prev_hash, hash=entry.hash)


def endpoint_message(c: CellEndpoint) -> pb.CellEndpoint:
    """A cell as it is told to followers."""
    return pb.CellEndpoint(cell=c.cell, region=c.region, grpc_address=c.grpc_address, http_address=c.http_address, peer=c.peer or "")


def _endpoint(message: pb.CellEndpoint) -> CellEndpoint:
    peer = CellId(message.peer) if message.peer else None
    return CellEndpoint(CellId(message.cell), RegionName(message.region), message.grpc_address, message.http_address, peer=peer)


def _tenant(message: pb.Tenant) -> Tenant:
    return Tenant(
        name=TenantId(message.name),
        zone=ZoneName(message.zone),
        cell=CellId(message.cell),
        epoch=Epoch(message.epoch),
        suspended=message.suspended,
        plan=parse_plan(message.plan),
        dedicated_schema=message.dedicated_schema,
        sources=tuple(
            Source(SourceId(s.name), s.slug, tuple(Credential(KeyHash(k.hash), k.revoked) for k in s.write_keys)) for s in message.sources
        ),
        read_keys=tuple(Credential(KeyHash(k.hash), k.revoked) for k in message.read_keys),
        fenced=message.fenced,
        standby=CellId(message.standby) if message.standby else None,
    )

"""Bytes of a directory's Update to the cell's own words."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from cells.admission.table import Credential, Tenant, Update
from dataflow.routing.v1 import routing_pb2
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, KeyHash, SourceId, TenantId, ZoneName
from kernel.limits import Plan


def decode(data: bytes) -> Update:
    """Raises Failure(SNAPSHOT_REFUSED) on bytes that are no Update."""
    message = routing_pb2.Update()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise Failure(Reason.SNAPSHOT_REFUSED, "it cannot be read") from error
    return Update(
        zone=ZoneName(message.zone),
        from_revision=message.from_revision,
        to_revision=message.to_revision,
        tenants=tuple(_tenant(tenant) for tenant in message.tenants),
        zone_urls={ZoneName(zone.zone): zone.url for zone in message.zones} or None,
    )


def _tenant(message: routing_pb2.Tenant) -> Tenant:
    return Tenant(
        name=TenantId(message.name),
        cell=CellId(message.cell),
        epoch=Epoch(message.epoch),
        plan=_plan(message.plan) if message.HasField("plan") else Plan(),
        suspended=message.suspended,
        dedicated=message.dedicated_schema,
        credentials=(
            *(
                Credential(KeyHash(key.hash), "wk", SourceId(source.name), key.revoked)
                for source in message.sources
                for key in source.write_keys
            ),
            *(Credential(KeyHash(key.hash), "rk", SourceId(""), key.revoked) for key in message.read_keys),
        ),
        slugs=tuple((source.slug, SourceId(source.name)) for source in message.sources),
        fenced=message.fenced,
        standby=CellId(message.standby) if message.standby else None,
    )


def _plan(message: routing_pb2.Plan) -> Plan:
    """Unset numbers take the default plan's."""
    default = Plan()
    return Plan(
        events_per_second=message.events_per_second or default.events_per_second,
        burst_events=message.burst_events or default.burst_events,
        batch_bytes_max=message.batch_bytes_max or default.batch_bytes_max,
        batch_events_max=message.batch_events_max or default.batch_events_max,
        spread=message.spread or default.spread,
        requests_per_second=message.requests_per_second or default.requests_per_second,
    )

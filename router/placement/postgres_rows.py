"""Rows of the directory's store, from and to the domain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from kernel.chain import Link
from kernel.epoch import Epoch
from kernel.ids import CellId, SourceId, TenantId, ZoneName
from kernel.limits import Plan
from router.placement.store import Deed
from router.placement.table import Credential, Move, Pin, Source, Tenant, Topology

_EMPTY: Final = Topology((), ())


def tenant_of(zone: ZoneName, row: Any, sources: Iterable[Source], read_keys: Iterable[Credential]) -> Tenant:
    """A tenant, of its row, its sources and its read keys."""
    return Tenant(
        name=TenantId(row["name"]),
        zone=zone,
        cell=CellId(row["cell"]),
        epoch=Epoch(row["epoch"]),
        suspended=row["suspended"],
        plan=msgspec.json.decode(row["plan"], type=Plan),
        dedicated_schema=row["dedicated_schema"],
        sources=tuple(sources),
        read_keys=tuple(read_keys),
        demand=row["demand"],
        pinned=None if row["pin"] is None else Pin(CellId(row["pin"]), row["pin_reason"], row["pin_expires_at"]),
        since=row["revision"],
        fenced=row["fenced"],
        move=None if row["move"] is None else msgspec.json.decode(row["move"], type=Move),
        standby=None if row["standby"] is None else CellId(row["standby"]),
    )


def keys_of(tenant: Tenant) -> Iterator[tuple[SourceId | None, Credential]]:
    """Each key with its source; a read key has none."""
    for source in tenant.sources:
        for key in source.write_keys:
            yield source.name, key
    for key in tenant.read_keys:
        yield None, key


def link_of(row: Any) -> Link[Deed]:
    """An entry of the audit chain."""
    return Link(row["seq"], Deed(*(row[name] for name in Deed._fields)), row["prev_hash"], row["hash"])


def parse_tenant(body: str) -> Tenant:
    """From its JSON."""
    return msgspec.json.decode(body, type=Tenant)


def json_of(tenant: Tenant) -> str:
    """As `parse_tenant` reads it."""
    return msgspec.json.encode(tenant).decode()


def parse_topology(body: str | None) -> Topology:
    """From its JSON; an empty one from none."""
    return _EMPTY if body is None else msgspec.json.decode(body, type=Topology)

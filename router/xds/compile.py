"""Placement table -> checked snapshot. One change renders its shards alone; everything else is the same objects as before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kernel.errors import Failure, Reason
from kernel.ids import TenantId
from router.placement.table import Table
from router.xds import render
from router.xds.headers import NO_SHARD
from router.xds.http import NAME
from router.xds.ir import SHARDS, Edge, Shard
from router.xds.listener import Listen, listener
from router.xds.lower import lower, relower
from router.xds.render import Parts
from router.xds.snapshot import CDS, EDS, LDS, RDS, SRDS, Resource, Snapshot, consistent, resource
from router.xds.upstream import cluster, endpoints, uses_eds


@dataclass(frozen=True, slots=True)
class Compiled:
    """A table with what it comes to; `parts` are what the routes of each shard were put together from."""

    table: Table
    edge: Edge
    snapshot: Snapshot
    parts: Mapping[str, Parts]


def compile_whole(table: Table, listen: Listen, before: Compiled | None = None) -> Compiled:
    """From a whole table; shards that are as `before` are not rendered again. Raises Failure(SNAPSHOT_REFUSED)."""
    edge = lower(table)
    parts, routes = _routes(edge, before)
    pairs = [(up, edge.peer_of(up)) for up in edge.upstreams]
    types = {
        CDS: _named(resource(up.cluster, cluster(up, peer)) for up, peer in pairs),
        EDS: _named(resource(up.cluster, endpoints(up, peer)) for up, peer in pairs if uses_eds(up, peer)),
        LDS: _named([resource(NAME, listener(edge, listen))]),
        SRDS: _named(resource(render.scope_name(shard), render.scope(shard)) for shard in (NO_SHARD, *SHARDS)),
        RDS: routes,
    }
    return _checked(Compiled(table, edge, Snapshot(table.revision, types), parts))


def compile_change(before: Compiled, table: Table, changed: Iterable[TenantId]) -> Compiled:
    """From `before` and the tenants that changed since. Raises Failure(SNAPSHOT_REFUSED)."""
    edge = relower(before.edge, before.table, table, changed)
    parts, routes = _routes(edge, before)
    return _checked(Compiled(table, edge, Snapshot(table.revision, {**before.snapshot.types, RDS: routes}), parts))


def _routes(edge: Edge, before: Compiled | None) -> tuple[dict[str, Parts], dict[str, Resource]]:
    unsharded = render.routes_name(NO_SHARD)
    rendered = {unsharded: resource(unsharded, render.unsharded())} if before is None else dict(before.snapshot.types[RDS])
    parts: dict[str, Parts] = {} if before is None else dict(before.parts)
    for shard in SHARDS:
        held = {} if before is None else before.edge.shards[shard]
        if before is None or _differ(edge.shards[shard], held):
            name, entries = render.routes_name(shard), edge.shards[shard]
            parts[shard] = render.parts_of(entries, held, parts.get(shard, {}))
            rendered[name] = resource(name, render.routes(shard, entries, parts[shard]), render.clusters(entries))
    return parts, rendered


def _named(resources: Iterable[Resource]) -> dict[str, Resource]:
    return {one.name: one for one in resources}


def _checked(compiled: Compiled) -> Compiled:
    problems = consistent(compiled.snapshot, compiled.edge)
    if problems:
        raise Failure(Reason.SNAPSHOT_REFUSED, problems[0])
    return compiled


def _differ(one: Shard, other: Shard) -> bool:
    """Dictionaries do not look whether they are the same object before they compare every entry."""
    return one is not other and one != other

"""Placement table -> `ir.Edge`, wholly or only what a change touches. The verdict on every tenant is `decide`'s (rule 20)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kernel.errors import Failure, Reason
from kernel.ids import KeyHash, TenantId, hash_of
from router.placement.decide import Routed, decide
from router.placement.table import CellEndpoint, Table
from router.xds.ir import PROTOCOLS, SHARDS, Deny, Edge, Entry, Forward, Upstream, shard_of
from router.xds.rate import rate_of

SLUG_PREFIX = "s:"


def lower(table: Table) -> Edge:
    """The edge of a whole table. Raises Failure(SNAPSHOT_REFUSED) when a key leads to two tenants or an address is none."""
    shards: dict[str, dict[KeyHash, Entry]] = {shard: {} for shard in SHARDS}
    for name in table.tenants:
        for key, entry in _entries(name, table):
            _put(shards[shard_of(key)], key, entry)
    upstreams = tuple(up for name in sorted(table.cells) for up in _upstreams(table.cells[name], table))
    foreign = tuple(sorted((zone, url) for zone, url in table.zones.items() if zone != table.zone))
    return Edge(table.zone, table.revision, upstreams, shards, foreign)


def relower(edge: Edge, before: Table, after: Table, changed: Iterable[TenantId]) -> Edge:
    """The edge after a change of the tenants `changed`; untouched shards are the same objects. Raises as `lower` does."""
    names = frozenset(changed)
    stale = [key for name in names if name in before.tenants for key, _ in _entries(name, before)]
    fresh = [pair for name in names for pair in _entries(name, after)]
    shards = dict(edge.shards)
    touched = {shard: dict(shards[shard]) for shard in {shard_of(key) for key in [*stale, *(key for key, _ in fresh)]}}
    for key in stale:
        touched[shard_of(key)].pop(key, None)
    for key, entry in fresh:
        _put(touched[shard_of(key)], key, entry)
    shards.update((name, shard) for name, shard in touched.items() if shard != edge.shards[name])
    return Edge(edge.zone, after.revision, edge.upstreams, shards, edge.foreign)


def _entries(name: TenantId, table: Table) -> Iterator[tuple[KeyHash, Entry]]:
    """A tenant's write keys, read keys and slugs. A slug's key is proven by the cell, so it stays when all keys are revoked."""
    tenant = table.tenants[name]
    outcome = decide(name, table)
    entry: Entry
    if isinstance(outcome, Routed):
        entry = Forward(name, outcome.cell, outcome.epoch, rate_of(tenant.plan.requests_per_second))
    else:
        entry = Deny(name, outcome.reason)
    revoked = Deny(name, Reason.REVOKED_KEY)
    for source in tenant.sources:
        yield hash_of(SLUG_PREFIX + source.slug), entry
        for key in source.write_keys:
            yield key.hash, revoked if key.revoked else entry
    for key in tenant.read_keys:
        yield key.hash, revoked if key.revoked else entry


def _put(shard: dict[KeyHash, Entry], key: KeyHash, entry: Entry) -> None:
    if key in shard and shard[key].tenant != entry.tenant:
        raise Failure(Reason.SNAPSHOT_REFUSED, f"a key leads to {shard[key].tenant} and to {entry.tenant}")
    shard[key] = entry


def _upstreams(cell: CellEndpoint, table: Table) -> Iterator[Upstream]:
    peer = cell.peer if cell.peer in table.cells and cell.peer != cell.cell else None
    for protocol in PROTOCOLS:
        address = cell.grpc_address if protocol == "grpc" else cell.http_address
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise Failure(Reason.SNAPSHOT_REFUSED, f"cell {cell.cell} has no {protocol} address host:port")
        yield Upstream(cell.cell, protocol, cell.region, host, int(port), peer)

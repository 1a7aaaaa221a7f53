"""Our own model of what an edge does, between our truth (the placement table) and Envoy's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from kernel.epoch import Epoch
from kernel.errors import Reason
from kernel.ids import CellId, KeyHash, TenantId, ZoneName

Protocol = Literal["grpc", "http"]
PROTOCOLS: Final[tuple[Protocol, ...]] = ("grpc", "http")
SHARDS: Final = tuple(f"{number:02x}" for number in range(256))


class Forward(NamedTuple):
    """Requests with this key go to `cell`, stamped, `rate` a second at most (`router.xds.rate`)."""

    tenant: TenantId
    cell: CellId
    epoch: Epoch
    rate: int


class Deny(NamedTuple):
    """Requests with this key are answered by the edge."""

    tenant: TenantId
    reason: Reason


Entry = Forward | Deny
Shard = Mapping[KeyHash, Entry]


class Upstream(NamedTuple):
    """One port of one cell of the zone. `peer` is the cell of this zone, if it has one, that takes its requests while it is lost."""

    cell: CellId
    protocol: Protocol
    region: str
    host: str
    port: int
    peer: CellId | None = None

    @property
    def cluster(self) -> str:
        """The name of its Envoy cluster."""
        return cluster_of(self.cell, self.protocol)


@dataclass(frozen=True, slots=True)
class Edge:
    """All that one zone's edges do at `revision`. Clusters are cells, never tenants; `shards` has every name of SHARDS.

    `foreign` are the public endpoints of the other zones: to be told, never to be connected to.
    """

    zone: ZoneName
    revision: int
    upstreams: tuple[Upstream, ...]
    shards: Mapping[str, Shard]
    foreign: tuple[tuple[ZoneName, str], ...]

    def peer_of(self, upstream: Upstream) -> Upstream | None:
        """The same port of its peer: the only other place that its requests may go to."""
        wanted = (upstream.peer, upstream.protocol)
        return next((other for other in self.upstreams if (other.cell, other.protocol) == wanted), None)


def cluster_of(cell: CellId, protocol: Protocol) -> str:
    """The Envoy cluster of a cell's port."""
    return f"{cell}/{protocol}"


def shard_of(key: KeyHash) -> str:
    """The shard of a key: the first two hex digits."""
    return key[:2]

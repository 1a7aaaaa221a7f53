"""A whole configuration of one edge: resources with content-hash versions, checked for consistency before anyone is shown it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from google.protobuf import any_pb2, descriptor_pool, message_factory

from router.xds.ir import Edge

_PREFIX: Final = "type.googleapis.com/envoy.config."
CDS: Final = _PREFIX + "cluster.v3.Cluster"
EDS: Final = _PREFIX + "endpoint.v3.ClusterLoadAssignment"
LDS: Final = _PREFIX + "listener.v3.Listener"
SRDS: Final = _PREFIX + "route.v3.ScopedRouteConfiguration"
RDS: Final = _PREFIX + "route.v3.RouteConfiguration"
ORDER: Final = (CDS, EDS, LDS, SRDS, RDS)


class Resource(NamedTuple):
    """`body` is a serialized message of its type; `refers` are the names or addresses that it leads to, read from the message."""

    name: str
    version: str
    body: bytes
    refers: frozenset[str]


Resources = Mapping[str, Resource]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Resources by type and name."""

    revision: int
    types: Mapping[str, Resources]


def resource(name: str, message: Any, refers: frozenset[str] | None = None) -> Resource:
    """A rendered message as a resource. `refers` saves a walk to who knows already; it must be what `references` finds."""
    body = message.SerializeToString(deterministic=True)
    found = frozenset(references(message)) if refers is None else refers
    return Resource(name, hashlib.blake2b(body, digest_size=8).hexdigest(), body, found)


def references(message: Any) -> Iterator[str]:
    """Clusters of routes and matchers, the route configuration of a scope, `host:port` of every address, wherever they stand."""
    name = message.DESCRIPTOR.name
    if name == "Any":
        known = _unpacked(message)
        if known is not None:
            yield from references(known)
    elif name == "ClusterAction":
        yield message.cluster
    elif name == "RouteAction":
        if message.cluster:
            yield message.cluster
        yield from (weighted.name for weighted in message.weighted_clusters.clusters)
    elif name == "ScopedRouteConfiguration":
        yield message.route_configuration_name
    elif name == "SocketAddress":
        yield f"{message.address}:{message.port_value}"
    else:
        yield from (found for part in _parts(message) for found in references(part))


def consistent(snapshot: Snapshot, edge: Edge) -> tuple[str, ...]:
    """What is wrong with a snapshot of `edge`; nothing when it may be published (rules 9 and 12)."""
    addresses = {f"{up.host}:{up.port}" for up in edge.upstreams}
    return (*_problems(snapshot, addresses), *_misled(snapshot, edge))


def _problems(snapshot: Snapshot, addresses: set[str]) -> Iterator[str]:
    clusters, endpoints, listeners, scopes, routes = (snapshot.types.get(kind, {}) for kind in ORDER)
    if len(listeners) != 1:
        yield f"there are {len(listeners)} listeners"
    known = frozenset(clusters)
    for route in (route for route in routes.values() if not route.refers <= known):
        yield from (f"{route.name} leads to the unknown cluster {name}" for name in sorted(route.refers - known))
    for scope in scopes.values():
        yield from (f"{scope.name} leads to unknown routes {name}" for name in sorted(scope.refers - routes.keys()))
    for name in sorted(endpoints.keys() - clusters.keys()):
        yield f"the endpoints {name} belong to no cluster"
    for upstream in (*clusters.values(), *endpoints.values()):
        yield from (f"{upstream.name} leads out of the zone, to {address}" for address in sorted(upstream.refers - addresses))
    for name, cluster in clusters.items():
        if not cluster.refers and name not in endpoints:
            yield f"the cluster {name} has no endpoints"


def _misled(snapshot: Snapshot, edge: Edge) -> Iterator[str]:
    """Clusters that lead elsewhere than to their cell, and after it to its peer in this zone."""
    for up in edge.upstreams:
        peer = edge.peer_of(up)
        wanted = [(priority, f"{place.host}:{place.port}") for priority, place in enumerate((up, peer)) if place is not None]
        for found in _assignments(snapshot, up.cluster):
            led = [
                (places.priority, address)
                for places in found.endpoints
                for place in places.lb_endpoints
                for address in references(place.endpoint)
            ]
            if led != wanted:
                yield f"{up.cluster} leads to {led}, and not to its cell and then its peer: {wanted}"


def _assignments(snapshot: Snapshot, name: str) -> Iterator[Any]:
    """What says where the cluster `name` leads: its endpoints, or the cluster itself when it is told by host names."""
    clusters, endpoints = snapshot.types.get(CDS, {}), snapshot.types.get(EDS, {})
    if name in endpoints:
        yield endpoint_pb2.ClusterLoadAssignment.FromString(endpoints[name].body)
    if name in clusters and clusters[name].refers:
        yield cluster_pb2.Cluster.FromString(clusters[name].body).load_assignment


def _parts(message: Any) -> Iterator[Any]:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                yield from value.values()
        elif field.is_repeated:
            yield from value
        else:
            yield value


def _unpacked(message: any_pb2.Any) -> Any:
    """The message inside, or None when this process does not know its type, and so has not made it."""
    try:
        kind = descriptor_pool.Default().FindMessageTypeByName(message.TypeName())
    except KeyError:
        return None
    return message_factory.GetMessageClass(kind).FromString(message.value)

"""Cells as Envoy clusters: tens, never tenants (rule 6). Each cell has one cluster for its gRPC port and one for its HTTP port.

A cluster's priority 0 is the cell itself, and priority 1 the same port of its peer, which holds its writes as handoff. Envoy turns to
the peer by itself, and back: once the cell fails its health checks, and for a second attempt at what was not answered before that.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import json_format

from router.xds.headers import METADATA
from router.xds.ir import Upstream

HEALTH_SECONDS: Final = 0.2
CONNECT_SECONDS: Final = 0.5
# A connection whose other end acknowledges nothing for so long is over: by then a cell that is cut off fails its health checks, and what
# was sent to it before that goes to the peer.
UNHEARD_SECONDS: Final = 1.0
REQUESTS_MAX: Final = 4_096
# What comes until a cell that stands still is found lost (0.8 s of 2,500 requests/s) keeps its connections for WRITE_SECONDS, beside those
# that the peer needs by then.
CONNECTIONS_MAX: Final = 4_096
# Of the requests in flight so many per cent may be second attempts, and always a few: a lost cell is not asked twice as often.
RETRY_BUDGET_PERCENT: Final = 20.0
RETRIES_MIN: Final = 10
# With a peer a second attempt asks somebody else, and everything that was in flight to a lost cell asks in the same moment.
RETRIES_ONTO_PEER_MIN: Final = 2_048
CELL: Final = "cell"
_USER_TIMEOUT: Final = {  # the numbers are Linux's
    "description": "TCP_USER_TIMEOUT",
    "level": 6,
    "name": 18,
    "int_value": int(UNHEARD_SECONDS * 1_000),
    "state": "STATE_PREBIND",
}
_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def cluster(upstream: Upstream, peer: Upstream | None) -> Any:
    """The Cluster resource. Addresses that are IPs come by EDS; with a host name among them Envoy resolves both, in the zone's DNS."""
    retries_min = RETRIES_ONTO_PEER_MIN if peer else RETRIES_MIN
    described: dict[str, object] = {
        "name": upstream.cluster,
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},  # rule 14: no panic mode
            "update_merge_window": "0s",  # by default who is lost within a second of another change is asked for the rest of it
        },
        "ignore_health_on_host_removal": True,
        "health_checks": [_health_check(upstream)],
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": CONNECTIONS_MAX,
                    "max_pending_requests": REQUESTS_MAX,
                    "max_requests": REQUESTS_MAX,
                    "retry_budget": {"budget_percent": {"value": RETRY_BUDGET_PERCENT}, "min_retry_concurrency": retries_min},
                    "track_remaining": True,
                }
            ]
        },
        "track_cluster_stats": {"per_endpoint_stats": True},  # how many requests the peer took is Envoy's to say
        "upstream_bind_config": {"socket_options": [_USER_TIMEOUT]},
        "upstream_connection_options": {"tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 10, "keepalive_interval": 5}},
        "typed_extension_protocol_options": {_OPTIONS: _protocol(upstream)},
    }
    if uses_eds(upstream, peer):
        described |= {
            "type": "EDS",
            "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "2s"}},
        }
    else:
        assignment = json_format.MessageToDict(endpoints(upstream, peer), preserving_proto_field_name=True)
        described |= {"type": "STRICT_DNS", "respect_dns_ttl": True, "load_assignment": assignment}
    return json_format.ParseDict(described, cluster_pb2.Cluster())


def endpoints(upstream: Upstream, peer: Upstream | None) -> Any:
    """The ClusterLoadAssignment resource. Each endpoint bears the name of its cell, for the access log."""
    places = [_place(priority, place) for priority, place in enumerate((upstream, peer)) if place is not None]
    return json_format.ParseDict({"cluster_name": upstream.cluster, "endpoints": places}, endpoint_pb2.ClusterLoadAssignment())


def uses_eds(upstream: Upstream, peer: Upstream | None) -> bool:
    """Whether the addresses are IPs, which EDS takes, and no names."""
    return all(_is_ip(place.host) for place in (upstream, peer) if place is not None)


def _place(priority: int, place: Upstream) -> dict[str, object]:
    address = {"socket_address": {"address": place.host, "port_value": place.port}}
    endpoint = {"endpoint": {"address": address}, "metadata": {"filter_metadata": {METADATA: {CELL: place.cell}}}}
    return {"priority": priority, "locality": {"region": place.region}, "lb_endpoints": [endpoint]}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _health_check(upstream: Upstream) -> dict[str, object]:
    # The cluster's name, which a probe bears else, is no host name.
    http: dict[str, object] = {"http_health_check": {"path": "/readyz", "host": upstream.cell}}
    probe: dict[str, object] = {"grpc_health_check": {}} if upstream.protocol == "grpc" else http
    period = f"{HEALTH_SECONDS}s"
    return {
        "interval": period,
        "timeout": period,
        "no_traffic_interval": period,  # an idle cluster would be probed once a minute otherwise
        "no_traffic_healthy_interval": period,
        "initial_jitter": "0.05s",
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        **probe,
    }


def _protocol(upstream: Upstream) -> dict[str, object]:
    explicit: dict[str, object] = {"http2_protocol_options": {}} if upstream.protocol == "grpc" else {"http_protocol_options": {}}
    return {
        "@type": f"type.googleapis.com/{http_protocol_options_pb2.HttpProtocolOptions.DESCRIPTOR.full_name}",
        "explicit_http_config": explicit,
        "common_http_protocol_options": {"idle_timeout": "60s"},
    }

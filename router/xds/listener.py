"""The edge's one listener: HTTP/1.1, HTTP/2 and gRPC in the clear. Static but for the zones' names, since a change drains connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from envoy.config.listener.v3 import listener_pb2
from envoy.config.trace.v3 import opentelemetry_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from google.protobuf import json_format

from kernel.errors import Reason
from kernel.limits import KIB, STREAM_SECONDS_MAX
from router.xds import lua, refusals
from router.xds.bootstrap import TRACES_CLUSTER, TRACES_PATH
from router.xds.ir import Edge

NAME: Final = "edge"
NO_SHARD: Final = "-"
LOOKUP_HEADER: Final = "x-dataflow-lookup"
SHARD_HEADER: Final = "x-dataflow-shard"
STAMP_HEADERS: Final = ("x-dataflow-tenant", "x-dataflow-cell", "x-dataflow-epoch", "x-dataflow-revision")
INTERNAL_HEADERS: Final = (*STAMP_HEADERS, LOOKUP_HEADER, SHARD_HEADER)
RETRY_AFTER_SECONDS: Final = 1
HEADERS_SECONDS: Final = 10.0
CONNECTION_IDLE_SECONDS: Final = 300
HEADERS_KIB_MAX: Final = 32
STREAMS_PER_CONNECTION_MAX: Final = 128
_ADS: Final = {"ads": {}, "resource_api_version": "V3"}
# What Envoy itself answers: a flag of response_flag_filter tells it from Lua's and the routes' answers, which have their shape.
_NO_UPSTREAM: Final = ("UH", "UF", "UO", "UC", "LR", "LH", "UR", "UT", "NC", "URX", "SI", "DT", "DF", "UPE", "NR", "OM")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the edge listens, how long a request's headers may take, and how many of a hundred requests leave spans (see bootstrap).

    A client's trace id goes on whether or not; it cannot make a request leave spans. With 0 nothing is touched.
    """

    host: str
    port: int
    headers_seconds: float = HEADERS_SECONDS
    trace_percent: float = 0.0


def listener(edge: Edge, listen: Listen) -> Any:
    """The Listener resource of an edge."""
    described = {
        "name": NAME,
        "address": {"socket_address": {"address": listen.host, "port_value": listen.port}},
        "per_connection_buffer_limit_bytes": 256 * KIB,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": _connection_manager(edge, listen)}]}],
    }
    return json_format.ParseDict(described, listener_pb2.Listener())


def _connection_manager(edge: Edge, listen: Listen) -> dict[str, object]:
    return {
        "@type": _type(http_connection_manager_pb2.HttpConnectionManager),
        "stat_prefix": NAME,
        "codec_type": "AUTO",
        "server_name": "dataflow",
        "use_remote_address": True,
        "normalize_path": True,
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_headers_timeout": f"{listen.headers_seconds:g}s",
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
            "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": SHARD_HEADER, "index": 0}}]},
            "rds_config_source": _ADS,
            "scoped_rds": {"scoped_rds_config_source": _ADS},
        },
        "http_filters": [
            _lua("clear", lua.CLEAR_ROUTE_CACHE),
            {"name": "envoy.filters.http.cors", "typed_config": {"@type": _type(cors_pb2.Cors)}},
            _lua("credential", lua.source(edge)),
            {"name": "envoy.filters.http.router", "typed_config": {"@type": _type(router_pb2.Router)}},
        ],
        "local_reply_config": {"mappers": _local_replies()},
        **({"tracing": _tracing(listen.trace_percent)} if listen.trace_percent else {}),
    }


def _tracing(percent: float) -> dict[str, object]:
    """A span per request, of which the cell's is a child. No path in it: message ids and user ids stand in paths of queries."""
    return {
        "max_path_tag_length": 0,
        "random_sampling": {"value": percent},
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": _type(opentelemetry_pb2.OpenTelemetryConfig),
                "service_name": "edge",
                "http_service": {
                    "http_uri": {"uri": f"http://{TRACES_CLUSTER}{TRACES_PATH}", "cluster": TRACES_CLUSTER, "timeout": "2s"},
                },
            },
        },
    }


def _strip() -> dict[str, object]:
    """Removes what only the edge may say, before anything looks at the request."""
    shard = {"header": {"key": SHARD_HEADER, "value": NO_SHARD}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": _type(header_mutation_pb2.HeaderMutation),
            "mutations": [
                {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-", "ignore_case": True}}},  # timeouts, retries: not a client's
                *({"remove": header} for header in INTERNAL_HEADERS),
                {"append": shard},
            ],
        },
    }


def _lua(name: str, code: str) -> dict[str, object]:
    return {
        "name": f"lua.{name}",
        "typed_config": {
            "@type": _type(lua_pb2.Lua),
            "default_source_code": {"inline_string": code},
        },
    }


def _local_replies() -> list[dict[str, object]]:
    """The first mapper that matches wins. gRPC answers keep their status and get details; HTTP answers get the JSON body."""
    lost: dict[str, object] = {"response_flag_filter": {"flags": list(_NO_UPSTREAM)}}
    grpc: dict[str, object] = {"header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}}
    return [
        _reply(_all(_status(408), grpc), Reason.REQUEST_TIMEOUT, grpc=True),
        _reply(_status(408), Reason.REQUEST_TIMEOUT),
        _reply(_status(413), Reason.BODY_TOO_LARGE),
        _reply(_status(431), Reason.MALFORMED_BODY, detail="the headers are too large"),
        _reply(_all(_status(400), {"response_flag_filter": {"flags": ["DPE"]}}), Reason.MALFORMED_BODY, detail="not valid HTTP"),
        _reply(_all(_status(503), lost, grpc), Reason.CELL_UNAVAILABLE, grpc=True),
        _reply(_all(_status(503), lost), Reason.CELL_UNAVAILABLE),
        _reply(_all(_status(504), grpc), Reason.CELL_UNAVAILABLE, grpc=True),
        _reply(_status(504), Reason.CELL_UNAVAILABLE, status=503),
        _reply(_all(_status(404), lost), Reason.NO_ROUTE),
        _reply(_status(500), Reason.INTERNAL),
    ]


def _reply(
    match: dict[str, object], reason: Reason, *, grpc: bool = False, detail: str = "", status: int | None = None
) -> dict[str, object]:
    headers = {}
    if reason is Reason.CELL_UNAVAILABLE:
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    if grpc:
        headers["grpc-status-details-bin"] = refusals.details(reason)
    text = refusals.message(reason, detail) if grpc else refusals.body(reason, detail)
    mapper: dict[str, object] = {
        "filter": match,
        "headers_to_add": [
            {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"} for name, value in headers.items()
        ],
        "body_format_override": {"text_format_source": {"inline_string": text.replace("%", "%%")}, "content_type": "application/json"},
    }
    return mapper if status is None else {**mapper, "status_code": status}


def _status(code: int) -> dict[str, object]:
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": code, "runtime_key": "edge.local_reply"}}}}


def _all(*filters: dict[str, object]) -> dict[str, object]:
    return {"and_filter": {"filters": list(filters)}}


def _type(message: Any) -> str:
    """The type URL of a message class, which is imported by being named: the parser must know it."""
    return f"type.googleapis.com/{message.DESCRIPTOR.full_name}"

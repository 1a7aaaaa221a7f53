"""IR -> the route resources of Envoy. The part that is made once per key calls protobuf directly: dictionaries cost 40 times as much."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2, scoped_route_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2 as previous_priorities_pb2
from envoy.extensions.router.cluster_specifiers.matcher.v3 import matcher_pb2 as specifier_pb2
from envoy.type.matcher.v3 import http_inputs_pb2
from google.protobuf import json_format
from xds.type.matcher.v3 import matcher_pb2

from kernel.errors import Reason
from kernel.ids import CellId, KeyHash
from kernel.limits import BATCH_BYTES_HARD_MAX, KIB, STREAM_SECONDS_MAX
from router.xds import refusals
from router.xds.headers import LOOKUP, METADATA, NO_SHARD, SHARD, STAMP
from router.xds.ir import PROTOCOLS, Deny, Entry, Forward, Protocol, Shard, cluster_of
from router.xds.rate import metadata
from router.xds.refusals import RETRY_AFTER_SECONDS

RETRY_MILLIS: Final = 5
HOST_PICKS_MAX: Final = 3
# What is larger cannot be sent again: Envoy keeps no more of a body.
RETRIED_BYTES_MAX: Final = BATCH_BYTES_HARD_MAX + 64 * KIB
STREAM_SECONDS_HARD_MAX: Final = int(STREAM_SECONDS_MAX) + 30
_OVERWRITE: Final = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_ROUTE_TYPE: Final = f"type.googleapis.com/{route_components_pb2.Route.DESCRIPTOR.full_name}"
Parts = Mapping[KeyHash, bytes]
_CELLS_CACHED: Final = 4_096
_STAMPS_CACHED: Final = 1_024  # a tenant's keys stand in several shards, which are rendered soon after one another
_CONTENT_TYPE: Final = "content-type"
_GRPC: Final = "application/grpc"
_CORS: Final = "envoy.filters.http.cors"
_ALLOWED_HEADERS: Final = (
    "authorization, content-type, content-encoding, x-api-key, x-request-id, x-retry-count, traceparent, tracestate, idempotency-key"
)
_EXPOSED_HEADERS: Final = "location, retry-after, x-request-id, x-residency-endpoint"


def scope(shard: str) -> Any:
    """The ScopedRouteConfiguration of a shard, or of NO_SHARD."""
    described = {"name": scope_name(shard), "route_configuration_name": routes_name(shard), "key": {"fragments": [{"string_key": shard}]}}
    return json_format.ParseDict(described, scoped_route_pb2.ScopedRouteConfiguration())


def scope_name(shard: str) -> str:
    """The scope's resource name."""
    return f"scope-{shard}"


def routes_name(shard: str) -> str:
    """The route configuration's resource name."""
    return f"keys-{shard}"


def unsharded() -> Any:
    """The RouteConfiguration before a key is known: /healthz, and the CORS policy that the cors filter finds here.

    The filter ignores policies of direct answers, so the catch-all is an ordinary route; its cluster comes from a header that
    early mutation has removed, and Lua has answered every request that would reach it.
    """
    described = {
        "name": routes_name(NO_SHARD),
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [
                    {
                        "match": {"path": "/healthz"},
                        "direct_response": {"status": 200, "body": {"inline_string": '{"status":"ok"}'}},
                        "response_headers_to_add": [_header("content-type", "application/json")],
                    },
                    {"match": {"prefix": "/"}, "route": {"cluster_header": STAMP[1]}},
                ],
                "typed_per_filter_config": {_CORS: _cors()},
            }
        ],
    }
    return json_format.ParseDict(described, route_pb2.RouteConfiguration())


def routes(shard: str, entries: Shard, parts: Parts) -> Any:
    """The RouteConfiguration of a shard: one exact-match map from a key's hash to its route, and a refusal for the rest. `parts` are those
    of `entries`: messages of one type add up when their bytes are put together, so that what did not change is not made again."""
    message = route_pb2.RouteConfiguration(name=routes_name(shard))
    for cell in sorted({entry.cell for entry in entries.values() if isinstance(entry, Forward)}):
        message.cluster_specifier_plugins.add().CopyFrom(_port_of(cell))
    message.virtual_hosts.add().MergeFromString(b"".join((_host(bool(entries)), *parts.values())))
    return message


def parts_of(entries: Shard, before: Shard, parts: Parts) -> Parts:
    """The serialized part of each entry, given those of the entries `before`."""
    return {key: parts[key] if before.get(key) is entry else _part(key, entry) for key, entry in entries.items()}


@lru_cache
def _host(keys: bool) -> bytes:
    """A serialized VirtualHost, but for its keys."""
    host = route_components_pb2.VirtualHost(name="all", domains=["*"])
    host.request_headers_to_remove.extend((LOOKUP, SHARD))
    host.request_body_buffer_limit.value = RETRIED_BYTES_MAX
    _retries(host.retry_policy)
    unknown = _denied(Reason.UNKNOWN_KEY)
    if keys:
        host.matcher.matcher_tree.input.CopyFrom(_header_input(LOOKUP))
        host.matcher.on_no_match.matcher.CopyFrom(unknown)
    else:
        host.matcher.CopyFrom(unknown)
    return _bytes(host)


def _retries(policy: Any) -> None:
    """One second attempt, of what got no answer, at the cell's peer where it has one. An answer is never repeated, whichever it is: of a
    shed request (429, RESOURCE_EXHAUSTED) the peer hears nothing. That a write may have been taken is no harm: message ids tell."""
    policy.retry_on = "connect-failure,refused-stream,reset"
    policy.num_retries.value = 1
    policy.retry_back_off.base_interval.FromMilliseconds(RETRY_MILLIS)
    policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
    policy.retry_priority.typed_config.Pack(previous_priorities_pb2.PreviousPrioritiesConfig(update_frequency=1))
    predicate = policy.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
    predicate.typed_config.Pack(previous_hosts_pb2.PreviousHostsPredicate())
    policy.host_selection_retry_max_attempts = HOST_PICKS_MAX


def _part(key: KeyHash, entry: Entry) -> bytes:
    """A serialized VirtualHost with nothing but this key."""
    host = route_components_pb2.VirtualHost()
    found = host.matcher.matcher_tree.exact_match_map.map[key]
    if isinstance(entry, Deny):
        found.matcher.CopyFrom(_denied(entry.reason))
    else:
        _act(found, _to_cell(entry.cell) + _stamp(entry))
    return _bytes(host)


def clusters(entries: Shard) -> frozenset[str]:
    """The clusters that `routes` of the same entries leads to."""
    cells = {entry.cell for entry in entries.values() if isinstance(entry, Forward)}
    return frozenset(cluster_of(cell, protocol) for cell in cells for protocol in PROTOCOLS)


@lru_cache(maxsize=_CELLS_CACHED)
def _port_of(cell: CellId) -> Any:
    """The cluster specifier of a cell: its gRPC port for gRPC, else its HTTP port. So a key needs one route, and not one for each."""
    specifier = specifier_pb2.MatcherClusterSpecifier()
    matcher = specifier.cluster_matcher
    matcher.matcher_tree.input.CopyFrom(_header_input(_CONTENT_TYPE))
    ports: dict[Protocol, Any] = {"grpc": matcher.matcher_tree.prefix_match_map.map[_GRPC], "http": matcher.on_no_match}
    for protocol, target in ports.items():
        target.action.name = "cluster"
        target.action.typed_config.Pack(specifier_pb2.ClusterAction(cluster=cluster_of(cell, protocol)))
    plugin = route_components_pb2.ClusterSpecifierPlugin()
    plugin.extension.name = cell
    plugin.extension.typed_config.Pack(specifier)
    return plugin


@lru_cache(maxsize=_CELLS_CACHED)
def _to_cell(cell: CellId) -> bytes:
    """A serialized Route without its tenant. A stream may be long; of any other request Lua bounds how long its answer may take, and the
    cell how long its body may."""
    route = route_components_pb2.Route()
    route.match.prefix = "/"
    action = route.route
    action.cluster_specifier_plugin = cell
    action.timeout.seconds = 0  # for streams; Lua's bound goes before it
    action.max_stream_duration.max_stream_duration.seconds = STREAM_SECONDS_HARD_MAX
    return _bytes(route)


@lru_cache(maxsize=_STAMPS_CACHED)
def _stamp(entry: Forward) -> bytes:
    route = route_components_pb2.Route()
    route.metadata.filter_metadata[METADATA].CopyFrom(metadata(entry.tenant, entry.rate))
    values = (entry.tenant, entry.cell, str(entry.epoch))
    for name, value in zip(STAMP, values, strict=True):
        option = route.request_headers_to_add.add(append_action=_OVERWRITE)
        option.header.key = name
        option.header.value = value
    return _bytes(route)


def _denial(reason: Reason, protocol: Protocol) -> bytes:
    """A direct answer. For gRPC Envoy takes the message from the body."""
    route = route_components_pb2.Route()
    route.match.prefix = "/"
    route.direct_response.status = reason.spec.http
    if protocol == "grpc":
        route.direct_response.body.inline_string = refusals.message(reason)
        headers = {"grpc-status": str(int(reason.spec.grpc)), "grpc-status-details-bin": refusals.details(reason)}
    else:
        route.direct_response.body.inline_string = refusals.body(reason)
        headers = {"content-type": "application/json"}
    if reason.spec.http == 503:
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    for name, value in headers.items():
        option = route.response_headers_to_add.add(append_action=_OVERWRITE)
        option.header.key = name
        option.header.value = value
    return _bytes(route)


@lru_cache
def _denied(reason: Reason) -> Any:
    """A matcher that answers, whichever protocol it is."""
    matcher = matcher_pb2.Matcher()
    matcher.matcher_tree.input.CopyFrom(_header_input(_CONTENT_TYPE))
    _act(matcher.matcher_tree.prefix_match_map.map[_GRPC], _denial(reason, "grpc"))
    _act(matcher.on_no_match, _denial(reason, "http"))
    return matcher


def _act(target: Any, route: bytes) -> None:
    target.action.name = "route"
    target.action.typed_config.type_url = _ROUTE_TYPE
    target.action.typed_config.value = route


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def _header_input(name: str) -> Any:
    message = matcher_pb2.Matcher.MatcherTree().input
    message.name = "header"
    message.typed_config.Pack(http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=name))
    return message


def _cors() -> dict[str, object]:
    """Any origin may send; credentials are allowed because sendBeacon always sends them."""
    return {
        "@type": f"type.googleapis.com/{cors_pb2.CorsPolicy.DESCRIPTOR.full_name}",
        "allow_origin_string_match": [{"safe_regex": {"regex": ".*"}}],
        "allow_methods": "GET, POST, OPTIONS",
        "allow_headers": _ALLOWED_HEADERS,
        "expose_headers": _EXPOSED_HEADERS,
        "allow_credentials": True,
        "max_age": "600",
    }


def _header(name: str, value: str) -> dict[str, object]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}

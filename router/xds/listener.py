"""The edge's one listener: HTTP/1.1, HTTP/2 and gRPC, encrypted and, where it is allowed, in the clear, on one port.

Static but for the zones' names, since a change drains connections: a new certificate comes by a file of its own (`router.xds.tls`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from google.protobuf import json_format

from kernel.limits import KIB
from router.xds.describe import type_of
from router.xds.http import ACCESS_PERCENT, HEADERS_SECONDS, NAME, connection
from router.xds.ir import Edge
from router.xds.tls import downstream


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the edge listens; how long a request's headers may take, a handshake, and the first bytes of a connection; how many of a
    hundred requests leave spans (see bootstrap), and a line in the access log.

    A client's trace id goes on whether or not; it cannot make a request leave spans. With 0 nothing is touched. `secret_path` is the
    file that names the certificate, "" for none; without one, or with `clear`, the port takes requests that are not encrypted.
    """

    host: str
    port: int
    headers_seconds: float = HEADERS_SECONDS
    trace_percent: float = 0.0
    access_percent: float = ACCESS_PERCENT
    secret_path: str = ""
    clear: bool = False


def listener(edge: Edge, listen: Listen) -> Any:
    """The Listener resource of an edge."""
    http = connection(edge, listen.headers_seconds, listen.trace_percent, listen.access_percent)
    filters = [{"name": "http", "typed_config": http}]
    described: dict[str, object] = {
        "name": NAME,
        "address": {"socket_address": {"address": listen.host, "port_value": listen.port}},
        "per_connection_buffer_limit_bytes": 256 * KIB,
        "filter_chains": [{"name": "clear", "filters": filters}],
    }
    if listen.secret_path:
        encrypted: dict[str, object] = {"name": "tls", "filters": filters, "transport_socket": downstream(listen.secret_path)}
        encrypted["transport_socket_connect_timeout"] = f"{listen.headers_seconds:g}s"
        chains = [{**encrypted, "filter_chain_match": {"transport_protocol": "tls"}}]
        if listen.clear:
            chains.append({"name": "clear", "filters": filters, "filter_chain_match": {"transport_protocol": "raw_buffer"}})
        described["filter_chains"] = chains
        inspector = {"@type": type_of(tls_inspector_pb2.TlsInspector)}
        described["listener_filters"] = [{"name": "envoy.filters.listener.tls_inspector", "typed_config": inspector}]
        described["listener_filters_timeout"] = f"{listen.headers_seconds:g}s"
    return json_format.ParseDict(described, listener_pb2.Listener())

"""The edge's Lua, put together from its two static files and the few values that differ between zones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dataflow.ingest.v1 import ingest_pb2
from dataflow.storage.v1 import query_pb2
from kernel.errors import Reason
from kernel.limits import APPEND_SECONDS_MAX
from router.xds import refusals
from router.xds.ir import Edge

_HERE: Final = Path(__file__).parent
# The very first scope is chosen before early header mutation, so the route that was cached then must be forgotten before `cors`.
CLEAR_ROUTE_CACHE: Final = "function envoy_on_request(handle) handle:clearRouteCache() end"
HTTP_SECONDS: Final = 30
# A cell answers a write within APPEND_SECONDS_MAX, if only to say that its log is away: after this one it is not slow but silent.
WRITE_SECONDS: Final = APPEND_SECONDS_MAX + 2
PUBLIC_SERVICES: Final = (ingest_pb2.DESCRIPTOR.services_by_name["IngestService"], query_pb2.DESCRIPTOR.services_by_name["QueryService"])


def source(edge: Edge) -> str:
    """The Lua filter's inline code."""
    foreign = {zone: _answer(Reason.FOREIGN_ZONE, url.rstrip("/")) for zone, url in edge.foreign}
    values = {
        "ZONE": _quote(edge.zone),
        "FOREIGN": "{" + ",".join(f"[{_quote(zone)}]={_table(answer)}" for zone, answer in foreign.items()) + "}",
        "ELSEWHERE": _table(_answer(Reason.FOREIGN_ZONE)),
        "NO_CREDENTIAL": _table(_answer(Reason.NO_CREDENTIAL)),
        "NO_ROUTE": _table(_answer(Reason.NO_ROUTE)),
        "SERVICES": "{" + ",".join(_quote(f"/{service.full_name}/") for service in PUBLIC_SERVICES) + "}",
        "HTTP_MILLIS": _quote(str(HTTP_SECONDS * 1_000)),
        "INGEST": _quote(f"/{PUBLIC_SERVICES[0].full_name}/"),
        "WRITE_MILLIS": _quote(str(int(WRITE_SECONDS * 1_000))),
    }
    head = "\n".join(f"local {name} = {value}" for name, value in values.items())
    return "\n".join([(_HERE / "sha256.lua").read_text(), head, (_HERE / "edge.lua").read_text()])


def _answer(reason: Reason, endpoint: str = "") -> dict[str, str]:
    named = {"endpoint": endpoint} if endpoint else {}
    return {
        "status": str(reason.spec.http),
        "grpc": str(int(reason.spec.grpc)),
        "body": refusals.body(reason, endpoint),
        "message": refusals.message(reason, endpoint),
        "details": refusals.details(reason, endpoint, named),
        **named,
    }


def _table(values: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{name}={_quote(value)}" for name, value in values.items()) + "}"


def _quote(text: str) -> str:
    """A Lua string literal; every byte that is not plain is written as a decimal escape."""
    plain = set(range(32, 127)) - set(b'"\\')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03d}" for byte in text.encode()) + '"'

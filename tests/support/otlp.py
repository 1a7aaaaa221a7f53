"""A collector in the test's own process: takes OTLP over HTTP from real exporters and keeps the spans."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class Told:
    """One span, and the service that made it."""

    service: str
    span: trace_pb2.Span

    @property
    def name(self) -> str:
        """What was done."""
        return self.span.name

    @property
    def trace(self) -> str:
        """The trace's id, in hex."""
        return self.span.trace_id.hex()

    @property
    def id(self) -> str:
        """The span's id, in hex."""
        return self.span.span_id.hex()

    @property
    def parent(self) -> str:
        """The parent's id; empty for a root."""
        return self.span.parent_span_id.hex()

    @property
    def links(self) -> set[tuple[str, str]]:
        """(trace, span) of each link."""
        return {(link.trace_id.hex(), link.span_id.hex()) for link in self.span.links}

    @property
    def attributes(self) -> Mapping[str, str]:
        """Every attribute, as text."""
        return {one.key: one.value.string_value or str(one.value.int_value) for one in self.span.attributes}


@dataclass
class Collector:
    """What arrived. `endpoint` is what a process is configured with."""

    endpoint: str = ""
    bodies: list[bytes] = field(default_factory=list)
    spans: list[Told] = field(default_factory=list)

    def named(self, name: str, trace: str = "") -> list[Told]:
        """Spans of this name, of one trace when it is given."""
        return [told for told in self.spans if told.name == name and trace in ("", told.trace)]

    async def take(self, request: web.Request) -> web.Response:
        """POST /v1/traces."""
        body = await request.read()
        if request.headers.get("content-encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.bodies.append(body)
        self.spans.extend(_spans(ExportTraceServiceRequest.FromString(body)))
        return web.Response(body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf")


@asynccontextmanager
async def collecting(port: int) -> AsyncIterator[Collector]:
    """A collector on 127.0.0.1:port until the block ends."""
    collector = Collector(f"http://127.0.0.1:{port}")
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield collector
    finally:
        await runner.cleanup()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Told]:
    for group in request.resource_spans:
        named = {one.key: one.value.string_value for one in group.resource.attributes}
        for scope in group.scope_spans:
            yield from (Told(named.get("service.name", ""), span) for span in scope.spans)

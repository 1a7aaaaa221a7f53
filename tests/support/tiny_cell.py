"""A cell that answers every path and method with the headers that reached it: in this process, or as one that can be killed.

As a process: `python -m tests.support.tiny_cell NAME GRPC_PORT HTTP_PORT HOST`. No tests in here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kernel.ids import CellId, RegionName
from router import probes
from router.placement.table import CellEndpoint
from tests.support.processes import free_port

HOLD = "x-test-hold"  # a request with it is answered when the cell lets go
STATUS = "x-test-status"  # a call with it is answered with this status
_REGION = RegionName("eu-west-1")


@dataclass
class TinyCell:
    """A cell on both ports. `asked` are the headers of what reached it, but for health checks; `held` counts what waits for `let_go`."""

    endpoint: CellEndpoint
    asked: list[Mapping[str, str]] = field(default_factory=list)
    held: int = 0
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def hear(self, headers: Mapping[str, str]) -> None:
        """Notes a request, and holds it if it shall be."""
        self.asked.append(headers)
        if HOLD in headers:
            self.held += 1
            await self.let_go.wait()


def endpoint_of(name: str, grpc_port: int = 0, http_port: int = 0, peer: str | None = None, host: str = "127.0.0.1") -> CellEndpoint:
    """Where a cell of this machine listens."""
    grpc_address, http_address = (f"{host}:{port or free_port()}" for port in (grpc_port, http_port))
    return CellEndpoint(CellId(name), _REGION, grpc_address, http_address, peer=CellId(peer) if peer else None)


def has_ipv6() -> bool:
    """Whether the name `localhost`, which Envoy takes for both families, leads to something on this machine."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@contextlib.asynccontextmanager
async def tiny_cell(name: str, endpoint: CellEndpoint | None = None) -> AsyncIterator[TinyCell]:
    """Real HTTP and gRPC servers with health."""
    cell = TinyCell(endpoint or endpoint_of(name))
    host, _, grpc_port = cell.endpoint.grpc_address.rpartition(":")
    http_port = int(cell.endpoint.http_address.rpartition(":")[2])
    hosts = ("127.0.0.1", "::1") if host == "localhost" else (host,)

    async def echo(request: Request) -> Response:
        await cell.hear(dict(request.headers))
        path = request.url.path
        if path == "/v1/shed":
            return JSONResponse({"code": "OVERLOADED", "message": "shed"}, 429, {"retry-after": "2"})
        if path.startswith("/v1/answer/"):
            return JSONResponse({}, int(path.rpartition("/")[2]))
        body = len(await request.body())
        return JSONResponse({"cell": name, "path": path, "headers": dict(request.headers), "body_bytes": body})

    async def readyz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    app = Starlette(routes=[Route("/readyz", readyz), Route("/{rest:path}", echo, methods=["GET", "POST", "PUT"])])
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    probe = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(probe, server)
    server.add_generic_rpc_handlers((_Echo(name, cell),))
    for one in hosts:
        server.add_insecure_port(f"[{one}]:{grpc_port}" if ":" in one else f"{one}:{grpc_port}")
    await server.start()
    await probe.set("", health_pb2.HealthCheckResponse.SERVING)
    async with contextlib.AsyncExitStack() as stack:
        for one in hosts:
            await stack.enter_async_context(probes.serving(app, one, http_port))
        yield cell
    await server.stop(0)


class _Echo(grpc.GenericRpcHandler):
    def __init__(self, name: str, cell: TinyCell) -> None:
        self._name = name
        self._cell = cell

    def service(self, details: Any) -> Any:
        async def say(_: bytes, context: Any) -> bytes:
            metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
            await self._cell.hear(metadata)
            if STATUS in metadata:
                await context.abort(next(code for code in grpc.StatusCode if code.name == metadata[STATUS]))
            return json.dumps({"cell": self._name, "headers": metadata}).encode()

        return grpc.unary_unary_rpc_method_handler(say)


@dataclass
class LoneCell:
    """A tiny cell that is a process of its own."""

    endpoint: CellEndpoint
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; it serves soon after."""
        host, _, grpc_port = self.endpoint.grpc_address.rpartition(":")
        http_port = self.endpoint.http_address.rpartition(":")[2]
        command = [sys.executable, "-m", "tests.support.tiny_cell", self.endpoint.cell, grpc_port, http_port, host]
        self.process = subprocess.Popen(command, env={"PATH": os.environ.get("PATH", "")})

    def tell(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """Ends it without a word."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def lone_cell(endpoint: CellEndpoint) -> Iterator[LoneCell]:
    """A process, started."""
    cell = LoneCell(endpoint)
    cell.start()
    try:
        yield cell
    finally:
        cell.kill()


async def _main(name: str, grpc_port: str, http_port: str, host: str) -> None:
    async with tiny_cell(name, endpoint_of(name, int(grpc_port), int(http_port), host=host)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))

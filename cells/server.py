"""The two listeners of a cell's process: gRPC (grpcio aio) and HTTP (uvicorn)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import grpc
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from starlette.types import ASGIApp, Receive, Scope, Send

from cells.defects import GrpcShell, Report, refuse, unheard
from kernel.errors import Failure, Reason
from kernel.limits import BATCH_BYTES_HARD_MAX

REQUEST_BYTES_MAX: Final = BATCH_BYTES_HARD_MAX + 64 * 1024
_KEEP_ALIVE_SECONDS = 75
_CONNECTIONS_MAX = 2_000
_RPCS_MAX = 2_000


class GrpcServer:
    """Health and reflection included. Both message limits are set: the default of 4 MB is not ours. `receive_bytes_max` is larger
    where applies arrive."""

    def __init__(self, address: str, report: Report = unheard, receive_bytes_max: int = REQUEST_BYTES_MAX) -> None:
        self.server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", receive_bytes_max),
                ("grpc.max_send_message_length", 64 * 1024 * 1024),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ],
            interceptors=[GrpcShell(report)],
            maximum_concurrent_rpcs=_RPCS_MAX,
        )
        self._address = address
        self._health = health.aio.HealthServicer()
        self._services: tuple[str, ...] = ()

    async def start(self, services: Sequence[str]) -> int:
        """Binds and serves; the bound port. Raises RuntimeError when the port is taken."""
        self._services = tuple(services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), self.server)
        port = self.server.add_insecure_port(self._address)
        await self.server.start()
        return port

    async def set_ready(self, ready: bool) -> None:
        """What the health service answers, for the whole server and for each service."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *self._services):
            await self._health.set(service, status)

    async def stop(self, grace_seconds: float) -> None:
        """RPCs in flight may end; what is left after the grace is cancelled."""
        await self.server.stop(grace_seconds)


class HttpServer:
    """uvicorn on a loop that somebody else runs; signals are that somebody's."""

    def __init__(self, app: ASGIApp, address: str, connections_max: int = _CONNECTIONS_MAX) -> None:
        host, _, port = address.rpartition(":")
        self._app = app
        self._connections_max = connections_max
        config = uvicorn.Config(
            self._serve,
            host=host,
            port=int(port),
            interface="asgi3",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody asks for the client's address
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=10,
        )
        self._server = _Embedded(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Binds and serves; the bound port. Raises OSError when the port is taken."""
        config = self._server.config
        listener = config.bind_socket()
        self._task = asyncio.create_task(self._server.serve([listener]), name="http")
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise OSError("the HTTP server ended at once")
            await asyncio.sleep(0.005)
        port: int = listener.getsockname()[1]
        return port

    async def stop(self) -> None:
        """Requests in flight may end."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """uvicorn's own limit of connections would answer in plain text, without a code."""
        if len(self._server.server_state.connections) > self._connections_max:
            await refuse(scope, receive, send, Failure(Reason.OVERLOADED, retry_after_seconds=1), {"connection": "close"})
        else:
            await self._app(scope, receive, send)


class _Embedded(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

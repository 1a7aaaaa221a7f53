"""What a process of the router says over HTTP: /healthz (it runs), /readyz (it may be used), /status (for a person), /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


def application(
    problems: Callable[[], Mapping[str, str]], status: Callable[[], Mapping[str, object]], metrics: Callable[[], bytes]
) -> Starlette:
    """The four pages. `problems` are the parts that are not ready and why; none means ready."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        found = problems()
        return JSONResponse({"status": "unready", "problems": dict(found)}, 503) if found else JSONResponse({"status": "ok"})

    async def status_page(_: Request) -> Response:
        return JSONResponse(dict(status()))

    async def metrics_page(_: Request) -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4")

    pages = {"/healthz": healthz, "/readyz": readyz, "/status": status_page, "/metrics": metrics_page}
    return Starlette(routes=[Route(path, page) for path, page in pages.items()])


class _Unsignalled(uvicorn.Server):
    """Leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def serving(app: Starlette, host: str, port: int) -> AsyncIterator[None]:
    """Serves meanwhile. Raises OSError when the port is taken."""
    config = uvicorn.Config(app, host=host, port=port, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    listening = _listen(host, port)
    server = _Unsignalled(config)
    task = asyncio.create_task(server.serve([listening]))
    try:
        yield
    finally:
        server.should_exit = True
        await task
        listening.close()


def _listen(host: str, port: int) -> socket.socket:
    """Not uvicorn's own way, which ends the process when the port is taken. With the protocol named asyncio switches Nagle off."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except OSError:
        listening.close()
        raise
    return listening

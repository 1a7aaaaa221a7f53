"""What operators ask a cell over HTTP: is it alive, is it ready and if not why, its metrics, its API's description."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

OPENAPI = Path(__file__).parent / "ingest" / "openapi.yaml"


def routes(
    problems: Callable[[], dict[str, str]], exposition: Callable[[], bytes], degraded: Callable[[], dict[str, str]] = dict
) -> list[Route]:
    """`/livez`, `/readyz`, `/metrics`, `/openapi.yaml`. `problems` names the parts that are not ready, and why; `degraded` those
    that do not work while the process serves all the same: 200."""

    async def livez(_: Request) -> Response:
        return Response(b"ok\n", media_type="text/plain")

    async def readyz(_: Request) -> Response:
        found = problems()
        said = {"ready": not found, "problems": found, "degraded": degraded()}
        return Response(json.dumps(said), 503 if found else 200, media_type="application/json")

    async def metrics(_: Request) -> Response:
        return Response(exposition(), media_type="text/plain; version=0.0.4")

    async def openapi(_: Request) -> Response:
        return Response(OPENAPI.read_bytes(), media_type="application/yaml")

    return [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/metrics", metrics),
        Route("/openapi.yaml", openapi),
    ]

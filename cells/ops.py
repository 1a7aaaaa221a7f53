"""What operators ask a cell over HTTP: is it alive, is it ready and if not why, its metrics, its API's description."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

OPENAPI = Path(__file__).parent / "ingest" / "openapi.yaml"


def routes(problems: Callable[[], dict[str, str]], exposition: Callable[[], bytes]) -> list[Route]:
    """`/livez`, `/readyz`, `/metrics`, `/openapi.yaml`. `problems` names the parts that are not ready, and why."""

    async def livez(_: Request) -> Response:
        return Response(b"ok\n", media_type="text/plain")

    async def readyz(_: Request) -> Response:
        found = problems()
        return Response(json.dumps({"ready": not found, "problems": found}), 503 if found else 200, media_type="application/json")

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

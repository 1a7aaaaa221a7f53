"""What an ingest holds is bounded from the first byte on, and whoever comes too late is told so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from cells.defects import HttpShell
from cells.server import HttpServer


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_one_connection_too_many_is_shed_in_the_shape_of_all_errors(web: aiohttp.ClientSession) -> None:
    """Law: JSON with a code and Retry-After, and the connection ends; when there is room again, so is the answer."""
    server = HttpServer(HttpShell([]), "127.0.0.1:0", connections_max=2)
    port = await server.start()
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    async with web.get(f"http://127.0.0.1:{port}/") as shed:
        assert (shed.status, (await shed.json())["code"]) == (429, "OVERLOADED")
        assert (shed.headers["retry-after"], shed.headers["connection"]) == ("1", "close")
    for _, writer in idle:
        writer.close()
        await writer.wait_closed()
    async with web.get(f"http://127.0.0.1:{port}/") as served:
        assert (await served.json())["code"] == "NO_ROUTE"
    await server.stop()

"""What an ingest holds is bounded from the first byte on, and whoever comes too late is told so."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import aiohttp
import grpc
import pytest

from cells.admission.table import Update
from cells.defects import HttpShell
from cells.ingest.metrics import INFLIGHT_BYTES
from cells.server import HttpServer
from dataflow.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from dataflow.types.v1 import event_pb2
from kernel.ids import TenantId
from kernel.limits import BATCH_BYTES_MAX, KIB
from tests.support.cell import EU, KEY, QUOTA_KEY, Ingest, running_ingest
from tests.support.processes import eventually

EVENT = {"type": "track", "messageId": "m1", "userId": "u1", "event": "E"}
BY_HEADER: dict[str, str] = {"x-api-key": KEY}


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def held(ingest: Ingest) -> float:
    """What the gauge says."""
    return ingest.meter.values.get((INFLIGHT_BYTES.name, ()), 0.0)


@asynccontextmanager
async def half_sent(ingest: Ingest, path: str, headers: dict[str, str], part: bytes) -> AsyncIterator[None]:
    """A request that goes no further than `part` of its body; its client vanishes at the end."""
    host, port = ingest.http.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {10 * len(part)}", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    writer.write("\r\n".join(head).encode() + part)
    await writer.drain()
    try:
        yield
    finally:
        writer.close()
        await writer.wait_closed()


async def post(web: aiohttp.ClientSession, ingest: Ingest, path: str, headers: dict[str, str], body: object) -> tuple[int, str]:
    """Status, and the code of an error."""
    async with web.post(ingest.http + path, json=body, headers=headers) as response:
        return response.status, (await response.json()).get("code", "")


@pytest.mark.parametrize(
    ("path", "headers"), [("/v1/track", BY_HEADER), ("/s/acme-web/v1/track", {})], ids=["key in the header", "key in the body"]
)
async def test_half_sent_bodies_are_bounded_and_given_back(web: aiohttp.ClientSession, path: str, headers: dict[str, str]) -> None:
    """Law: bodies count while they arrive. One too many is shed, others are served, and nothing is held when the clients are gone."""
    event = {**EVENT, "writeKey": KEY}
    async with running_ingest(inflight_bytes_max=40_000) as ingest:
        async with AsyncExitStack() as stack:
            for _ in range(4):
                await stack.enter_async_context(half_sent(ingest, path, headers, b"x" * 5_000))
            await eventually(lambda: held(ingest) == 20_000, "the share is held")
            assert await post(web, ingest, path, headers, event) == (429, "OVERLOADED")
            assert await post(web, ingest, "/v1/track", {"x-api-key": QUOTA_KEY}, EVENT) == (200, "")
        await eventually(lambda: held(ingest) == 0, "nothing is held")
        assert await post(web, ingest, path, headers, event) == (200, "")
        assert held(ingest) == 0


async def test_a_gzip_body_counts_as_what_it_may_become() -> None:
    """Law: ten bytes of DEFLATE become 10,320 at most, and may do so before anybody can count them."""
    async with running_ingest() as ingest:
        async with half_sent(ingest, "/v1/track", {**BY_HEADER, "content-encoding": "gzip"}, gzip.compress(b" " * 10_000)[:10]):
            await eventually(lambda: held(ingest) == 10_320, "the most that it may become")
        await eventually(lambda: held(ingest) == 0, "nothing is held")


async def test_a_grpc_batch_counts_as_soon_as_it_is_read() -> None:
    """Law: one above the tenant's share is RESOURCE_EXHAUSTED, and nothing is held after it."""
    async with running_ingest(inflight_bytes_max=2_000) as ingest, grpc.aio.insecure_channel(ingest.grpc) as channel:
        stub: ingest_pb2_grpc.IngestServiceAsyncStub = ingest_pb2_grpc.IngestServiceStub(channel)
        event = event_pb2.Event(message_id="m", user_id="u", name="x" * 1_000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Ingest(ingest_pb2.IngestRequest(events=[event]), metadata=(("x-api-key", KEY),))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert held(ingest) == 0


def events_of(size: int) -> Iterator[dict[str, object]]:
    """Events of 10 KiB that fill `size` bytes."""
    for number in range(size // (10 * KIB)):
        yield {**EVENT, "messageId": f"m{number}", "properties": {"x": "y" * 10 * KIB}}


@pytest.mark.parametrize(
    ("bytes_max", "path", "size", "told"),
    [
        (2 * BATCH_BYTES_MAX, "/s/acme-web/v1/batch", BATCH_BYTES_MAX + 50 * KIB, (200, "")),
        (BATCH_BYTES_MAX + 50 * KIB, "/s/acme-web/v1/batch", BATCH_BYTES_MAX + 100 * KIB, (413, "BODY_TOO_LARGE")),
        (2 * BATCH_BYTES_MAX, "/s/nobody/v1/batch", BATCH_BYTES_MAX + 50 * KIB, (413, "BODY_TOO_LARGE")),
        (20 * KIB, "/v1/batch", 50 * KIB, (413, "BODY_TOO_LARGE")),
    ],
    ids=["within the plan", "above the plan", "no source", "a smaller plan"],
)
async def test_a_key_in_the_body_has_its_plans_limit(
    web: aiohttp.ClientSession, bytes_max: int, path: str, size: int, told: tuple[int, str]
) -> None:
    """Law: the path's source names the plan before the body is read; whoever the key turns out to be, that one's plan bounds it."""
    async with running_ingest() as ingest:
        tenant = ingest.admission.tenants[TenantId("acme-retail")]
        raised = replace(tenant, plan=replace(tenant.plan, batch_bytes_max=bytes_max))
        ingest.admission = ingest.admission.apply(Update(EU, 7, 8, (raised,)))
        assert await post(web, ingest, path, {}, {"batch": list(events_of(size)), "writeKey": KEY}) == told


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

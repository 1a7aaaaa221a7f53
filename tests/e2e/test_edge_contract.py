"""Bad input through the real edge into a real cell: always an answer with a code, never a 500, and no harm to the neighbours."""

from __future__ import annotations

import asyncio
import gzip
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio

from dataflow.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from dataflow.types.v1 import event_pb2
from kernel.ids import hash_of, mint_key
from kernel.limits import BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BODY_READ_SECONDS
from tests.support.fleet import Answer, Running, Source, event, running
from tests.support.processes import eventually

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.envoy,
    pytest.mark.postgres,
    pytest.mark.timeout(150),
    pytest.mark.asyncio(loop_scope="module"),
]
CELL, FOREIGN_CELL = "eu-west-1-a", "us-west-2-a"
HEADERS_SECONDS = 1.0
SLACK_SECONDS = 4.0


@dataclass
class Room:
    """Two zones; two tenants of one cell, of which one misbehaves, and a tenant of the other zone."""

    running: Running
    shop: Source
    neighbour: Source
    foreign: Source
    slow_body: asyncio.Task[tuple[float, bytes]]

    async def post(self, body: object, headers: dict[str, str] | None = None, path: str = "/v1/batch", key: str | None = None) -> Answer:
        """One request of the shop; every answer must be JSON with a code, or the success."""
        answer = await self.running.ask("POST", "eu", path, self.shop.write_key if key is None else key, body, headers)
        told = answer.json()
        assert answer.headers["content-type"] == "application/json"
        assert told.get("success") is True or {"code", "message"} <= set(told)
        return answer

    async def all_is_well(self) -> None:
        """The neighbour, and the tenant itself, are served at once."""
        for source in (self.neighbour, self.shop):
            answer = await self.running.send(source, [f"well-{secrets.token_hex(6)}"])
            assert (answer.status, answer.seconds < SLACK_SECONDS) == (200, True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def room() -> AsyncIterator[Room]:
    async with running([CELL, FOREIGN_CELL], settings={"headers_seconds": str(HEADERS_SECONDS)}) as fleet:
        shop, neighbour = await fleet.add("shop", CELL), await fleet.add("neighbour", CELL)
        trickling = asyncio.create_task(trickle(fleet, shop))
        yield Room(fleet, shop, neighbour, await fleet.add("foreign", FOREIGN_CELL), trickling)
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)


def batch(*events: object) -> bytes:
    """A body of these events."""
    return json.dumps({"batch": events}).encode()


def head(fleet: Running, key: str, length: int) -> bytes:
    """The head of a request that promises `length` bytes."""
    host = fleet.fleet.access.zone_address("eu")
    lines = ["POST /v1/batch HTTP/1.1", f"host: {host}", f"authorization: Bearer {key}", "content-type: application/json"]
    return "\r\n".join([*lines, f"content-length: {length}", "", ""]).encode()


async def connect(fleet: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw connection to the zone's endpoint."""
    host, _, port = fleet.fleet.access.zone_address("eu").partition(":")
    return await asyncio.open_connection(host, int(port))


async def trickle(fleet: Running, source: Source) -> tuple[float, bytes]:
    """A body that comes byte by byte and never ends: (seconds until the answer, its first bytes)."""
    reader, writer = await connect(fleet)
    began = time.monotonic()
    writer.write(head(fleet, source.write_key, 1_000))
    answer = asyncio.create_task(reader.readuntil(b"}"))
    try:
        while not answer.done():
            writer.write(b"{")
            await asyncio.wait([answer], timeout=0.5)
        return time.monotonic() - began, answer.result()
    finally:
        answer.cancel()
        writer.transport.abort()


BOMB = gzip.compress(b'{"batch":["' + b"a" * 50_000_000)
BODIES: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("cut off", b'{"batch":[{"type":"track"', {}, 400, "MALFORMED_BODY"),
    ("no JSON", b"hello", {}, 400, "MALFORMED_BODY"),
    ("empty", b"", {}, 400, "MALFORMED_BODY"),
    ("another shape", b'{"batch":7}', {}, 400, "INVALID_FIELD"),
    ("empty batch", b'{"batch":[]}', {}, 400, "EMPTY_BATCH"),
    ("bad UTF-8", b'{"batch":[{"type":"track","event":"\xff","userId":"u"}]}', {}, 400, "INVALID_ENCODING"),
    ("NaN", b'{"batch":[{"type":"track","event":"e","userId":"u","properties":{"n":NaN}}]}', {}, 400, "MALFORMED_BODY"),
    ("lone surrogate", b'{"batch":[{"type":"track","event":"\\ud800","userId":"u"}]}', {}, 400, "INVALID_CHARACTER"),
    ("NUL in an id", b'{"batch":[{"type":"track","event":"e","userId":"\\u0000"}]}', {}, 400, "INVALID_CHARACTER"),
    ("deep", b'{"batch":[{"type":"track","event":"e","userId":"u","properties":' + b'{"a":' * 1_000 + b"1" + b"}" * 1_000 + b"}]}", {}, 400,
     "NESTING_TOO_DEEP"),
    ("unknown type", batch({"type": "dance", "userId": "u"}), {}, 400, "UNKNOWN_TYPE"),
    ("no id", batch({"type": "track", "event": "e"}), {}, 400, "MISSING_ID"),
    ("year 10000", batch(event("y", timestamp="10000-01-01T00:00:00Z")), {}, 400, "INVALID_TIMESTAMP"),
    ("oversize event", batch(event("big", properties={"text": "x" * 40_000})), {}, 400, "EVENT_TOO_LARGE"),
    ("oversize", b"x" * (BATCH_BYTES_MAX + 1), {}, 413, "BODY_TOO_LARGE"),
    ("too many", batch(*[event(f"n{n}") for n in range(BATCH_EVENTS_MAX + 1)]), {}, 413, "TOO_MANY_EVENTS"),
    ("gzip bomb", BOMB, {"content-encoding": "gzip"}, 413, "BODY_TOO_LARGE"),
    ("no gzip", b"plain", {"content-encoding": "gzip"}, 400, "MALFORMED_BODY"),
    ("cut gzip", gzip.compress(batch(event("g")))[:-9], {"content-encoding": "gzip"}, 400, "MALFORMED_BODY"),
    ("zstd", b"x", {"content-encoding": "zstd"}, 415, "UNSUPPORTED_CONTENT_ENCODING"),
    ("XML", b"<a/>", {"content-type": "application/xml"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "status", "code"), [one[1:] for one in BODIES], ids=[one[0] for one in BODIES])
async def test_a_bad_body_is_refused_with_its_reason(room: Room, body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    """Law: a permanent refusal of the right kind, and the next request is served at once."""
    answer = await room.post(body, headers)
    assert (answer.status, answer.json()["code"]) == (status, code)
    await room.all_is_well()


async def test_bad_events_do_not_take_their_neighbours_along(room: Room) -> None:
    """Law: of one batch the good events are stored, the bad ones are listed, and a repeat inside it counts once."""
    good = [f"kept-{n}" for n in range(3)]
    too_old = event(good[2], timestamp="0000-01-01T00:00:00Z")
    events = [event(good[0]), {"type": "dance"}, event(good[1]), "text", event(good[1]), too_old, 7]
    answer = await room.post(batch(*events))
    assert answer.status == 200
    assert [one["index"] for one in answer.json()["rejected"]] == [1, 3, 5, 6]
    await room.running.wait_until_stored_some(room.shop, good[1])
    stored = await room.running.stored(room.shop)
    assert [stored.count(name) for name in good] == [1, 1, 0]


async def test_a_wrong_credential_is_told_why(room: Room) -> None:
    """Law: no key, an unknown, revoked, foreign or contradicting one: the right status and code, and nothing is stored."""
    shop, access = room.shop, room.running.fleet.access
    unknown = mint_key("wk", access.zone("eu"), secrets.token_bytes(32)).text
    async with access.directory("eu") as directory:
        source, revoked = await directory.create_source("shop", "old")
        await directory.revoke_key(hash_of(revoked))
    body = batch(event("never"))
    assert source.name == "old"
    assert told(await room.post(body, key="")) == (401, "NO_CREDENTIAL")
    assert told(await room.post(body, key=unknown)) == (401, "UNKNOWN_KEY")
    assert told(await room.post(body, key="sometext")) == (401, "UNKNOWN_KEY")
    assert told(await room.post(body, key=shop.read_key)) == (403, "WRONG_KEY_KIND")
    assert told(await room.post({"batch": [event("never")], "writeKey": room.neighbour.write_key})) == (400, "KEY_MISMATCH")
    assert told(await room.post({"batch": [event("never")], "writeKey": shop.write_key}, key="")) == (401, "NO_CREDENTIAL")
    slug = f"/s/{shop.slug}/v1/batch"
    other = {"batch": [event("never")], "writeKey": room.neighbour.write_key}
    assert told(await room.post(other, path=slug, key="")) in ((403, "KEY_OF_OTHER_SOURCE"), (503, "MOVED"))
    assert told(await room.post(body, path=slug, key="")) == (401, "NO_CREDENTIAL")
    assert (await room.post({"batch": [event("by-body")], "writeKey": shop.write_key}, path=slug, key="")).status == 200

    async def is_revoked() -> bool:
        return told(await room.post(body, key=revoked)) == (401, "REVOKED_KEY")

    await eventually(is_revoked, "the revocation reaches the edge", 10)
    await room.running.wait_until_stored_some(shop, "by-body")
    assert "never" not in await room.running.stored(shop)


async def test_a_foreign_key_is_told_where_to_go(room: Room) -> None:
    """Law: 421 with the other zone's endpoint; nothing of it reaches a cell of this zone."""
    answer = await room.post(batch(event("foreign")), key=room.foreign.write_key)
    assert (answer.status, answer.json()["code"]) == (421, "FOREIGN_ZONE")
    assert answer.headers["x-residency-endpoint"] == room.running.endpoint("us")
    assert (await room.running.send(room.foreign, ["at-home"])).status == 200
    await room.running.wait_until_stored(room.foreign, ["at-home"])


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/readyz",
        "/livez",
        "/",
        "/v2/track",
        "/v1/../metrics",
        "/v1/%2e%2e/metrics",
        "/v1/..%2fmetrics",
        "//metrics",
    ],
)
async def test_a_cells_own_pages_are_not_public(room: Room, path: str) -> None:
    """Law: through the edge a key leads to the API and nowhere else: metrics speak of all tenants."""
    _, port = room.running.fleet.access.zone_address("eu").split(":")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {room.shop.write_key}\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.transport.abort()
    assert answer.startswith(b"HTTP/1.1 404")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "NO_ROUTE"


async def test_slow_headers_are_cut(room: Room) -> None:
    """Law: a client that does not finish its headers is answered 408 and loses its connection; others do not notice."""
    connections = [await connect(room.running) for _ in range(20)]
    for _, writer in connections:
        writer.write(b"POST /v1/batch HTTP/1.1\r\nhost: x\r\nx-slow: ")
    await room.all_is_well()
    async with asyncio.timeout(HEADERS_SECONDS + SLACK_SECONDS):
        answers = await asyncio.gather(*(reader.read() for reader, _ in connections))
    for answer, (_, writer) in zip(answers, connections, strict=True):
        assert answer.startswith(b"HTTP/1.1 408")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "REQUEST_TIMEOUT"
        writer.transport.abort()


async def test_a_client_that_vanishes_leaves_nothing(room: Room) -> None:
    """Law: half a body is no event, and the next request is served at once."""
    body = batch(event("vanished"))
    for _ in range(10):
        _, writer = await connect(room.running)
        writer.write(head(room.running, room.shop.write_key, len(body)) + body[:-5])
        await writer.drain()
        writer.transport.abort()
    await room.all_is_well()
    answer = await room.running.ask("GET", "eu", "/v1/events/vanished/trace", room.shop.read_key)
    assert answer.json()["place"] == "unknown"


async def test_a_stream_goes_through_the_edge(room: Room) -> None:
    """Law: acknowledgements come in order; a refused batch does not end the stream; what is acknowledged is stored."""
    async with grpc.aio.insecure_channel(room.running.fleet.access.zone_address("eu")) as channel:
        stub: ingest_pb2_grpc.IngestServiceAsyncStub = ingest_pb2_grpc.IngestServiceStub(channel)
        call = stub.IngestStream(metadata=(("authorization", f"Bearer {room.neighbour.write_key}"),), timeout=20)
        for number in range(1, 51):
            events = [] if number == 25 else [proto(f"streamed-{number}")]
            await call.write(ingest_pb2.IngestStreamRequest(sequence=number, batch=ingest_pb2.IngestRequest(events=events)))
        await call.done_writing()
        answers = [answer async for answer in call]
    assert [answer.sequence for answer in answers] == list(range(1, 51))
    assert [answer.error.code for answer in answers if answer.HasField("error")] == ["EMPTY_BATCH"]
    await room.running.wait_until_stored_some(room.neighbour, "streamed-50")


async def test_a_stream_whose_client_vanishes_leaves_what_it_sent(room: Room) -> None:
    """Law: what was acknowledged before stays, and the cell serves on."""
    channel = grpc.aio.insecure_channel(room.running.fleet.access.zone_address("eu"))
    call = ingest_pb2_grpc.IngestServiceStub(channel).IngestStream(metadata=(("x-api-key", room.neighbour.write_key),))
    await call.write(ingest_pb2.IngestStreamRequest(sequence=1, batch=ingest_pb2.IngestRequest(events=[proto("cut")])))
    answer = await call.read()
    assert isinstance(answer, ingest_pb2.IngestStreamResponse)
    assert answer.sequence == 1
    await channel.close()
    await room.all_is_well()
    await room.running.wait_until_stored_some(room.neighbour, "cut")


async def test_a_slow_body_is_cut(room: Room) -> None:
    """Law: a body that does not arrive in time is answered 408, in time."""
    seconds, answer = await room.slow_body
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"REQUEST_TIMEOUT" in answer
    assert seconds < BODY_READ_SECONDS + SLACK_SECONDS


def told(answer: Answer) -> tuple[int, str]:
    """Status and code."""
    return answer.status, answer.json().get("code", "")


def proto(message_id: str) -> event_pb2.Event:
    """A track event."""
    return event_pb2.Event(type=event_pb2.EVENT_TYPE_TRACK, name="E", user_id="u", message_id=message_id)

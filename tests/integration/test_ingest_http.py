"""The HTTP contract of ingest.md on real sockets, over a log in memory."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from segment.analytics.client import Client

from cells.eventlog.memory import MemoryLog
from cells.pace import Pace
from kernel.errors import Failure, Reason
from kernel.limits import BATCH_BYTES_MAX, BATCH_EVENTS_MAX, PACE_WINDOW_SECONDS
from kernel.process.clock import SystemClock
from tests.support.cell import (
    FOREIGN_KEY,
    KEY,
    MOVED_KEY,
    OTHER_KEY,
    QUOTA_KEY,
    READ_KEY,
    REVOKED_KEY,
    SUSPENDED_KEY,
    UNKNOWN_KEY,
    Ingest,
    running_ingest,
)
from tests.support.clock import ManualClock

EVENT = {"type": "track", "messageId": "m1", "userId": "u1", "event": "Order Completed", "properties": {"total": 9.99}}


@pytest.fixture
async def ingest() -> AsyncIterator[Ingest]:
    async with running_ingest() as running:
        yield running


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def basic(key: str, colon: bool = True) -> dict[str, str]:
    """A Basic header with the key as user name and an empty password."""
    return {"authorization": "Basic " + base64.b64encode((key + (":" if colon else "")).encode()).decode()}


class Answer:
    """Status, headers and parsed body."""

    def __init__(self, status: int, headers: Any, body: Any) -> None:
        self.status, self.headers, self.body = status, headers, body


async def post(web: aiohttp.ClientSession, ingest: Ingest, path: str, body: object, headers: dict[str, str] | None = None) -> Answer:
    """Posts JSON, or bytes as they are; every answer must be JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with web.post(ingest.http + path, data=data, headers={"content-type": "application/json", **(headers or {})}) as response:
        return Answer(response.status, response.headers, await response.json())


async def test_success_is_200_with_success_true_and_the_event_is_in_the_log(ingest: Ingest, web: aiohttp.ClientSession) -> None:
    """Several SDKs count nothing else as success."""
    answer = await post(web, ingest, "/v1/batch", {"batch": [EVENT]}, basic(KEY))
    assert (answer.status, answer.body) == (200, {"success": True})
    (envelope,) = await ingest.envelopes()
    assert json.loads(envelope.payload) == EVENT


@pytest.mark.parametrize(
    "headers",
    [basic(KEY), basic(KEY, colon=False), {"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}, {"authorization": f"bearer {KEY}"}],
    ids=["basic", "basic without colon", "bearer", "x-api-key", "lower-case scheme"],
)
async def test_every_way_to_give_the_key_works(ingest: Ingest, web: aiohttp.ClientSession, headers: dict[str, str]) -> None:
    """Header forms that SDKs really use."""
    assert (await post(web, ingest, "/v1/track", EVENT, headers)).status == 200


async def test_the_key_in_the_body_alone_works_with_the_source_in_the_path(ingest: Ingest, web: aiohttp.ClientSession) -> None:
    """Python SDKs of old send no Authorization header at all; the key must belong to the source that the path names."""
    body = {"batch": [EVENT], "writeKey": KEY}
    assert (await post(web, ingest, "/s/acme-web/v1/batch", body)).status == 200
    refused = await post(web, ingest, "/s/acme-app/v1/batch", body)
    assert (refused.status, refused.body["code"]) == (403, "KEY_OF_OTHER_SOURCE")


@pytest.mark.parametrize(
    ("headers", "body_key", "status", "code"),
    [
        ({}, None, 401, "NO_CREDENTIAL"),
        (basic(UNKNOWN_KEY), None, 401, "UNKNOWN_KEY"),
        (basic("garbage"), None, 401, "UNKNOWN_KEY"),
        ({"authorization": "Basic %%%"}, None, 401, "NO_CREDENTIAL"),
        ({"authorization": "Negotiate abc"}, None, 401, "NO_CREDENTIAL"),
        (basic(REVOKED_KEY), None, 401, "REVOKED_KEY"),
        (basic(FOREIGN_KEY), None, 421, "FOREIGN_ZONE"),
        (basic(READ_KEY), None, 403, "WRONG_KEY_KIND"),
        (basic(SUSPENDED_KEY), None, 403, "TENANT_SUSPENDED"),
        (basic(KEY), OTHER_KEY, 400, "KEY_MISMATCH"),
        (basic(MOVED_KEY), None, 503, "MOVED"),
    ],
)
async def test_a_wrong_credential_is_told_why(
    ingest: Ingest, web: aiohttp.ClientSession, headers: dict[str, str], body_key: str | None, status: int, code: str
) -> None:
    """Never a silent 200, and nothing of it in the log."""
    body = {"batch": [EVENT], **({"writeKey": body_key} if body_key else {})}
    answer = await post(web, ingest, "/v1/batch", body, headers)
    assert (answer.status, answer.body["code"]) == (status, code)
    assert set(answer.body) == {"code", "message"}
    assert not await ingest.envelopes()
    if code == "FOREIGN_ZONE":
        assert answer.headers["x-residency-endpoint"] == "https://us.example"


async def test_one_bad_event_never_rejects_its_neighbours(ingest: Ingest, web: aiohttp.ClientSession) -> None:
    """200, and the list of what was not accepted."""
    bad = {"type": "track", "messageId": "bad", "event": "E"}
    answer = await post(web, ingest, "/v1/batch", {"batch": [EVENT, bad, {**EVENT, "messageId": "m2"}]}, basic(KEY))
    assert answer.status == 200
    assert answer.body["success"] is True
    assert [(r["index"], r["messageId"], r["code"]) for r in answer.body["rejected"]] == [(1, "bad", "MISSING_ID")]
    assert [e.message_id for e in await ingest.envelopes()] == ["m1", "m2"]


async def test_a_batch_whose_every_event_is_bad_is_a_400(ingest: Ingest, web: aiohttp.ClientSession) -> None:
    """With each one's reason."""
    bad = {"type": "track", "event": "E"}
    answer = await post(web, ingest, "/v1/batch", {"batch": [bad, bad]}, basic(KEY))
    assert (answer.status, answer.body["code"], len(answer.body["rejected"])) == (400, "ALL_REJECTED", 2)
    single = await post(web, ingest, "/v1/track", bad, basic(KEY))
    assert (single.status, single.body["code"]) == (400, "MISSING_ID")


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, "MALFORMED_BODY"),
        (b"", {}, 400, "MALFORMED_BODY"),
        (b'{"batch":[]}', {}, 400, "EMPTY_BATCH"),
        (b'{"batch":[' + b"[" * 200_000 + b"]" * 200_000 + b"]}", {}, 400, "EVENT_TOO_LARGE"),
        (b"x" * (BATCH_BYTES_MAX + 1), {}, 413, "BODY_TOO_LARGE"),
        (b"x", {"content-type": "application/xml"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        (b"x", {"content-encoding": "br"}, 415, "UNSUPPORTED_CONTENT_ENCODING"),
        (b"not gzip", {"content-encoding": "gzip"}, 400, "MALFORMED_BODY"),
        (gzip.compress(b'{"batch":[]}')[:-9], {"content-encoding": "gzip"}, 400, "MALFORMED_BODY"),
        (gzip.compress(b'{"batch":[]}') + b"more", {"content-encoding": "gzip"}, 400, "MALFORMED_BODY"),
        (gzip.compress(b'{"batch":[]}') + b"x" * BATCH_BYTES_MAX, {"content-encoding": "gzip"}, 413, "BODY_TOO_LARGE"),
        (gzip.compress(b" " * 50_000_000), {"content-encoding": "gzip"}, 413, "BODY_TOO_LARGE"),
        (json.dumps({"batch": [{}] * (BATCH_EVENTS_MAX + 1)}).encode(), {}, 413, "TOO_MANY_EVENTS"),
    ],
    ids=[
        "malformed",
        "empty",
        "empty batch",
        "200,000 deep",
        "oversize",
        "media type",
        "encoding",
        "not gzip",
        "cut gzip",
        "bytes behind gzip",
        "many bytes behind gzip",
        "gzip bomb",
        "count",
    ],
)
async def test_a_bad_body_is_refused_with_its_reason(
    ingest: Ingest, web: aiohttp.ClientSession, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """Never a 500, never silence; and the next request is fine."""
    answer = await post(web, ingest, "/v1/batch", body, {**basic(KEY), **headers})
    assert (answer.status, answer.body["code"]) == (status, code)
    assert (await post(web, ingest, "/v1/track", EVENT, basic(KEY))).status == 200


async def test_gzip_and_beacons_are_taken(ingest: Ingest, web: aiohttp.ClientSession) -> None:
    """A gzip body, and the text/plain of navigator.sendBeacon."""
    body = gzip.compress(json.dumps({"batch": [EVENT]}).encode())
    assert (await post(web, ingest, "/v1/batch", body, {**basic(KEY), "content-encoding": "gzip"})).status == 200
    assert (await post(web, ingest, "/v1/batch", {"batch": [EVENT]}, {**basic(KEY), "content-type": "text/plain"})).status == 200


@pytest.mark.parametrize("kind", ["track", "identify", "page", "screen", "group", "alias"])
async def test_every_call_of_the_specification_has_its_path(ingest: Ingest, web: aiohttp.ClientSession, kind: str) -> None:
    """The path names the type."""
    body = {"userId": "u", "event": "E", "groupId": "g", "previousId": "p", "messageId": kind}
    assert (await post(web, ingest, f"/v1/{kind}", body, basic(KEY))).status == 200
    assert [e.type for e in await ingest.envelopes()] == [kind]


async def test_the_quota_answers_429_with_retry_after_and_harms_no_other_tenant(ingest: Ingest, web: aiohttp.ClientSession) -> None:
    """Five events of burst, one per second: the second batch of five waits; the neighbour does not."""
    batch = {"batch": [{**EVENT, "messageId": f"q{n}"} for n in range(5)]}
    assert (await post(web, ingest, "/v1/batch", batch, basic(QUOTA_KEY))).status == 200
    shed = await post(web, ingest, "/v1/batch", batch, basic(QUOTA_KEY))
    assert (shed.status, shed.body["code"]) == (429, "QUOTA_EXCEEDED")
    assert 1 <= int(shed.headers["retry-after"]) <= 300
    assert (await post(web, ingest, "/v1/batch", {"batch": [EVENT]}, basic(KEY))).status == 200


async def test_what_quota_or_pace_refuse_takes_nothing_of_the_other(web: aiohttp.ClientSession) -> None:
    """Law: while applies are behind, a tenant beyond its quota uses up nothing of what others may send, and what is refused because of
    the applies does not count against a quota."""
    five, six = ({"batch": [{**EVENT, "messageId": f"{count}-{n}"} for n in range(count)]} for count in (5, 6))
    clock = ManualClock()
    pace = Pace(clock)

    def behind() -> None:
        for _ in range(3):
            pace.fetched(0, 60.0)
            pace.accepted(1)
            pace.applied(1)
            clock.advance(PACE_WINDOW_SECONDS)
            pace.events_per_second_max()

    async with running_ingest(pace=pace) as ingest:

        async def code(body: object, key: str) -> str | int:
            answer = await post(web, ingest, "/v1/batch", body, basic(key))
            return answer.status if answer.status == 200 else str(answer.body["code"])

        behind()
        assert await code({"batch": [EVENT]}, KEY) == 200
        assert await code(five, QUOTA_KEY) == "OVERLOADED"
        pace.idle(0)
        assert await code(five, QUOTA_KEY) == 200
        behind()
        assert await code(six, QUOTA_KEY) == "QUOTA_EXCEEDED"
        assert await code({"batch": [EVENT]}, KEY) == 200
        assert await code({"batch": [EVENT]}, KEY) == "OVERLOADED"


async def test_memory_is_bounded_and_a_single_tenant_cannot_take_it_all(web: aiohttp.ClientSession) -> None:
    """Above its share a tenant is shed with 429 before anything is appended."""
    async with running_ingest(inflight_bytes_max=400) as ingest:
        answer = await post(web, ingest, "/v1/batch", {"batch": [{**EVENT, "properties": {"x": "y" * 300}}]}, basic(KEY))
        assert (answer.status, answer.body["code"], answer.headers["retry-after"]) == (429, "OVERLOADED", "1")
        assert (await post(web, ingest, "/v1/batch", {"batch": [EVENT]}, basic(KEY))).status == 200


class BrokenLog(MemoryLog):
    """A log whose disk is away."""

    async def append(self, partition: int, record: object, deadline: float) -> int:
        raise Failure(Reason.LOG_UNAVAILABLE, retry_after_seconds=1)


async def test_a_log_that_cannot_store_is_a_429_for_the_whole_request(web: aiohttp.ClientSession) -> None:
    """Nothing is acknowledged that is not durable; the client keeps the batch."""
    async with running_ingest(BrokenLog(4, SystemClock())) as ingest:
        answer = await post(web, ingest, "/v1/batch", {"batch": [EVENT]}, basic(KEY))
        assert (answer.status, answer.body["code"], answer.headers["retry-after"]) == (429, "LOG_UNAVAILABLE", "1")


async def test_a_draining_ingest_finishes_what_it_has_and_refuses_the_rest(ingest: Ingest, web: aiohttp.ClientSession) -> None:
    """503 is what clients retry."""
    await ingest.acceptor.drain(SystemClock().monotonic() + 1)
    answer = await post(web, ingest, "/v1/batch", {"batch": [EVENT]}, basic(KEY))
    assert (answer.status, answer.body["code"]) == (503, "DRAINING")


async def test_an_older_epoch_is_told_that_the_tenant_moved(ingest: Ingest, web: aiohttp.ClientSession) -> None:
    """Door 1: the cell's epoch is 3; stamps of 3 and newer pass, older ones do not; half a stamp is a defect."""
    for epoch, status in (("2", 503), ("3", 200), ("4", 200)):
        stamp = {"x-dataflow-tenant": "acme-retail", "x-dataflow-cell": "eu-west-1-a", "x-dataflow-epoch": epoch}
        assert (await post(web, ingest, "/v1/track", EVENT, {**basic(KEY), **stamp})).status == status
    assert (await post(web, ingest, "/v1/track", EVENT, {**basic(KEY), "x-dataflow-tenant": "acme-retail"})).status == 500


async def test_a_slow_body_times_out(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow-loris client holds nothing for ever: it is answered 408 and the connection is usable by nobody."""
    from kernel import limits

    monkeypatch.setattr(limits, "BODY_READ_SECONDS", 0.2)
    host, port = ingest.http.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/track HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nauthorization: {basic(KEY)['authorization']}\r\n\r\n"
    writer.write(head.encode() + b"{")
    await writer.drain()
    async with asyncio.timeout(5):
        assert b" 408 " in await reader.readline()
    writer.close()


async def test_a_client_that_vanishes_in_mid_body_leaves_nothing(ingest: Ingest, web: aiohttp.ClientSession) -> None:
    """Half a request is no request."""
    host, port = ingest.http.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /v1/track HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nauthorization: {basic(KEY)['authorization']}\r\n\r\n{{".encode()
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await post(web, ingest, "/v1/track", EVENT, basic(KEY))).status == 200
    assert len(await ingest.envelopes()) == 1


async def test_the_official_segment_sdk_is_satisfied(ingest: Ingest) -> None:
    """Every call of the Python SDK arrives, with and without gzip, and the SDK reports no error."""
    errors: list[object] = []

    def send(compress: bool) -> None:
        client = Client(KEY, host=ingest.http, on_error=lambda error, _: errors.append(error), gzip=compress, max_retries=1)
        client.track("u1", "Order Completed", {"total": 9.99})
        client.identify("u1", {"email": "a@example.com"})
        client.page("u1", "Docs", "Home")
        client.screen("u1", "App", "Start")
        client.group("u1", "g1", {"name": "Acme"})
        client.alias("anon", "u1")
        client.shutdown()

    await asyncio.to_thread(send, False)
    await asyncio.to_thread(send, True)
    assert errors == []
    assert sorted(e.type for e in await ingest.envelopes()) == sorted(["track", "identify", "page", "screen", "group", "alias"] * 2)

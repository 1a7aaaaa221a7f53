"""The query API on a real PostgreSQL, over real HTTP and gRPC."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import asyncpg
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from starlette.applications import Starlette

from cells.eventlog import codec
from cells.eventlog.envelope import Body, Envelope
from cells.server import GrpcServer, HttpServer
from cells.storage.api_client import GrpcStore
from cells.storage.api_grpc import QueryGrpc, StorageGrpc
from cells.storage.api_http import QueryHttp
from cells.storage.ask import Questions
from cells.storage.audit import Entry
from cells.storage.auditor import Auditor, verify_chain
from cells.storage.postgres_audit import PostgresAuditTrail
from dataflow.storage.v1 import query_pb2, query_pb2_grpc, storage_pb2_grpc
from kernel.clock import HOUR, Micros, iso
from kernel.effects import Applied, Apply, DeadLetter, Duplicate, Fenced, HeldRecord, IdentityClaim, Position, TraitClaim, Unkeepable
from kernel.epoch import Claim, Epoch
from kernel.errors import Failure, Reason
from kernel.ids import TenantId
from tests.support.storage_room import ACME, CELL, GLOBEX, NOW, Room, effects, event, postgres_room

__all__ = ["postgres_room"]

pytestmark = pytest.mark.postgres

PAYLOAD = b'{"z": "\\u0000\\ud83d\\ude00", "n": ' + b"9" * 100 + b', "messageId":"m0"}'


def authenticate(headers: Mapping[str, str]) -> tuple[TenantId, str]:
    """`Bearer <tenant>` is that tenant."""
    scheme, _, name = headers.get("authorization", "").partition(" ")
    if scheme != "Bearer":
        raise Failure(Reason.NO_CREDENTIAL)
    if name not in ("acme", "globex"):
        raise Failure(Reason.UNKNOWN_KEY)
    return TenantId(name), f"rk_{name}"


@dataclass
class Api:
    """The running shells over a store with a few events."""

    room: Room
    trail: PostgresAuditTrail
    auditor: Auditor
    http: str = ""
    grpc: str = ""
    in_log: dict[str, Position] = field(default_factory=dict)

    async def get(self, path: str, who: str = "acme", **parameters: str) -> tuple[int, dict[str, object]]:
        """Status and JSON body."""
        url = f"{self.http}{path}" + (f"?{urllib.parse.urlencode(parameters)}" if parameters else "")
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {who}"} if who else {})  # noqa: S310  # our own server

        def ask() -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # our own server
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()

        status, body = await asyncio.to_thread(ask)
        return status, json.loads(body)

    async def entries(self) -> list[Entry]:
        """The audit chain."""
        return await self.trail.read("cell", 0, 1_000)


@pytest.fixture
async def api(postgres_room: Room) -> AsyncIterator[Api]:
    """Events m0 to m4 of acme, an hour apart, one of globex, a dead letter, a held record, a person."""
    room = postgres_room
    rows = [event(f"m{n}", event_at=NOW - n * HOUR, offset=n, payload=PAYLOAD, user_id="ann" if n % 2 else "bob") for n in range(5)]
    letter = DeadLetter(ACME, NOW, 9, 2, "bad", "UNPROCESSABLE_EVENT", "shape", b"{}")
    traits = (TraitClaim(ACME, "a:1", "plan", '{"deep":[1.50]}', NOW, "m0"),)
    people = (IdentityClaim(ACME, "u:ann", "a:1"),)
    await room.apply(effects(*rows, event("m0", GLOBEX, offset=5), identities=people, traits=traits, dead_letters=(letter,)))
    body = codec.encode(Body(None, [Envelope("w0", "track", b"{}", 1), Envelope("w1", "track", b"{}", 1)]))
    await room.apply(effects(held=(HeldRecord(ACME, NOW, 5, 2, body),), partition=3), epochs={})
    assert room.dsns is not None
    trail = PostgresAuditTrail(room.dsns.audit)
    auditor = Auditor(trail, "cell", room.meter)
    auditor.start()
    made = Api(room, trail, auditor)

    async def locate(tenant: TenantId, message_id: str) -> Position | None:
        return made.in_log.get(f"{tenant}/{message_id}")

    questions = Questions(room.reader, auditor, locate, room.clock, room.meter)
    http = HttpServer(Starlette(routes=QueryHttp(questions, authenticate).routes()), "127.0.0.1:0")
    server = GrpcServer("127.0.0.1:0")
    query_pb2_grpc.add_QueryServiceServicer_to_server(QueryGrpc(questions, authenticate), server.server)
    storage_pb2_grpc.add_StorageServiceServicer_to_server(StorageGrpc(room.store, room.clock), server.server)
    made.http = f"http://127.0.0.1:{await http.start()}"
    made.grpc = f"127.0.0.1:{await server.start(['dataflow.storage.v1.QueryService'])}"
    yield made
    await server.stop(0.5)
    await http.stop()
    await auditor.close()
    await trail.close()


async def test_events_come_back_as_json_with_the_payload_untouched(api: Api) -> None:
    """Every field; the payload is the client's JSON, numbers of 100 digits included."""
    status, body = await api.get("/v1/events/m0")
    assert status == 200
    assert body["payload"] == json.loads(PAYLOAD)
    assert {name: body[name] for name in ("messageId", "type", "name", "userId", "anonymousId", "source", "cell", "epoch")} == {
        "messageId": "m0",
        "type": "track",
        "name": "Order Done",
        "userId": "bob",
        "anonymousId": None,
        "source": "web",
        "cell": CELL,
        "epoch": 1,
    }
    assert body["timestamp"] == body["receivedAt"] == body["storedAt"] == iso(NOW)


@pytest.mark.parametrize("payload", [b"", b"{", b'{"a":NaN}', b'{"a":"\xff"}', b'{"a":1} x', b"[" * 100_000])
async def test_a_payload_that_is_no_json_is_null_in_an_answer_that_is(api: Api, payload: bytes) -> None:
    """Only another writer than ingest leaves one in a log: its neighbours on the page are shown, and over gRPC its bytes are."""
    await api.room.apply(effects(event("odd", payload=payload)))
    status, body = await api.get("/v1/events")
    assert status == 200
    shown = {one["messageId"]: one["payload"] for one in body["events"]}  # type: ignore[attr-defined]  # JSON
    assert shown == {"odd": None, **dict.fromkeys(["m0", "m1", "m2", "m3", "m4"], json.loads(PAYLOAD))}
    async with grpc.aio.insecure_channel(api.grpc) as channel:
        stub: query_pb2_grpc.QueryServiceAsyncStub = query_pb2_grpc.QueryServiceStub(channel)
        found = await stub.GetEvent(query_pb2.GetEventRequest(message_id="odd"), metadata=(("authorization", "Bearer acme"),))
    assert found.payload_json == payload


async def test_pages_over_http(api: Api) -> None:
    """Following nextPageToken meets every event once, newest first; the last page has none."""
    found: list[object] = []
    token = ""
    for _ in range(3):
        status, body = await api.get("/v1/events", pageSize="2", **({"pageToken": token} if token else {}))
        assert status == 200
        found += [event["messageId"] for event in body["events"]]  # type: ignore[attr-defined]  # JSON
        token = str(body["nextPageToken"])
    assert (found, token) == (["m0", "m1", "m2", "m3", "m4"], "")


async def test_filters_and_counts_over_http(api: Api) -> None:
    """They agree."""
    _, body = await api.get("/v1/events", userId="ann", since=iso(Micros(NOW - 3 * HOUR)))
    assert [event["messageId"] for event in body["events"]] == ["m1", "m3"]  # type: ignore[attr-defined]  # JSON
    _, body = await api.get("/v1/events/count", userId="ann", since=iso(Micros(NOW - 10 * HOUR)), bucketSeconds="3600")
    assert body == {"buckets": [{"start": iso(Micros(NOW - n * HOUR)), "events": 1} for n in (3, 1)]}


async def test_profiles_over_http(api: Api) -> None:
    """By user id or anonymous id; NOT_FOUND for somebody whom nobody mentioned."""
    person = {"userIds": ["ann"], "anonymousIds": ["1"], "traits": {"plan": {"deep": [1.5]}}}
    assert await api.get("/v1/profiles/ann") == (200, person)
    assert await api.get("/v1/profiles", anonymousId="1") == (200, person)
    assert (await api.get("/v1/profiles/eve"))[0] == 404
    assert (await api.get("/v1/profiles/ann", "globex"))[1]["code"] == "NOT_FOUND"


async def test_trace_over_http(api: Api) -> None:
    """Stored, dead letter, held, in the log, unknown."""
    api.in_log["acme/late"] = Position(2, 7, 1)
    places = {}
    for id_ in ("m1", "bad", "w1", "late", "never"):
        _, body = await api.get(f"/v1/events/{id_}/trace")
        places[id_] = (body["place"], body["partition"], body["offset"], body["ordinal"])
    assert places == {
        "m1": ("stored", 0, 1, 0),
        "bad": ("dead_letter", 0, 9, 2),
        "w1": ("held", 3, 5, 1),
        "late": ("log", 2, 7, 1),
        "never": ("unknown", None, None, None),
    }


@pytest.mark.parametrize(
    ("path", "parameters", "status", "code"),
    [
        ("/v1/events", {"user_id": "ann"}, 400, "INVALID_QUESTION"),
        ("/v1/events", {"since": "yesterday"}, 400, "INVALID_QUESTION"),
        ("/v1/events", {"pageSize": "-1"}, 400, "INVALID_QUESTION"),
        ("/v1/events", {"pageToken": "AAAA"}, 400, "INVALID_QUESTION"),
        ("/v1/events", {"name": "\0"}, 400, "INVALID_QUESTION"),
        ("/v1/events/count", {}, 400, "INVALID_QUESTION"),
        ("/v1/events/count", {"since": "0001-01-01T00:00:00Z"}, 400, "INVALID_QUESTION"),
        ("/v1/profiles", {}, 400, "INVALID_QUESTION"),
        ("/v1/events/nobody", {}, 404, "NOT_FOUND"),
    ],
)
async def test_refusals_over_http(api: Api, path: str, parameters: dict[str, str], status: int, code: str) -> None:
    """`{"code", "message"}`, nothing else."""
    answered, body = await api.get(path, **parameters)
    assert (answered, body["code"], set(body)) == (status, code, {"code", "message"})


async def test_who_asks_decides_what_is_seen(api: Api) -> None:
    """Another tenant's key sees its own events alone; without a key, or with an unknown one, nothing is answered."""
    _, body = await api.get("/v1/events", "globex")
    assert [event["messageId"] for event in body["events"]] == ["m0"]  # type: ignore[attr-defined]  # JSON
    assert (await api.get("/v1/events/m1", "globex"))[0] == 404
    for who, code in (("", "NO_CREDENTIAL"), ("mallory", "UNKNOWN_KEY")):
        status, body = await api.get("/v1/events", who)
        assert (status, body["code"]) == (401, code)


async def test_the_same_over_grpc(api: Api) -> None:
    """Events, pages, counts, profiles and traces agree with HTTP."""
    async with grpc.aio.insecure_channel(api.grpc) as channel:
        stub: query_pb2_grpc.QueryServiceAsyncStub = query_pb2_grpc.QueryServiceStub(channel)
        who = (("authorization", "Bearer acme"),)
        event = await stub.GetEvent(query_pb2.GetEventRequest(message_id="m0"), metadata=who)
        assert event.payload_json == PAYLOAD
        assert event.timestamp.ToMicroseconds() == NOW
        first = await stub.ListEvents(query_pb2.ListEventsRequest(page_size=3), metadata=who)
        second = await stub.ListEvents(query_pb2.ListEventsRequest(page_size=3, page_token=first.next_page_token), metadata=who)
        assert [e.message_id for e in (*first.events, *second.events)] == ["m0", "m1", "m2", "m3", "m4"]
        assert not second.next_page_token
        since = Timestamp(seconds=(NOW - 2 * HOUR) // 1_000_000)
        counted = await stub.CountEvents(
            query_pb2.CountEventsRequest(filter=query_pb2.EventFilter(since=since), bucket_seconds=86_400), metadata=who
        )
        assert sum(bucket.events for bucket in counted.buckets) == 3
        profile = await stub.GetProfile(query_pb2.GetProfileRequest(anonymous_id="1"), metadata=who)
        assert (list(profile.user_ids), profile.traits_json) == (["ann"], b'{"plan":{"deep":[1.50]}}')
        traced = await stub.TraceEvent(query_pb2.TraceEventRequest(message_id="bad"), metadata=who)
        assert traced.place == query_pb2.TraceEventResponse.PLACE_DEAD_LETTER


async def test_grpc_errors_carry_details(api: Api) -> None:
    """google.rpc.Status with ErrorInfo; RetryInfo when the same bytes may be sent again."""
    async with grpc.aio.insecure_channel(api.grpc) as channel:
        stub: query_pb2_grpc.QueryServiceAsyncStub = query_pb2_grpc.QueryServiceStub(channel)
        who = (("authorization", "Bearer acme"),)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetEvent(query_pb2.GetEventRequest(message_id="never"), metadata=who)
        assert (caught.value.code(), _details(caught.value)) == (grpc.StatusCode.NOT_FOUND, ("NOT_FOUND", False))
        await api.auditor.close()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetEvent(query_pb2.GetEventRequest(message_id="m0"), metadata=who)
        assert (caught.value.code(), _details(caught.value)) == (grpc.StatusCode.UNAVAILABLE, ("DRAINING", True))


def _details(error: grpc.aio.AioRpcError) -> tuple[str, bool]:
    """(ErrorInfo's reason, whether there is a RetryInfo)."""
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    status, info = status_pb2.Status.FromString(raw), error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason, any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)


async def test_every_read_is_in_the_audit_chain(api: Api) -> None:
    """Who, whose, what and the question, refused ones of nothing excepted; the chain is whole; an edited row is found."""
    await api.get("/v1/events", name="Order Done")
    await api.get("/v1/events/m0", "globex")
    await api.get("/v1/events/never")
    await api.get("/v1/events", "mallory")
    entries = await api.entries()
    assert [(entry.fields.actor, entry.fields.tenant, entry.fields.action) for entry in entries] == [
        ("rk_acme", "acme", "list_events"),
        ("rk_globex", "globex", "get_event"),
        ("rk_acme", "acme", "get_event"),
    ]
    assert json.loads(entries[0].fields.question)["name"] == "Order Done"
    verdict = await verify_chain(api.trail, "cell")
    assert (verdict.broken_at, verdict.head) == (None, api.auditor.head)
    admin = await asyncpg.connect(api.room.admin_dsn)
    await admin.execute("UPDATE cell.audit SET actor = 'nobody' WHERE seq = 2")
    assert (await verify_chain(api.trail, "cell")).broken_at == 2
    await admin.execute("DELETE FROM cell.audit WHERE seq > 1")
    await admin.close()
    assert (await verify_chain(api.trail, "cell")).broken_at is None, "a cut tail alone is a whole chain"
    assert (await verify_chain(api.trail, "cell", (verdict.head,))).broken_at == 2, "but not against a printed head"


async def test_apply_over_grpc_is_the_same_port(api: Api) -> None:
    """Applied, Duplicate, Fenced, Unkeepable and Failure cross the wire; what was applied is there. Effects that do not add up are a
    defect: whoever sends them may not give their records up for it."""
    room = api.room
    store = GrpcStore(api.grpc, room.clock)
    try:
        positions = await store.positions()
        assert positions == await room.store.positions()

        async def apply(message_id: str, expected: int, epoch: int) -> object:
            claim = Claim(CELL, {ACME: Epoch(epoch)})
            made = Apply(effects(event(message_id), partition=1), claim, expected, expected + 1)
            return await store.apply(made, room.clock.monotonic() + 10)

        assert await apply("g1", 0, 2) == Fenced(frozenset({ACME}))
        assert await apply("g1", 0, 1) == Applied(1, 0, 0, 0, 0)
        assert await apply("g1", 0, 1) == Duplicate(1)
        lossy = effects(event("g2"), partition=1)
        lossy.accepted.clear()
        for bad, kind in ((lossy, Failure), (effects(event("g2", name="a\0b"), partition=1), Unkeepable)):
            with pytest.raises(kind):
                await store.apply(Apply(bad, Claim(CELL, {ACME: Epoch(1)}), 1, 2), room.clock.monotonic() + 10)
        assert (await api.get("/v1/events/g1"))[0] == 200
    finally:
        await store.close()
    unreachable = GrpcStore("127.0.0.1:1", room.clock)
    with pytest.raises(Failure) as caught:
        await unreachable.positions()
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    await unreachable.close()

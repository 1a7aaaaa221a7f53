"""What a real cell behind its real edge tells of itself: connected traces, metrics that move, and nothing of its customers."""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio

from cells.metrics import METRICS
from dataflow.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from dataflow.types.v1 import event_pb2
from kernel.ids import mint_key
from router import metrics as router_metrics
from tests.support.fleet import Running, Source, event, running
from tests.support.otlp import Collector, Told, collecting
from tests.support.processes import eventually, free_port

pytestmark = [
    pytest.mark.fleet,
    pytest.mark.envoy,
    pytest.mark.postgres,
    pytest.mark.timeout(150),
    pytest.mark.asyncio(loop_scope="module"),
]
CELL = "eu-west-1-a"
PAGES = {f"cell-http/{CELL}": METRICS, "directory-http/eu": router_metrics.DIRECTORY, "agent-http/eu-west-1": router_metrics.AGENT}


@dataclass
class Room:
    """A fleet that tells a collector, and a tenant."""

    running: Running
    collector: Collector
    shop: Source

    async def page(self, purpose: str) -> str:
        """A process's /metrics."""
        port = self.running.fleet.layout.ports[purpose]
        async with self.running.web.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.status == 200
            return await answer.text()

    async def value(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels, on the cell's page."""
        page = await self.page(f"cell-http/{CELL}")
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        lines = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", page, re.MULTILINE)
        return sum(float(value) for found, value in lines if wanted <= set(found.split(",")))

    async def span(self, name: str, trace: str) -> Told:
        """The first span of this name in the trace, once it has been exported."""
        await eventually(lambda: bool(self.collector.named(name, trace)), f"a span {name} arrives", 15)
        return self.collector.named(name, trace)[0]

    async def parent(self, child: Told) -> Told:
        """The span above, once it has been exported: Envoy takes a few seconds."""

        def above() -> list[Told]:
            return [told for told in self.collector.spans if told.id == child.parent]

        await eventually(lambda: bool(above()), f"the parent of {child.name} arrives", 15)
        return above()[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def room() -> AsyncIterator[Room]:
    async with collecting(free_port()) as collector, running([CELL], collector.endpoint) as fleet:
        yield Room(fleet, collector, await fleet.add("shop", CELL))


def traceparent() -> tuple[str, str, str]:
    """(header, trace, span) of a client that traces."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return f"00-{trace}-{span}-01", trace, span


async def test_a_requests_trace_leads_from_the_client_to_the_apply(room: Room) -> None:
    """Law: edge, ingest and the append are one trace below the client's span; the range that carries the record links to the ingest span;
    the apply is a child of the range."""
    header, trace, span = traceparent()
    answer = await room.running.ask("POST", "eu", "/v1/track", room.shop.write_key, event("traced-1"), {"traceparent": header})
    assert answer.status == 200
    ingest = await room.span("ingest", trace)
    edge = await room.parent(ingest)
    assert (edge.service, edge.trace, edge.parent) == ("edge", trace, span)
    assert (ingest.service, ingest.attributes["dataflow.tenant"]) == ("cell-all", "shop")

    append = await room.span("log.append", trace)
    assert (append.parent, append.service) == (ingest.id, "cell-all")

    def linked() -> list[Told]:
        return [told for told in room.collector.named("process") if (trace, ingest.id) in told.links]

    await eventually(lambda: bool(linked()), "a range links to the request", 15)
    (process,) = linked()
    apply = await room.span("storage.apply", process.trace)
    assert apply.parent == process.id
    assert process.trace != trace


async def test_a_client_that_does_not_trace_is_traced_from_the_edge_on(room: Room) -> None:
    """Law: over gRPC too, the edge begins a trace of its own, and the cell goes on with it."""
    before = {told.id for told in room.collector.named("ingest")}
    async with grpc.aio.insecure_channel(room.running.fleet.access.zone_address("eu")) as channel:
        stub: ingest_pb2_grpc.IngestServiceAsyncStub = ingest_pb2_grpc.IngestServiceStub(channel)
        one = event_pb2.Event(type=event_pb2.EVENT_TYPE_TRACK, name="E", user_id="u", message_id="traced-2")
        await stub.Ingest(ingest_pb2.IngestRequest(events=[one]), metadata=(("x-api-key", room.shop.write_key),), timeout=5)

    def fresh() -> list[Told]:
        return [told for told in room.collector.named("ingest") if told.id not in before]

    await eventually(lambda: bool(fresh()), "the ingest span arrives", 15)
    edge = await room.parent(fresh()[0])
    assert (edge.service, edge.parent) == ("edge", "")


async def test_a_question_is_a_span(room: Room) -> None:
    """Law: a question's span is a child of the edge's, and names the action and the tenant alone."""
    header, trace, _ = traceparent()
    answer = await room.running.ask("GET", "eu", "/v1/events?userId=ada", room.shop.read_key, headers={"traceparent": header})
    assert answer.status == 200
    asked = await room.span("query.list_events", trace)
    assert dict(asked.attributes) == {"dataflow.tenant": "shop"}
    assert (await room.parent(asked)).service == "edge"


async def test_metrics_are_the_declared_vocabulary_and_move(room: Room) -> None:
    """Law: every service's page has the declared metrics and no other; what was accepted is stored, and lag falls back to 0."""
    for purpose, declared in PAGES.items():
        told = set(re.findall(r"^# TYPE (\S+)", await room.page(purpose), re.MULTILINE))
        assert {name for name in told if not name.endswith("_created")} == {metric.name for metric in declared}
    accepted, stored = ("dataflow_ingest_accepted_events_total", "dataflow_processing_stored_events_total")
    before = await room.value(accepted, tenant="shop"), await room.value(stored)
    ids = [f"counted-{number}" for number in range(100)]
    assert (await room.running.send(room.shop, [*ids, ids[0]])).status == 200
    assert await room.value(accepted, tenant="shop") == before[0] + 100

    async def settled() -> bool:
        return await room.value(stored) == before[1] + 100 and await room.value("dataflow_processing_lag_records") == 0

    await eventually(settled, "what was accepted is stored and nothing lags", 15)
    assert (await room.running.send(room.shop, [*ids])).status == 200

    async def known() -> bool:
        return await room.value("dataflow_processing_duplicate_events_total") >= 100

    await eventually(known, "repeats are counted as duplicates", 15)
    assert await room.value(stored) == before[1] + 100

    async def measured() -> bool:
        return 0.0 < await room.value("dataflow_process_loop_delay_seconds") < 5.0

    await eventually(measured, "the loop's delay is measured", 15)


async def test_nothing_of_a_customer_is_told(room: Room) -> None:
    """Law: no user id, payload, name, message id, query or key appears in a log, a span or a metric, whatever was wrong with it."""
    word = secrets.token_hex(12)
    unknown = mint_key("wk", room.running.fleet.access.zone("eu"), secrets.token_bytes(32)).text
    await send_canaries(room, word, unknown)
    header, trace, _ = traceparent()
    assert (await room.running.ask("GET", "eu", "/v1/events", room.shop.read_key, headers={"traceparent": header})).status == 200
    await room.span("query.list_events", trace)
    pages = {purpose: (await room.page(purpose)).encode() for purpose in PAGES}
    spans = {f"span batch {number}": body for number, body in enumerate(room.collector.bodies)}
    told = {**room.running.logs(), **spans, **pages}
    assert [where for where, text in told.items() if b"shop" in text], "the search finds what may be told"
    secrets_of_customers = [word, room.shop.write_key, room.shop.read_key, unknown, "Order Completed"]
    for secret in secrets_of_customers:
        hidden = (secret.encode(), base64.b64encode(f"{secret}:".encode()).rstrip(b"="))
        assert not [where for where, text in told.items() if any(form in text for form in hidden)], secret


async def send_canaries(room: Room, word: str, unknown: str) -> None:
    """Good, bad and absurd requests and questions, each with the word in everything that a customer chooses."""
    ask, shop = room.running.ask, room.shop
    fields = {"userId": f"user-{word}", "anonymousId": f"anonymous-{word}", "event": f"event-{word}", word: word}
    good = {**event(f"id-{word}"), **fields, "properties": {word: word}, "context": {"traits": {word: word}}}
    bad = [{**good, "timestamp": word}, {**good, "type": word}, {**good, "userId": [word]}, {**good, "messageId": word * 20}, word]
    statuses = [
        (await ask("POST", "eu", "/v1/batch", shop.write_key, {"batch": [good, *bad], "context": {word: word}})).status,
        (await ask("POST", "eu", "/v1/batch", shop.write_key, f'{{"batch": [{word}'.encode())).status,
        (await ask("POST", "eu", "/v1/track", shop.write_key, good, {"content-type": word})).status,
        (await ask("POST", "eu", "/v1/track", unknown, good)).status,
        (await ask("POST", "eu", f"/s/{shop.slug}/v1/track", "", {**good, "writeKey": unknown})).status,
        (await ask("POST", "eu", f"/v1/{word}", shop.write_key, good)).status,
    ]
    assert statuses == [200, 400, 415, 401, 401, 404]
    await room.running.wait_until_stored_some(shop, f"id-{word}")
    for path in (
        f"/v1/events?userId=user-{word}",
        f"/v1/events/id-{word}",
        f"/v1/events/id-{word}/trace",
        f"/v1/profiles/user-{word}",
        f"/v1/events?since={word}",
        f"/v1/events?pageToken={word}",
        f"/v1/{word}",
    ):
        answer = await ask("GET", "eu", path, shop.read_key)
        assert answer.status in (200, 400, 404), path
        json.loads(answer.body)

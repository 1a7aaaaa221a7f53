"""Requests of the load: what a cell takes, with the message ids that the verdict counts by."""

from __future__ import annotations

import statistics
from itertools import pairwise

import msgspec
import pytest

from bench.workload import ID_CHARS, Bodies, message_id, positions_by_request
from cells.ingest.admit import admit
from cells.ingest.codec_grpc import item_of
from cells.ingest.split import split_batch, split_single
from dataflow.ingest.v1 import ingest_pb2
from dataflow.types.v1 import event_pb2
from kernel.clock import Micros, iso

NOW = Micros(1_795_262_400_123_456)
RUN = "0a1b2c3d"
BATCHES = (1, 10, 100, 1_000)


def json_events(body: bytes) -> list[dict[str, object]]:
    """The events of a batch, or the one of a single request."""
    told = msgspec.json.decode(body)
    events: list[dict[str, object]] = told.get("batch", [told])
    return events


@pytest.mark.parametrize("batch", BATCHES)
def test_json_has_the_ids_and_the_time(batch: int) -> None:
    """Law: event n of a request has the message id of position n, and the request's time."""
    body = Bodies("http", RUN, batch).make(7, NOW)
    events = json_events(body)
    assert [event["messageId"] for event in events] == [message_id(RUN, 7, position) for position in range(batch)]
    assert {event["timestamp"] for event in events} == {iso(NOW)}
    assert batch == 1 or msgspec.json.decode(body)["sentAt"] == iso(NOW)


@pytest.mark.parametrize("batch", BATCHES)
def test_protobuf_has_the_ids_and_the_time(batch: int) -> None:
    """Law: the same over gRPC, where the time is one of fixed width."""
    request = ingest_pb2.IngestRequest.FromString(Bodies("grpc", RUN, batch).make(7, NOW))
    assert [event.message_id for event in request.events] == [message_id(RUN, 7, position) for position in range(batch)]
    assert {event.timestamp.ToMicroseconds() for event in request.events} == {NOW} == {request.sent_at.ToMicroseconds()}


def test_both_protocols_send_the_same_events() -> None:
    """Law: type, user, device and context of an event do not depend on the protocol."""
    events = json_events(Bodies("http", RUN, 100).make(3, NOW))
    messages = ingest_pb2.IngestRequest.FromString(Bodies("grpc", RUN, 100).make(3, NOW)).events
    for event, message in zip(events, messages, strict=True):
        assert (event["userId"], event["anonymousId"]) == (message.user_id, message.anonymous_id)
        assert str(event["type"]).upper() == event_pb2.EventType.Name(message.type).removeprefix("EVENT_TYPE_")
        assert msgspec.json.decode(message.context_json) == event["context"]


def test_events_are_about_600_bytes() -> None:
    """Law: as large as Segment's are, on average, in JSON."""
    bodies = Bodies("http", RUN, 100)
    assert statistics.mean(len(bodies.make(number, NOW)) / 100 for number in range(40)) == pytest.approx(600, rel=0.05)


def test_a_cell_takes_all_of_them() -> None:
    """Law: no event of the load is rejected, whatever its protocol and path."""
    batch = split_batch(Bodies("http", RUN, 100).make(1, NOW))
    assert len(admit(batch.items, lambda: "unused").accepted) == 100
    request = ingest_pb2.IngestRequest.FromString(Bodies("grpc", RUN, 100).make(1, NOW))
    assert len(admit([item_of(event) for event in request.events], lambda: "unused").accepted) == 100
    bodies = Bodies("http", RUN, 1)
    for number in range(40):
        kind = bodies.path(number).decode().rpartition("/")[2]
        assert len(admit(split_single(bodies.make(number, NOW), kind).items, lambda: "unused").accepted) == 1


def test_a_repeat_has_the_same_bytes() -> None:
    """Law: a request's body depends on its number and time alone."""
    assert Bodies("http", RUN, 10).make(5, NOW) == Bodies("http", RUN, 10).make(5, NOW)


def test_message_ids_differ_and_come_in_no_order() -> None:
    """Law: ids are unique over requests and positions, as long as a UUID's, and spread over an index: neither requests that follow each
    other nor the events of one stand together."""
    ids = [message_id(RUN, request, position) for request in range(1_000) for position in range(100)]
    assert len(set(ids)) == len(ids)
    assert {len(identifier) for identifier in ids} == {ID_CHARS}
    singles = [message_id(RUN, request, 0) for request in range(10_000)]
    assert 0.3 < sum(a < b for a, b in pairwise(singles)) / len(singles) < 0.7
    assert len({identifier[4:6] for identifier in singles}) == 256
    assert len({identifier[:2] for identifier in ids[:100]}) > 60


def test_ids_are_taken_apart() -> None:
    """Law: from the ids that are stored follow the requests and positions that were sent; other runs' ids, and others', are nobody's."""
    requests, positions = (0, 7, 0xFFFF_FFFF), [0, 59, 60, 999, 65_535]
    ids = [message_id(RUN, request, position) for request in requests for position in positions]
    foreign = [message_id("ffffffff", 1, 1), "x", "", "e" * 36, message_id(RUN, 1, 1) + "0"]
    assert positions_by_request(RUN, [*ids, *foreign]) == dict.fromkeys(requests, positions)

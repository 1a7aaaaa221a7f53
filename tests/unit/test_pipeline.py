"""The fold from log records to effects."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.eventlog import codec
from cells.eventlog.envelope import Body, Envelope
from cells.eventlog.log import Entry, Record
from cells.processing.clock_skew import correct
from cells.processing.pipeline import Care, fold
from kernel.clock import DAY, HOUR, SECOND, Micros, day_of, hour_of
from kernel.effects import Effects, IdentityClaim, RecordRow
from kernel.ids import SourceId, TenantId, message_keys
from tests.support.clock import START
from tests.support.records import CELL, TENANT, envelope, record

OTHER = TenantId("berlin-mode")


def entries(*records: Record) -> list[Entry]:
    """At offsets 10, 11, ..."""
    return [Entry(10 + number, START, one) for number, one in enumerate(records)]


def accounted(effects: Effects) -> int:
    """What the ledger's right side would count, duplicates being the store's business."""
    return len(effects.rows) + len(effects.dead_letters) + sum(held.events for held in effects.held)


def ids_of(effects: Effects) -> list[str]:
    """The message ids of the rows, read where a reader of the store finds them: in the records' bodies."""
    bodies = {kept.offset: codec.decode(kept.body).envelopes for kept in effects.records}
    return [bodies[row.offset][row.ordinal].message_id for row in effects.rows]


def test_a_row_carries_the_event_and_where_it_came_from() -> None:
    """Payload untouched, position exact."""
    sent = envelope("m1", anonymous_id="a1", original_at=Micros(START - 5 * SECOND))
    came = record(sent, sent_at=Micros(START - SECOND))
    effects = fold(2, entries(came))
    (row,), (kept,) = effects.rows, effects.records
    assert kept == RecordRow(TENANT, day_of(START), 2, 10, START, 1, CELL, SourceId("web"), 1, came.body)
    assert (row.tenant, row.source, row.partition, row.offset, row.ordinal) == (TENANT, "web", 2, 10, 0)
    assert (row.message_key, row.received_day) == (message_keys(TENANT, ["m1"])[0], day_of(START))
    assert row.event_at == START - 4 * SECOND


def test_a_record_is_kept_once_for_all_its_events_and_not_at_all_for_none() -> None:
    """Body untouched; a row's ordinal is its event's place in it, dead neighbours counted, and `events` tells how many rows it has."""
    dead = envelope("", type="track")
    mixed, hopeless = record(envelope("a"), dead, envelope("b"), envelope("c")), record(dead)
    effects = fold(0, entries(mixed, hopeless, record(envelope("d"))))
    assert [(kept.offset, kept.events, kept.body == mixed.body) for kept in effects.records] == [(10, 3, True), (12, 1, False)]
    assert [(row.offset, row.ordinal) for row in effects.rows] == [(10, 0), (10, 2), (10, 3), (12, 0)]
    assert ids_of(effects) == ["a", "b", "c", "d"]


def test_every_accepted_event_is_accounted_for_by_tenant_and_hour() -> None:
    """The left side of the ledger comes from record headers."""
    later = Micros(START + HOUR)
    effects = fold(
        0, entries(record(envelope("a"), envelope("b")), record(envelope("c"), received_at=later), record(envelope("d"), tenant=OTHER))
    )
    assert effects.accepted == {(TENANT, hour_of(START)): 2, (TENANT, hour_of(later)): 1, (OTHER, hour_of(START)): 1}
    assert effects.tenants == {TENANT, OTHER}
    assert accounted(effects) == 4


@pytest.mark.parametrize(
    "body", [b"", b"\x07future", b"\x00rubbish", b"\x01rubbish", b"\x02rubbish", b"\x03rubbish", codec.encode(Body(None, [envelope("a")]))]
)
def test_a_record_that_cannot_be_read_is_one_dead_letter_per_event_of_its_header(body: bytes) -> None:
    """The ledger adds up, the bytes are kept once, the neighbours pass. A body with fewer events than its header says is one too."""
    broken = dataclasses.replace(record(envelope("x"), envelope("y"), envelope("z")), body=body)
    effects = fold(0, entries(record(envelope("a")), broken, record(envelope("b"))))
    assert ids_of(effects) == ["a", "b"]
    assert [(d.offset, d.ordinal, d.reason) for d in effects.dead_letters] == [(11, n, "UNDECODABLE_RECORD") for n in range(3)]
    assert [d.payload for d in effects.dead_letters] == [body, b"", b""]
    assert accounted(effects) == 5


@pytest.mark.parametrize(
    "bad",
    [
        envelope("m", type="trackk"),
        envelope("", type="track"),
        envelope("m", user_id=None),
        envelope("m", type="alias"),
        envelope("m", type="group"),
        envelope("m", type="identify", payload=b"{"),
        envelope("m", type="identify", payload=b'{"traits": 1}'),
    ],
)
def test_a_misshapen_event_of_a_foreign_writer_is_a_dead_letter_with_its_place(bad: Envelope) -> None:
    """Ingest refuses such events; a log may still hold one."""
    effects = fold(0, entries(record(envelope("a"), bad, envelope("b"))))
    assert ids_of(effects) == ["a", "b"]
    assert [(d.ordinal, d.reason, d.payload) for d in effects.dead_letters] == [(1, "UNPROCESSABLE_EVENT", bad.payload)]


@pytest.mark.parametrize("payload", [b"{", b"[]", b'{"a":NaN}', b"\xff", b'{"a":"\xff"}'])
def test_strictly_a_payload_that_is_no_json_object_is_a_dead_letter(payload: bytes) -> None:
    """Asked for when the store refused a batch; on the quick way ingest's word is taken."""
    bad = envelope("m", payload=payload)
    assert len(fold(0, entries(record(bad))).rows) == 1
    assert len(fold(0, entries(record(bad)), care=Care.STRICT).dead_letters) == 1


def test_held_tenants_records_are_kept_whole_and_need_no_claim() -> None:
    """The other tenants' are folded as ever."""
    mine, theirs = record(envelope("a")), record(envelope("b"), tenant=OTHER)
    effects = fold(0, entries(mine, theirs), held={OTHER})
    assert [(h.tenant, h.offset, h.events, h.record) for h in effects.held] == [(OTHER, 11, 1, theirs.body)]
    assert effects.tenants == {TENANT}
    assert accounted(effects) == 2


def identified(message_id: str, user: str, traits: dict[str, object]) -> Envelope:
    """An identify call."""
    return envelope(message_id, user_id=user, type="identify", payload=json.dumps({"traits": traits}).encode())


def test_identities_and_traits_become_claims() -> None:
    """Anonymous to known, alias, and one claim per trait."""
    effects = fold(
        0,
        entries(
            record(
                envelope("a", "u1", anonymous_id="d1"),
                envelope("b", "u1", anonymous_id="d1"),
                envelope("c", "u2", type="alias", previous_id="u1"),
                identified("d", "u1", {"plan": "gold", "n": 1.10}),
            )
        ),
    )
    assert effects.identities == (
        IdentityClaim(TENANT, "u:u1", "a:d1"),
        IdentityClaim(TENANT, "u:u2", "a:u1"),
        IdentityClaim(TENANT, "u:u2", "u:u1"),
    )
    assert [(t.node, t.name, t.value, t.message_id) for t in effects.traits] == [("u:u1", "plan", '"gold"', "d"), ("u:u1", "n", "1.1", "d")]


INSTANTS = st.integers(-(10**17), 3 * 10**17).map(Micros)


@given(INSTANTS.filter(lambda at: at > 0), st.none() | INSTANTS, st.none() | INSTANTS)
def test_a_corrected_time_is_never_absurd(received_at: Micros, sent_at: Micros | None, original_at: Micros | None) -> None:
    """Between 1970 and one day ahead, whatever the client's clock says."""
    assert 0 <= correct(received_at, sent_at, [original_at])[0] <= received_at + DAY


@given(st.integers(0, 10**6), st.integers(-(10**12), 10**12))
def test_a_clients_constant_error_cancels_out(age: int, error: int) -> None:
    """The difference between sending and happening is right even when the client's clock is not."""
    sent_at = Micros(START + error)
    assert correct(START, sent_at, [Micros(sent_at - age)]) == [START - age]


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4), max_size=6), st.integers(0, 6))
def test_folding_a_range_in_two_pieces_comes_to_the_same(batches: Sequence[Sequence[str]], cut: int) -> None:
    """The fold has no memory between applies."""
    all_entries = entries(*(record(*(envelope(f"{n}-{m}-{k}") for k, m in enumerate(batch))) for n, batch in enumerate(batches)))
    whole, first, second = fold(0, all_entries), fold(0, all_entries[:cut]), fold(0, all_entries[cut:])
    assert whole.rows == first.rows + second.rows
    assert sum(whole.accepted.values()) == accounted(first) + accounted(second)

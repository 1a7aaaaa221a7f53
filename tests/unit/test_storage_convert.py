"""Events of the previous version's table as records: nothing is lost, nothing is read for something else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.eventlog import codec
from cells.eventlog.envelope import Envelope
from cells.storage import convert, dedup
from cells.storage.convert import OldEvent
from kernel.clock import DAY, HOUR, Micros, day_of, hour_of
from kernel.ids import CellId, TenantId, message_keys
from kernel.limits import SEEN_WINDOW_DAYS

NOW = Micros(1_795_262_400_000_000)
ACME, GLOBEX = TenantId("acme"), TenantId("globex")
partitions = st.integers(0, 2**16 - 1)


def old(message_id: str, tenant: TenantId = ACME, offset: int = 0, ordinal: int = 0, **other: object) -> OldEvent:
    """A row of the previous version's table."""
    values: dict[str, object] = {
        "tenant": tenant,
        "message_id": message_id,
        "received_at": NOW,
        "event_at": Micros(NOW - 1),
        "stored_at": Micros(NOW + 1),
        "epoch": 1,
        "offset": offset,
        "content_hash": 2**62,
        "partition": 3,
        "ordinal": ordinal,
        "type": "track",
        "name": None,
        "user_id": "ann",
        "anonymous_id": None,
        "group_id": "g",
        "source": "web",
        "cell": CellId("eu-a-1"),
        "payload": f'{{ "of": "{tenant}/{message_id}", "n": 1.50 }}',
        **other,
    }
    return OldEvent(received_day=day_of(values["received_at"]), **values)  # type: ignore[arg-type]  # test values by name


def planned(
    events: Sequence[OldEvent], found: Sequence[dedup.Found] = ()
) -> tuple[dict[tuple[TenantId, str], tuple[Envelope, int]], convert.Plan]:
    """Every kept event by (tenant, message id), read as a reader does: out of the piece that its row leads to; and the partition."""
    keys = convert.keys_of(events)
    made = convert.plan(events, keys, found)
    pieces = list(convert.pieces(made, {home: home[0] for home in made.kept}))
    records = {(piece.record.partition, piece.record.offset): codec.decode(piece.record.body).envelopes for piece in pieces}
    assert len(records) == len(pieces), "two pieces at one place"
    read = {}
    for row in [row for piece in pieces for row in piece.rows]:
        envelope = records[row.partition, row.offset][row.ordinal]
        assert row.message_key == message_keys(row.tenant, [envelope.message_id])[0]
        read[row.tenant, envelope.message_id] = (envelope, row.partition)
    assert sum(map(len, records.values())) == sum(len(piece.rows) for piece in pieces) == sum(piece.record.events for piece in pieces)
    return read, made


events = st.lists(
    st.builds(
        old,
        st.sampled_from([f"m{number}" for number in range(12)]),
        st.sampled_from([ACME, GLOBEX]),
        st.integers(0, 2),
        st.integers(0, 3),
        epoch=st.integers(1, 2),
        partition=st.integers(0, 1),
        stored_at=st.integers(0, 2).map(lambda days: Micros(NOW + days * DAY)),
    ),
    max_size=12,
    unique_by=lambda event: (event.tenant, event.message_id),
)


@given(events)
def test_every_event_is_read_back_with_its_own_text(some: list[OldEvent]) -> None:
    """However records of several tenants, epochs and times claim one offset: byte for byte, under its own log partition."""
    read, made = planned(some)
    assert made.repeated.total() == 0
    assert {key: (envelope.payload.decode(), convert.partition_of(place)) for key, (envelope, place) in read.items()} == {
        (event.tenant, event.message_id): (event.payload, event.partition) for event in some
    }


@given(events, st.data())
def test_what_is_stored_already_wins(some: list[OldEvent], data: st.DataObject) -> None:
    """An event whose key is stored is not kept a second time; the ledger hears of it, by tenant and received hour."""
    stored = data.draw(st.sets(st.sampled_from(some)) if some else st.just(set[OldEvent]()))
    keys = convert.keys_of(some)
    found = [dedup.Found(keys[one.tenant, one.message_id], one.received_day, 1) for one in stored]
    read, made = planned(some, found)
    assert set(read) == {(one.tenant, one.message_id) for one in set(some) - stored}
    for tenant in (ACME, GLOBEX):
        assert made.repeated[tenant, hour_of(NOW)] == sum(one.tenant == tenant for one in stored)


def test_the_rules_of_dedup_are_those_of_the_time_when_an_event_was_stored() -> None:
    """A live event repeats what is stored within the window around it; one that was filled in later stood beside it by rule one alone."""
    keys = message_keys(ACME, ["m1"])
    for days in range(1, SEEN_WINDOW_DAYS + 2):
        near = [dedup.Found(keys[0], day_of(NOW) - timedelta(days=days), 1)]
        live, filled = old("m1"), old("m1", stored_at=Micros(NOW + 30 * DAY))
        assert len(planned([live], near)[0]) == (days > SEEN_WINDOW_DAYS)
        assert len(planned([filled], near)[0]) == 1


def test_a_piece_keeps_what_its_record_had_in_common() -> None:
    """Received and stored times, epoch, cell and source; an event's ordinal becomes its place among those that are left,
    and its content hash what admission says of the same payload."""
    some = [old("c", ordinal=9), old("a", ordinal=2), old("b", ordinal=4, received_at=Micros(NOW + HOUR))]
    made = convert.plan(some, convert.keys_of(some), ())
    first, second = convert.pieces(made, {home: home[0] for home in made.kept})
    envelopes = codec.decode(first.record.body).envelopes
    assert [(row.ordinal, row.group_id) for row in first.rows] == [(0, "g"), (1, "g")]
    assert [row.content_hash for row in first.rows] == [crc32(one.payload) for one in envelopes] == [one.content_hash for one in envelopes]
    assert [one.message_id for one in envelopes] == ["a", "c"]
    assert (first.record.received_at, first.record.events, first.stored_at) == (NOW, 2, NOW + 1)
    assert (second.record.received_at, second.record.epoch, second.record.cell, second.record.source) == (NOW + HOUR, 1, "eu-a-1", "web")


@given(partitions, st.integers(0, 2**15 - 1), partitions, st.integers(0, 2**15 - 1))
def test_a_place_is_below_zero_and_names_partition_and_piece(partition: int, piece: int, other: int, other_piece: int) -> None:
    """No record of a log lies there, no two pieces share one, and PostgreSQL's integer holds it."""
    place = convert.place_of(partition, piece)
    assert -(2**31) <= place < 0
    assert convert.partition_of(place) == partition
    assert (place == convert.place_of(other, other_piece)) == ((partition, piece) == (other, other_piece))
    assert convert.partition_of(convert.next_place(place)) == partition
    assert convert.partition_of(partition) == partition


def test_a_partition_that_no_log_has_is_refused() -> None:
    """Rather than read for another."""
    for partition in (-1, 2**16):
        with pytest.raises(ValueError):
            convert.place_of(partition, 0)


homes = st.tuples(st.integers(0, 5).map(lambda piece: convert.place_of(1, piece)), st.integers(0, 1))


@given(st.sets(homes, max_size=8), st.sets(homes, max_size=8))
def test_taken_places_are_avoided(wanted: set[tuple[int, int]], taken: set[tuple[int, int]]) -> None:
    """Each piece gets a place of its own that nobody has, under its own offset and log partition."""
    free = convert.avoid({home: home[0] for home in wanted}, taken)
    found = {(place, offset) for (_, offset), place in free.items()}
    assert len(found) == len(wanted)
    assert not found & taken
    assert all(convert.partition_of(place) == 1 for place, _ in found)

"""The laws of `cells.storage.copies`, on every adapter: what a copy brings is what was there, once, whatever is repeated or interrupted."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cells.storage import chunk as wire
from cells.storage.chunk import Cursor
from cells.storage.copies import Totals
from kernel.clock import DAY, Micros
from kernel.effects import DeadLetter, HeldRecord
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.limits import COPY_BYTES
from tests.support.copies_room import HOME, SMALL, TARGET, Pair, erased, in_memory, memory_pair, pair, postgres_pair, same
from tests.support.storage_room import ACME, GLOBEX, NOW, Event, effects, event

__all__ = ["memory_pair", "pair", "postgres_pair"]


async def test_a_copy_is_what_was_there(pair: Pair) -> None:
    """Events of several days and partitions, dead letters, held records, who is who and the ledger; nothing of another tenant."""
    await pair.home.put("m1", "m2")
    await pair.home.put("m3", at=NOW - 3 * DAY, partition=2)
    await pair.home.put("g1", tenant=GLOBEX)
    letter = DeadLetter(ACME, Micros(NOW), 0, 0, "bad", "UNPROCESSABLE_EVENT", "shape", b"\x00not json")
    held = HeldRecord(ACME, Micros(NOW), 1, 1, event("h1").record(0).body)
    await pair.home.apply(effects(dead_letters=(letter,), partition=1))
    await pair.home.apply(effects(held=(held,), partition=1))
    copy = await pair.copy()
    await same(pair)
    assert copy.added == await pair.home.copies.digest(ACME, None, None)
    assert (copy.added.events, copy.added.records, copy.added.others) == (3, 3, 2)
    assert await pair.target.ids() == ["m1", "m2", "m3"]
    assert await pair.target.ids(GLOBEX) == []
    traced = [await side.reader.trace(ACME, "bad") for side in (pair.home, pair.target)]
    assert traced[0] == traced[1], "a dead letter is found where it was, under the place that it had"
    assert (await pair.target.reader.trace(ACME, "h1")).place == "held"


@given(
    days=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2), st.integers(0, 3)), max_size=12),
    cuts=st.sets(st.integers(0, 12)),
    again=st.sets(st.integers(0, 30)),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_is_applied_between_the_parts_arrives_once(
    days: list[tuple[int, int, int]], cuts: set[int], again: set[int]
) -> None:
    """Parts of one record, more applied between any two, any part handed over twice: in the end both keep the same."""
    pair = in_memory()
    await pair.own(1, HOME)
    steps = 0
    for at, (name, partition, day) in enumerate(days):
        await pair.home.put(f"m{name}", partition=partition, at=NOW - day * DAY)
        if at in cuts:
            steps += 1
            await pair.step(bytes_max=SMALL)
    more = True
    while more:
        steps += 1
        before = await pair.target.copies.begin(ACME, HOME, "m1", None, False)
        part = await pair.home.copies.export(ACME, Epoch(1), before.cursor, SMALL)
        taken = await pair.target.copies.take(HOME, "m1", before.seq, part.chunk, part.cursor)
        if steps in again:
            assert await pair.target.copies.take(HOME, "m1", before.seq, part.chunk, part.cursor) == taken, "a part counts once"
        more = part.more
    await same(pair)


async def test_the_tail_brings_what_changed(pair: Pair) -> None:
    """A person whose traits or identities change after they were given, and events behind the first pass, are in the next."""
    await pair.home.put("m1")
    first = await pair.copy()
    await pair.home.put("m2", "m3", at=NOW + 1)
    await pair.home.put("m1", at=NOW + 2)  # a repeat: nothing but its claims
    last = await pair.copy()
    await same(pair)
    assert first.cursor is not None
    assert last.cursor is not None
    tail = await pair.home.copies.digest(ACME, first.cursor, last.cursor)
    assert first.added + tail == last.added, "what the tail brought is what the home keeps behind the first cursor"
    assert await pair.home.copies.digest(ACME, None, first.cursor) == first.added
    assert tail != Totals()


async def test_parts_are_bounded(pair: Pair) -> None:
    """A small bound gives one key a part, and nothing is left out."""
    await pair.home.put(*(f"m{n}" for n in range(7)))
    parts, more = 0, True
    while more:
        _, more = await pair.step(bytes_max=SMALL)
        parts += 1
    assert parts >= 7
    await same(pair)


@pytest.mark.parametrize("takes", [True, False])
async def test_who_does_not_own_does_not_give_and_who_owns_does_not_take(pair: Pair, takes: bool) -> None:
    """At both ends the ownership row decides, at exactly its epoch."""
    await pair.home.put("m1")
    await pair.copy()
    part = await pair.home.copies.export(ACME, Epoch(1), None, COPY_BYTES)
    seq = (await pair.target.copies.begin(ACME, HOME, "m1", None, False)).seq
    await pair.own(2, TARGET)
    source, target = pair.home.copies, pair.target.copies
    late = target.take(HOME, "m1", seq, part.chunk, part.cursor) if takes else source.export(ACME, Epoch(1), None, COPY_BYTES)
    with pytest.raises(Failure) as refused:
        await late
    assert refused.value.reason is Reason.MOVED


@pytest.mark.parametrize("epoch", [1, 3])
async def test_a_part_of_another_epoch_is_refused(pair: Pair, epoch: int) -> None:
    """Older: somebody else has decided since. Newer: this cell has not heard of it."""
    await pair.own(2, HOME)
    await pair.home.put("m1", epoch=2)
    await pair.copy(epoch=2)
    copy = await pair.target.copies.begin(ACME, HOME, "m1", None, False)
    assert copy.cursor is not None
    part = await pair.home.copies.export(ACME, Epoch(2), copy.cursor, COPY_BYTES)
    forged = msgspec.structs.replace(part.chunk, epoch=Epoch(epoch))
    with pytest.raises(Failure) as refused:
        await pair.target.copies.take(HOME, "m1", copy.seq, forged, part.cursor)
    assert refused.value.reason is Reason.MOVED


async def test_the_target_deduplicates_against_what_was_copied(pair: Pair) -> None:
    """A client that repeats at the new home what the old one had acknowledged adds nothing."""
    await pair.home.put("m1", "m2")
    await pair.copy()
    await pair.own(2, TARGET)
    await pair.target.put("m2", "m3", at=NOW + 5, epoch=2)
    assert await pair.target.ids() == ["m1", "m2", "m3"]
    assert [line for line in await pair.target.copies.ledger_of(ACME) if line.cell == HOME] == await pair.home.copies.ledger_of(ACME)


async def test_there_and_back_again(pair: Pair) -> None:
    """After the switch what the target takes is brought to the old home, which can then be the home again; and once more."""
    await pair.home.put("m1")
    await pair.copy()
    mark = await pair.target.copies.digest(ACME, None, None)
    await pair.own(2, TARGET)
    end = await pair.target.copies.mark(ACME, Epoch(2))
    await pair.home.copies.begin(ACME, TARGET, "m1", end, False)
    await pair.target.put("m2", "m3", epoch=2)
    await pair.copy(back=True, epoch=2)
    await pair.own(3, HOME)
    assert await pair.home.ids() == ["m1", "m2", "m3"]
    await pair.home.put("m4", epoch=3)
    await pair.copy(epoch=3)
    await pair.own(4, TARGET)
    assert await pair.target.ids() == ["m1", "m2", "m3", "m4"]
    assert await pair.home.copies.digest(ACME, None, None) == await pair.target.copies.digest(ACME, None, None) != mark


async def test_two_records_of_one_place_both_arrive(pair: Pair) -> None:
    """What came from another cell's log never hides what the next one's log has at the same partition and offset."""
    await pair.home.put("m1")
    await pair.copy()
    await pair.own(2, TARGET)
    await pair.target.put("m2", epoch=2)
    await pair.erase_home(2)
    await pair.copy(back=True, epoch=2)
    await pair.own(3, HOME)
    assert await pair.home.ids() == ["m1", "m2"]
    assert await pair.home.copies.digest(ACME, None, None) == await pair.target.copies.digest(ACME, None, None)


async def test_a_copy_begins_on_an_empty_place(pair: Pair) -> None:
    """What is left of an earlier stay is erased first; then it begins anew."""
    await pair.home.put("m1")
    await pair.copy()
    for _ in range(2):
        with pytest.raises(Failure) as refused:
            await pair.target.copies.begin(ACME, HOME, "m2", None, False)
        assert refused.value.reason is Reason.MOVE_NOT_NOW
    assert await erased(pair.target, 1, "m2")
    assert (await pair.target.copies.begin(ACME, HOME, "m2", None, False)).seq == 0


async def test_a_late_order_of_an_earlier_move_neither_erases_nor_adds(pair: Pair) -> None:
    """Who still works on a move that has ended finds nothing to do: the copy is another move's, or nobody's."""
    await pair.home.put("m1")
    await pair.copy()
    with pytest.raises(Failure):
        await pair.target.copies.begin(ACME, HOME, "m2", None, False)
    await erased(pair.target, 1, "m2")
    part = await pair.home.copies.export(ACME, Epoch(1), None, COPY_BYTES)
    with pytest.raises(Failure) as refused:
        await pair.target.copies.take(HOME, "m1", 0, part.chunk, part.cursor)
    assert refused.value.reason is Reason.NOT_MOVING
    await pair.target.copies.begin(ACME, HOME, "m2", None, False)
    taken = await pair.target.copies.take(HOME, "m2", 0, part.chunk, part.cursor)
    assert await pair.target.copies.erase(ACME, Epoch(1), "m1") == (0, False)
    assert await pair.target.copies.begin(ACME, HOME, "m2", None, False) == taken


async def test_erasing_leaves_nothing_and_nobody_else_loses_anything(pair: Pair) -> None:
    """Every table is searched; another tenant's events, the fence, and what this cell has counted stay."""
    await pair.home.put("m1", "m2")
    await pair.home.put("g1", tenant=GLOBEX)
    counted = await pair.home.store.ledger()
    await pair.own(2, TARGET)
    assert await pair.erase_home(2)
    assert await pair.home.ids() == []
    assert await pair.home.copies.digest(ACME, None, None) == await pair.home.copies.digest_profiles(ACME) == Totals()
    assert await pair.home.ids(GLOBEX) == ["g1"]
    assert await pair.home.store.ledger() == counted
    assert (await pair.home.copies.begin(ACME, TARGET, "m1", None, False)).cursor is None, "how far its copies were is gone as well"
    await pair.home.own(1, HOME, ACME)
    with pytest.raises(Failure):
        await pair.home.copies.export(ACME, Epoch(1), None, COPY_BYTES)


async def test_what_a_cell_owns_it_does_not_erase(pair: Pair) -> None:
    """Whatever epoch is named, and whatever copy was begun into it before."""
    await pair.home.put("m1")
    await pair.home.copies.begin(ACME, TARGET, "m1", await pair.home.copies.mark(ACME, Epoch(1)), False)
    for epoch in (1, 2):
        with pytest.raises(Failure) as refused:
            await pair.home.copies.erase(ACME, Epoch(epoch), "m1")
        assert refused.value.reason is Reason.MOVED
    assert await pair.home.ids() == ["m1"]


async def test_others_traffic_does_not_keep_a_copy_from_its_end(pair: Pair) -> None:
    """While another tenant's records are applied between any two parts there is always more; but `given` and `settled` reach the end that
    the log had when somebody asked, with the ledger of that moment."""
    await pair.home.put("m1", "m2")
    ends = await pair.home.store.positions()
    for number in range(100):
        copy, more = await pair.step()
        await pair.home.put(f"g{number}", tenant=GLOBEX)
        assert more
        assert copy.cursor is not None
        if copy.cursor.past and all((copy.cursor.settled or {}).get(p, 0) >= end for p, end in ends.items()):
            break
    else:
        raise AssertionError("the end is never reached")
    await same(pair)


async def test_a_digest_sees_a_changed_a_missing_and_a_foreign_event(pair: Pair) -> None:
    """The negative control of the verifier: what differs has another digest."""
    await pair.home.put("m1", "m2")
    whole = await pair.home.copies.digest(ACME, None, None)
    await pair.copy()
    await pair.home.put("m3")
    more = await pair.home.copies.digest(ACME, None, None)
    assert whole == await pair.target.copies.digest(ACME, None, None) != more
    await pair.own(2, TARGET)
    other: Event = event("m3", offset=pair.target.next.get(0, 0), name="Order Undone", user_id="u-m3", anonymous_id="dev")
    await pair.target.apply(effects(other), 2)
    changed = await pair.target.copies.digest(ACME, None, None)
    assert (changed.events, changed.records) == (more.events, more.records)
    assert changed.events_sum != more.events_sum
    assert changed.records_sum != more.records_sum


def test_a_part_that_mixes_tenants_is_refused() -> None:
    """Whoever hands it over."""
    one = event("m1", offset=0)
    stray = event("g1", GLOBEX, offset=0)
    record = wire.KeptRecord(one.record(0), Micros(NOW))
    for rows in ([stray.row(0)], [replace(one, offset=9).row(0)]):
        part = wire.Chunk(wire.VERSION, ACME, Epoch(1), [record], rows, [], [], [], [], [])
        with pytest.raises(Failure) as refused:
            wire.decode(wire.encode(part))
        assert refused.value.reason is Reason.INVALID_FIELD
    with pytest.raises(Failure):
        wire.decode(b"nonsense")
    with pytest.raises(Failure):
        wire.decode_cursor(b"nonsense")
    assert wire.decode_cursor(b"") is None
    assert wire.decode_cursor(wire.encode(Cursor(None, None, 3, 4, {0: 1}, {0: 2}))) == Cursor(None, None, 3, 4, {0: 1}, {0: 2})


@pytest.mark.parametrize("only_people", [False, True])
async def test_what_changes_between_an_export_and_its_take_is_in_the_next(pair: Pair, only_people: bool) -> None:
    """A part is of one moment; whatever was written right behind it is found, people included, also while people are given."""
    await pair.home.put("m1")
    copy = await pair.target.copies.begin(ACME, HOME, "m1", None, False)
    more, puts = True, 0
    while more:
        part = await pair.home.copies.export(ACME, Epoch(1), copy.cursor, COPY_BYTES)
        if puts < 12 and (part.cursor.people is not None or not only_people):
            await pair.home.put(f"later-{puts}")
            puts += 1
        copy = await pair.target.copies.take(HOME, "m1", copy.seq, part.chunk, part.cursor)
        more = part.more
    assert puts == 12
    await same(pair)


async def test_another_move_begins_from_nothing(pair: Pair) -> None:
    """Whatever the one before it had counted."""
    letter = DeadLetter(ACME, Micros(NOW), 0, 0, "bad", "UNPROCESSABLE_EVENT", "shape", b"x")
    await pair.home.apply(effects(dead_letters=(letter,)))
    await pair.home.put("m1")
    assert (await pair.copy()).added.others == 1
    mark = await pair.home.copies.mark(ACME, Epoch(1))
    begun = await pair.target.copies.begin(ACME, HOME, "m2", mark, False)
    assert (begun.seq, begun.added) == (0, Totals())


async def test_a_digest_ends_before_its_cursor(pair: Pair) -> None:
    """What lies at the cursor's own offset, and behind it, is not in it: events, records and dead letters alike."""
    await pair.home.put("m1")
    cursor = await pair.home.copies.mark(ACME, Epoch(1))
    before = await pair.home.copies.digest(ACME, None, cursor)
    letter = DeadLetter(ACME, Micros(NOW), 1, 0, "bad", "UNPROCESSABLE_EVENT", "shape", b"x")
    await pair.home.apply(effects(event("m2", offset=1, cell=HOME), dead_letters=(letter,)))
    assert await pair.home.copies.digest(ACME, None, cursor) == before != await pair.home.copies.digest(ACME, None, None)
    behind = await pair.home.copies.mark(ACME, Epoch(1))
    tail = await pair.home.copies.digest(ACME, cursor, behind)
    assert (tail.events, tail.records, tail.others) == (1, 1, 1)
    assert before + tail == await pair.home.copies.digest(ACME, None, behind)

"""Dedup as arithmetic: which rows are new, judged by a reference that looks at everything, one row after the other."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cells.storage import dedup
from cells.storage.dedup import Found
from kernel.clock import DAY, SECOND, Micros, day_of
from kernel.effects import EventRow
from kernel.limits import SEEN_WINDOW_DAYS
from tests.support.storage_room import NOW, event

TODAY = day_of(NOW)
KEYS = [f"m{number}" for number in range(4)]
days_ago = st.integers(-3, 8)
rows = st.builds(
    lambda message_id, ago, content: event(message_id, at=NOW - ago * DAY, content_hash=content).row(0),
    st.sampled_from(KEYS),
    days_ago,
    st.integers(1, 2),
)
founds = st.builds(
    lambda message_id, ago, content: Found(event(message_id).row(0).message_key, TODAY - timedelta(days=ago), content),
    st.sampled_from(KEYS),
    days_ago,
    st.integers(1, 2),
)
stored = st.lists(founds, max_size=8, unique_by=lambda one: (one.message_key, one.received_day))
begins = days_ago.map(lambda ago: TODAY - timedelta(days=ago))


def reference(batch: Sequence[EventRow], known: Sequence[Found], begin: date) -> tuple[list[EventRow], list[EventRow], int]:
    """(new rows, repeated rows, conflicts): the port's two rules in so many words, over all that is stored."""
    everything, conflicts = list(known), 0
    fresh: list[EventRow] = []
    repeated: list[EventRow] = []
    for row in batch:
        same_key = [one for one in everything if one.message_key == row.message_key]
        by_rule_one = [one for one in same_key if one.received_day == row.received_day]
        in_window = [one for one in same_key if abs((one.received_day - row.received_day).days) <= SEEN_WINDOW_DAYS]
        by_rule_two = sorted(in_window, key=lambda one: one.received_day) if row.received_day >= begin else []
        if earlier := by_rule_one or by_rule_two:
            repeated.append(row)
            conflicts += earlier[0].content_hash != row.content_hash
        else:
            fresh.append(row)
            everything.append(Found(row.message_key, row.received_day, row.content_hash))
    return fresh, repeated, conflicts


@given(st.lists(rows, max_size=10), stored, begins)
def test_sifting_is_what_the_rules_say(batch: list[EventRow], known: list[Found], begin: date) -> None:
    """The same new rows, repeats and conflicts as the reference finds, row by row in their order."""
    sifted = dedup.sift(batch, known, begin)
    fresh, repeated, conflicts = reference(batch, known, begin)
    assert sorted(sifted.fresh) == sorted(fresh)
    assert sorted(sifted.repeated) == sorted(repeated)
    assert sifted.conflicts == conflicts


@given(st.lists(rows, max_size=10), stored, begins)
def test_new_rows_come_in_key_order(batch: list[EventRow], known: list[Found], begin: date) -> None:
    """Two applies that share keys then wait for each other in one order, never crosswise."""
    fresh = dedup.sift(batch, known, begin).fresh
    assert [row.message_key for row in fresh] == sorted(row.message_key for row in fresh)


@given(st.lists(rows, max_size=10), stored, stored, begins)
def test_what_is_known_out_of_reach_changes_nothing(batch: list[EventRow], known: list[Found], more: list[Found], begin: date) -> None:
    """A look-up may answer with more than the days around the rows: what is further away than the window decides nothing."""
    taken = {(one.message_key, one.received_day) for one in known}
    near = {row.received_day + timedelta(days=days) for row in batch for days in range(-SEEN_WINDOW_DAYS, SEEN_WINDOW_DAYS + 1)}
    far = [one for one in more if one.received_day not in near and (one.message_key, one.received_day) not in taken]
    assert dedup.sift(batch, [*known, *far], begin) == dedup.sift(batch, known, begin)


@given(st.lists(rows, max_size=10), st.lists(rows, max_size=10), begins)
def test_sifting_in_two_goes_comes_to_the_same(first: list[EventRow], second: list[EventRow], begin: date) -> None:
    """What the first go stored is found by the second, as if both had been one."""
    whole = dedup.sift([*first, *second], [], begin)
    one = dedup.sift(first, [], begin)
    known = [Found(row.message_key, row.received_day, row.content_hash) for row in one.fresh]
    two = dedup.sift(second, known, begin)
    assert sorted([*one.fresh, *two.fresh]) == sorted(whole.fresh)
    assert one.conflicts + two.conflicts == whole.conflicts


def test_the_window_begins_before_today() -> None:
    """SEEN_WINDOW_DAYS before it, by UTC."""
    assert dedup.window_begins(NOW) == TODAY - timedelta(days=SEEN_WINDOW_DAYS)
    assert dedup.window_begins(Micros(NOW - NOW % DAY)) == dedup.window_begins(Micros(NOW - NOW % DAY + DAY - 1))


@given(st.sets(days_ago), st.integers(-5 * 60, 5 * 60))
def test_two_applies_may_share_a_tenant_only_when_their_rows_are_of_one_day(ages: set[int], seconds: int) -> None:
    """One that may still run when the other's clock says tomorrow does not count as of today."""
    now = Micros(NOW + seconds * SECOND)
    days = {TODAY - timedelta(days=ago) for ago in ages}
    if dedup.alone(days, now):
        return
    near = {day for day in days if day >= dedup.window_begins(now)}
    assert not near or near == {day_of(now)} == {day_of(Micros(now + 59 * SECOND))}


def test_rows_of_today_share_all_day_but_its_last_minute() -> None:
    """What is applied as it comes waits for nobody; nor does a backfill of days before the window."""
    midnight = Micros(NOW + DAY)
    assert not dedup.alone({TODAY}, NOW)
    assert not dedup.alone({TODAY}, Micros(midnight - 61 * SECOND))
    assert dedup.alone({TODAY}, Micros(midnight - 60 * SECOND))
    assert dedup.alone({TODAY}, midnight)
    assert dedup.alone({TODAY, TODAY + timedelta(days=1)}, midnight)
    assert not dedup.alone({TODAY + timedelta(days=1)}, midnight)
    assert not dedup.alone({TODAY - timedelta(days=SEEN_WINDOW_DAYS + 1)}, NOW)

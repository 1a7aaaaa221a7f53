"""How far ingest may run ahead of the applies of its own process."""

from __future__ import annotations

import pytest

from cells.pace import Pace
from kernel.limits import PACE_BEHIND_SECONDS, PACE_BURST_SECONDS, PACE_MEMORY_SECONDS, PACE_SHARE_MAX, PACE_SHARE_MIN, PACE_WINDOW_SECONDS
from tests.support.clock import ManualClock


def _new() -> tuple[Pace, ManualClock]:
    clock = ManualClock()
    return Pace(clock), clock


def _apply(pace: Pace, clock: ManualClock, behind_seconds: float, seconds: float, accepted: int = 200) -> None:
    """Two partitions apply 100 events each, ten times a second, while so many are accepted."""
    for _ in range(round(seconds * 10)):
        clock.advance(0.1)
        pace.accepted(accepted)
        pace.applied(0, 100, behind_seconds)
        pace.applied(1, 100, 0.0)


def _running(behind_seconds: float) -> tuple[Pace, ManualClock]:
    """It has been so for a while."""
    pace, clock = _new()
    _apply(pace, clock, behind_seconds, 5.0)
    return pace, clock


def test_nothing_is_held_back_while_applies_keep_up() -> None:
    """Nor before the first of them."""
    assert Pace(ManualClock()).events_per_second_max() is None
    assert _running(PACE_BEHIND_SECONDS)[0].events_per_second_max() is None


def _held_back(behind_seconds: float, accepted: int = 200) -> float:
    """What may be accepted once it has been so for long enough."""
    pace, clock = _running(behind_seconds)
    assert pace.events_per_second_max() is None, "a moment's delay costs nobody a refusal"
    _apply(pace, clock, behind_seconds, PACE_WINDOW_SECONDS + 1.0, accepted)
    may = pace.events_per_second_max()
    assert may is not None
    return may


@pytest.mark.parametrize(("times", "share"), [(1.25, 0.8), (2, 0.5), (100, PACE_SHARE_MIN)])
def test_the_longer_what_comes_will_wait_the_less_of_it_is_accepted(times: float, share: float) -> None:
    """So that what is behind shrinks, whichever partition it is."""
    assert _held_back(PACE_BEHIND_SECONDS * times) == pytest.approx(2_000 * share, rel=0.25)


def test_what_comes_waits_for_what_came_since_the_oldest_did() -> None:
    """Law: at one and a half times the pace of the applies it will wait so much longer than the oldest has; with little before it, for a
    moment, however late the oldest is; then as much is accepted as may be while anything is held back."""
    assert _held_back(PACE_BEHIND_SECONDS * 1.01, 300) == pytest.approx(_held_back(PACE_BEHIND_SECONDS * 1.01) / 1.5, rel=0.1)
    for accepted in (0, 20):
        assert _held_back(PACE_BEHIND_SECONDS * 2, accepted) == pytest.approx(2_000 * PACE_SHARE_MAX)


@pytest.mark.parametrize("requests", [5, 10, 50])
def test_how_events_are_cut_into_requests_does_not_matter(requests: int) -> None:
    """Law: what may be accepted follows from how many events come, and what is remembered of them is bounded, however many requests
    bring them."""
    pace, clock = _new()
    behind = PACE_BEHIND_SECONDS * 1.25
    for step in range(100 * requests):
        clock.advance(0.1 / requests)
        pace.accepted(200 // requests)
        if step % requests == 0:
            pace.applied(0, 200, behind)
        may = pace.events_per_second_max()
    assert may == pytest.approx(2_000 * 0.8, rel=0.15)
    assert len(pace._arrived) <= PACE_MEMORY_SECONDS / PACE_BURST_SECONDS + 2


def test_one_slow_window_says_little() -> None:
    """Law: the rate follows what is applied over some windows; a large apply that ends just after one of them does not halve it."""
    pace, clock = _running(PACE_BEHIND_SECONDS * 2)
    pace.events_per_second_max()
    clock.advance(PACE_WINDOW_SECONDS)
    pace.applied(0, 0, PACE_BEHIND_SECONDS * 2)
    slow = pace.events_per_second_max()
    assert slow is not None
    assert slow > 2_000 * PACE_SHARE_MIN * 0.7
    for _ in range(20):
        clock.advance(PACE_WINDOW_SECONDS)
        pace.applied(0, 0, PACE_BEHIND_SECONDS * 2)
    assert (pace.events_per_second_max() or 0.0) < 100


def test_what_is_held_back_stays_so_until_much_less_is_behind() -> None:
    """Law: until half of the bound is behind; then anything is accepted, and being behind must last anew."""
    pace, clock = _running(PACE_BEHIND_SECONDS * 2)
    assert pace.events_per_second_max() is None
    _apply(pace, clock, PACE_BEHIND_SECONDS * 2, PACE_WINDOW_SECONDS + 0.1)
    assert pace.events_per_second_max() is not None
    _apply(pace, clock, PACE_BEHIND_SECONDS * 0.6, PACE_WINDOW_SECONDS)
    assert pace.events_per_second_max() is not None
    _apply(pace, clock, PACE_BEHIND_SECONDS * 0.5, 0.1)
    assert pace.events_per_second_max() is None
    _apply(pace, clock, PACE_BEHIND_SECONDS * 2, 0.1)
    assert pace.events_per_second_max() is None


def test_a_pause_is_not_taken_for_slowness() -> None:
    """The first applies after nothing came, or of the process's life, say nothing of what it could do."""
    for pace, clock in (_running(0.0), _new()):
        pace.idle(0)
        pace.idle(1)
        clock.advance(3_600.0)
        for _ in range(3):
            clock.advance(PACE_WINDOW_SECONDS / 4)
            pace.applied(0, 1, PACE_BEHIND_SECONDS + 1)
            assert pace.events_per_second_max() is None


def test_a_store_that_does_not_apply_holds_nothing_back() -> None:
    """The log keeps what comes meanwhile: whether its applies fail, or hang for long."""
    failing, clock = _running(60.0)
    failing.idle(0)
    failing.idle(1)
    assert failing.events_per_second_max() is None
    hanging, clock = _running(60.0)
    clock.advance(PACE_MEMORY_SECONDS + 1)
    assert hanging.events_per_second_max() is None


def test_slow_applies_are_no_pause() -> None:
    """However far apart they are while something waits."""
    pace, clock = _new()
    for _ in range(5):
        clock.advance(3.0)
        pace.applied(0, 300, 30.0)
        pace.events_per_second_max()
    assert pace.events_per_second_max() == pytest.approx(100 * PACE_SHARE_MIN)

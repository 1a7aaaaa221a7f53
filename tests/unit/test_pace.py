"""How far ingest may run ahead of the applies of its own process."""

from __future__ import annotations

import pytest

from cells.pace import Pace
from kernel.limits import (
    PACE_BEHIND_SECONDS,
    PACE_BURST_SECONDS,
    PACE_CALM_SECONDS,
    PACE_LASTING_SECONDS,
    PACE_MEMORY_SECONDS,
    PACE_SHARE_MAX,
    PACE_SHARE_MIN,
    PACE_WAITS_SECONDS_MAX,
    PACE_WINDOW_SECONDS,
)
from tests.support.clock import ManualClock

RATE = 2_000  # events per second that `_apply` applies
LATE = 2 * PACE_WAITS_SECONDS_MAX


def _new() -> tuple[Pace, ManualClock]:
    clock = ManualClock()
    return Pace(clock), clock


def _apply(pace: Pace, clock: ManualClock, behind_seconds: float, seconds: float, accepted: int = RATE) -> None:
    """Two partitions apply 50 events each, twenty times a second, while so many a second are accepted."""
    for _ in range(round(seconds * 20)):
        clock.advance(0.05)
        pace.accepted(accepted // 20)
        pace.fetched(0, behind_seconds)
        pace.fetched(1, 0.0)
        pace.applied(50)
        pace.applied(50)


def _running(behind_seconds: float, accepted: int = RATE) -> tuple[Pace, ManualClock]:
    """It has been so for a while."""
    pace, clock = _new()
    _apply(pace, clock, behind_seconds, 5.0, accepted)
    return pace, clock


def _held_back(behind_seconds: float, accepted: int = RATE) -> tuple[Pace, ManualClock, float]:
    """It has been so for long enough, and what may be accepted then."""
    pace, clock = _running(behind_seconds, accepted)
    assert pace.events_per_second_max() is None, "a moment's delay costs nobody a refusal"
    _apply(pace, clock, behind_seconds, PACE_LASTING_SECONDS + 0.1, accepted)
    may = pace.events_per_second_max()
    assert may is not None
    return pace, clock, may


def test_nothing_is_held_back_while_applies_keep_up() -> None:
    """Nor before the first of them."""
    assert Pace(ManualClock()).events_per_second_max() is None
    for behind, accepted in ((PACE_WAITS_SECONDS_MAX, RATE), (PACE_BEHIND_SECONDS, 10 * RATE)):
        pace, clock = _running(behind, accepted)
        for _ in range(10):
            assert pace.events_per_second_max() is None
            _apply(pace, clock, behind, 0.1, accepted)


def test_who_makes_up_for_a_moments_absence_is_let_be() -> None:
    """Law: after the store was away for a second what waits is applied faster than more comes, and nobody is turned away; when it is
    not, somebody is."""
    for accepted, held in ((RATE * 8 // 10, False), (RATE * 12 // 10, True)):
        pace, clock = _running(0.0, accepted)
        for _ in range(20):
            clock.advance(0.05)
            pace.accepted(accepted // 20)
        found = False
        for step in range(20):
            _apply(pace, clock, LATE - 0.04 * step, 0.1, accepted)
            found |= pace.events_per_second_max() is not None
        assert found is held


@pytest.mark.parametrize(("behind", "accepted"), [(PACE_BEHIND_SECONDS * 1.5, 3 * RATE), (LATE, RATE), (LATE, 3 * RATE)])
def test_what_counts_is_how_long_what_comes_will_wait(behind: float, accepted: int) -> None:
    """Law: once applies run into each other, what came since the oldest did, at the rate of the applies, is too much, though the oldest
    itself has not waited for long; and the more it is the less is accepted, but never less than leaves a backlog to shrink."""
    _, _, may = _held_back(behind, accepted)
    assert may == pytest.approx(RATE * max(PACE_SHARE_MIN, PACE_BEHIND_SECONDS / (behind * accepted / RATE)), rel=0.1)


@pytest.mark.parametrize("accepted", [0, 100])
def test_with_little_before_it_what_comes_is_accepted(accepted: int) -> None:
    """Law: as much as may be while anything is held back, however late the oldest is."""
    pace, clock, _ = _held_back(LATE)
    for _ in range(20):
        pace.refused()
        _apply(pace, clock, PACE_BEHIND_SECONDS * 2, 0.1, accepted)
    assert pace.events_per_second_max() == pytest.approx(RATE * PACE_SHARE_MAX, rel=0.02)


@pytest.mark.parametrize("requests", [5, 10, 50])
def test_how_events_are_cut_into_requests_does_not_matter(requests: int) -> None:
    """Law: what may be accepted follows from how many events come, and what is remembered of them is bounded, however many requests
    bring them."""
    pace, clock = _new()
    may = None
    for step in range(100 * requests):
        clock.advance(0.1 / requests)
        pace.accepted(200 // requests)
        pace.refused()
        if step % requests == 0:
            pace.fetched(0, LATE if may is None else PACE_BEHIND_SECONDS * 1.5)
            pace.applied(200)
        may = pace.events_per_second_max()
    assert may == pytest.approx(RATE / 1.5, rel=0.2)
    assert len(pace._arrived) <= PACE_MEMORY_SECONDS / PACE_BURST_SECONDS + 2


def test_one_slow_window_says_little() -> None:
    """Law: the rate follows what is applied over some windows; a large apply that ends just after one of them does not halve it."""
    pace, clock, before = _held_back(LATE)

    def late() -> float:
        clock.advance(PACE_WINDOW_SECONDS)
        pace.accepted(RATE)
        pace.fetched(0, LATE)
        pace.applied(0)
        return pace.events_per_second_max() or 0.0

    assert late() > before * 0.7
    assert [late() for _ in range(20)][-1] < 100


def test_what_is_held_back_stays_so_until_nobody_is_turned_away() -> None:
    """Law: as long as somebody is, however little waits; then anything is accepted, and being late must last anew."""
    pace, clock, _ = _held_back(LATE)
    for _ in range(100):
        pace.refused()
        _apply(pace, clock, PACE_BEHIND_SECONDS / 4, PACE_CALM_SECONDS / 2)
        assert pace.events_per_second_max() is not None
    _apply(pace, clock, PACE_BEHIND_SECONDS / 4, PACE_CALM_SECONDS)
    assert pace.events_per_second_max() is None
    _apply(pace, clock, LATE, 0.1)
    assert pace.events_per_second_max() is None


def test_what_catches_up_is_held_back_without_harm() -> None:
    """Law: who is hours behind may accept at least half of what is applied, and nothing more is held back once it is over."""
    pace, clock, may = _held_back(3_600.0)
    assert may == pytest.approx(RATE * PACE_SHARE_MIN, rel=0.02)
    _apply(pace, clock, PACE_BEHIND_SECONDS, 0.1)
    assert pace.events_per_second_max() is None


def test_a_pause_is_not_taken_for_slowness() -> None:
    """The first applies after nothing came, or of the process's life, say nothing of what it could do."""
    for pace, clock in (_running(0.0), _new()):
        pace.idle(0)
        pace.idle(1)
        clock.advance(3_600.0)
        for _ in range(3):
            clock.advance(PACE_WINDOW_SECONDS / 4)
            pace.accepted(RATE)
            pace.fetched(0, LATE)
            pace.applied(1)
            assert pace.events_per_second_max() is None


def test_a_store_that_does_not_apply_holds_nothing_back() -> None:
    """The log keeps what comes meanwhile: whether its applies fail, or hang for long, and whoever was turned away just before."""
    failing, clock, _ = _held_back(LATE)
    failing.refused()
    failing.idle(0)
    failing.idle(1)
    assert failing.events_per_second_max() is None
    hanging, clock, _ = _held_back(LATE)
    clock.advance(PACE_MEMORY_SECONDS + 1)
    hanging.refused()
    assert hanging.events_per_second_max() is None


@pytest.mark.parametrize("away_seconds", [0.6, 30.0])
def test_applies_that_are_tried_again_and_fail_hold_nothing_back(away_seconds: float) -> None:
    """Law: partitions fetch, fail and fetch again in turn, so that one of them always waits; nothing is applied, so nobody is turned away,
    neither from the beginning on nor once it lasts."""
    pace, clock = _running(0.1)
    begun = clock.monotonic()
    while clock.monotonic() - begun < away_seconds:
        for partition in (0, 1):
            pace.idle(partition)
            pace.fetched(partition, clock.monotonic() - begun)
            clock.advance(0.05)
            pace.accepted(RATE // 20)
            assert pace.events_per_second_max() is None


def test_slow_applies_are_no_pause() -> None:
    """However far apart they are while something waits."""
    pace, clock = _new()
    for _ in range(5):
        clock.advance(3.0)
        pace.accepted(300)
        pace.fetched(0, 30.0)
        pace.applied(300)
        pace.events_per_second_max()
    assert pace.events_per_second_max() == pytest.approx(100 * PACE_SHARE_MIN, rel=0.02)

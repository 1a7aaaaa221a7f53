"""How far ingest may run ahead of the applies of its own process."""

from __future__ import annotations

import pytest

from cells.pace import Pace
from kernel.limits import PACE_BEHIND_SECONDS, PACE_MEMORY_SECONDS, PACE_SHARE, PACE_WINDOW_SECONDS
from tests.support.clock import ManualClock


def _new() -> tuple[Pace, ManualClock]:
    clock = ManualClock()
    return Pace(clock), clock


def _running(behind_seconds: float) -> tuple[Pace, ManualClock]:
    """Two partitions that have applied 100 events each ten times a second for a while."""
    clock = ManualClock()
    pace = Pace(clock)
    for _ in range(50):
        clock.advance(0.1)
        pace.applied(0, 100, behind_seconds)
        pace.applied(1, 100, 0.0)
    return pace, clock


def test_nothing_is_held_back_while_applies_keep_up() -> None:
    """Nor before the first of them."""
    assert Pace(ManualClock()).events_per_second_max() is None
    assert _running(PACE_BEHIND_SECONDS)[0].events_per_second_max() is None


def test_behind_for_long_it_accepts_less_than_it_applies() -> None:
    """So that what is behind shrinks, whichever partition it is; a moment's delay costs nobody a refusal."""
    pace, clock = _running(PACE_BEHIND_SECONDS + 0.01)
    assert pace.events_per_second_max() is None
    clock.advance(PACE_WINDOW_SECONDS)
    assert pace.events_per_second_max() == pytest.approx(2_000 * PACE_SHARE, rel=0.15)


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
    assert pace.events_per_second_max() == pytest.approx(100 * PACE_SHARE)

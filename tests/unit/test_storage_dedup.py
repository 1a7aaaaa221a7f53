"""The days in which rule 2 of dedup looks for an earlier write."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from cells.storage import dedup

DAY = date(2026, 11, 21)


def _looked_at(days: set[date]) -> set[date]:
    first, last, again, end = dedup.days_to_look_at(days)
    around = [DAY + timedelta(days=offset) for offset in range(-10, 11)]
    return {day for day in around if first <= day <= last or again <= day <= end}


def test_a_single_day_is_not_looked_at_itself() -> None:
    """Its primary key tells."""
    assert _looked_at({DAY}) == {DAY + timedelta(days=offset) for offset in (-2, -1, 1, 2)}


@pytest.mark.parametrize("apart", [1, 2, 5])
def test_days_of_one_apply_may_hold_each_others_repeats(apart: int) -> None:
    """Every day within the window of any of them is looked at, their own included."""
    days = {DAY, DAY + timedelta(days=apart)}
    near = {day + timedelta(days=offset) for day in days for offset in range(-2, 3)}
    assert near <= _looked_at(days)

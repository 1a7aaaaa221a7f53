"""What readers of a partition remember of what does not pass by waiting: when it is sure, and when it is over."""

from __future__ import annotations

import pytest

from cells.eventlog.kafka_trouble import DAMAGED_TIMES, STALE_SECONDS, SURE_SECONDS, Trouble
from kernel.errors import Failure, Reason
from tests.support.clock import ManualClock


def test_a_new_topic_is_still_a_new_one_when_it_has_grown_past_the_offset() -> None:
    """Law: what was beyond the end for long enough is never given out, and nothing is appended, whatever is seen later."""
    clock = ManualClock()
    trouble = Trouble(0, clock)
    trouble.looked(100, 0)
    assert "offset 100 is waited for" in (trouble.replaced or "")
    for _ in range(int(SURE_SECONDS / STALE_SECONDS) + 1):
        clock.advance(STALE_SECONDS)
        trouble.looked(100, 60)
    trouble.looked(100, 120)
    trouble.read(119)
    assert trouble.said == trouble.replaced is not None
    with pytest.raises(Failure) as caught:
        trouble.refuse(100)
    assert caught.value.reason is Reason.LOG_REPLACED
    trouble.refuse(0)


def test_a_leader_that_shows_its_records_a_moment_later_has_lost_none() -> None:
    """Law: while it is not sure nothing is appended and readers go on; the record itself ends the doubt, others do not."""
    trouble = Trouble(0, ManualClock())
    trouble.looked(100, 90)
    trouble.refuse(100)
    trouble.read(95)
    assert trouble.replaced
    trouble.read(100)
    assert trouble.said is trouble.replaced is None


def test_who_does_not_look_again_refuses_nothing() -> None:
    """Law: a doubt lasts as long as somebody here asks for the offset; another process that has the partition now may know better."""
    clock = ManualClock()
    trouble = Trouble(0, clock)
    trouble.looked(100, 90)
    clock.advance(STALE_SECONDS + 1)
    assert trouble.replaced is None
    for _ in range(3):
        clock.advance(SURE_SECONDS)
        trouble.looked(100, 90)
        trouble.refuse(100)


def test_a_batch_that_stays_damaged_is_said_with_its_offset() -> None:
    """Law: not at the first time, for another copy may be whole; a record read behind it ends it; appends go on."""
    trouble = Trouble(0, ManualClock())
    for _ in range(DAMAGED_TIMES - 1):
        trouble.damaged(7, "a batch is damaged")
    assert trouble.said is None
    trouble.damaged(7, "a batch is damaged")
    assert "from offset 7 on" in (trouble.said or "")
    assert trouble.replaced is None
    trouble.read(6)
    assert trouble.said is not None
    trouble.read(7)
    assert trouble.said is None

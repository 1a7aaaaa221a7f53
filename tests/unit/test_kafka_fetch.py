"""What a broker's answer becomes: torn batches are found out and counted, and no time that a stranger wrote goes further than it may."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from cells.eventlog.access import Access
from cells.eventlog.kafka_brokers import Brokers
from cells.eventlog.kafka_fetch import Readers, Rest
from cells.eventlog.kafka_login import Login
from cells.eventlog.kafka_trouble import DAMAGED_TIMES
from cells.eventlog.log import Bounds
from cells.processing.pipeline import fold
from kernel.clock import DAY
from kernel.errors import Failure, Reason
from tests.support.clock import START, ManualClock


def batch(millis: int = 0) -> bytearray:
    """A stranger's batch of one record, with this time."""
    builder: Any = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    builder.append(0, millis, b"key", b"value", [])
    return bytearray(builder.build())


async def test_a_torn_batch_is_said_when_no_answer_is_better() -> None:
    """Law: each read of it fails; after several readiness names the partition's offset, and a whole copy ends it."""
    clock = ManualClock()

    async def bounds() -> dict[int, Bounds]:
        return {0: Bounds(0, 1)}

    readers = Readers(Brokers(Login(Access("127.0.0.1:9", "events"), "test"), clock), 0, clock, bounds)
    torn = batch()
    torn[-3] ^= 1
    for _ in range(DAMAGED_TIMES):
        assert readers.trouble is None
        with pytest.raises(Failure) as caught:
            readers.take(Rest("events", 0, bytes(torn), 0, clock.now()), 10, 1 << 20)
        assert caught.value.reason is Reason.UNDECODABLE_RECORD
    assert "from offset 0 on" in (readers.trouble or "")
    assert len(readers.take(Rest("events", 0, bytes(batch()), 0, clock.now()), 10, 1 << 20)) == 1
    assert readers.trouble is None


@pytest.mark.parametrize("millis", [-1, 0, 200_000_000_000_000, 253_402_300_800_000, 2**62])
def test_a_strangers_time_is_taken_for_ours_when_it_cannot_be(millis: int) -> None:
    """Law: a record of the year 10000 ends no fold, and one of 8307 or 1970 is of today, for its day decides where it is kept."""
    [entry] = Rest("events", 0, bytes(batch(millis)), 0, START).take(10, 1 << 20)
    assert entry.record.received_at == START
    assert len(fold(0, [entry]).dead_letters) == 1


def test_a_strangers_time_that_can_be_stays() -> None:
    """Law: what waited for days is of its own day."""
    [entry] = Rest("events", 0, bytes(batch((START - 8 * DAY) // 1_000)), 0, START).take(10, 1 << 20)
    assert entry.record.received_at == (START - 8 * DAY) // 1_000 * 1_000

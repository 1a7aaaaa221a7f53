"""The event log's specification (cells.eventlog.log) on every adapter: from a moment to an offset."""

from __future__ import annotations

from kernel.clock import DAY, Micros
from tests.contracts.conftest import Bench


async def test_a_moment_leads_to_the_first_record_that_is_not_older(bench: Bench) -> None:
    """Before all records it is the first retained offset, behind them the next one, and a partition without records has only that."""
    bench.clock.shift = -3 * DAY
    await bench.append(0, "old", "older")
    bench.clock.shift = 0
    await bench.append(0, "new", "newer")
    now = bench.clock.now()
    moments = [Micros(0), Micros(now - 4 * DAY), Micros(now - DAY), Micros(now + DAY)]
    assert [await bench.log.offset_at(0, moment) for moment in moments] == [0, 0, 2, 4]
    assert await bench.log.offset_at(1, now) == 0


async def test_a_records_own_time_leads_to_it_or_to_one_of_the_same_time(bench: Bench) -> None:
    """What `fetch` says of a record's time and what `offset_at` takes are the same thing."""
    await bench.append(0, *"abcdef")
    entries = await bench.log.fetch(0, 0, 10, 1 << 20, 0.0)
    for entry in entries:
        found = entries[await bench.log.offset_at(0, entry.appended_at)]
        assert found.appended_at == entry.appended_at
        assert found.offset <= entry.offset


async def test_a_trimmed_log_begins_at_its_first_retained_record(bench: Bench) -> None:
    """A moment before the trim leads to the first offset that is left."""
    bench.clock.shift = -3 * DAY
    await bench.append(0, "old")
    bench.clock.shift = 0
    await bench.append(0, "new")
    await bench.log.trim(bench.clock.now())
    assert await bench.log.offset_at(0, Micros(0)) == 1

"""Laws of dedup and ledger under any interleaving and repetition of applies."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from cells.storage.memory import MemoryStore
from kernel.clock import DAY, Micros
from kernel.effects import Applied
from kernel.metrics import MemoryMeter
from tests.support.clock import ManualClock
from tests.support.storage_room import ACME, GLOBEX, NOW, Event, Room, effects, event, own_both

events = st.builds(
    event,
    st.sampled_from([f"m{number}" for number in range(6)]),
    st.sampled_from([ACME, GLOBEX]),
    st.sampled_from([NOW, NOW - DAY, NOW - 2 * DAY]),
    content_hash=st.integers(1, 2),
)
applies = st.lists(st.tuples(st.integers(0, 2), st.lists(events, max_size=8)), max_size=12)


async def run(script: list[tuple[int, list[Event]]]) -> tuple[Room, list[Applied]]:
    """Applies all, each partition in its order."""
    clock, meter = ManualClock(NOW), MemoryMeter()
    store = MemoryStore(clock, meter)
    room = await own_both(Room(store, store, clock, meter))
    done = []
    for partition, rows in script:
        outcome = await room.apply(effects(*rows, partition=partition))
        assert isinstance(outcome, Applied)
        done.append(outcome)
    return room, done


@given(applies)
def test_each_id_is_stored_once_and_the_ledger_balances(script: list[tuple[int, list[Event]]]) -> None:
    """Inside the window: one row per (tenant, message id) that was ever applied; stored + duplicate = applied, per tenant too."""

    async def check() -> None:
        room, done = await run(script)
        everything = [one for _, rows in script for one in rows]
        for tenant in (ACME, GLOBEX):
            ids = await room.ids(tenant)
            assert sorted(ids) == sorted({one.message_id for one in everything if one.tenant == tenant})
            lines = [line for line in await room.store.ledger() if line.tenant == tenant]
            assert sum(line.stored for line in lines) == len(ids)
            assert sum(line.stored + line.duplicate for line in lines) == sum(one.tenant == tenant for one in everything)
        assert sum(outcome.stored + outcome.duplicate for outcome in done) == len(everything)
        assert all(outcome.conflicts <= outcome.duplicate for outcome in done)

    asyncio.run(check())


@given(applies)
def test_applying_everything_again_stores_nothing(script: list[tuple[int, list[Event]]]) -> None:
    """A replay of the whole log, at new positions, adds duplicates only."""

    async def check() -> None:
        room, _ = await run(script)
        before = {(stored.row.tenant, stored.envelope.message_id) for t in (ACME, GLOBEX) for stored in await room.all(t)}
        for partition, rows in reversed(script):
            outcome = await room.apply(effects(*rows, partition=partition))
            assert isinstance(outcome, Applied)
            assert (outcome.stored, outcome.duplicate) == (0, len(rows))
        assert before == {(stored.row.tenant, stored.envelope.message_id) for t in (ACME, GLOBEX) for stored in await room.all(t)}

    asyncio.run(check())


@given(st.lists(events, max_size=12), st.data())
def test_how_rows_are_cut_into_applies_does_not_matter(rows: list[Event], data: st.DataObject) -> None:
    """The stored rows are those of one single apply, wherever the cuts are."""
    cut = data.draw(st.integers(0, len(rows)))

    async def stored(script: list[tuple[int, list[Event]]]) -> list[tuple[str, str, Micros, int]]:
        room, _ = await run(script)
        found = [one for t in (ACME, GLOBEX) for one in await room.all(t)]
        return sorted((one.row.tenant, one.envelope.message_id, one.record.received_at, one.row.content_hash) for one in found)

    async def check() -> None:
        assert await stored([(0, rows)]) == await stored([(0, rows[:cut]), (0, rows[cut:])])

    asyncio.run(check())

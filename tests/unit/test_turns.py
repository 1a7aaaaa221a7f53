"""Turns of the loop: admission leaves room for everything else, keeps its order, and refuses once the queue stands."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.ingest.turns import Turns
from kernel.errors import Failure, Reason
from kernel.limits import TURN_BYTES, TURN_BYTES_PER_SECOND, TURN_REQUEST_BYTES, TURN_WAIT_SECONDS_MAX
from tests.support.clock import ManualClock


async def _turns_of(sizes: list[int]) -> list[int]:
    """In which turn of the loop each of several bodies, all there at once, is worked on."""
    turns, now, served = Turns(ManualClock()), 0, [0] * len(sizes)

    async def work(number: int, size: int) -> None:
        await turns.take(size)
        served[number] = now

    tasks = [asyncio.ensure_future(work(number, size)) for number, size in enumerate(sizes)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        now += 1
    return served


@given(st.lists(st.integers(0, 3 * TURN_BYTES), max_size=40))
def test_order_is_kept_and_a_turn_is_bounded(sizes: list[int]) -> None:
    """Bodies are worked on in the order in which they came; in one turn fewer bytes than the bound before the last one of it."""
    served = asyncio.run(_turns_of(sizes))
    assert served == sorted(served)
    for turn in set(served):
        of_turn = [size for size, at in zip(sizes, served, strict=True) if at == turn]
        assert sum(size + TURN_REQUEST_BYTES for size in of_turn[:-1]) < TURN_BYTES


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2 * TURN_BYTES)), max_size=30))
def test_nobody_is_overtaken_whenever_they_come(arrivals: list[tuple[int, int]]) -> None:
    """Bodies that come some turns of the loop after one another, also just after somebody was woken, are worked on in that order."""

    async def play() -> list[int]:
        turns, order = Turns(ManualClock()), []
        tasks = []

        async def work(number: int, size: int) -> None:
            await turns.take(size)
            order.append(number)

        for number, (pause, size) in enumerate(arrivals):
            for _ in range(pause):
                await asyncio.sleep(0)
            tasks.append(asyncio.ensure_future(work(number, size)))
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(play()) == list(range(len(arrivals)))


async def test_a_long_turn_is_followed_by_more_admission() -> None:
    """In proportion: what else is ready may take half of the loop, not all of it."""
    clock, done = ManualClock(), 0
    turns = Turns(clock)

    async def work() -> None:
        nonlocal done
        await turns.take(TURN_BYTES - TURN_REQUEST_BYTES)
        done += 1

    tasks = [asyncio.ensure_future(work()) for _ in range(40)]
    await asyncio.sleep(0)
    assert done == 1
    clock.advance(10 * TURN_BYTES / TURN_BYTES_PER_SECOND)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 10 <= done <= 12
    await asyncio.gather(*tasks)


async def test_others_have_their_turn_between_two_large_bodies() -> None:
    """What else is ready runs once for each body that fills a turn."""
    turns, ran, done = Turns(ManualClock()), 0, 0

    async def other() -> None:
        nonlocal ran
        while done < 10:
            ran += 1
            await asyncio.sleep(0)

    async def work() -> None:
        nonlocal done
        await turns.take(TURN_BYTES)
        done += 1

    await asyncio.gather(other(), *(work() for _ in range(10)))
    assert ran >= 10


async def test_a_queue_that_stands_refuses_and_one_that_moves_takes_again() -> None:
    """OVERLOADED with a Retry-After while the one in front has waited too long, and not a moment longer."""
    clock = ManualClock()
    turns = Turns(clock)
    await turns.take(TURN_BYTES)
    waiting = turns.take(1)
    waiting.send(None)  # it waits; the loop has not turned
    clock.advance(TURN_WAIT_SECONDS_MAX)
    turns.check()
    clock.advance(0.01)
    with pytest.raises(Failure) as caught:
        turns.check()
    assert (caught.value.reason, caught.value.retry_after_seconds) == (Reason.OVERLOADED, 1)
    await asyncio.sleep(0)
    turns.check()
    waiting.close()


async def test_whoever_gave_up_costs_the_others_nothing() -> None:
    """However large what they waited with was: the living have the whole of the next turn."""
    turns = Turns(ManualClock())
    await turns.take(TURN_BYTES)
    gone = [asyncio.ensure_future(turns.take(TURN_BYTES)) for _ in range(5)]
    await asyncio.sleep(0)
    for one in gone:
        one.cancel()
    done = [asyncio.ensure_future(turns.take(1)) for _ in range(3)]
    for _ in range(4):
        await asyncio.sleep(0)
    assert all(one.done() for one in done)


async def test_whoever_gives_up_waiting_is_passed_over() -> None:
    """A cancelled wait takes nobody's turn."""
    turns = Turns(ManualClock())
    await turns.take(TURN_BYTES)
    first, second = asyncio.ensure_future(turns.take(TURN_BYTES)), asyncio.ensure_future(turns.take(1))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(second, 1)

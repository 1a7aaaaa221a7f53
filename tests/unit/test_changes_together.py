"""Changes of a zone, one behind the other."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from kernel.errors import Failure, Reason
from router.placement.turns import TOGETHER_MAX, Asked, Turns


async def test_what_waits_behind_changes_that_fail_is_made() -> None:
    """Law: those that are made together fail together; who came while they were made has nothing to do with it."""
    begun, gate = asyncio.Event(), asyncio.Event()
    sizes: list[int] = []

    async def make(together: Sequence[Asked[int]]) -> None:
        sizes.append(len(together))
        begun.set()
        await gate.wait()
        if together[0].what == 0:
            raise Failure(Reason.STORE_UNAVAILABLE, "nobody agrees")
        for asked in together:
            asked.give(asked.what)

    turns = Turns(make)
    first = asyncio.create_task(turns.ask(0))
    await begun.wait()
    others = [asyncio.create_task(turns.ask(number)) for number in range(1, TOGETHER_MAX + 2)]
    await asyncio.sleep(0)
    gate.set()
    async with asyncio.timeout(1):
        with pytest.raises(Failure, match="nobody agrees"):
            await first
        assert await asyncio.gather(*others) == list(range(1, TOGETHER_MAX + 2))
    assert sizes == [1, TOGETHER_MAX, 1]

"""A crash between every two steps: the walk from append to apply is cut at each boundary of the ports in turn, on real PostgreSQL.

Each boundary is cut twice: before the call (nothing happened) and after it (it happened, and nobody heard of it). What dies is the
whole process; what is left is what is durable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cells.processing.partition import PartitionLoop, Wiring
from kernel.effects import Apply, Outcome
from kernel.epoch import Claim, Epoch
from kernel.metrics import MemoryMeter
from tests.integration.test_ledger_auditor import Room, room
from tests.support.records import CELL, TENANT, envelope, record

__all__ = ["room"]

_STEPS_MAX = 100
_EVENTS = ("a", "b", "c")


class Crash(Exception):
    """The process is gone."""


class Cut:
    """Counts the boundaries that a run passes, and crashes at one of them, once."""

    def __init__(self, at: int) -> None:
        self._at, self.passed = at, 0

    async def around(self, call: Callable[[], Awaitable[Any]]) -> Any:
        self._pass()
        answer = await call()
        self._pass()
        return answer

    def _pass(self) -> None:
        self.passed += 1
        if self.passed == self._at:
            raise Crash


class CutLog:
    """The parts of an EventLog that the walk uses."""

    def __init__(self, inner: Any, cut: Cut) -> None:
        self._inner, self._cut = inner, cut

    async def append(self, *arguments: Any) -> Any:
        return await self._cut.around(lambda: self._inner.append(*arguments))

    async def fetch(self, *arguments: Any) -> Any:
        return await self._cut.around(lambda: self._inner.fetch(*arguments))


class CutStore:
    """An Applier."""

    def __init__(self, inner: Any, cut: Cut) -> None:
        self._inner, self._cut = inner, cut

    async def positions(self) -> dict[int, int]:
        found: dict[int, int] = await self._cut.around(self._inner.positions)
        return found

    async def apply(self, apply: Apply, deadline: float) -> Outcome:
        outcome: Outcome = await self._cut.around(lambda: self._inner.apply(apply, deadline))
        return outcome


async def _nothing() -> None:
    return


async def _walk(room: Room, cut: Cut, pending: list[str], step: int) -> None:
    """A process from its start: sends what has no answer yet, then applies until nothing is left. Raises Crash."""
    log, store = CutLog(room.log, cut), CutStore(room.store, cut)
    while pending:
        await log.append(0, record(envelope(f"{step}-{pending[0]}")), room.clock.monotonic() + 5)
        pending.pop(0)
    claim = Claim(CELL, {TENANT: Epoch(1)})
    wiring: Any = Wiring(log, store, lambda: claim, _nothing, room.clock, MemoryMeter())  # type: ignore[arg-type]  # the parts in use
    position = (await store.positions()).get(0, 0)
    loop = PartitionLoop(wiring, 0)
    while position < (await room.log.bounds())[0].next:
        position = await loop.step(position)


@pytest.mark.postgres
async def test_a_crash_between_any_two_steps_loses_nothing_and_doubles_nothing(room: Room) -> None:
    """For every boundary: after the restart each event is stored once, and the ledger balances."""
    crashes = 0
    for step in range(1, _STEPS_MAX):
        cut, pending = Cut(step), list(_EVENTS)
        try:
            await _walk(room, cut, pending, step)
            crashed = False
        except Crash:
            crashed = True
            await _walk(room, cut, pending, step)
        stored = sum(row.stored for row in await room.store.ledger())
        assert stored == len(_EVENTS) * step, f"cut at boundary {step}"
        assert await room.findings() == [], f"cut at boundary {step}"
        crashes += crashed
        if not crashed:
            break
    assert crashes >= 2 * (len(_EVENTS) + 3), "too few boundaries were cut: the run is void"
    await room.log.close()
    await room.store.close()

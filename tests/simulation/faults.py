"""The log and the store behind an unreliable network: delayed, failing before the deed, and failing after it (the answer is lost)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from cells.eventlog.log import Bounds, Entry, EventLog, Membership, Record
from cells.storage.memory import MemoryStore
from kernel.clock import Micros
from kernel.effects import Apply, Outcome
from kernel.errors import Failure, Reason
from kernel.ids import CellId


@dataclass
class Weather:
    """How bad it is. Probabilities per call; delays in seconds. `calm` ends all faults, for the run to become quiet."""

    random: Random
    refused: float = 0.05
    answer_lost: float = 0.05
    delay_max: float = 0.2
    hits: int = 0

    def calm(self) -> None:
        self.refused = self.answer_lost = self.delay_max = 0.0

    async def travel(self, share: float = 1.0) -> None:
        if self.delay_max:
            await asyncio.sleep(self.random.random() * self.delay_max * share)

    def strikes(self, probability: float) -> bool:
        struck = self.random.random() < probability
        self.hits += struck
        return struck


class StormyLog:
    """An EventLog in bad weather."""

    def __init__(self, inner: EventLog, weather: Weather) -> None:
        self._inner, self._weather = inner, weather

    @property
    def partitions(self) -> int:
        return self._inner.partitions

    async def append(self, partition: int, record: Record, deadline: float) -> int:
        return await self.append_all(partition, (record,), deadline)

    async def append_all(self, partition: int, records: Sequence[Record], deadline: float) -> int:
        if self._weather.strikes(self._weather.refused):
            raise Failure(Reason.LOG_UNAVAILABLE)
        await self._weather.travel()
        offset = await self._inner.append_all(partition, records, deadline)
        await self._weather.travel()
        if self._weather.strikes(self._weather.answer_lost):
            raise Failure(Reason.LOG_UNAVAILABLE, "the answer was lost")
        return offset

    async def fetch(self, partition: int, offset: int, records_max: int, bytes_max: int, wait_seconds: float) -> list[Entry]:
        if self._weather.strikes(self._weather.refused):
            raise Failure(Reason.LOG_UNAVAILABLE)
        return await self._inner.fetch(partition, offset, min(records_max, 1 + self._weather.random.randrange(8)), bytes_max, wait_seconds)

    async def offset_at(self, partition: int, at: Micros) -> int:
        return await self._inner.offset_at(partition, at)

    async def bounds(self) -> dict[int, Bounds]:
        return await self._inner.bounds()

    async def size_bytes(self) -> int:
        return await self._inner.size_bytes()

    async def trim(self, before: Micros) -> int:
        return await self._inner.trim(before)

    async def join(self, group: str, member: str) -> Membership:
        return await self._inner.join(group, member)

    async def close(self) -> None:
        return


class StormyStore:
    """An Applier in bad weather."""

    def __init__(self, inner: MemoryStore, weather: Weather) -> None:
        self._inner, self._weather = inner, weather

    async def positions(self) -> dict[int, int]:
        if self._weather.strikes(self._weather.refused):
            raise Failure(Reason.STORE_UNAVAILABLE)
        return await self._inner.positions()

    async def replicated(self, origin: CellId) -> dict[int, int]:
        if self._weather.strikes(self._weather.refused):
            raise Failure(Reason.STORE_UNAVAILABLE)
        return await self._inner.replicated(origin)

    async def replicate(self, origin: CellId, partition: int, expected: int, following: int) -> bool:
        if self._weather.strikes(self._weather.refused):
            raise Failure(Reason.STORE_UNAVAILABLE)
        moved = await self._inner.replicate(origin, partition, expected, following)
        if self._weather.strikes(self._weather.answer_lost):
            raise Failure(Reason.STORE_UNAVAILABLE, "the answer was lost")
        return moved

    async def apply(self, apply: Apply, deadline: float) -> Outcome:
        await self._weather.travel()
        if self._weather.strikes(self._weather.refused):
            raise Failure(Reason.STORE_UNAVAILABLE)
        outcome = await self._inner.apply(apply, deadline)
        await self._weather.travel()
        if self._weather.strikes(self._weather.answer_lost):
            raise Failure(Reason.STORE_UNAVAILABLE, "the answer was lost")
        return outcome

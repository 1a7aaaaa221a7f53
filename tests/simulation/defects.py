"""Real defects for the simulation to carry: each is a plausible bug at a port, and the oracle must find what it does to a run."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from cells.eventlog.log import Entry, EventLog, Record
from cells.storage.memory import MemoryStore
from kernel.effects import Apply, Outcome
from tests.simulation.faults import StormyLog, Weather


class SkippingLog(StormyLog):
    """Now and then a fetch begins one record too late; the consumer moves on and nobody complains."""

    async def fetch(self, partition: int, offset: int, records_max: int, bytes_max: int, wait_seconds: float) -> list[Entry]:
        entries = await super().fetch(partition, offset, records_max, bytes_max, wait_seconds)
        return entries[1:] if len(entries) > 1 and self._weather.random.random() < 0.2 else entries


class HastyLog(StormyLog):
    """Acknowledges before the append is durable: a crash in between loses it, and later appends overtake it."""

    async def append(self, partition: int, record: Record, deadline: float) -> int:
        asyncio.get_running_loop().create_task(self._later(partition, record, deadline))
        return 0

    async def _later(self, partition: int, record: Record, deadline: float) -> None:
        await asyncio.sleep(self._weather.random.random() * 2)
        if self._weather.random.random() < 0.9:
            await self._inner.append(partition, record, deadline + 10)


class LeakyLog(StormyLog):
    """Also writes to a log of the other zone, as a mirror that somebody pointed at the wrong place."""

    def __init__(self, inner: EventLog, weather: Weather, foreign: EventLog) -> None:
        super().__init__(inner, weather)
        self._foreign = foreign

    async def append(self, partition: int, record: Record, deadline: float) -> int:
        await self._foreign.append(partition, record, deadline)
        return await super().append(partition, record, deadline)


class ForgetfulStore(MemoryStore):
    """Deduplication that remembers nothing: what is stored is put where no look-up finds it."""

    _numbers = itertools.count()

    async def apply(self, apply: Apply, deadline: float) -> Outcome:
        for kept in self._tenants.values():
            kept.events = {key + next(self._numbers).to_bytes(8): stored for key, stored in kept.events.items()}
        return await super().apply(apply, deadline)


LOGS: dict[str, Callable[[EventLog, Weather, EventLog], StormyLog]] = {
    "skips records": lambda inner, weather, _: SkippingLog(inner, weather),
    "acknowledges too early": lambda inner, weather, _: HastyLog(inner, weather),
    "leaks into the other zone": LeakyLog,
}
EXPECTED = {
    "skips records": {"lost", "ledger"},
    "acknowledges too early": {"lost", "order"},
    "leaks into the other zone": {"leak"},
    "forgets what it stored": {"duplicate"},
}

"""Real defects for the simulation to carry: each is a plausible bug at a port, and the oracle must find what it does to a run."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from cells.eventlog.log import Entry, EventLog, Record
from cells.ingest.accept import Acceptor
from cells.storage.chunk import Chunk, Cursor
from cells.storage.copies import Copy
from cells.storage.memory import MemoryStore
from cells.storage.memory_copies import MemoryCopies
from kernel.effects import Apply, Outcome
from kernel.ids import CellId, TenantId
from tests.simulation.cells import SimOrigin
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


class HastyFence(Acceptor):
    """A fence that does not wait for writes on their way to the log."""

    async def wait_until_quiet(self, tenant: TenantId, deadline: float) -> None:
        return


class OpenDoor(Acceptor):
    """A door that goes by what was known when the request began."""

    def __init__(self, *arguments: Any, current: object, **others: Any) -> None:
        super().__init__(*arguments, **others)


class ForgetfulCopies(MemoryCopies):
    """Leaves the last event of a part out, now and then."""

    async def take(self, origin: CellId, move: str, seq: int, chunk: Chunk, cursor: Cursor) -> Copy:
        part = replace(chunk, rows=chunk.rows[:-1]) if seq % 3 == 0 else chunk
        return await super().take(origin, move, seq, part, cursor)


class ForgetfulOrigin(SimOrigin):
    """Gives parts of another cell's log in which a record is missing, now and then."""

    async def fetch(self, partition: int, offset: int) -> list[Entry]:
        entries = await super().fetch(partition, offset)
        return [entries[0], *entries[2:]] if len(entries) > 2 and self._weather.random.random() < 0.5 else entries


ACCEPTORS: dict[str, Callable[..., Acceptor]] = {"fences hastily": HastyFence, "keeps the door open": OpenDoor}
COPIES: dict[str, Callable[..., MemoryCopies]] = {"copies forgetfully": ForgetfulCopies}
REPLICAS: dict[str, Callable[..., SimOrigin]] = {"replicates forgetfully": ForgetfulOrigin}
EXPECTED = {
    "skips records": {"lost", "ledger"},
    "acknowledges too early": {"lost", "order"},
    "leaks into the other zone": {"leak"},
    "forgets what it stored": {"duplicate"},
    "fences hastily": {"lost", "ledger", "stuck"},
    "keeps the door open": {"lost", "ledger", "stuck"},
    "copies forgetfully": {"stuck"},
    "replicates forgetfully": {"standby", "gap", "lost", "stuck"},
}

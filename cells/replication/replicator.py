"""The shell of replication: fetch from the other cell's log, append to this cell's, advance the position - and again.

The position lives in the store, as those of processing do: whoever is killed between the append and the advance appends once more, and
message ids make that harmless. A partition of the other log goes into one partition of this one, so that order is kept. The link carries no
more than this cell's log takes: everything waits where it was accepted.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cells.admission.table import Tenant
from cells.eventlog.log import Bounds, EventLog, Record
from cells.eventlog.member import Member
from cells.replication import metrics
from cells.replication.choose import chosen
from cells.replication.origin import Origin
from kernel.clock import SECOND, Clock, Micros
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.limits import APPEND_GROUP_RECORDS_MAX, APPEND_SECONDS_MAX
from kernel.metrics import Meter

_RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class Positions(Protocol):
    """Where replication stands: see `cells.storage.store`."""

    async def positions(self) -> dict[int, int]:
        """The next offset of this cell's own log to apply, per partition."""
        ...

    async def replicated(self, origin: CellId) -> dict[int, int]:
        """The next offset of each partition of the log of `origin`."""
        ...

    async def replicate(self, origin: CellId, partition: int, expected: int, following: int) -> bool:
        """Moves one of them; False when somebody else has."""
        ...


@dataclass(frozen=True)
class Wiring:
    """What a replicator works with. `tenants` is what this cell knows of its zone's tenants now."""

    here: CellId
    cell: CellId
    origin: Origin
    log: EventLog
    store: Positions
    tenants: Callable[[], Mapping[TenantId, Tenant]]
    clock: Clock
    meter: Meter


@dataclass(frozen=True, slots=True)
class Kept:
    """A partition of the other cell's log: all before `until` is kept here, `end` is where it ended when it was seen last. Or one of this
    cell's log: all before `until` is applied, and it ends at `end`."""

    until: int
    end: int


def group_of(cell: CellId) -> str:
    """The consumer group of those who replicate the log of `cell`: they share out the partitions that its records go into."""
    return f"replica-{cell}"


class Replicator:
    """Replicates the log of one other cell. See the module's docstring."""

    def __init__(self, wiring: Wiring) -> None:
        self._w = wiring
        self._ends: dict[int, int] = {}
        self._heard_at = Micros(0)
        self._replaced = False
        self._choosing: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._level_at = wiring.clock.monotonic()

    def member(self, name: str) -> Member:
        """One member of the group of those who replicate this log."""
        return Member(self._w.log, group_of(self._w.cell), name, self._w.clock, self.run, self._failed)

    async def run(self, partition: int) -> None:
        """Keeps what goes into `partition` of this cell's log, until it is cancelled."""
        bounds = await self._first_bounds()
        ours = [number for number in sorted(bounds) if number % self._w.log.partitions == partition]
        async with asyncio.TaskGroup() as group:
            for number in ours:
                group.create_task(self._follow(number))

    async def standing_now(self) -> tuple[dict[int, Kept], Micros]:
        """As `standing`, once everything that was passed over by what this cell knew of its tenants before is behind these positions."""
        for number in sorted(self._ends):
            async with self._choosing[number]:
                pass
        return await self.standing()

    async def standing(self) -> tuple[dict[int, Kept], Micros]:
        """How much is kept here, and when the other cell answered last (0: never yet). Raises Failure(STORE_UNAVAILABLE)."""
        positions = {} if self._replaced else await self._w.store.replicated(self._w.cell)
        numbers = positions.keys() | self._ends.keys()
        return {n: Kept(positions.get(n, 0), max(self._ends.get(n, 0), positions.get(n, 0))) for n in numbers}, self._heard_at

    async def applied(self) -> dict[int, Kept]:
        """How much of this cell's own log is applied. Raises Failure(STORE_UNAVAILABLE, LOG_UNAVAILABLE)."""
        bounds, positions = await self._w.log.bounds(), await self._w.store.positions()
        return {number: Kept(positions.get(number, 0), bound.next) for number, bound in bounds.items()}

    async def report(self) -> None:
        """Looks how far behind this cell is, and says so. Raises Failure when the other cell cannot be reached; LOG_REPLACED when its log
        ends before what was kept of it: it is another log, of which nothing is kept."""
        origin, meter = self._w.cell, self._w.meter
        try:
            before = await self._w.store.replicated(origin)
            bounds = await self._w.origin.bounds()
            self._replaced = self._replaced or any(bound.next < before.get(number, 0) for number, bound in bounds.items())
            self._heard(bounds)
            if self._replaced:
                raise Failure(Reason.LOG_REPLACED, f"that of cell {origin}")
        finally:
            kept, _ = await self.standing()
            for number, one in kept.items():
                meter.set(metrics.REPLICA_LAG_RECORDS, one.end - one.until, origin=origin, partition=str(number))
            now = self._w.clock.monotonic()
            if all(one.end == one.until for one in kept.values()) and self._heard_at >= self._w.clock.now() - SECOND:
                self._level_at = now
            meter.set(metrics.REPLICA_LAG_SECONDS, now - self._level_at, origin=origin)

    async def _follow(self, partition: int) -> None:
        failures = 0
        while True:
            try:
                position = await self._begin(partition)
                while True:
                    position = await self.step(partition, position)
                    failures = 0
            except Failure as failure:
                self._failed(failure)
                await self._w.clock.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1

    async def _begin(self, partition: int) -> int:
        """The position. Nobody stood by for anybody while there was none: it starts at what the other log still has. One that the other log
        has dropped since is never passed over: the replica would have a hole that nobody sees. It stands still, and its lag grows. So it
        does before a log that ends before the position, which was made anew: what it takes until it has grown so far was never kept here.
        """
        found = (await self._w.store.replicated(self._w.cell)).get(partition)
        bounds = (await self._w.origin.bounds())[partition]
        if found is None:
            return await self._advance(partition, 0, bounds.first) if bounds.first else 0
        if found > bounds.next:
            raise Failure(Reason.LOG_REPLACED, f"partition {partition} of {self._w.cell} ends at {bounds.next}, {found} is kept here")
        return found

    async def step(self, partition: int, position: int) -> int:
        """One round; the position after it. Raises Failure."""
        entries = await self._w.origin.fetch(partition, position)
        self._heard({})
        if self._replaced:
            raise Failure(Reason.LOG_REPLACED, f"that of cell {self._w.cell}")
        if not entries:
            return position
        following = entries[-1].offset + 1
        self._ends[partition] = max(self._ends.get(partition, 0), following)
        async with self._choosing[partition]:
            records = chosen(entries, self._w.cell, self._w.here, self._w.tenants())
            await self._append(partition % self._w.log.partitions, records)
            return await self._advance(partition, position, following)

    async def _append(self, partition: int, records: Sequence[Record]) -> None:
        """In order, a stretch at a time as a whole: what is appended again after a failure stands behind nothing of what follows it."""
        for start in range(0, len(records), APPEND_GROUP_RECORDS_MAX):
            stretch = records[start : start + APPEND_GROUP_RECORDS_MAX]
            await self._w.log.append_all(partition, stretch, self._w.clock.monotonic() + APPEND_SECONDS_MAX)
            self._w.meter.add(metrics.REPLICATED_EVENTS, sum(record.events for record in stretch), origin=self._w.cell)

    async def _advance(self, partition: int, position: int, following: int) -> int:
        if await self._w.store.replicate(self._w.cell, partition, position, following):
            return following
        return (await self._w.store.replicated(self._w.cell)).get(partition, 0)

    async def _first_bounds(self) -> dict[int, Bounds]:
        """As soon as the other cell answers."""
        failures = 0
        while True:
            try:
                return await self._w.origin.bounds()
            except Failure as failure:
                self._failed(failure)
                await self._w.clock.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1

    def _heard(self, bounds: Mapping[int, Bounds]) -> None:
        self._heard_at = self._w.clock.now()
        for number, bound in bounds.items():
            self._ends[number] = bound.next if self._replaced else max(self._ends.get(number, 0), bound.next)

    def _failed(self, failure: Failure) -> None:
        self._w.meter.add(metrics.REPLICATION_FAILURES, origin=self._w.cell, reason=failure.reason.name)

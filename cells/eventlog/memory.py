"""The event log in memory: the simulation's and the unit tests'. Durable as long as the object lives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from cells.eventlog.log import Bounds, Entry, Membership, Record
from kernel.clock import DAY, Clock, Micros
from kernel.errors import Failure, Reason
from kernel.limits import LOG_BYTES_MAX, RECORD_BYTES_MAX


@dataclass
class _Partition:
    entries: list[Entry] = field(default_factory=list)
    first: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def next(self) -> int:
        return self.first + len(self.entries)


class MemoryLog:
    """See `cells.eventlog.log` for what it promises. Segments are UTC days."""

    def __init__(self, partitions: int, clock: Clock, bytes_max: int = LOG_BYTES_MAX) -> None:
        self._partitions = [_Partition() for _ in range(partitions)]
        self._clock = clock
        self._bytes_max = bytes_max
        self._bytes = 0
        self._groups: dict[str, dict[str, None]] = {}
        self._closed = False

    @property
    def partitions(self) -> int:
        """The number of partitions."""
        return len(self._partitions)

    async def append(self, partition: int, record: Record, deadline: float) -> int:
        """The record's offset."""
        return await self.append_all(partition, (record,), deadline)

    async def append_all(self, partition: int, records: Sequence[Record], deadline: float) -> int:
        """The first one's offset."""
        size = sum(len(record.body) for record in records)
        if any(len(record.body) > RECORD_BYTES_MAX for record in records):
            raise Failure(Reason.RECORD_TOO_LARGE)
        if self._closed or deadline <= self._clock.monotonic():
            raise Failure(Reason.LOG_UNAVAILABLE)
        if self._bytes + size > self._bytes_max:
            raise Failure(Reason.LOG_FULL)
        target = self._partitions[partition]
        offset = target.next
        target.entries.extend(Entry(offset + number, self._clock.now(), record) for number, record in enumerate(records))
        self._bytes += size
        target.arrived.set()
        return offset

    async def fetch(self, partition: int, offset: int, records_max: int, bytes_max: int, wait_seconds: float) -> list[Entry]:
        """Records from `offset` on."""
        source = self._partitions[partition]
        if offset < source.first:
            raise Failure(Reason.OFFSET_OUT_OF_RANGE, f"{offset} is before {source.first}")
        if offset >= source.next and wait_seconds > 0:
            source.arrived.clear()
            try:
                async with asyncio.timeout(wait_seconds):
                    await source.arrived.wait()
            except TimeoutError:
                return []
        found: list[Entry] = []
        size = 0
        for entry in source.entries[offset - source.first : offset - source.first + records_max]:
            if found and size >= bytes_max:
                break
            found.append(entry)
            size += len(entry.record.body)
        return found

    async def offset_at(self, partition: int, at: Micros) -> int:
        """The first offset of `at` or later."""
        source = self._partitions[partition]
        return next((entry.offset for entry in source.entries if entry.appended_at >= at), source.next)

    async def bounds(self) -> dict[int, Bounds]:
        """The bounds of every partition."""
        return {number: Bounds(p.first, p.next) for number, p in enumerate(self._partitions)}

    async def size_bytes(self) -> int:
        """Bytes of all bodies."""
        return self._bytes

    async def trim(self, before: Micros) -> int:
        """Drops the days that ended at or before `before`."""
        dropped: set[int] = set()
        for partition in self._partitions:
            keep = 0
            while keep < len(partition.entries) and (partition.entries[keep].appended_at // DAY + 1) * DAY <= before:
                dropped.add(partition.entries[keep].appended_at // DAY)
                self._bytes -= len(partition.entries[keep].record.body)
                keep += 1
            partition.entries = partition.entries[keep:]
            partition.first += keep
        return len(dropped)

    async def join(self, group: str, member: str) -> Membership:
        """A member whose share follows from the order of the members' names."""
        members = self._groups.setdefault(group, {})
        members[member] = None
        return _MemoryMembership(members, member, self.partitions)

    async def close(self) -> None:
        """Refuses later appends."""
        self._closed = True


@dataclass(frozen=True)
class _MemoryMembership:
    members: dict[str, None]
    member: str
    partitions: int

    async def assignment(self) -> frozenset[int]:
        """Every n-th partition."""
        names = sorted(self.members)
        if self.member not in names:
            return frozenset()
        return frozenset(range(names.index(self.member), self.partitions, len(names)))

    async def leave(self) -> None:
        """Gives its partitions back."""
        self.members.pop(self.member, None)

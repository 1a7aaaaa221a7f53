"""Reads one partition from any offset, for any number of independent readers: a fetch of ours is a fetch of Kafka's.

The broker holds a fetch that finds nothing until a record arrives, so nobody polls. A reader that goes on where it stopped is given the
rest of the last answer first, for the broker sends whole batches: that is all that is read ahead. Each fetch under way has a line of its
own; there are few, and whoever comes when all are busy waits for one.

What is not ours stands in nobody's way: it is given, whole, as one event of UNREADABLE in a body that no codec decodes. A record that
not even Kafka's format explains takes the rest of its batch with it, which is of the same writer.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from aiokafka.errors import KafkaError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords

from cells.eventlog import codec, headers
from cells.eventlog.kafka_brokers import ANSWER_SECONDS, Brokers, View
from cells.eventlog.kafka_line import Line, told
from cells.eventlog.kafka_trouble import Trouble
from cells.eventlog.log import Bounds, Entry, Record
from kernel import limits
from kernel.clock import Clock, Micros
from kernel.epoch import FIRST_EPOCH
from kernel.errors import Failure, Reason
from kernel.ids import UNREADABLE, CellId, SourceId

READERS_MAX: Final = 4
# What one answer may hold, whatever the caller would take; the rest is the next fetch's. Kafka counts whole batches, the caller bodies.
_ANSWER_BYTES_MIN: Final = 64 * limits.KIB
_ANSWER_BYTES_MAX: Final = 32 * limits.KIB * limits.KIB
# How long a broker is asked to hold a fetch: shorter than the time after which a middlebox forgets an idle connection.
_HELD_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.05
_OUT_OF_RANGE: Final = 1
_UNCOMMITTED: Final = 0
# A stranger's record may have waited for long, but not for longer.
# What stands before a batch: its first offset and the length of what follows.
_HEAD: Final = struct.Struct(">qi")


class Rest:
    """What of a broker's answer nobody has taken yet: from offset `following` on. `end` is the offset behind what was looked at,
    `now` when the answer came."""

    def __init__(self, topic: str, partition: int, data: bytes, wanted: int, now: Micros) -> None:
        self.following = self.end = wanted
        self._now = now
        self._where = f"{topic}, partition {partition}"
        self._entries = self._read(data, wanted)

    def take(self, records_max: int, bytes_max: int) -> list[Entry]:
        """The next records within the bounds; the first is taken whatever its size. Raises Failure(UNDECODABLE_RECORD)."""
        found: list[Entry] = []
        size = 0
        while len(found) < records_max and (not found or size < bytes_max):
            try:
                entry = next(self._entries, None)
            except Failure:
                if not found:
                    raise
                # What stands before it is good; the next fetch meets it first and says so.
                entry = None
            if entry is None:
                break
            found.append(entry)
            size += len(entry.record.body)
            self.following = entry.offset + 1
        return found

    def _read(self, data: bytes, wanted: int) -> Iterator[Entry]:
        try:
            batches, at = MemoryRecords(data), 0
            while batches.has_next():
                batch = batches.next_batch()
                start, at = at, at + _HEAD.size + _HEAD.unpack_from(data, at)[1]
                if not batch.validate_crc():
                    raise Failure(Reason.UNDECODABLE_RECORD, f"{self._where}: a batch behind offset {self.following} is damaged")
                # A control batch is Kafka's own: the end of a transaction that somebody else made.
                if not batch.is_control_batch:
                    yield from (entry for entry in self._entries_of(batch, data[start:at]) if entry.offset >= wanted)
                self.end = max(self.end, batch.next_offset)
        except KafkaError as error:
            raise Failure(Reason.UNDECODABLE_RECORD, f"{self._where}, from offset {self.following}: {error}") from error

    def _entries_of(self, batch: Any, data: bytes) -> Iterator[Entry]:
        try:
            records = iter(batch)
            while (one := next(records, None)) is not None:
                yield self._entry(one)
        except (KafkaError, UnicodeDecodeError) as error:
            at = Micros(batch.max_timestamp * 1_000)
            yield Entry(batch.next_offset - 1, at, self._unreadable(at, f"{self._where}, a whole batch: {error}", None, data, ()))

    def _entry(self, one: Any) -> Entry:
        at = Micros(one.timestamp * 1_000)
        try:
            record = headers.unpack(one.key, one.value, one.headers, f"{self._where}, offset {one.offset}")
            why = headers.forged(record, self._now)
        except Failure as failure:
            why = failure.detail
        return Entry(one.offset, at, record if why is None else self._unreadable(at, why, one.key, one.value, one.headers))

    def _unreadable(self, at: Micros, why: str, key: bytes | None, value: bytes | None, held: headers.Headers) -> Record:
        """Nothing that the record says of itself is believed but its time, if it can be: it decides in which day the store keeps it."""
        body = codec.foreign(why, key, value, held)
        received_at = at if headers.plausible(at, self._now) else self._now
        return Record(UNREADABLE, SourceId(""), CellId(""), FIRST_EPOCH, received_at, 1, "", body)


class _Reader:
    """A line, and the rest of its last answer."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.rest: Rest | None = None

    def goes_on_at(self, offset: int) -> bool:
        return self.rest is not None and self.rest.following == offset


class Readers:
    """The readers of one partition. `bounds` answers with the bounds of every partition."""

    def __init__(self, brokers: Brokers, partition: int, clock: Clock, bounds: Callable[[], Awaitable[dict[int, Bounds]]]) -> None:
        self._brokers = brokers
        self._partition = partition
        self._clock = clock
        self._bounds = bounds
        self._all = [_Reader(brokers.line()) for _ in range(READERS_MAX)]
        self._idle = list(self._all)
        self._places = asyncio.Semaphore(READERS_MAX)
        self._trouble = Trouble(partition, clock)

    @property
    def trouble(self) -> str | None:
        """That somebody waits for an offset behind the end, or that a batch stays damaged. None when all is well."""
        return self._trouble.said

    @property
    def replaced(self) -> str | None:
        """Why what is appended now might never be applied; None when it will be."""
        return self._trouble.replaced

    async def fetch(self, offset: int, records_max: int, bytes_max: int, wait_seconds: float) -> list[Entry]:
        """See `cells.eventlog.log`. Raises Failure(LOG_REPLACED) for what the log surely does not hold any more."""
        self._trouble.refuse(offset)
        ends = self._clock.monotonic() + wait_seconds
        try:
            async with asyncio.timeout(wait_seconds + ANSWER_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise Failure(Reason.LOG_UNAVAILABLE, "too many readers", retry_after_seconds=1) from None
        # The one that goes on here; else one without a rest, before one whose rest somebody may come back for.
        reader = min(self._idle, key=lambda one: (not one.goes_on_at(offset), one.rest is not None))
        self._idle.remove(reader)
        try:
            return await self._read(reader, offset, records_max, bytes_max, ends)
        finally:
            self._idle.append(reader)
            self._places.release()

    def forget(self) -> None:
        """What was read ahead may have been trimmed."""
        for reader in self._all:
            reader.rest = None

    async def close(self) -> None:
        """Ends every line, and with it the fetches under way."""
        await asyncio.gather(*(reader.line.end() for reader in self._all))

    async def _read(self, reader: _Reader, offset: int, records_max: int, bytes_max: int, ends: float) -> list[Entry]:
        rest, reader.rest = reader.rest if reader.goes_on_at(offset) else None, None
        start, late = offset, False
        while True:
            if rest is not None and (found := self.take(rest, records_max, bytes_max)):
                reader.rest = rest
                return found
            if late:
                return []
            start = max(start, rest.end) if rest is not None else start
            late = self._clock.monotonic() >= ends
            code, data = await self._ask(reader.line, start, bytes_max, ends)
            if code == _OUT_OF_RANGE:
                start, rest = await self._within(offset), None
            else:
                rest = Rest(self._brokers.topic, self._partition, data, offset, self._clock.now())

    def take(self, rest: Rest, records_max: int, bytes_max: int) -> list[Entry]:
        """As `Rest.take`; what cannot be read is remembered. Raises Failure(UNDECODABLE_RECORD)."""
        try:
            found = rest.take(records_max, bytes_max)
        except Failure as failure:
            self._trouble.damaged(rest.following, failure.detail or failure.message)
            raise
        if found:
            self._trouble.read(found[-1].offset)
        return found

    async def _ask(self, line: Line, start: int, bytes_max: int, ends: float) -> tuple[int, bytes]:
        """Kafka's number for an offset out of range or 0, and batches. Raises Failure(LOG_UNAVAILABLE)."""
        size = max(_ANSWER_BYTES_MIN, min(bytes_max, _ANSWER_BYTES_MAX))

        async def once(view: View) -> tuple[int, bytes]:
            held = max(0.0, min(_HELD_SECONDS, ends - self._clock.monotonic()))
            topics = [(self._brokers.topic, [(self._partition, start, size)])]
            request = FetchRequest(int(held * 1_000), 1, size, _UNCOMMITTED, topics)
            answer = await line.ask(view.leader(self._partition), request, held + ANSWER_SECONDS)
            [(_, [(_, code, *rest)])] = answer.topics
            if code != _OUT_OF_RANGE:
                told(code, f"partition {self._partition}")
            return code, rest[-1] or b""

        left = max(0.0, ends - self._clock.monotonic())
        return await self._brokers.patiently(once, min(_HELD_SECONDS, left) + 2 * ANSWER_SECONDS)

    async def _within(self, offset: int) -> int:
        """Where to go on when Kafka finds an offset out of range: at the end, for one beyond it.

        Raises Failure(OFFSET_OUT_OF_RANGE), and Failure(LOG_REPLACED) when it surely stays beyond it.
        """
        bounds = (await self._bounds())[self._partition]
        if offset < bounds.first:
            raise Failure(Reason.OFFSET_OUT_OF_RANGE, f"{offset} is before {bounds.first}")
        self._trouble.looked(offset, bounds.next)
        self._trouble.refuse(offset)
        # A leader that was elected a moment ago may not know yet how far it may show its records.
        await self._clock.sleep(_PAUSE_SECONDS)
        return min(offset, bounds.next)

"""The event log in Kafka: durable on several machines, for a fleet. `docs/decisions/0012-kafka-log.md` says why it is built so.

An append returns when `min.insync.replicas` brokers have the record (acks=all); with one replica when its disk has it. The library gives
connections and the protocol; what is retried, for how long, and what is given up is decided here, under the callers' deadlines.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Final

from aiokafka.protocol.admin import DeleteRecordsRequest
from aiokafka.protocol.offset import OffsetRequest

from cells.eventlog.access import Access
from cells.eventlog.kafka_append import Appender
from cells.eventlog.kafka_brokers import ANSWER_SECONDS, Brokers, View, unavailable
from cells.eventlog.kafka_fetch import Readers
from cells.eventlog.kafka_group import KafkaMembership
from cells.eventlog.kafka_line import Lost, name_of, told
from cells.eventlog.kafka_login import Address, Login
from cells.eventlog.kafka_start import Needs, checked
from cells.eventlog.kafka_wire import LogDirs
from cells.eventlog.log import Bounds, Entry, Membership, Record
from kernel import limits
from kernel.clock import DAY, Clock, Micros
from kernel.errors import Failure, Reason

_SIZE_SECONDS: Final = 5.0
_FIRST: Final = -2
_NEXT: Final = -1
_NO_SUCH_OFFSET: Final = -1
_UNCOMMITTED: Final = 0
_NO_REPLICA: Final = -1


class KafkaLog:
    """See `cells.eventlog.log` for what it promises. Make it with `open_log`."""

    def __init__(self, brokers: Brokers, min_in_sync: int, clock: Clock, bytes_max: int) -> None:
        self._brokers = brokers
        self._min_in_sync = min_in_sync
        self._clock = clock
        self._bytes_max = bytes_max
        self._size = 0
        self._closed = False
        self._reached: dict[int, int] = {}
        self._members: list[KafkaMembership] = []
        numbers = sorted(brokers.view.partitions)
        self._appenders = [Appender(brokers, number, clock) for number in numbers]
        self._readers = [Readers(brokers, number, clock, self.bounds) for number in numbers]
        self._janitor = asyncio.create_task(self._watch_size(), name="eventlog-size")

    @property
    def partitions(self) -> int:
        """The number of partitions."""
        return len(self._appenders)

    async def append(self, partition: int, record: Record, deadline: float) -> int:
        """The record's offset, once enough brokers have it. Raises Failure(LOG_REPLACED) while a position is beyond the log's end."""
        return await self.append_all(partition, (record,), deadline)

    async def append_all(self, partition: int, records: Sequence[Record], deadline: float) -> int:
        """The first one's offset, once enough brokers have the batch, which takes all of them; see `append`."""
        if any(len(record.body) > limits.RECORD_BYTES_MAX or record.events > limits.RECORD_EVENTS_MAX for record in records):
            raise Failure(Reason.RECORD_TOO_LARGE)
        if any(readers.replaced for readers in self._readers):
            # A topic is made anew as a whole: what one partition shows holds for those that other processes read.
            raise Failure(Reason.LOG_REPLACED, "the log does not fit the store", retry_after_seconds=10)
        if self._size > self._bytes_max:
            raise Failure(Reason.LOG_FULL, retry_after_seconds=10)
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise unavailable()
        appender = self._appenders[partition]
        waiting = appender.offer(records, deadline)
        self._size += waiting.size
        try:
            async with asyncio.timeout(left):
                return await waiting.offset
        except TimeoutError:
            raise Failure(Reason.LOG_UNAVAILABLE, "the append took too long", retry_after_seconds=1) from None
        finally:
            appender.forget(waiting)

    async def fetch(self, partition: int, offset: int, records_max: int, bytes_max: int, wait_seconds: float) -> list[Entry]:
        """Records from `offset` on; a fetch that waits is answered by the broker as soon as there is one."""
        self._refuse_when_closed()
        if wait_seconds > 0:
            # Who waits at an offset has applied what is before it: what the group's members tell the tools that show lag.
            self._reached[partition] = offset
        return await self._readers[partition].fetch(offset, records_max, bytes_max, wait_seconds)

    async def bounds(self) -> dict[int, Bounds]:
        """The bounds of every partition."""
        self._refuse_when_closed()
        first, following = await asyncio.gather(self._offsets(_FIRST), self._offsets(_NEXT))
        return {number: Bounds(first[number], following[number]) for number in sorted(first)}

    async def offset_at(self, partition: int, at: Micros) -> int:
        """Of the first record whose time is `at` or later. Kafka keeps milliseconds, and so do the entries that `fetch` gives."""
        self._refuse_when_closed()
        millis = -(-at // 1_000)
        bounds, found = await self.bounds(), await self._offsets(millis, [partition])
        return await self._late_enough(partition, bounds[partition], found[partition], millis)

    async def size_bytes(self) -> int:
        """Bytes on disk of one copy of each partition: the largest one. Brokers that do not answer are left out, if one does."""
        self._refuse_when_closed()
        return await self._brokers.patiently(self._sizes)

    async def trim(self, before: Micros) -> int:
        """Drops the records before the last midnight before `before`, if none behind them is older. Counts partitions shortened."""
        midnight = before // DAY * DAY
        bounds, found = await self.bounds(), await self._offsets(midnight // 1_000)
        ends = {n: await self._late_enough(n, bounds[n], offset, midnight // 1_000) for n, offset in found.items()}
        shortened = {number: end for number, end in ends.items() if end > bounds[number].first}
        if shortened:
            await self._brokers.patiently(lambda view: self._delete(view, shortened))
        for number in shortened:
            self._readers[number].forget()
        return len(shortened)

    async def join(self, group: str, member: str) -> Membership:
        """A member of Kafka's group `<topic>.<group>`; the brokers name it after this process."""
        self._refuse_when_closed()
        offsets = self._reached
        joined = KafkaMembership(self._brokers, f"{self._brokers.topic}.{group}", self.partitions, self._clock, lambda: offsets)
        self._members.append(joined)
        return joined

    async def check(self) -> None:
        """Whether the log works now. Raises Failure(LOG_UNAVAILABLE) that says, to an operator, why not."""
        try:
            async with asyncio.timeout(2 * ANSWER_SECONDS):
                await self._brokers.renew(self._brokers.view)
        except (Lost, TimeoutError) as lost:
            raise Failure(Reason.LOG_UNAVAILABLE, str(lost) or "no broker answers") from lost
        view = self._brokers.view
        for number, partition in view.partitions.items():
            if partition.in_sync < self._min_in_sync:
                raise Failure(Reason.LOG_UNAVAILABLE, f"partition {number} has {partition.in_sync} of {self._min_in_sync} copies in sync")
        if not view.partitions:
            raise Failure(Reason.LOG_UNAVAILABLE, f"the topic is not there: {name_of(view.error)}")
        parts: list[Appender | Readers | KafkaMembership] = [*self._appenders, *self._readers, *self._members]
        for trouble in (part.trouble for part in parts):
            if trouble is not None:
                raise Failure(Reason.LOG_UNAVAILABLE, trouble)

    async def supervise(self) -> None:
        """Runs as long as the log's own tasks do; raises what ended one of them, which is a defect."""
        tasks = [self._janitor, *(appender.task for appender in self._appenders)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def close(self) -> None:
        """Ends the appenders after what they hold, within the time that an append may take; then everything else."""
        if self._closed:
            return
        self._closed = True
        self._janitor.cancel()
        await asyncio.gather(self._janitor, return_exceptions=True)
        await asyncio.gather(
            *(member.leave() for member in self._members),
            *(appender.stop(limits.APPEND_SECONDS_MAX) for appender in self._appenders),
            *(readers.close() for readers in self._readers),
        )
        await self._brokers.close()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Failure(Reason.LOG_UNAVAILABLE, "the log is closed")

    async def _offsets(self, millis: int, partitions: Iterable[int] | None = None) -> dict[int, int]:
        """Of each partition the first offset at `millis` or later, -1 when there is none; _FIRST and _NEXT are its bounds."""
        wanted = list(range(self.partitions)) if partitions is None else list(partitions)

        async def look(view: View) -> dict[int, int]:
            parts = await asyncio.gather(*(self._listed(*one, millis) for one in _by_leader(view, wanted).items()))
            return {number: offset for part in parts for number, offset in part.items()}

        return await self._brokers.patiently(look)

    async def _late_enough(self, partition: int, bounds: Bounds, found: int, millis: int) -> int:
        """What Kafka found, made sure of.

        It answers "none" as well when the first segment that holds a record late enough has been trimmed and is not deleted yet. Then
        the newest record is late enough, and so is everything that is left.
        """
        if found != _NO_SUCH_OFFSET:
            return max(found, bounds.first)
        newest = await self._readers[partition].fetch(bounds.next - 1, 1, 1, 0.0) if bounds.next > bounds.first else []
        return bounds.first if newest and newest[0].appended_at >= millis * 1_000 else bounds.next

    async def _listed(self, leader: Address, numbers: list[int], millis: int) -> dict[int, int]:
        topics = [(self._brokers.topic, [(number, millis) for number in numbers])]
        answer = await self._brokers.ask(leader, OffsetRequest(_NO_REPLICA, _UNCOMMITTED, topics))
        [(_, found)] = answer.topics
        for number, code, *_ in found:
            told(code, f"offsets of partition {number}")
        return {number: offset for number, _, _, offset in found}

    async def _delete(self, view: View, ends: dict[int, int]) -> None:
        for leader, numbers in _by_leader(view, ends).items():
            topics = [(self._brokers.topic, [(number, ends[number]) for number in numbers])]
            answer = await self._brokers.ask(leader, DeleteRecordsRequest(topics, int(ANSWER_SECONDS * 1_000)))
            for _, found, *_ in answer.topics:
                for number, _, code, *_ in found:
                    told(code, f"trimming partition {number}")

    async def _sizes(self, view: View) -> int:
        answers = await asyncio.gather(*(self._sizes_at(address) for address in view.nodes.values()), return_exceptions=True)
        sizes: dict[int, int] = {}
        for answer in answers:
            for number, size in answer if isinstance(answer, list) else ():
                sizes[number] = max(size, sizes.get(number, 0))
        lost = next((answer for answer in answers if isinstance(answer, BaseException)), None)
        if lost is not None and not (isinstance(lost, Lost) and sizes):
            raise lost
        return sum(sizes.values())

    async def _sizes_at(self, address: Address) -> list[tuple[int, int]]:
        answer = await self._brokers.ask(address, LogDirs(self._brokers.topic, list(range(self.partitions))))
        for code, *_ in answer.folders:
            told(code, f"the disk of {address.host}:{address.port}")
        return [(number, size) for _, _, topics in answer.folders for _, found in topics for number, size, *_ in found]

    async def _watch_size(self) -> None:
        while True:
            # When it cannot be read the last size stands, and what is appended meanwhile is added to it.
            with contextlib.suppress(Failure):
                self._size = await self.size_bytes()
            await self._clock.sleep(_SIZE_SECONDS)


async def open_log(access: Access, needs: Needs, client: str, clock: Clock, bytes_max: int = limits.LOG_BYTES_MAX) -> KafkaLog:
    """The log in the topic that `cells.provision` made. `client` is what brokers call this process.

    Raises ValueError for settings that cannot be used, Failure(LOG_UNAVAILABLE) with what to do when the log cannot serve `needs`.
    """
    brokers = Brokers(Login(access, client), clock)
    try:
        standing = await checked(brokers, needs)
    except BaseException:
        await brokers.close()
        raise
    return KafkaLog(brokers, standing.min_in_sync, clock, bytes_max)


def _by_leader(view: View, numbers: Iterable[int]) -> dict[Address, list[int]]:
    found: dict[Address, list[int]] = {}
    for number in numbers:
        found.setdefault(view.leader(number), []).append(number)
    return found

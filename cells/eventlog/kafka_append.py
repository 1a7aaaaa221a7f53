"""Appends to one partition: what waits is gathered while a batch is on its way, so that load makes batches and idleness costs nothing.

A batch is sent until it is stored or nobody waits for it any more. Who gives up while queued is forgotten unsent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from cells.eventlog import headers
from cells.eventlog.kafka_brokers import Brokers, unavailable
from cells.eventlog.kafka_line import Lost, name_of, told
from cells.eventlog.kafka_login import Address
from cells.eventlog.kafka_session import Session, Verdict, judge, unsure
from cells.eventlog.log import Record
from kernel import limits
from kernel.clock import Clock
from kernel.errors import Failure, Reason

BATCH_BYTES_MAX: Final = 1 * limits.KIB * limits.KIB
# One attempt. A leader that hangs is replaced by the brokers meanwhile; the rest of the caller's time is for its successor.
_ATTEMPT_SECONDS: Final = 3.0
_PAUSES_SECONDS: Final = (0.01, 0.05, 0.1, 0.2)
_TROUBLE_SECONDS: Final = 5.0
_ALL_REPLICAS: Final = -1
_NO_COMPRESSION: Final = 0
_NEVER_MILLIS: Final = 2**31 - 1
# The bound is set where the group is taken; the library's own would refuse a record that it finds too much.
_UNBOUNDED: Final = 2**31 - 1


@dataclass(eq=False, slots=True)
class Waiting:
    """Records that stay together, and their caller. `deadline` is on the monotonic clock, `size` in bytes of bodies."""

    records: Sequence[Record]
    deadline: float
    size: int
    offset: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True)
class _Batch:
    """What one attempt after the other sends. `doubtful`: the answer to an attempt was lost or unsure, so that it may be stored."""

    group: list[Waiting]
    data: bytes = b""
    doubtful: bool = False
    attempts: int = 0

    @property
    def awaited(self) -> bool:
        return any(not waiting.offset.done() for waiting in self.group)

    @property
    def deadline(self) -> float:
        return max(waiting.deadline for waiting in self.group if not waiting.offset.done())

    def stored(self, base: int) -> None:
        for waiting in self.group:
            if not waiting.offset.done():
                waiting.offset.set_result(base)
            base += len(waiting.records)

    def failed(self, failure: Failure) -> None:
        for waiting in self.group:
            if not waiting.offset.done():
                waiting.offset.set_exception(failure)


class Appender:
    """Owns one partition's queue, connection and session."""

    def __init__(self, brokers: Brokers, partition: int, clock: Clock) -> None:
        self._brokers = brokers
        self._partition = partition
        self._clock = clock
        self._line = brokers.line()
        self._session: Session | None = None
        self._queue: dict[Waiting, None] = {}
        self._bytes = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self._trouble = ""
        self._trouble_ends = 0.0
        self.task = asyncio.create_task(self._run(), name=f"eventlog-appender-{partition}")

    @property
    def trouble(self) -> str | None:
        """Why the last attempt failed; None when it did not, or when it is so long ago that it says nothing of now."""
        return self._trouble if self._trouble and self._clock.monotonic() < self._trouble_ends else None

    def offer(self, records: Sequence[Record], deadline: float) -> Waiting:
        """Queues records. Raises Failure(LOG_UNAVAILABLE) when too much is queued, or when the log is closing."""
        size = sum(len(record.body) for record in records)
        if self._stopping or self._bytes + size > limits.APPEND_QUEUE_BYTES_MAX:
            raise Failure(Reason.LOG_UNAVAILABLE, "too much is waiting", retry_after_seconds=1)
        waiting = Waiting(records, deadline, size)
        self._queue[waiting] = None
        self._bytes += size
        self._wake.set()
        return waiting

    def forget(self, waiting: Waiting) -> None:
        """The caller has gone: what is not on its way yet is not sent."""
        if waiting in self._queue:
            del self._queue[waiting]
            self._bytes -= waiting.size

    async def stop(self, seconds: float) -> None:
        """Takes no more; ends when the queue is empty, after `seconds` at the latest, with whatever waits told that it failed."""
        self._stopping = True
        self._wake.set()
        await asyncio.wait([self.task], timeout=seconds)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        _Batch(list(self._queue)).failed(unavailable())
        await self._line.end()

    async def _run(self) -> None:
        while self._queue or not self._stopping:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            batch = _Batch(self._take())
            try:
                await self._deliver(batch)
            finally:
                if batch.awaited:
                    batch.failed(unavailable())
            # Whoever was just answered may have the next record: one turn for them, or batches would alternate between few and many.
            await asyncio.sleep(0)

    def _take(self) -> list[Waiting]:
        """The first of the queue, as many as one batch holds; one at least."""
        group: list[Waiting] = []
        count = size = 0
        for waiting in self._queue:
            size += waiting.size
            count += len(waiting.records)
            if group and (size > BATCH_BYTES_MAX or count > limits.APPEND_GROUP_RECORDS_MAX):
                break
            group.append(waiting)
        for waiting in group:
            self.forget(waiting)
        return group

    async def _deliver(self, batch: _Batch) -> None:
        """Until every caller of the batch has an answer or has given up."""
        while batch.awaited:
            verdict = await self._attempt(batch)
            if verdict is Verdict.STORED:
                return
            if verdict is Verdict.AGAIN or (verdict is Verdict.OVER and not batch.doubtful):
                await self._pause(batch)
            elif verdict is not Verdict.TOO_LARGE or batch.doubtful:
                # What may be stored is not sent under other numbers: it would be stored twice, and the caller tries again anyway.
                batch.failed(unavailable())
            elif len(batch.group) == 1:
                batch.failed(Failure(Reason.RECORD_TOO_LARGE))
            else:
                # One of them is to blame. A refused batch has used no numbers, so that each may be tried on its own.
                for waiting in batch.group:
                    await self._deliver(_Batch([waiting]))
        if batch.doubtful:
            self._session = None

    async def _attempt(self, batch: _Batch) -> Verdict:
        """Sends the batch once."""
        doubtful, batch.attempts = batch.doubtful, batch.attempts + 1
        seconds = min(_ATTEMPT_SECONDS, max(0.0, batch.deadline - self._clock.monotonic()))
        try:
            leader = self._brokers.view.leader(self._partition)
            if self._session is None:
                self._session = await self._begin(leader, seconds)
                batch.data = b""
            batch.data = batch.data or self._encoded(batch.group, self._session)
            topics = [(self._brokers.topic, [(self._partition, batch.data)])]
            batch.doubtful = True
            answer = await self._line.ask(leader, ProduceRequest(None, _ALL_REPLICAS, int(seconds * 1_000), topics), seconds)
        except Lost as lost:
            self._failed(str(lost))
            return Verdict.AGAIN
        [(_, [(_, code, base, *_)])] = answer.topics
        batch.doubtful = doubtful or unsure(code)
        return self._judged(batch, code, base)

    def _judged(self, batch: _Batch, code: int, base: int) -> Verdict:
        verdict = judge(code)
        self._failed("" if verdict in (Verdict.STORED, Verdict.TOO_LARGE) else name_of(code))
        if verdict is Verdict.STORED and self._session is not None:
            self._session.stored(sum(len(waiting.records) for waiting in batch.group))
            batch.stored(base)
        elif verdict is Verdict.OVER:
            self._session = None
        return verdict

    def _failed(self, why: str) -> None:
        self._trouble = f"partition {self._partition}: {why}" if why else ""
        self._trouble_ends = self._clock.monotonic() + _TROUBLE_SECONDS

    async def _begin(self, leader: Address, seconds: float) -> Session:
        answer = await self._line.ask(leader, InitProducerIdRequest(None, _NEVER_MILLIS), seconds)
        told(answer.error_code, "a producer's id")
        return Session(answer.producer_id, answer.producer_epoch)

    def _encoded(self, group: list[Waiting], session: Session) -> bytes:
        """One batch of Kafka's, version 2, uncompressed: bodies are compressed already."""
        builder: Any = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=_NO_COMPRESSION,
            is_transactional=0,
            producer_id=session.producer,
            producer_epoch=session.epoch,
            base_sequence=session.number,
            batch_size=_UNBOUNDED,
        )
        now_millis = self._clock.now() // 1_000
        for ordinal, record in enumerate(record for waiting in group for record in waiting.records):
            key, head = headers.pack(record)
            builder.append(ordinal, now_millis, key, record.body, head)
        return bytes(builder.build())

    async def _pause(self, batch: _Batch) -> None:
        """A moment before the next attempt, and a newer view for it; not beyond the time that the callers have."""
        if not batch.awaited:
            return
        view, left = self._brokers.view, batch.deadline - self._clock.monotonic()
        with contextlib.suppress(Lost, TimeoutError):
            async with asyncio.timeout(max(0.0, left)):
                await self._clock.sleep(_PAUSES_SECONDS[min(batch.attempts, len(_PAUSES_SECONDS)) - 1])
                await self._brokers.renew(view)

"""The event log in Kafka while its broker misbehaves: nothing acknowledged is lost, nobody waits for ever, and it heals by itself."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from cells.eventlog import kafka_trouble
from cells.eventlog.access import Access
from cells.eventlog.kafka import KafkaLog, open_log
from cells.eventlog.kafka_provision import provision
from cells.eventlog.kafka_start import Needs
from cells.eventlog.topics import Topic
from kernel import limits
from kernel.clock import Clock
from kernel.errors import Failure, Reason
from kernel.process.clock import SystemClock
from tests.support.kafka import Brokers, brokers
from tests.support.processes import eventually
from tests.support.records import blob

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
SLACK_SECONDS = 1.5


@dataclass
class Room:
    """A log in a topic of its own, and what was acknowledged and refused."""

    kafka: Brokers
    log: KafkaLog
    clock: Clock = field(default_factory=SystemClock)
    acknowledged: dict[int, str] = field(default_factory=dict)
    refused: list[Reason] = field(default_factory=list)

    async def append(self, text: str, seconds: float = 5.0, size: int = 0) -> Reason | None:
        """Why the record was refused, None when it was acknowledged."""
        try:
            offset = await self.log.append(0, blob(text, size), self.clock.monotonic() + seconds)
        except Failure as failure:
            self.refused.append(failure.reason)
            return failure.reason
        assert offset not in self.acknowledged
        self.acknowledged[offset] = text
        return None

    async def stored(self) -> dict[int, str]:
        """Everything in partition 0, read from its first record to its last."""
        found: dict[int, str] = {}
        while entries := await self.log.fetch(0, len(found), 10_000, 1 << 30, 0.0):
            found |= {entry.offset: entry.record.body.decode().rstrip(".") for entry in entries}
        return found

    async def settled(self) -> None:
        """The law of every fault: what was acknowledged stands where it was promised, nothing stands twice, no offset is missing."""
        assert await self.append("last", 30.0) is None
        stored = await self.stored()
        assert {offset: stored.get(offset) for offset in self.acknowledged} == self.acknowledged
        assert sorted(stored) == list(range(len(stored)))
        assert len(set(stored.values())) == len(stored)

    async def problem(self) -> str:
        """What the log says of its health; empty when it is well."""
        try:
            await self.log.check()
        except Failure as failure:
            return failure.message
        return ""

    async def ask_leader(self, request: Any) -> Any:
        """A request of ours, beside the log."""
        view = self.log._brokers.view
        return await self.log._brokers.ask(view.leader(0), request)


@asynccontextmanager
async def logging_to(kafka: Brokers, partitions: int = 1) -> AsyncIterator[Room]:
    """A log in a topic of its own."""
    access = Access(kafka.bootstrap, f"events-{uuid.uuid4().hex}")
    clock = SystemClock()
    await provision(access, Topic(access.topic, partitions, *kafka.replication), clock)
    log = await open_log(access, Needs(appends=True, reads=True, groups=("g",)), "room", clock)
    try:
        yield Room(kafka, log)
    finally:
        await log.close()


@asynccontextmanager
async def logging_beside(room: Room) -> AsyncIterator[Room]:
    """Another process's log over the same topic."""
    log = await open_log(room.log._brokers.login.access, Needs(appends=True, reads=True), "beside", room.clock)
    try:
        yield Room(room.kafka, log)
    finally:
        await log.close()


@pytest.fixture
async def room(kafka: Brokers) -> AsyncIterator[Room]:
    """Over the broker of the session, to which no test does anything that others would notice."""
    async with logging_to(kafka) as made:
        yield made


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Room]:
    """Over a broker of the test's own."""
    async with brokers(tmp_path) as kafka, logging_to(kafka) as made:
        yield made


async def clients(room: Room, stop: asyncio.Event, count: int = 4) -> None:
    """Append one record after the other, each its own texts, until told to stop."""

    async def client(who: int) -> None:
        number = 0
        while not stop.is_set():
            await room.append(f"{who}-{number}")
            number += 1

    await asyncio.gather(*(client(who) for who in range(count)))


async def flows(room: Room, goal: int) -> None:
    """Waits until so many are acknowledged."""
    await eventually(lambda: len(room.acknowledged) >= goal, "appends flow", 30)


async def test_a_broker_killed_in_mid_append_loses_nothing_and_doubles_nothing(own: Room) -> None:
    """Law: across two crashes each acknowledged record stands where it was promised, and none stands twice although batches were sent
    again; who was refused was told to come later."""
    stop = asyncio.Event()
    running = asyncio.create_task(clients(own, stop))
    for _ in range(2):
        goal = len(own.acknowledged) + 200
        await flows(own, goal)
        own.kafka.kill(1)
        await own.kafka.start(1)
        await own.kafka.wait_until_ready()
    goal = len(own.acknowledged) + 200
    await flows(own, goal)
    stop.set()
    await running
    assert set(own.refused) <= {Reason.LOG_UNAVAILABLE}
    await own.settled()


async def test_an_outage_shorter_than_the_deadline_is_not_noticed(own: Room) -> None:
    """Law: an append whose broker is killed and comes back within its deadline succeeds, once."""
    assert await own.append("before") is None
    own.kafka.kill(1)
    waiting = asyncio.create_task(own.append("across", 60.0))
    await own.kafka.start(1)
    assert await waiting is None
    await own.settled()


async def test_a_broker_that_hangs_is_an_unavailable_log_in_time_and_heals_by_itself(own: Room) -> None:
    """Law: while the broker is paused appends fail at their deadline and not much later, fetches and bounds fail too, and the log says
    that it is not well. Then everything goes on without a restart, and what was given up is stored once at most."""
    assert await own.append("before") is None
    own.kafka.pause(1)
    try:
        started = time.monotonic()
        outcomes = await asyncio.gather(*(own.append(f"during-{number}", 2.0) for number in range(20)))
        assert set(outcomes) == {Reason.LOG_UNAVAILABLE}
        assert time.monotonic() - started < 2.0 + SLACK_SECONDS
        assert await own.problem()
        with pytest.raises(Failure) as caught:
            await own.log.fetch(0, 1, 10, 1 << 20, 0.1)
        assert caught.value.reason is Reason.LOG_UNAVAILABLE
        with pytest.raises(Failure):
            await own.log.bounds()
    finally:
        own.kafka.resume(1)

    async def well() -> bool:
        return await own.append(f"after-{uuid.uuid4().hex}") is None and not await own.problem()

    await eventually(well, "the log is well again", 30)
    await own.settled()


async def test_who_gave_up_while_queued_is_forgotten_unsent(own: Room) -> None:
    """Law: a long outage does not end in a flood of records that nobody waits for: at most the batch on its way may be stored."""
    assert await own.append("before") is None
    own.kafka.pause(1)
    try:
        first = asyncio.create_task(own.append("on-its-way", 1.0))
        await asyncio.sleep(0)
        assert set(await asyncio.gather(*(own.append(f"queued-{n}", 0.5) for n in range(50)))) == {Reason.LOG_UNAVAILABLE}
        await first
    finally:
        own.kafka.resume(1)
    await own.settled()
    assert not [text for text in (await own.stored()).values() if text.startswith("queued")]


async def test_too_much_waiting_is_refused_at_once(own: Room) -> None:
    """Law: what a partition queues in memory is bounded; the next append does not wait for its deadline to be refused."""
    own.kafka.pause(1)
    try:
        size, appender = limits.RECORD_BYTES_MAX, own.log._appenders[0]
        waiting = [asyncio.create_task(own.append("on its way", 3.0, size))]
        await eventually(lambda: not appender._queue and bool(own.log._size), "a batch on its way")
        waiting += [asyncio.create_task(own.append(f"queued-{n}", 3.0, size)) for n in range(limits.APPEND_QUEUE_BYTES_MAX // size)]
        await eventually(lambda: appender._bytes + size > limits.APPEND_QUEUE_BYTES_MAX, "a full queue")
        started = time.monotonic()
        assert await own.append("one more", 3.0, size) is Reason.LOG_UNAVAILABLE
        assert time.monotonic() - started < 0.5
        await asyncio.gather(*waiting)
    finally:
        own.kafka.resume(1)


async def test_a_record_that_the_broker_finds_too_large_harms_no_neighbour(room: Room) -> None:
    """Law: when the topic takes less than it did, the record that is too large is refused by name, those gathered with it are stored."""
    access = room.log._brokers.login.access
    assert await room.append("before") is None
    admin = AIOKafkaAdminClient(bootstrap_servers=access.bootstrap)
    await admin.start()
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, access.topic, {"max.message.bytes": "20000"})])
    await admin.close()

    async def refused() -> bool:
        return await room.append(f"probe-{uuid.uuid4().hex}", size=30_000) is Reason.RECORD_TOO_LARGE

    await eventually(refused, "the topic takes less")
    outcomes = await asyncio.gather(*(room.append(f"r{number}", size=30_000 if number == 3 else 0) for number in range(8)))
    assert outcomes == [Reason.RECORD_TOO_LARGE if number == 3 else None for number in range(8)]
    await room.settled()


def forged(producer: int, epoch: int, number: int, records: int) -> bytes:
    """A batch as somebody would send it who goes by the same id."""
    builder: Any = DefaultRecordBatchBuilder(2, 0, 0, producer, epoch, number, 1 << 20)
    for ordinal in range(records):
        builder.append(ordinal, 1_790_000_000_000, b"tenant", f"forged-{number}-{ordinal}".encode(), [])
    return bytes(builder.build())


@pytest.mark.parametrize(("epochs_ahead", "records"), [(1, 1), (0, 7)], ids=["fenced by a newer epoch", "out of order"])
async def test_a_session_that_the_brokers_end_is_replaced(room: Room, epochs_ahead: int, records: int) -> None:
    """Law: fenced, or out of step with what the broker has, the appender begins another session by itself; no caller notices, and what
    was acknowledged before and after stands where it was promised."""
    assert await room.append("before") is None
    session = room.log._appenders[0]._session
    assert session is not None
    data = forged(session.producer, session.epoch + epochs_ahead, 0 if epochs_ahead else session.number, records)
    answer = await room.ask_leader(ProduceRequest(None, -1, 3_000, [(room.log._brokers.topic, [(0, data)])]))
    assert [code for _, parts in answer.topics for _, code, *_ in parts] == [0]
    assert await asyncio.gather(*(room.append(f"after-{n}") for n in range(20))) == [None] * 20
    assert room.log._appenders[0]._session is not session
    first_of_ours = 1 + records
    entries = await room.log.fetch(0, first_of_ours, 100, 1 << 20, 0.0)
    assert {entry.offset: entry.record.body.decode() for entry in entries} == {
        offset: text for offset, text in room.acknowledged.items() if offset >= first_of_ours
    }


async def test_closing_is_bounded_when_the_broker_is_gone(own: Room) -> None:
    """Law: with appends, fetches and a member under way and a broker that hangs, close ends within the time of an append, and everybody
    who waits is told."""
    member = await own.log.join("g", "m")
    assert await member.assignment() == frozenset([0])
    own.kafka.pause(1)
    try:
        appending = asyncio.create_task(own.append("x", 60.0))
        fetching = asyncio.create_task(own.log.fetch(0, 0, 1, 1, 60.0))
        await asyncio.sleep(0)
        started = time.monotonic()
        await own.log.close()
        assert time.monotonic() - started < limits.APPEND_SECONDS_MAX + 2 * SLACK_SECONDS
        assert await appending is Reason.LOG_UNAVAILABLE
        with pytest.raises(Failure):
            await fetching
    finally:
        own.kafka.resume(1)


def texts(entries: Sequence[Any]) -> list[str]:
    """Bodies as text."""
    return [entry.record.body.decode() for entry in entries]


async def test_a_waiting_fetch_is_answered_at_once(room: Room) -> None:
    """Law: no poll stands between an append and whoever waits for it: the median gap is a few milliseconds, not a period."""
    gaps: list[float] = []
    for number in range(30):
        waiting = asyncio.create_task(room.log.fetch(0, number, 10, 1 << 20, 30.0))
        assert await room.append(f"r{number}") is None
        appended = time.monotonic()
        assert texts(await waiting) == [f"r{number}"]
        gaps.append(time.monotonic() - appended)
    assert sorted(gaps)[len(gaps) // 2] < 0.02


async def test_readers_do_not_disturb_each_other(room: Room) -> None:
    """Law: many readers of one partition, each at its own pace and from its own offset, all read all records in order, once each."""
    await asyncio.gather(*(room.append(f"r{number}", size=200) for number in range(600)))
    everything = [f"{room.acknowledged[offset]}".ljust(200, ".") for offset in range(600)]

    async def read(start: int, step: int) -> list[str]:
        found: list[str] = []
        while start + len(found) < 600:
            found += texts(await room.log.fetch(0, start + len(found), step, 1 << 20, 1.0))
        return found

    starts = [0, 0, 0, 17, 599, 300, 123]
    found = await asyncio.gather(*(read(start, step) for start, step in zip(starts, (1, 7, 256, 100, 5, 600, 33), strict=True)))
    assert found == [everything[start:] for start in starts]


async def test_a_fetch_beyond_the_end_waits_for_its_offset(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: it gives nothing below the offset that was asked for, and the log says that somebody waits for what is not there and takes
    nothing more: records that a position names are lost, or the topic is a new one. Once that is sure it stays so, however far the log
    grows by others, and what stands at the offset then is not given for what the store means by it."""
    async with logging_beside(room) as other:
        for number in range(5):
            assert await other.append(f"r{number}") is None
        waiting = asyncio.create_task(room.log.fetch(0, 6, 10, 1 << 20, 20.0))
        await eventually(lambda: room.log._readers[0].replaced is not None, "the reader finds the end", 10)
        assert "ends at 5, but offset 6 is waited for" in await room.problem()
        assert await room.append("refused") is Reason.LOG_REPLACED
        for number in range(5, 8):
            assert await other.append(f"r{number}") is None
        assert (await waiting)[0].offset == 6
        assert not await room.problem()
        assert await room.append("taken") is None
        monkeypatch.setattr(kafka_trouble, "SURE_SECONDS", 2.0)

        async def given_up() -> bool:
            found = await asyncio.gather(room.log.fetch(0, 12, 10, 1 << 20, 0.2), return_exceptions=True)
            return isinstance(found[0], Failure) and found[0].reason is Reason.LOG_REPLACED

        await eventually(given_up, "it is sure that offset 12 is not there", 20)
        for number in range(20):
            assert await other.append(f"s{number}") is None
        assert await given_up()
        assert await room.append("refused") is Reason.LOG_REPLACED
        assert "offset 12 is waited for" in await room.problem()
        assert len(await room.log.fetch(0, 4, 1, 1 << 20, 0.2)) == 1


async def test_a_cancelled_fetch_leaves_nothing_behind(room: Room) -> None:
    """Law: readers that are cancelled while they wait give their places back; the next one is served at once."""
    for _ in range(10):
        waiting = asyncio.create_task(room.log.fetch(0, 0, 10, 1 << 20, 30.0))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert await room.append("x") is None
    async with asyncio.timeout(5):
        assert texts(await room.log.fetch(0, 0, 10, 1 << 20, 1.0)) == ["x"]


async def test_the_largest_record_goes_in_and_comes_out(room: Room) -> None:
    """Law: what the port takes the topic takes, beside many small ones."""
    outcomes = await asyncio.gather(
        room.append("large", 20.0, limits.RECORD_BYTES_MAX), *(room.append(f"s{number}", 20.0) for number in range(20))
    )
    assert outcomes == [None] * 21
    await room.settled()

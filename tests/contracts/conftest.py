"""The event log's adapters, each as a bench that the contract suites run on."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from cells.eventlog.access import Access
from cells.eventlog.kafka import open_log as open_kafka
from cells.eventlog.kafka_provision import provision as provision_kafka
from cells.eventlog.kafka_start import Needs
from cells.eventlog.log import EventLog
from cells.eventlog.memory import MemoryLog
from cells.eventlog.postgres import open_log, provision
from cells.eventlog.topics import Topic
from kernel.clock import Micros
from kernel.process.clock import SystemClock
from tests.support.kafka import Brokers
from tests.support.postgres import Databases
from tests.support.records import blob


class ShiftedClock(SystemClock):
    """The real clock, moved."""

    def __init__(self) -> None:
        self.shift = 0

    def now(self) -> Micros:
        return Micros(super().now() + self.shift)


@dataclass
class Bench:
    """A log, its clock, and a way to open it again as another process would."""

    log: EventLog
    clock: ShiftedClock
    again: Callable[[int], Awaitable[EventLog]]

    def deadline(self) -> float:
        return self.clock.monotonic() + 10

    async def append(self, partition: int, *texts: str) -> list[int]:
        return [await self.log.append(partition, blob(text), self.deadline()) for text in texts]

    async def texts(self, partition: int, offset: int = 0) -> list[str]:
        entries = await self.log.fetch(partition, offset, 10_000, 1 << 30, 0.0)
        return [entry.record.body.decode() for entry in entries]


@pytest.fixture
async def memory_bench() -> Bench:
    """The log in memory: another opening of it is itself."""
    clock = ShiftedClock()
    memory = MemoryLog(4, clock)

    async def again(bytes_max: int) -> EventLog:
        return MemoryLog(4, clock, bytes_max) if bytes_max <= 1_000 else memory

    return Bench(memory, clock, again)


@pytest.fixture
async def postgres_bench(postgres: Databases) -> AsyncIterator[Bench]:
    """The log in PostgreSQL, as its own role."""
    clock = ShiftedClock()
    opened: list[EventLog] = []
    await provision(postgres.admin_dsn, "df_log", "secret", 4)

    async def again(bytes_max: int) -> EventLog:
        opened.append(await open_log(postgres.role_dsn("df_log", "secret"), clock, bytes_max))
        return opened[-1]

    yield Bench(await again(1 << 40), clock, again)
    for log in opened:
        await log.close()


@pytest.fixture
async def kafka_bench(kafka: Brokers) -> AsyncIterator[Bench]:
    """The log in a topic of its own in Kafka."""
    clock = ShiftedClock()
    opened: list[EventLog] = []
    access = Access(kafka.bootstrap, f"contract-{uuid.uuid4().hex}")
    await provision_kafka(access, Topic(access.topic, 4, *kafka.replication), clock)

    async def again(bytes_max: int) -> EventLog:
        opened.append(await open_kafka(access, Needs(appends=True, reads=True), f"bench-{len(opened)}", clock, bytes_max))
        return opened[-1]

    yield Bench(await again(1 << 40), clock, again)
    for log in opened:
        await log.close()


@pytest.fixture(
    params=[
        "memory_bench",
        pytest.param("postgres_bench", marks=pytest.mark.postgres),
        pytest.param("kafka_bench", marks=pytest.mark.kafka),
    ]
)
def bench(request: pytest.FixtureRequest) -> Bench:
    """Each adapter in turn."""
    made: Bench = request.getfixturevalue(request.param)
    return made

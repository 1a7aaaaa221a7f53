"""Membership in a group of Kafka's: shared out, taken over, kept while the coordinator is away - and never the word on positions."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka.protocol.admin import CreateTopicsRequest
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest

from cells.eventlog.access import Access
from cells.eventlog.kafka import KafkaLog, open_log
from cells.eventlog.kafka_brokers import Brokers as View
from cells.eventlog.kafka_group import SESSION_SECONDS, KafkaMembership
from cells.eventlog.kafka_login import Address, Login
from cells.eventlog.kafka_provision import provision
from cells.eventlog.kafka_start import Needs
from cells.eventlog.topics import Topic
from cells.processing.consumer import GROUP, consumer, report_lag
from cells.processing.partition import Wiring
from cells.storage.memory import MemoryStore
from kernel.epoch import Claim, Epoch, Ownership
from kernel.errors import Failure
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock
from tests.support.kafka import Brokers, brokers
from tests.support.processes import eventually
from tests.support.records import CELL, TENANT, blob, envelope, record

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
CLOCK = SystemClock()


@asynccontextmanager
async def logging_to(kafka: Brokers, partitions: int) -> AsyncIterator[KafkaLog]:
    """A log in a topic of its own."""
    access = Access(kafka.bootstrap, f"events-{uuid.uuid4().hex}")
    await provision(access, Topic(access.topic, partitions, *kafka.replication), CLOCK)
    log = await open_log(access, Needs(appends=True, reads=True, groups=(GROUP,)), "cell", CLOCK)
    try:
        yield log
    finally:
        await log.close()


@pytest.fixture
async def log(kafka: Brokers) -> AsyncIterator[KafkaLog]:
    """Four partitions in the broker of the session."""
    async with logging_to(kafka, 4) as made:
        yield made


async def joined(log: KafkaLog, member: str) -> KafkaMembership:
    made = await log.join(GROUP, member)
    assert isinstance(made, KafkaMembership)
    return made


async def test_a_member_that_dies_without_leaving_loses_its_partitions(log: KafkaLog) -> None:
    """Law: the survivor has everything soon after the dead one's silence is noticed; a newcomer gets its share from the survivor."""
    first, second = await joined(log, "m1"), await joined(log, "m2")

    async def halves() -> bool:
        one, two = await first.assignment(), await second.assignment()
        return len(one) == len(two) == 2 and not one & two

    await eventually(halves, "two halves", 20)
    first._task.cancel()
    first._line.close()

    async def taken_over() -> bool:
        return await second.assignment() == frozenset(range(4))

    await eventually(taken_over, "the survivor has everything", SESSION_SECONDS + 10)
    kept, third = await second.assignment(), await joined(log, "m3")

    async def shared() -> bool:
        one, two = await second.assignment(), await third.assignment()
        return len(one) == len(two) == 2 and one < kept and not one & two

    await eventually(shared, "the newcomer's share", 20)


async def coordinator(log: KafkaLog) -> tuple[Address, str]:
    """Where the group's offsets are kept, and its name there."""
    group = f"{log._brokers.topic}.{GROUP}"
    view = log._brokers.view
    answer = await log._brokers.ask(next(iter(view.nodes.values())), FindCoordinatorRequest(group, 0))
    return Address(answer.host, answer.port), group


async def committed(log: KafkaLog) -> dict[int, int]:
    """What tools that show lag are told."""
    where, group = await coordinator(log)
    topics = [(log._brokers.topic, list(range(log.partitions)))]
    answer = await log._brokers.ask(where, OffsetFetchRequest(group, topics))
    return {number: offset for _, parts in answer.topics for number, offset, *_ in parts if offset >= 0}


@asynccontextmanager
async def consuming(log: KafkaLog, store: MemoryStore, name: str) -> AsyncIterator[None]:
    """Processing, as a cell runs it."""
    claim = Claim(CELL, {TENANT: Epoch(1)})

    async def renew() -> None:
        return

    wiring = Wiring(log, store, lambda: claim, renew, CLOCK, MemoryMeter())
    running = asyncio.create_task(consumer(wiring, name).run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_positions_come_from_the_store_whatever_the_group_says(log: KafkaLog) -> None:
    """Law: members tell Kafka how far they are, for its tools; when those offsets are set back to the beginning nothing is applied
    again, and what comes next is applied once. Lag in records is the log's end less the store's position, as on every adapter."""
    store = MemoryStore(CLOCK, MemoryMeter())
    await store.own([Ownership(TENANT, Epoch(1), "owner")], [])

    async def append(name: str) -> None:
        await log.append(0, record(envelope(name)), CLOCK.monotonic() + 10)

    async def applied(position: int) -> None:
        async def reached() -> bool:
            return (await store.positions()).get(0) == position

        await eventually(reached, f"position {position}", 30)

    async with consuming(log, store, "m1"):
        for number in range(3):
            await append(f"e{number}")
        await applied(3)

        async def told() -> bool:
            return (await committed(log)).get(0) == 3

        await eventually(told, "the tools are told", 20)
        assert await report_lag(log, store, MemoryMeter()) == dict.fromkeys(range(4), 0)
    await append("e3")
    assert (await report_lag(log, store, MemoryMeter()))[0] == 1
    where, group = await coordinator(log)
    back = OffsetCommitRequest(group, -1, "", -1, [(log._brokers.topic, [(0, 0, "")])])
    answer = await log._brokers.ask(where, back)
    assert [code for _, parts in answer.topics for _, code in parts] == [0]
    assert (await committed(log))[0] == 0
    async with consuming(log, store, "m2"):
        await applied(4)
    assert [(row.stored, row.duplicate) for row in await store.ledger()] == [(4, 0)]


async def offsets_live_on(node: int, kafka: Brokers) -> None:
    """Makes Kafka's own topic of groups with one copy on this node, so that killing the node takes all coordinators and no record."""
    client = View(Login(Access(kafka.bootstrap, "none"), "test"), CLOCK)
    await client.renew(client.view)
    places = [(number, [node]) for number in range(4)]
    wanted = ("__consumer_offsets", -1, -1, places, [("cleanup.policy", "compact"), ("min.insync.replicas", "1")])
    answer = await client.ask(next(iter(client.view.nodes.values())), CreateTopicsRequest([wanted], 10_000, False), 20.0)
    await client.close()
    assert [code for _, code, _ in answer.topic_errors] == [0]


async def test_a_coordinator_that_is_away_stops_nobody(tmp_path: Path) -> None:
    """Law: while no broker coordinates the group its member keeps its partitions, appends and fetches go on, and a new member is told to
    come later; when the coordinator is back the group finds together by itself."""
    async with brokers(tmp_path, nodes=3) as kafka:
        await offsets_live_on(3, kafka)
        async with logging_to(kafka, 2) as log:
            member = await joined(log, "m1")
            assert await member.assignment() == frozenset(range(2))
            kafka.kill(3)
            await eventually(lambda: member._trouble is not None, "the coordinator is missed", 30)
            newcomer = await joined(log, "m2")
            with pytest.raises(Failure):
                await newcomer.assignment()
            assert await member.assignment() == frozenset(range(2))
            offset = await log.append(0, blob("meanwhile"), CLOCK.monotonic() + 30)
            assert [entry.offset for entry in await log.fetch(0, offset, 1, 1, 5.0)] == [offset]
            await kafka.start(3)

            async def shared() -> bool:
                try:
                    one, two = await member.assignment(), await newcomer.assignment()
                except Failure:
                    return False
                return len(one) == len(two) == 1 and not one & two

            await eventually(shared, "the group is together again", 90)

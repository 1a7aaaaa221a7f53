"""The log while copies are missing: what cannot be made durable is not acknowledged, and what is durable stays readable."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from aiokafka.protocol.admin import CreateTopicsRequest

from cells.eventlog.access import Access
from cells.eventlog.kafka import KafkaLog, open_log
from cells.eventlog.kafka_brokers import Brokers as Asked
from cells.eventlog.kafka_login import Login
from cells.eventlog.kafka_start import Needs
from cells.eventlog.topics import Topic
from kernel.errors import Failure, Reason
from kernel.process.clock import SystemClock
from tests.support.kafka import brokers
from tests.support.processes import eventually
from tests.support.records import blob

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
CLOCK = SystemClock()
NEEDS = Needs(appends=True, reads=True)


async def kept_by(access: Access, nodes: list[int]) -> None:
    """Makes the topic with one partition, a copy on each of these nodes, all of which must have a record."""
    asked = Asked(Login(access, "test"), CLOCK)
    await asked.renew(asked.view)
    settings = Topic(access.topic, 1, len(nodes), len(nodes)).settings()
    request = CreateTopicsRequest([(access.topic, -1, -1, [(0, nodes)], list(settings.items()))], 10_000, False)
    answer = await asked.ask(next(iter(asked.view.nodes.values())), request, 20.0)
    assert [code for _, code, _ in answer.topic_errors] == [0]

    async def known() -> bool:
        await asked.renew(asked.view)
        return await asked.known_to_all() and [part.in_sync for part in asked.view.partitions.values()] == [len(nodes)]

    await eventually(known, "the copies are in sync", 30)
    await asked.close()


async def appended(log: KafkaLog, text: str, seconds: float = 3.0) -> Reason | None:
    """Why it was refused, None when it was not."""
    try:
        await log.append(0, blob(text), CLOCK.monotonic() + seconds)
    except Failure as failure:
        return failure.reason
    return None


async def test_without_enough_copies_nothing_is_acknowledged_and_everything_is_readable(tmp_path: Path) -> None:
    """Law: while one of two copies is lost appends are refused in time, records are read, the log says what is missing and no other cell
    begins on it; when the copy is back the log takes records again by itself, and none of them stands twice."""
    async with brokers(tmp_path, nodes=3) as kafka:
        access = Access(kafka.bootstrap, f"events-{uuid.uuid4().hex}")
        await kept_by(access, [1, 2])
        log = await open_log(access, NEEDS, "cell", CLOCK)
        assert await appended(log, "before", 30.0) is None
        kafka.kill(2)

        async def missing() -> bool:
            try:
                await log.check()
            except Failure as failure:
                return "partition 0 has 1 of 2 copies in sync" in failure.message
            return False

        await eventually(missing, "the copy is missed", 60)
        assert await appended(log, "during") is Reason.LOG_UNAVAILABLE
        assert (await log.fetch(0, 0, 10, 1 << 20, 5.0))[0].record.body == b"before"
        with pytest.raises(Failure, match="start the other brokers"):
            await open_log(access, NEEDS, "another", CLOCK)
        await kafka.start(2)

        async def well() -> bool:
            return await appended(log, f"after-{uuid.uuid4().hex}") is None and not await missing()

        await eventually(well, "the log takes records", 90)
        stored = [entry.record.body for entry in await log.fetch(0, 0, 10_000, 1 << 20, 5.0)]
        assert len(set(stored)) == len(stored)
        await log.close()

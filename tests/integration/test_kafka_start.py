"""Before a cell uses its topic: every mistake in settings, rights and topic ends the start with words that say what to do."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import datetime
import json
import struct
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.protocol.admin import CreateTopicsRequest

from cells.eventlog.access import Access
from cells.eventlog.kafka import open_log
from cells.eventlog.kafka_provision import provision
from cells.eventlog.kafka_start import Needs
from cells.eventlog.topics import Topic
from kernel.errors import Failure, Reason
from kernel.process.clock import SystemClock
from tests.support.kafka_doors import (
    BROKERS,
    DELETE,
    DESCRIBE,
    DESCRIBE_CONFIGS,
    GROUP,
    READ,
    TOPIC,
    WRITE,
    Guarded,
    guarded_brokers,
)
from tests.support.processes import eventually, free_port
from tests.support.records import blob

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
CLOCK = SystemClock()
NEEDS = Needs(appends=True, reads=True, groups=("processing",))


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    """One for the module: each test names its own topics."""
    with guarded_brokers() as made:
        yield made


def fresh() -> str:
    return f"events-{uuid.uuid4().hex}"


async def refusal(access: Access, needs: Needs = NEEDS) -> str:
    """Why a log does not open, said to an operator; it must be known in time."""
    started = time.monotonic()
    with pytest.raises(Failure) as caught:
        await open_log(access, needs, "cell", CLOCK)
    assert caught.value.reason is Reason.LOG_UNAVAILABLE
    assert time.monotonic() - started < 15
    return str(caught.value)


async def test_nobody_listens() -> None:
    """Law: the address is named, and the setting that holds it."""
    port = free_port()
    said = await refusal(Access(f"127.0.0.1:{port}", fresh()))
    assert f"127.0.0.1:{port}" in said
    assert "DATAFLOW_KAFKA_BOOTSTRAP" in said


async def test_a_name_that_leads_nowhere() -> None:
    """Law: as an address where nobody listens."""
    assert "DATAFLOW_KAFKA_BOOTSTRAP" in await refusal(Access("no-such-host.invalid:9092", fresh()))


@pytest.mark.parametrize("bootstrap", ["", "localhost:", "localhost:kafka", "localhost:99999", ":9092", "a:1,b:x"])
async def test_what_is_no_address(bootstrap: str) -> None:
    """Law: refused before anybody is asked."""
    with pytest.raises(ValueError, match="DATAFLOW_KAFKA_BOOTSTRAP"):
        await open_log(Access(bootstrap, fresh()), NEEDS, "cell", CLOCK)


Speaks = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def somebody(speaks: Speaks) -> AsyncIterator[Access]:
    """A listener that is no Kafka of today."""
    server = await asyncio.start_server(speaks, "127.0.0.1", 0)
    async with server:
        yield Access(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", fresh())


async def _web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    writer.close()


async def _silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def _old_broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Kafka 0.10: it answers what versions it speaks, and they are old ones."""
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    request = await reader.readexactly(size)
    keys = [(0, 0, 2), (1, 0, 3), (2, 0, 1), (3, 0, 2), (18, 0, 0)]
    body = struct.pack(">hi", 0, len(keys)) + b"".join(struct.pack(">hhh", *key) for key in keys)
    writer.write(struct.pack(">i", 4 + len(body)) + request[4:8] + body)
    await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("speaks", "said"), [(_web, "DATAFLOW_KAFKA_BOOTSTRAP"), (_silence, "does not answer"), (_old_broker, "Kafka 2.4 or newer")]
)
async def test_who_listens_is_no_kafka_of_today(speaks: Speaks, said: str) -> None:
    """Law: another protocol, silence and an old broker are told apart, in time."""
    async with somebody(speaks) as access:
        assert said in await refusal(access)


async def test_a_topic_that_is_not_there(guarded: Guarded) -> None:
    """Law: it is named, nobody makes it in passing, and who makes it is said."""
    topic = fresh()
    for _ in range(2):
        said = await refusal(Access(guarded.kafka.bootstrap, topic))
        assert f"no topic {topic}" in said
        assert "python -m cells.provision" in said


async def test_a_name_that_no_topic_can_have(guarded: Guarded) -> None:
    """Law: the name is quoted, with its setting."""
    assert "'two words' is no name" in await refusal(Access(guarded.kafka.bootstrap, "two words"))


async def made(guarded: Guarded, topic: str, **settings: str) -> None:
    """A topic as somebody else would make it, with dots for underscores in its settings."""
    values = {**Topic(topic, 2, 1, 1).settings(), **{name.replace("_", "."): value for name, value in settings.items()}}
    async with guarded.superuser(topic) as asked:
        request = CreateTopicsRequest([(topic, 2, 1, [], list(values.items()))], 5_000, False)
        answer = await asked.ask(next(iter(asked.view.nodes.values())), request)
        assert [code for _, code, _ in answer.topic_errors] == [0]

        async def known() -> bool:
            return await asked.known_to_all()

        await eventually(known, "the broker knows the topic")


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("max_message_bytes", "1000000", "max.message.bytes is 1000000"),
        ("retention_ms", "3600000", "retention.ms is 3600000"),
        ("cleanup_policy", "compact", "cleanup.policy is compact"),
        ("min_insync_replicas", "2", "has 1 of 2 copies in sync"),
    ],
)
async def test_a_topic_that_would_lose_or_refuse_records(guarded: Guarded, setting: str, value: str, said: str) -> None:
    """Law: a cell does not begin on it, and says which setting is wrong."""
    topic = fresh()
    await made(guarded, topic, **{setting: value})
    assert said in await refusal(Access(guarded.kafka.bootstrap, topic))


async def test_provisioning_says_each_difference_and_changes_nothing(guarded: Guarded) -> None:
    """Law: a topic that is as wanted may be provisioned again; one that differs is described, all of it, and stays."""
    access = Access(guarded.kafka.bootstrap, fresh())
    wanted = Topic(access.topic, 2, 1, 1)
    await provision(access, wanted, CLOCK)
    await provision(access, wanted, CLOCK)
    with pytest.raises(ValueError, match=r"2 partitions, not 4.*1 copies, not 3.*min\.insync\.replicas is 1, not 2"):
        await provision(access, Topic(access.topic, 4, 3, 2), CLOCK)
    with pytest.raises(ValueError, match="3 copies need as many brokers, there are 1"):
        await provision(access, Topic(fresh(), 4, 3, 2), CLOCK)


RIGHTS = [(TOPIC, DESCRIBE), (TOPIC, DESCRIBE_CONFIGS), (TOPIC, WRITE), (TOPIC, READ), (TOPIC, DELETE), (BROKERS, DESCRIBE), (GROUP, READ)]
SAYS = ["DESCRIBE topic", "DESCRIBE_CONFIGS", "WRITE", "READ", "DELETE", "DESCRIBE the cluster", "READ group"]


async def test_each_right_that_is_missing_is_named(guarded: Guarded) -> None:
    """Law: who lacks a right is told which, one after the other until none is missing; then the log appends, fetches, trims and joins."""
    access = guarded.access(fresh(), user="cell")
    await made(guarded, access.topic)
    named = {TOPIC: access.topic, GROUP: f"{access.topic}.processing", BROKERS: "kafka-cluster"}
    for (resource, operation), said in zip(RIGHTS, SAYS, strict=True):
        refused = await refusal(access)
        assert "user cell may not" in refused
        assert said in refused
        await guarded.allow("cell", (resource, named[resource], operation))
    log = await open_log(access, NEEDS, "cell", CLOCK)
    try:
        assert await log.append(0, blob("x"), CLOCK.monotonic() + 10) == 0
        assert len(await log.fetch(0, 0, 1, 1, 1.0)) == 1
        assert await log.trim(CLOCK.now()) == 0
        assert await log.size_bytes() > 0
        member = await log.join("processing", "m")
        assert await member.assignment() == frozenset(range(2))
    finally:
        await log.close()


async def test_who_only_appends_needs_fewer_rights(guarded: Guarded) -> None:
    """Law: an ingest alone neither reads nor trims nor joins."""
    access = guarded.access(fresh(), user="admin", password_file=guarded.file("admin-secret"))
    await made(guarded, access.topic)
    bearer = dataclasses.replace(access, mechanism="OAUTHBEARER", user="", password_file=guarded.file(token("ingest")))
    rights = [(TOPIC, access.topic, operation) for operation in (DESCRIBE, DESCRIBE_CONFIGS, WRITE)]
    await guarded.allow("ingest", *rights, (BROKERS, "kafka-cluster", DESCRIBE))
    log = await open_log(bearer, Needs(appends=True, reads=False), "cell", CLOCK)
    assert await log.append(0, blob("x"), CLOCK.monotonic() + 10) == 0
    await log.close()
    assert "may not READ, DELETE" in await refusal(bearer)


def token(subject: str) -> str:
    """A bearer token that is not signed, which a broker takes unless it is told better."""
    now = int(datetime.datetime.now(datetime.UTC).timestamp())
    parts: list[dict[str, Any]] = [{"alg": "none"}, {"sub": subject, "iat": now, "exp": now + 600}]
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), ""])


async def test_a_wrong_login_is_told_from_a_wrong_address(guarded: Guarded) -> None:
    """Law: a wrong password, an unknown user, a mechanism that the broker does not have and a file that is not there name the settings
    to look at, and never what is in them."""
    topic = fresh()
    for wrong in (
        guarded.access(topic, password_file=guarded.file("not-it-at-all")),
        guarded.access(topic, user="stranger"),
        guarded.access(topic, mechanism="SCRAM-SHA-512"),
        guarded.access(topic, mechanism="OAUTHBEARER", password_file=guarded.file("rubbish")),
    ):
        said = await refusal(wrong)
        assert "DATAFLOW_KAFKA_PASSWORD_FILE" in said
        assert "not-it-at-all" not in said
    with pytest.raises(ValueError, match="DATAFLOW_KAFKA_PASSWORD_FILE"):
        await open_log(guarded.access(topic, password_file="/nowhere/at/all"), NEEDS, "cell", CLOCK)


async def test_the_wrong_kind_of_door(guarded: Guarded) -> None:
    """Law: in the clear at a door that asks for a login, and encrypted at one that is not, name the setting."""
    topic = fresh()
    sasl = guarded.access(topic).bootstrap
    assert "DATAFLOW_KAFKA_SECURITY" in await refusal(Access(sasl, topic))
    assert "DATAFLOW_KAFKA_SECURITY" in await refusal(Access(guarded.kafka.bootstrap, topic, "SSL"))

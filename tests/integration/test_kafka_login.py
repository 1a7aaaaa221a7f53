"""Who a cell is to Kafka: encrypted, with SCRAM, with a certificate, with a token; secrets may change while it runs."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cells.eventlog.access import Access
from cells.eventlog.kafka import KafkaLog, open_log
from cells.eventlog.kafka_provision import provision
from cells.eventlog.kafka_start import Needs
from cells.eventlog.topics import Topic
from kernel.errors import Failure
from kernel.process.clock import SystemClock
from tests.support.kafka_doors import (
    BROKERS,
    DELETE,
    DESCRIBE,
    DESCRIBE_CONFIGS,
    READ,
    TOPIC,
    WRITE,
    Authority,
    Guarded,
    guarded_brokers,
)
from tests.support.records import blob

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
CLOCK = SystemClock()
NEEDS = Needs(appends=True, reads=True)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    """One for the module: each test names its own topics."""
    with guarded_brokers() as made:
        yield made


async def prepared(guarded: Guarded, user: str) -> str:
    """A topic that `user` may use."""
    topic = f"events-{uuid.uuid4().hex}"
    await provision(Access(guarded.kafka.bootstrap, topic), Topic(topic, 1, 1, 1), CLOCK)
    rights = [(TOPIC, topic, operation) for operation in (READ, WRITE, DELETE, DESCRIBE, DESCRIBE_CONFIGS)]
    await guarded.allow(user, *rights, (BROKERS, "kafka-cluster", DESCRIBE))
    return topic


async def works(log: KafkaLog) -> None:
    """Appends and reads what it appended."""
    offset = await log.append(0, blob("x"), CLOCK.monotonic() + 10)
    assert [entry.record for entry in await log.fetch(0, offset, 1, 1, 1.0)] == [blob("x")]
    assert await log.size_bytes() > 0


async def opened(access: Access) -> None:
    """The log opens, works and closes."""
    log = await open_log(access, NEEDS, "cell", CLOCK)
    try:
        await works(log)
    finally:
        await log.close()


async def refused(access: Access) -> str:
    """Why it does not open."""
    with pytest.raises(Failure) as caught:
        await open_log(access, NEEDS, "cell", CLOCK)
    return str(caught.value)


async def test_scram_over_tls(guarded: Guarded) -> None:
    """Law: with the right authority and password the log works; with another authority or password it says what is wrong."""
    await guarded.name_scram_user("scram-cell", "first-password")
    topic, ca = await prepared(guarded, "scram-cell"), str(guarded.folder / "ca.pem")
    access = guarded.access(topic, "SASL_SSL", "SCRAM-SHA-512", user="scram-cell", ca_file=ca, password_file=guarded.file("first-password"))
    await opened(access)
    assert "certificate verify failed" in await refused(dataclasses.replace(access, ca_file=""))
    wrong = dataclasses.replace(access, password_file=guarded.file("other-password"))
    assert "DATAFLOW_KAFKA_PASSWORD_FILE" in await refused(wrong)


async def test_a_certificate_is_who_we_are(guarded: Guarded, tmp_path: Path) -> None:
    """Law: mutual TLS needs no password; without a certificate, or with a stranger's, the broker does not talk to us."""
    topic, folder = await prepared(guarded, "CN=cell"), guarded.folder
    bare = Access(f"127.0.0.1:{guarded.ports['SSL']}", topic, "SSL", ca_file=str(folder / "ca.pem"))
    await opened(dataclasses.replace(bare, cert_file=str(folder / "cell.pem"), key_file=str(folder / "cell.key")))
    assert "Kafka does not answer" in await refused(bare)
    certificate, key = Authority(tmp_path).sign("cell")
    assert "Kafka does not answer" in await refused(dataclasses.replace(bare, cert_file=str(certificate), key_file=str(key)))


@pytest.mark.parametrize(
    ("fields", "setting"),
    [
        ({"ca_file": "/nowhere"}, "DATAFLOW_KAFKA_CA_FILE"),
        ({"cert_file": "/nowhere", "key_file": "/nowhere"}, "DATAFLOW_KAFKA_CERT_FILE"),
    ],
)
async def test_a_file_that_cannot_be_read_is_named(fields: dict[str, str], setting: str) -> None:
    """Law: before anybody is asked."""
    with pytest.raises(ValueError, match=setting):
        await open_log(Access("127.0.0.1:9", "events", "SSL", **fields), NEEDS, "cell", CLOCK)  # type: ignore[arg-type]  # by name


async def test_a_password_may_change_while_the_log_is_open(guarded: Guarded) -> None:
    """Law: the next connection takes what stands in the file then; nobody restarts."""
    await guarded.name_scram_user("changing", "first-password")
    topic = await prepared(guarded, "changing")
    file = guarded.file("first-password")
    ca = str(guarded.folder / "ca.pem")
    access = guarded.access(topic, "SASL_SSL", "SCRAM-SHA-512", user="changing", ca_file=ca, password_file=file)
    log = await open_log(access, NEEDS, "cell", CLOCK)
    try:
        await works(log)
        await guarded.name_scram_user("changing", "second-password")
        guarded.rewrite(file, "second-password")
        for appender in log._appenders:
            appender._line.close()
        for reader in log._readers[0]._all:
            reader.line.close()
        await works(log)
    finally:
        await log.close()

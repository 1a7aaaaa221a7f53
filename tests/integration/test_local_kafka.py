"""The real Kafka of one cell: one node, and three of which one may die."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from cli.errors import Unable
from cli.local import probe
from cli.local.kafka import Kafka, Ports
from tests.support.kafka import Brokers, brokers, laid_out
from tests.support.processes import free_port

pytestmark = pytest.mark.kafka
TOPIC = "t"


@pytest.fixture(autouse=True)
def quiet_client() -> None:
    """The client tells every lost connection of a killed node."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


async def make_topic(kafka: Brokers, name: str = TOPIC) -> None:
    replicas, in_sync = kafka.replication
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        made = await admin.create_topics([NewTopic(name, 1, replicas, topic_configs={"min.insync.replicas": str(in_sync)})])
        assert [error[1] for error in made.topic_errors] == [0]
    finally:
        await admin.close()


@asynccontextmanager
async def producing(kafka: Brokers) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, acks="all", enable_idempotence=True, request_timeout_ms=20_000)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def append(kafka: Brokers, values: Sequence[bytes], name: str = TOPIC) -> None:
    async with producing(kafka) as producer:
        for value in values:
            await producer.send_and_wait(name, value)


async def kept(kafka: Brokers, count: int, name: str = TOPIC) -> list[bytes]:
    """The first `count` records."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(name, 0)])
        consumer.seek(TopicPartition(name, 0), 0)
        async with asyncio.timeout(20):
            return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


async def test_what_was_acknowledged_survives_kill_and_restart(tmp_path: Path) -> None:
    """Law: after SIGKILL right behind an acknowledgement the record is there, and so is the node, on the same ports."""
    async with brokers(tmp_path) as kafka:
        await make_topic(kafka)
        await append(kafka, [b"one", b"two"])
        kafka.kill(1)
        await kafka.start(1)
        await kafka.wait_until_ready()
        assert await kept(kafka, 2) == [b"one", b"two"]


async def test_a_stopped_node_leaves_no_process_and_starts_on_other_ports(tmp_path: Path) -> None:
    """Law: an orderly stop ends by itself and leaves no process; the next start finds the records, wherever it listens."""
    async with brokers(tmp_path) as kafka:
        await make_topic(kafka)
        await append(kafka, [b"one"])
        (node,) = kafka.nodes
        assert node.child is not None
        first = node.child
        await kafka.stop(1)
        assert first.exit_code == 143
        assert not psutil.pid_exists(first.pid)
        node.nodes = (Ports(free_port(), free_port()),)
        await node.start()
        assert await kept(kafka, 1) == [b"one"]


async def test_a_taken_port_is_told_with_the_nodes_words(tmp_path: Path, kafka: Brokers) -> None:
    """Law: a second Kafka on a taken port gives one clear error instead of waiting forever, and leaves no process."""
    taken = Kafka(tmp_path, "taken", (Ports(kafka.nodes[0].ports.client, free_port()),))
    with pytest.raises(Unable, match=r"does not come up.*Address already in use") as raised:
        await taken.start()
    assert str(taken.ports.client) in str(raised.value)
    assert taken.child is not None
    assert taken.child.exit_code is not None


async def test_the_files_of_another_node_are_refused(tmp_path: Path) -> None:
    """Law: a node serves neither another Kafka's records nor another node's as its own."""
    (node,) = laid_out(tmp_path).nodes
    await asyncio.to_thread(node.prepare)
    await asyncio.to_thread(node.prepare)
    with pytest.raises(Unable, match="is not that of node 1 of stranger"):
        Kafka(node.folder, "stranger", node.nodes).prepare()
    with pytest.raises(Unable, match="is not that of node 2"):
        Kafka(node.folder, node.name, (*node.nodes, Ports(1, 2)), 2).prepare()


def test_an_id_that_begins_like_an_option_is_taken(tmp_path: Path) -> None:
    """Law: every name makes a Kafka, the one in 64 too whose id begins with a hyphen."""
    ports = (Ports(free_port(), free_port()),)
    node = next(one for number in range(10_000) if (one := Kafka(tmp_path, f"n{number}", ports)).id.startswith("-"))
    node.prepare()
    assert (tmp_path / "data" / "meta.properties").exists()


async def test_one_of_three_may_be_killed(tmp_path: Path) -> None:
    """Law: with three nodes, of which two must have a record, a killed one costs neither a record nor the service."""
    async with brokers(tmp_path, nodes=3) as kafka:
        await make_topic(kafka)
        async with producing(kafka) as producer:
            await producer.send_and_wait(TOPIC, b"three")
            kafka.kill(1)
            await producer.send_and_wait(TOPIC, b"two")
            await kafka.start(1)
            await kafka.wait_until_ready()
            await producer.send_and_wait(TOPIC, b"three again")
        assert await kept(kafka, 3) == [b"three", b"two", b"three again"]


async def test_nothing_is_acknowledged_by_one_of_three(tmp_path: Path) -> None:
    """Law: while two of three nodes are away an append is not acknowledged; it is once they are back."""
    async with brokers(tmp_path, nodes=3) as kafka:
        await make_topic(kafka)
        async with producing(kafka) as producer:
            await producer.send_and_wait(TOPIC, b"first")
            kafka.pause(1)
            kafka.pause(2)
            pending = asyncio.ensure_future(producer.send_and_wait(TOPIC, b"second"))
            acknowledged, _ = await asyncio.wait([pending], timeout=2.0)
            assert not acknowledged
            kafka.resume(1)
            kafka.resume(2)
            await pending
        assert await kept(kafka, 2) == [b"first", b"second"]


async def test_a_paused_node_is_silent_and_comes_back(tmp_path: Path) -> None:
    """Law: a paused node gives no answer at all, which is told from a node that answers that it is not ready; resumed, it is ready."""
    async with brokers(tmp_path) as kafka:
        kafka.pause(1)
        assert isinstance(await kafka.nodes[0].probe(), probe.Silence)
        kafka.resume(1)
        await kafka.wait_until_ready()

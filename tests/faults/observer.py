"""What the suite asks and tells Kafka beside the cell: with plain aiokafka, nothing of ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.protocol.commit import OffsetCommitRequest

_ASK_MILLIS: Final = 5_000
_PATIENCE_SECONDS: Final = 90.0
_FETCH_BYTES: Final = 1 << 24
_PAUSE_SECONDS: Final = 0.25
_NO_GENERATION: Final = -1
_KEPT: Final = -1
_PUT_SECONDS: Final = 60.0
Put = Callable[[int, bytes | None, bytes | None, list[tuple[str, bytes]]], Awaitable[None]]


@dataclass(frozen=True)
class Observer:
    """Asks about `topic` and the consumer group `group`. What is asked in bad weather is asked again."""

    bootstrap: str
    topic: str
    group: str

    async def leaders(self) -> dict[int, frozenset[int]]:
        """Of each broker that leads partitions, which."""
        [described] = await self._ask(lambda admin: admin.describe_topics([self.topic]))
        led: dict[int, set[int]] = {}
        for partition in described["partitions"]:
            led.setdefault(partition["leader"], set()).add(partition["partition"])
        return {node: frozenset(partitions) for node, partitions in led.items() if node > 0}

    async def in_sync(self) -> int:
        """How many replicas the worst partition has in sync."""
        [described] = await self._ask(lambda admin: admin.describe_topics([self.topic]))
        return min(len(partition["isr"]) for partition in described["partitions"])

    async def coordinator(self) -> int:
        """The broker that coordinates the group."""
        return int(await self._ask(lambda admin: admin.find_coordinator(self.group)))

    async def members(self) -> int:
        """How many members the group has."""
        [answer] = await self._ask(lambda admin: admin.describe_consumer_groups([self.group]))
        return len(answer.groups[0][5])

    async def set_topic(self, settings: dict[str, str]) -> None:
        """Replaces the topic's settings, all of them."""
        resource = ConfigResource(ConfigResourceType.TOPIC, self.topic, settings)
        await self._ask(lambda admin: admin.alter_configs([resource]))

    async def delete_group(self) -> None:
        """Deletes the group with all its offsets. It must have no members."""

        async def delete(admin: AIOKafkaAdminClient) -> Any:
            answer = await admin._send_request(DeleteGroupsRequest([self.group]), await admin.find_coordinator(self.group))
            [(_, code)] = answer.results
            if code:
                raise KafkaError(f"deleting group {self.group}: {code}")

        await self._ask(delete)

    async def move_group(self, offsets: dict[int, int]) -> None:
        """Commits these offsets for the group, partition by partition. It must have no members."""

        async def move(admin: AIOKafkaAdminClient) -> Any:
            topics = [(self.topic, [(partition, offset, "") for partition, offset in offsets.items()])]
            request = OffsetCommitRequest(self.group, _NO_GENERATION, "", _KEPT, topics)
            answer = await admin._send_request(request, await admin.find_coordinator(self.group))
            codes = {code for _, partitions in answer.topics for _, code in partitions}
            if codes != {0}:
                raise KafkaError(f"moving group {self.group}: {codes}")

        await self._ask(move)

    @asynccontextmanager
    async def stranger(self, packed: bool) -> AsyncIterator[Put]:
        """A producer that knows nothing of us: what it yields writes one record. `packed` compresses. Raises KafkaError."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, acks="all", request_timeout_ms=_ASK_MILLIS, compression_type="gzip" if packed else None
        )

        async def put(partition: int, value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes]]) -> None:
            async with asyncio.timeout(_PUT_SECONDS):
                await producer.send_and_wait(self.topic, value, key, partition, headers=headers)

        with _own_cancellations_only():
            try:
                await producer.start()
                yield put
            finally:
                await producer.stop()

    async def ends(self) -> dict[int, int]:
        """The next offset of each partition."""
        async with self._reading() as (consumer, partitions):
            return {partition.partition: end for partition, end in (await consumer.end_offsets(partitions)).items()}

    async def records(self) -> list[Any]:
        """Every record of the topic, from first to last, as an auditor reads them."""
        async with self._reading() as (consumer, partitions):
            ends = await consumer.end_offsets(partitions)
            found: list[Any] = []
            left = set(partitions)
            while left:
                for partition, records in (await consumer.getmany(timeout_ms=1_000)).items():
                    found += [record for record in records if record.offset < ends[partition]]
                left = {partition for partition in left if await consumer.position(partition) < ends[partition]}
            return found

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[tuple[AIOKafkaConsumer, list[TopicPartition]]]:
        """A consumer of no group, at the beginning of every partition."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            request_timeout_ms=_ASK_MILLIS,
            max_partition_fetch_bytes=_FETCH_BYTES,
            fetch_max_bytes=_FETCH_BYTES,
        )
        try:
            await consumer.start()
            [described] = await self._ask(lambda admin: admin.describe_topics([self.topic]))
            partitions = [TopicPartition(self.topic, partition["partition"]) for partition in described["partitions"]]
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            yield consumer, partitions
        finally:
            await consumer.stop()

    async def _ask(self, act: Callable[[AIOKafkaAdminClient], Awaitable[Any]]) -> Any:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return await self._asked(act)
            except (KafkaError, OSError, TimeoutError):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _asked(self, act: Callable[[AIOKafkaAdminClient], Awaitable[Any]]) -> Any:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=_ASK_MILLIS)
        with _own_cancellations_only():
            try:
                async with asyncio.timeout(_ASK_MILLIS / 1_000):
                    await admin.start()
                    return await act(admin)
            finally:
                await admin.close()


@contextmanager
def _own_cancellations_only() -> Iterator[None]:
    """The library lets the cancellations of its own tasks out when a broker dies: whoever waits for it is not to end by them."""
    try:
        yield
    except asyncio.CancelledError as cancelled:
        if (task := asyncio.current_task()) is None or not task.cancelling():
            raise KafkaError("the client gave up") from cancelled
        raise

"""What somebody else writes into the log's topic: it harms nobody, nothing of it is lost, and it is told from what is ours."""

from __future__ import annotations

import asyncio
import dataclasses
import struct
from typing import Any

import pytest
import zstandard
from aiokafka import AIOKafkaProducer
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from cells.eventlog import codec
from cells.eventlog.kafka_start import settings
from cells.eventlog.log import Entry
from cells.eventlog.topics import STRANGERS_TIMES
from cells.processing.partition import PartitionLoop, Wiring
from cells.storage.memory import MemoryStore
from kernel import limits
from kernel.clock import DAY
from kernel.epoch import FIRST_EPOCH, Claim, Epoch, Ownership
from kernel.errors import Failure, Reason
from kernel.ids import UNREADABLE
from kernel.metrics import MemoryMeter
from tests.faults.foreign import VARIANTS, Foreign
from tests.integration.test_kafka_log import Room, room
from tests.support.records import CELL, TENANT, envelope, record

__all__ = ["room"]

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(60)]
# Ours by their headers: what is wrong is their bodies, which processing finds out.
OURS = {"a garbage body", "a body of a newer format", "an empty body", "fewer events than its header says"}
_ATTRIBUTES_AT, _COUNT_AT, _RECORDS_AT = 21, 57, 61
_ZSTD = 4
_INVALID_TIMESTAMP = 32


async def put(room: Room, foreign: Foreign) -> None:
    """Written by a producer that knows nothing of us."""
    access = room.log._brokers.login.access
    producer = AIOKafkaProducer(bootstrap_servers=access.bootstrap, compression_type="gzip" if foreign.packed else None)
    await producer.start()
    await producer.send_and_wait(access.topic, foreign.value, foreign.key, 0, headers=foreign.headers)
    await producer.stop()


async def put_batch(room: Room, data: bytes) -> None:
    """Written as it is."""
    answer = await room.ask_leader(ProduceRequest(None, -1, 3_000, [(room.log._brokers.topic, [(0, data)])]))
    assert [code for _, parts in answer.topics for _, code, *_ in parts] == [0]


async def everything(room: Room) -> list[Entry]:
    """Partition 0 from its beginning, as a reader goes on: fetch after fetch, where the last one ended."""
    found: list[Entry] = []
    while entries := await room.log.fetch(0, found[-1].offset + 1 if found else 0, 2, 1 << 20, 0.0):
        found += entries
    return found


def said(entry: Entry) -> str:
    """Why a body does not decode."""
    with pytest.raises(codec.Undecodable) as caught:
        codec.decode(entry.record.body)
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(VARIANTS.keys() - OURS))
async def test_a_foreign_record_stands_in_nobodys_way(room: Room, name: str) -> None:
    """Law: what stands before it and behind it is read; it is itself one event of nobody, whole, and says why it cannot be read."""
    foreign = VARIANTS[name](TENANT.encode())
    assert await room.append("before") is None
    await put(room, foreign)
    assert await room.append("behind") is None
    before, strange, behind = await everything(room)
    assert [entry.record.body for entry in (before, behind)] == [b"before", b"behind"]
    assert (strange.record.tenant, strange.record.events, strange.offset) == (UNREADABLE, 1, 1)
    assert said(strange)
    assert (foreign.value or b"") in strange.record.body
    assert (foreign.key or b"") in strange.record.body
    assert all(data in strange.record.body for _, data in foreign.headers)


def built(*records: tuple[str, bytes]) -> bytearray:
    """A batch of records with a header each: (its name, the value)."""
    builder: Any = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for number, (name, value) in enumerate(records):
        builder.append(number, 1_790_000_000_000, b"key", value, [(name, b"")])
    return bytearray(builder.build())


def sealed(batch: bytearray) -> bytes:
    """With the length and the sum that fit its bytes now."""
    struct.pack_into(">i", batch, 8, len(batch) - 12)
    struct.pack_into(">I", batch, 17, calc_crc32c(bytes(batch[_ATTRIBUTES_AT:])))
    return bytes(batch)


async def test_a_batch_that_the_format_does_not_explain_is_one_event_of_nobody(room: Room) -> None:
    """Law: a header's name that is no text, which brokers take, ends nothing: the records before it are read one by one, it and what
    follows it in its batch are kept as they are, and the reader goes on behind the batch."""
    assert await room.append("before") is None
    batch = built(("good", b"one"), ("broken", b"two"), ("good", b"three"))
    at = batch.index(b"broken")
    batch[at : at + 2] = b"\xff\xfe"
    await put_batch(room, sealed(batch))
    assert await room.append("behind") is None
    found = await everything(room)
    assert [(entry.offset, entry.record.tenant) for entry in found] == [(0, TENANT), (1, UNREADABLE), (3, UNREADABLE), (4, TENANT)]
    assert "a whole batch" in said(found[2])
    assert b"two" in found[2].record.body
    assert b"three" in found[2].record.body


async def test_a_time_far_ahead_is_not_taken_by_the_broker(room: Room) -> None:
    """Law: in a topic of ours no stranger's record is so late that every trim stops before it."""
    builder: Any = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    builder.append(0, (room.clock.now() + 2 * DAY) // 1_000, b"key", b"value", [])
    answer = await room.ask_leader(ProduceRequest(None, -1, 3_000, [(room.log._brokers.topic, [(0, bytes(builder.build()))])]))
    assert [code for _, parts in answer.topics for _, code, *_ in parts] == [_INVALID_TIMESTAMP]
    standing = await settings(room.log._brokers, room.log._brokers.view)
    assert STRANGERS_TIMES.items() <= standing.settings.items()


async def test_a_batch_that_is_packed_in_a_way_that_we_do_not_know_is_unpacked_by_the_broker(room: Room) -> None:
    """Law: whatever a stranger compresses with, the reader is never given what it cannot open."""
    assert await room.append("before") is None
    batch = built(("x", b"one"), ("x", b"two"))
    batch[_RECORDS_AT:] = zstandard.compress(bytes(batch[_RECORDS_AT:]))
    struct.pack_into(">h", batch, _ATTRIBUTES_AT, _ZSTD)
    await put_batch(room, sealed(batch))
    assert await room.append("behind") is None
    found = await everything(room)
    assert [(entry.offset, entry.record.tenant) for entry in found] == [(0, TENANT), (1, UNREADABLE), (2, UNREADABLE), (3, TENANT)]
    assert [b"one" in found[1].record.body, b"two" in found[2].record.body] == [True, True]


async def test_every_foreign_record_is_a_dead_letter_and_the_events_around_it_are_stored(room: Room) -> None:
    """Law: processing never stops at one; the ledger counts each as what its header says, or as one event of nobody."""
    clock, store = room.clock, MemoryStore(room.clock, MemoryMeter())
    claim = Claim(CELL, {TENANT: Epoch(1), UNREADABLE: FIRST_EPOCH})
    await store.own([Ownership(TENANT, Epoch(1), "owner"), Ownership(UNREADABLE, FIRST_EPOCH, "owner")], [])
    for name, variant in sorted(VARIANTS.items()):
        await put(room, variant(TENANT.encode()))
        await room.log.append(0, record(envelope(name)), clock.monotonic() + 5)

    async def nothing() -> None:
        return

    loop, position = PartitionLoop(Wiring(room.log, store, lambda: claim, nothing, clock, MemoryMeter()), 0), 0
    async with asyncio.timeout(20):
        while position < 2 * len(VARIANTS):
            position = await loop.step(position)
    lines = {row.tenant: (row.stored, row.quarantined, row.held) for row in await store.ledger() if row.quarantined}
    assert lines[UNREADABLE] == (0, len(VARIANTS) - len(OURS), 0)
    assert sum(row.stored for row in await store.ledger()) == len(VARIANTS)
    assert sum(row.quarantined for row in await store.ledger()) == len(VARIANTS) - len(OURS) + 2 + 3 + 1 + 2


async def test_more_events_than_a_record_may_hold_are_not_appended(room: Room) -> None:
    """Law: the log takes nothing that its readers would not take for ours."""
    too_many = record(envelope("x"))
    with pytest.raises(Failure) as caught:
        await room.log.append(0, dataclasses.replace(too_many, events=limits.RECORD_EVENTS_MAX + 1), room.clock.monotonic() + 5)
    assert caught.value.reason is Reason.RECORD_TOO_LARGE

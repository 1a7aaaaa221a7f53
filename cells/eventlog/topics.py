"""What the log's Kafka topic must be: what it is made with, and what is wrong with one that exists.

Kafka deletes nothing by itself (`retention.ms` and `retention.bytes` are -1): it does not know what the store has applied, so the cell
trims. Records keep the appender's time (`CreateTime`), the same clock as on every other adapter, and are stored uncompressed, for bodies
are compressed already. No replica that misses records may ever lead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cells.eventlog.headers import OVERHEAD_BYTES_MAX
from kernel.clock import DAY
from kernel.limits import KIB, RECORD_BYTES_MAX

MESSAGE_BYTES_MAX: Final = RECORD_BYTES_MAX + OVERHEAD_BYTES_MAX
# A trim gives whole segments back to the disk: small ones are given back sooner.
SEGMENT_BYTES: Final = 128 * KIB * KIB
SEGMENT_MILLIS: Final = DAY // 1_000
# How far ahead of the broker's clock a record's time may be: one far ahead, which only a stranger writes, would stop every trim before it.
STRANGERS_TIMES: Final = {"message.timestamp.after.max.ms": str(DAY // 1_000)}
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
# Settings without which acknowledged records are lost, with what happens when they differ.
_VITAL: Final[dict[str, tuple[str, str]]] = {
    "cleanup.policy": ("delete", "compaction would drop records, and trimming would be refused"),
    "retention.ms": ("-1", "Kafka would drop records that are not applied"),
    "retention.bytes": ("-1", "Kafka would drop records that are not applied"),
    "message.timestamp.type": ("CreateTime", "times would be the broker's"),
    "unclean.leader.election.enable": ("false", "a replica that misses records could lead"),
}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it should be: `replication` copies of each record, of which `min_in_sync` are written before it is acknowledged."""

    name: str
    partitions: int
    replication: int
    min_in_sync: int

    def settings(self) -> dict[str, str]:
        """What the topic is created with, in Kafka's words."""
        # A single copy is durable when the disk has it; several are when several machines have it.
        flush = {"flush.messages": "1"} if self.replication == 1 else {}
        return {
            **{name: value for name, (value, _) in _VITAL.items()},
            **flush,
            "min.insync.replicas": str(self.min_in_sync),
            "max.message.bytes": str(MESSAGE_BYTES_MAX),
            # Ours are sent as they are; a stranger's packed batch, in a format that we may not know, is unpacked by the broker.
            "compression.type": "uncompressed",
            "segment.bytes": str(SEGMENT_BYTES),
            "segment.ms": str(SEGMENT_MILLIS),
        }


@dataclass(frozen=True, slots=True)
class Standing:
    """A topic as it is. `replication` is its least replicated partition's; `settings` are Kafka's names and values."""

    partitions: int
    replication: int
    settings: Mapping[str, str]

    @property
    def min_in_sync(self) -> int:
        """How many copies an acknowledged record has at least."""
        return int(self.settings.get("min.insync.replicas", "1"))


def impossible(topic: Topic) -> list[str]:
    """Why no such topic can be made; empty when it can."""
    found = []
    if not _NAME.fullmatch(topic.name) or topic.name in (".", ".."):
        found.append(f"'{topic.name}' is no name of a topic: 1 to 249 letters, digits, dots, hyphens and underscores")
    if topic.partitions < 1:
        found.append(f"{topic.partitions} partitions are none")
    if not 1 <= topic.min_in_sync <= topic.replication:
        found.append(f"{topic.min_in_sync} copies in sync of {topic.replication} cannot be")
    return found


def differences(topic: Topic, standing: Standing) -> list[str]:
    """Where an existing topic falls short of what is wanted, dangers included; empty when it may stay as it is."""
    found = []
    if standing.partitions != topic.partitions:
        found.append(
            f"it has {standing.partitions} partitions, not {topic.partitions}: tenants are spread by that number, it never changes"
        )
    if standing.replication < topic.replication:
        found.append(f"it keeps {standing.replication} copies, not {topic.replication}")
    if standing.min_in_sync < topic.min_in_sync:
        found.append(f"min.insync.replicas is {standing.min_in_sync}, not {topic.min_in_sync}")
    return found + dangers(standing)


def dangers(standing: Standing) -> list[str]:
    """Why a cell must not use the topic: acknowledged records could be lost, or records that it may append would be refused."""
    found = []
    for name, (wanted, why) in _VITAL.items():
        if (value := standing.settings.get(name)) != wanted:
            found.append(f"{name} is {value}, not {wanted}: {why}")
    if (size := int(standing.settings.get("max.message.bytes", "0"))) < MESSAGE_BYTES_MAX:
        found.append(f"max.message.bytes is {size}, not {MESSAGE_BYTES_MAX}: the largest batches would be refused")
    if standing.replication > 1 and standing.min_in_sync < 2:
        found.append("min.insync.replicas is 1: one lost disk would lose acknowledged records")
    if standing.replication == 1 and (flush := standing.settings.get("flush.messages")) != "1":
        found.append(f"flush.messages is {flush}, not 1: of one copy, what is acknowledged must be on the disk, not only in memory")
    return found

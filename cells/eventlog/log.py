"""The event log as a port. This docstring is its specification; `tests/contracts/test_log.py` runs it on every adapter.

**Append.** `append` returns the record's offset after the record is durable, never before. Offsets of a partition start at 0 and
grow; a reader never sees an offset before every smaller one that will ever be visible (no holes appear behind a reader). A
failed or timed-out append may nevertheless have become durable: message ids make that harmless. Records of one caller that
awaits each append keep their order. When the log's byte bound is reached, or its queue is full, append raises
Failure(LOG_FULL or LOG_UNAVAILABLE) at once and nothing is stored.

**Fetch.** `fetch` returns the records from an offset on, in order, bounded in records and bytes (the first one is always
returned, however large), waiting up to `wait_seconds` for one to arrive. An offset below the first retained one raises
Failure(OFFSET_OUT_OF_RANGE).

**Positions.** The log knows no consumer positions: the only authoritative position lives in the store and is advanced in the
apply transaction. So there is no commit, and two consumers that read the same partition are harmless.

**Groups.** `join` makes the caller a member of a consumer group. Partitions are shared out among the living members, each to
at most one of them most of the time; while members come and go, two may briefly hold the same partition, which the store's
compare-and-set makes harmless. A member that dies without leaving loses its partitions.

**Retention.** `trim` drops whole segments whose every record was appended before a moment. It never looks at positions: the
caller asks the store first.

**Time.** `offset_at` turns a moment into an offset, for replays. Times are the appender's clock's: where several appenders' clocks
differ, the first record that is late enough counts, whatever stands behind it.

Known differences: `memory` is not durable beyond its process; `postgres` signals new records inside one process at once and to
others by polling; `kafka` is durable on several machines' memory rather than on one's disk (with a single replica on its disk),
knows times to the millisecond, holds an append until its deadline while no broker takes it instead of failing at once, trims to
the last midnight rather than by segment and counts partitions, gives disk back minutes after a trim, finds a dead member out
after some seconds of silence, and gives what somebody else wrote into its topic as a record of UNREADABLE whose body does not
decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

from kernel.clock import Micros
from kernel.epoch import Epoch
from kernel.ids import CellId, SourceId, TenantId


@dataclass(frozen=True, slots=True)
class Record:
    """A compressed batch of envelopes of one tenant. `events` counts them: the left side of the ledger reads it, not the body.

    `trace` is a W3C traceparent, or empty. `body` is made and read by `codec`.
    """

    tenant: TenantId
    source: SourceId
    cell: CellId
    epoch: Epoch
    received_at: Micros
    events: int
    trace: str
    body: bytes


class Entry(NamedTuple):
    """A record where it stands."""

    offset: int
    appended_at: Micros
    record: Record


class Bounds(NamedTuple):
    """Of a partition: `first` is the oldest retained offset, `next` the one that the next append gets."""

    first: int
    next: int


class Membership(Protocol):
    """One member's place in a consumer group."""

    async def assignment(self) -> frozenset[int]:
        """The partitions that this member should read now; asks anew at each call."""
        ...

    async def leave(self) -> None:
        """Gives its partitions back. Idempotent."""
        ...


class EventLog(Protocol):
    """See the module's docstring."""

    @property
    def partitions(self) -> int:
        """The number of partitions, fixed for the log's life."""
        ...

    async def append(self, partition: int, record: Record, deadline: float) -> int:
        """The record's offset, once durable. `deadline` is on the monotonic clock; past it Failure(LOG_UNAVAILABLE)."""
        ...

    async def append_all(self, partition: int, records: Sequence[Record], deadline: float) -> int:
        """As `append`, of several at once, at most APPEND_GROUP_RECORDS_MAX and, but for a lone one, FETCH_BYTES_MAX of bodies: the offset
        of the first, with the others behind it. All of them become durable or none does."""
        ...

    async def fetch(self, partition: int, offset: int, records_max: int, bytes_max: int, wait_seconds: float) -> list[Entry]:
        """Records from `offset` on; empty when none came in time."""
        ...

    async def offset_at(self, partition: int, at: Micros) -> int:
        """The first offset whose record was appended at `at` or later; the next offset when there is none."""
        ...

    async def bounds(self) -> dict[int, Bounds]:
        """The bounds of every partition."""
        ...

    async def size_bytes(self) -> int:
        """What the log takes on disk, give or take a segment."""
        ...

    async def trim(self, before: Micros) -> int:
        """Drops old segments; returns how many."""
        ...

    async def join(self, group: str, member: str) -> Membership:
        """Makes the caller a member."""
        ...

    async def close(self) -> None:
        """Appends in flight end durable or failed; then everything is released. Idempotent."""
        ...


def partition_of(tenant: TenantId, user: str, spread: int, partitions: int) -> int:
    """(h(tenant) + h(user) mod spread(tenant)) mod P: a small tenant stays in one partition, so that one request is one record."""
    offset = _hash(user) % spread if spread > 1 else 0
    return (_hash(tenant) + offset) % partitions


@lru_cache(maxsize=10_000)
def _hash(text: str) -> int:
    """FNV-1a, 64 bits: stable over processes and versions, which Python's own hash is not."""
    value = 0xCBF29CE484222325
    for byte in text.encode("utf-8", "surrogatepass"):
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value

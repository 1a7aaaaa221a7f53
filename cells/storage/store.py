"""The store as a port. This docstring is its specification; `tests/contracts/test_store.py` runs it on every adapter.

**Apply** is one transaction: rows and their records, dedup, identities, traits, dead letters, held records, ledger and the consumer's
position.
In this order it checks (1) the position: unless it equals `expected`, the answer is Duplicate(position) and nothing changes;
(2) the claim: every tenant of `effects.tenants` needs an ownership row that `kernel.epoch.door_two` accepts, else the answer
is Fenced(tenants) and nothing changes. Then it stores. The position moves to `next` in the same transaction, always.

**Dedup.** A row is new unless (rule 1) its message key was stored with the same received day, or (rule 2) with a received day at
most SEEN_WINDOW_DAYS before or after its own (after: partitions and merged tails are applied out of order); also within one apply
the first occurrence wins. Applies at the same time end as some order of them would, whatever their days, while the clocks of those who
apply differ by less than half a minute. A duplicate with another content hash than the first write's is counted as a conflict. Rows
received before the window has begun - SEEN_WINDOW_DAYS before today - obey rule 1 alone.

**Records.** An event's text stays in the body of the log record that it came in, which is kept as the log had it while any of its
events is stored. A record is known by its partition, offset and received day: the same one again is the same, another one in its
place means that the log was replaced under the store, which is Failure(LOG_REPLACED) and changes nothing.

**Ledger.** Per tenant and received hour, in the same transaction: stored, duplicate, quarantined, held. For every apply and
tenant-hour, their sum grows by exactly `effects.accepted`, less what another cell accepted (`effects.elsewhere`): each cell accounts for
what it accepted itself, whoever else keeps it. Effects that hold what the store can never keep (text with a NUL, a
number of more than 64 bits, a time beyond the calendar) are refused with Unkeepable; those that do not add up or do not move the
position forward with ValueError: a defect, for which nothing may be given up. Then nothing changes.

**Identities and traits** merge commutatively: any order and any repetition of the same claims leads to the same profiles.
Trait values are last-writer-wins by (at, message_id), ties by value. A component of the identity graph is bounded by
IDENTITY_NODES_MAX; a claim beyond it is dropped and counted, and there alone the order matters.

**Replicas.** How far another cell's log is kept in this cell's is a position too, per cell and partition: advanced by compare-and-set, and
only to where it was not.

**Ownership** only grows: `own` with a smaller epoch than the stored one changes nothing for that tenant; with the same epoch
nobody becomes the `owner`: `standby` and `released` may turn into one another, and `owner` into either. A dedicated tenant's rows live
in a schema of its own, unless rows of it were stored before it was dedicated: then it stays where it is.

**Reads** take one tenant and see nothing else, whatever they ask; a tenant that the store does not know reads as empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal, Protocol

from cells.eventlog.envelope import Envelope
from kernel.clock import Micros
from kernel.effects import Apply, EventRow, Outcome, RecordRow
from kernel.epoch import Ownership
from kernel.ids import CellId, TenantId


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events; None does not filter. `since` <= event_at < `until`."""

    since: Micros
    until: Micros
    type: str | None = None
    name: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended: the key (event_at, message_key, received_day) of its last event. The day, since a repeat after the window is
    stored beside the first write."""

    event_at: Micros
    message_key: bytes
    received_day: date


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as it is read: its row, its record (without the body: `b""`), and its envelope, which the body holds. `stored_at` is
    when the record's first event became queryable."""

    row: EventRow
    record: RecordRow
    envelope: Envelope
    stored_at: Micros


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of events, and whether there are more behind its last one."""

    events: list[Stored]
    more: bool


@dataclass(frozen=True, slots=True)
class Profile:
    """One person. `traits` maps a name to JSON text."""

    user_ids: tuple[str, ...]
    anonymous_ids: tuple[str, ...]
    traits: dict[str, str]


@dataclass(frozen=True, slots=True)
class Traced:
    """Where a message id is. `why` is the reason of a dead letter. A store never says `log`: that is what the query API makes of
    `unknown` after a look into the log."""

    place: Literal["stored", "dead_letter", "held", "log", "unknown"]
    why: str = ""
    partition: int = 0
    offset: int = 0
    ordinal: int = 0
    stored: Stored | None = None


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """The right side of the ledger for one tenant and received hour."""

    tenant: TenantId
    hour: Micros
    stored: int
    duplicate: int
    quarantined: int
    held: int


class Store(Protocol):
    """What processing needs: see the module's docstring."""

    async def positions(self) -> dict[int, int]:
        """The next offset to apply of each partition that was ever applied; others start at 0."""
        ...

    async def apply(self, apply: Apply, deadline: float) -> Outcome:
        """Applies. `deadline` is on the monotonic clock. Raises Failure(STORE_UNAVAILABLE); then nothing was applied, or all
        of it was (the answer was lost), and the position tells which."""
        ...

    async def replicated(self, origin: CellId) -> dict[int, int]:
        """Up to where the log of `origin` is kept in this cell's: the next offset of each partition; others start at 0."""
        ...

    async def replicate(self, origin: CellId, partition: int, expected: int, following: int) -> bool:
        """Moves such a position from `expected` to `following`; False when it is another by now. ValueError: it would not move forward."""
        ...

    async def own(self, ownerships: Sequence[Ownership], dedicated: Sequence[TenantId]) -> None:
        """Records what the directory says of this cell's tenants; makes the schemas of `dedicated` ones."""
        ...

    async def ledger(self) -> list[LedgerRow]:
        """Every tenant-hour."""
        ...


class Reader(Protocol):
    """What the query API needs: see the module's docstring. Each raises Failure(STORE_UNAVAILABLE)."""

    async def list_events(self, tenant: TenantId, which: Filter, page_size: int, after: Cursor | None) -> Listed:
        """Newest first by (event_at, message_key, received_day), at most `page_size`, strictly older than `after`. Fewer, but one at least,
        when the bodies that they stand in come to READ_BYTES_MAX."""
        ...

    async def get_event(self, tenant: TenantId, message_id: str) -> Stored | None:
        """The event, or None."""
        ...

    async def count_events(self, tenant: TenantId, which: Filter, bucket_seconds: int) -> list[tuple[Micros, int]]:
        """(start of bucket, events), in time order, empty ones left out. Buckets start at multiples since 1970."""
        ...

    async def profile(self, tenant: TenantId, node: str) -> Profile | None:
        """The profile that the identity node belongs to, or None when nobody mentioned it."""
        ...

    async def trace(self, tenant: TenantId, message_id: str) -> Traced:
        """Where the message id is."""
        ...

"""A part of a tenant as bytes, and the cursor that says what was given before it: MessagePack arrays, version 1.

New fields are appended at the end with a default, so that a newer cell reads an older one's parts. Pure.
"""

from __future__ import annotations

from datetime import date
from typing import Final, NamedTuple

import msgspec

from kernel.clock import Micros
from kernel.effects import EventRow, RecordRow, TraitClaim
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId

VERSION: Final = 1
# Where a record, a dead letter or a held record lies: a partition of the log, or a place below zero (cells.storage.convert), and offset.
Key = tuple[int, int]
BEGINNING: Final[Key] = (-(2**31), -1)


class Cursor(msgspec.Struct, array_like=True, frozen=True):
    """What whoever takes a copy has. In this order a tenant is given: who and what people are; `history`, what lies below zero, behind
    this key; then what lies in the log's partitions, `given` being the next offset of each; and whenever that is all, what has changed
    of people since the marker `since`. None: all of it was given. `people` is (stage, node, trait) while people are given; `mark` is the
    marker when they began to be; `settled` is what was given of the log when they were given last.
    """

    people: tuple[int, str, str] | None
    history: Key | None
    since: int
    mark: int
    given: dict[int, int]
    settled: dict[int, int] | None

    @property
    def past(self) -> bool:
        """Whether all that does not lie in the log's partitions was given."""
        return self.history is None and (self.people is None or self.people[0] > 1)


class KeptRecord(NamedTuple):
    """A record, and when its first event became queryable."""

    record: RecordRow
    stored_at: Micros


class KeptLetter(NamedTuple):
    """A dead letter where it lies."""

    partition: int
    offset: int
    ordinal: int
    received_at: Micros
    message_id: str
    reason: str
    detail: str
    payload: bytes
    stored_at: Micros

    @property
    def key(self) -> Key:
        """Where it lies."""
        return self.partition, self.offset


class KeptHeld(NamedTuple):
    """A held record where it lies."""

    partition: int
    offset: int
    received_at: Micros
    events: int
    record: bytes
    stored_at: Micros

    @property
    def key(self) -> Key:
        """Where it lies."""
        return self.partition, self.offset


class LedgerLine(NamedTuple):
    """The right side of a cell's ledger for one received hour of the tenant."""

    cell: CellId
    hour: Micros
    stored: int
    duplicate: int
    quarantined: int
    held: int


class Chunk(msgspec.Struct, array_like=True, frozen=True):
    """A part. Rows lead into its records alone. `ledger` is the tenant's whole ledger when it is there."""

    version: int
    tenant: TenantId
    epoch: Epoch
    records: list[KeptRecord]
    rows: list[EventRow]
    nodes: list[tuple[str, str]]
    traits: list[TraitClaim]
    letters: list[KeptLetter]
    held: list[KeptHeld]
    ledger: list[LedgerLine]

    @property
    def keys(self) -> list[Key]:
        """Where everything lies, in order."""
        records = {(kept.record.partition, kept.record.offset) for kept in self.records}
        return sorted(records | {one.key for one in self.letters} | {one.key for one in self.held})

    @property
    def days(self) -> set[date]:
        """The received days of its rows."""
        return {kept.record.received_day for kept in self.records}


_chunks = msgspec.msgpack.Decoder(Chunk)
_cursors = msgspec.msgpack.Decoder(Cursor)
_encoder = msgspec.msgpack.Encoder()


def encode(part: Chunk | Cursor) -> bytes:
    """The bytes."""
    return _encoder.encode(part)


def decode(data: bytes) -> Chunk:
    """The inverse. Raises Failure(INVALID_FIELD)."""
    try:
        chunk = _chunks.decode(data)
    except msgspec.MsgspecError as error:
        raise Failure(Reason.INVALID_FIELD, "chunk: it cannot be read") from error
    if chunk.version != VERSION:
        raise Failure(Reason.INVALID_FIELD, f"chunk: version {chunk.version}, this is {VERSION}")
    keys = {(kept.record.partition, kept.record.offset, kept.record.received_day) for kept in chunk.records}
    owners = {kept.record.tenant for kept in chunk.records} | {trait.tenant for trait in chunk.traits} | {row.tenant for row in chunk.rows}
    if not owners <= {chunk.tenant}:
        raise Failure(Reason.INVALID_FIELD, "chunk: something of another tenant is in it")
    if any((row.partition, row.offset, row.received_day) not in keys for row in chunk.rows):
        raise Failure(Reason.INVALID_FIELD, "chunk: a row without its record is in it")
    return chunk


def decode_cursor(data: bytes) -> Cursor | None:
    """The inverse; None for no bytes. Raises Failure(INVALID_FIELD)."""
    if not data:
        return None
    try:
        return _cursors.decode(data)
    except msgspec.MsgspecError as error:
        raise Failure(Reason.INVALID_FIELD, "cursor: it cannot be read") from error

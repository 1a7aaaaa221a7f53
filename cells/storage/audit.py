"""The audit chain: who read what, tamper-evident. Pure.

Each entry's hash covers its own fields and the hash before it, so that an edited, removed, inserted or reordered entry breaks
the chain at its place. A cut tail does not break it: that is found by comparing with a head (sequence number and hash) printed
earlier and kept elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import msgspec

from kernel.clock import Micros

GENESIS: Final = bytes(32)


class Reading(NamedTuple):
    """One access, not yet in the chain. `question` is canonical JSON of what was asked."""

    at: Micros
    actor: str
    tenant: str
    action: str
    question: str


class Entry(NamedTuple):
    """A link. `seq` counts from 1 without gaps."""

    seq: int
    at: Micros
    actor: str
    tenant: str
    action: str
    question: str
    prev_hash: bytes
    hash: bytes


class Head(NamedTuple):
    """The end of a chain; keep it elsewhere to find a cut tail later."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`broken_at` is the sequence number at which the chain stops making sense, None when it is whole up to `head`."""

    head: Head
    broken_at: int | None = None
    problem: str = ""


BEGINNING: Final = Head(0, GENESIS)


class AuditTrail(Protocol):
    """Where chains are kept."""

    async def head(self, chain: str) -> Head:
        """The end of the chain; BEGINNING when there is none."""
        ...

    async def append(self, chain: str, entries: Sequence[Entry]) -> bool:
        """Adds entries, durably and all or none; False when another writer of the chain was there first.

        Raises Failure(STORE_UNAVAILABLE); then the entries may nevertheless be there.
        """
        ...

    async def read(self, chain: str, after: int, entries_max: int) -> list[Entry]:
        """Entries with greater sequence numbers, in order."""
        ...


def digest(seq: int, reading: Reading, prev_hash: bytes) -> bytes:
    """SHA-256 over the canonical encoding: MessagePack of the fields in order, which no two different entries share."""
    return hashlib.sha256(msgspec.msgpack.encode([seq, *reading, prev_hash])).digest()


def link(head: Head, readings: Iterable[Reading]) -> list[Entry]:
    """The entries that continue a chain that ends in `head`."""
    entries: list[Entry] = []
    for reading in readings:
        seq = head.seq + 1
        hashed = digest(seq, reading, head.hash)
        entries.append(Entry(seq, *reading, head.hash, hashed))
        head = Head(seq, hashed)
    return entries


def verify(entries: Iterable[Entry], start: Head = BEGINNING, printed: Sequence[Head] = ()) -> Verdict:
    """Checks a stretch that follows `start`; each head of `printed` within or beyond it must be met."""
    head = start
    owed = {known.seq: known.hash for known in printed if known.seq > start.seq}
    for entry in entries:
        if entry.seq != head.seq + 1:
            return Verdict(head, head.seq + 1, f"entry {head.seq + 1} is missing, {entry.seq} stands there")
        if entry.prev_hash != head.hash:
            return Verdict(head, entry.seq, "does not follow the entry before it")
        if entry.hash != digest(entry.seq, Reading(*entry[1:6]), entry.prev_hash):
            return Verdict(head, entry.seq, "was changed")
        if owed.pop(entry.seq, entry.hash) != entry.hash:
            return Verdict(head, entry.seq, "differs from a head printed earlier")
        head = Head(entry.seq, entry.hash)
    if owed:
        return Verdict(head, head.seq + 1, f"the tail is cut: a head printed earlier stands at {max(owed)}")
    return Verdict(head)

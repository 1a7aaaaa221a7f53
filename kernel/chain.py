"""A chain of entries, tamper-evident. Pure.

Each entry's hash covers its own fields and the hash before it, so that an edited, removed, inserted or reordered entry breaks
the chain at its place. A cut tail does not break it: that is found by comparing with a head (sequence number and hash) printed
earlier and kept elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

_FIELDS_MAX: Final = 15
GENESIS: Final = bytes(32)
Fields = TypeVar("Fields", bound=tuple[Any, ...])


class Head(NamedTuple):
    """The end of a chain; keep it elsewhere to find a cut tail later."""

    seq: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


BEGINNING: Final = Head(0, GENESIS)


@dataclass(frozen=True, slots=True)
class Link(Generic[Fields]):
    """An entry. `seq` counts from 1 without gaps."""

    seq: int
    fields: Fields
    prev_hash: bytes
    hash: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """`broken_at` is the sequence number at which the chain stops making sense, None when it is whole up to `head`."""

    head: Head
    broken_at: int | None = None
    problem: str = ""


def digest(seq: int, fields: tuple[Any, ...], prev_hash: bytes) -> bytes:
    """SHA-256 over the canonical encoding: MessagePack of the fields in order, which no two different entries share."""
    entry = (seq, *fields, prev_hash)
    if len(entry) > _FIELDS_MAX:
        raise ValueError(f"an entry of {len(entry)} fields")
    return hashlib.sha256(bytes((0x90 | len(entry),)) + b"".join(map(_packed, entry))).digest()


def link(head: Head, entries: Iterable[Fields]) -> list[Link[Fields]]:
    """The entries that continue a chain that ends in `head`."""
    links: list[Link[Fields]] = []
    for fields in entries:
        seq = head.seq + 1
        links.append(Link(seq, fields, head.hash, digest(seq, fields, head.hash)))
        head = Head(seq, links[-1].hash)
    return links


def verify(links: Iterable[Link[Any]], start: Head = BEGINNING, printed: Sequence[Head] = ()) -> Verdict:
    """Checks a stretch that follows `start`; each head of `printed` within or beyond it must be met."""
    head = start
    owed = {known.seq: known.hash for known in printed if known.seq > start.seq}
    for entry in links:
        if entry.seq != head.seq + 1:
            return Verdict(head, head.seq + 1, f"entry {head.seq + 1} is missing, {entry.seq} stands there")
        if entry.prev_hash != head.hash:
            return Verdict(head, entry.seq, "does not follow the entry before it")
        if entry.hash != digest(entry.seq, entry.fields, entry.prev_hash):
            return Verdict(head, entry.seq, "was changed")
        if owed.pop(entry.seq, entry.hash) != entry.hash:
            return Verdict(head, entry.seq, "differs from a head printed earlier")
        head = Head(entry.seq, entry.hash)
    if owed:
        return Verdict(head, head.seq + 1, f"the tail is cut: a head printed earlier stands at {max(owed)}")
    return Verdict(head)


def _packed(value: int | str | bytes) -> bytes:
    """A field in MessagePack, the shortest form of each: written here, since the kernel has no libraries. Numbers are not negative."""
    if isinstance(value, int):
        if not 0 <= value < 1 << 64:
            raise ValueError(f"{value} is no number of an entry")
        if value < 1 << 7:
            return bytes((value,))
        size = next(size for size in (1, 2, 4, 8) if value < 1 << 8 * size)
        return bytes((0xCC + size.bit_length() - 1,)) + value.to_bytes(size, "big")
    text = isinstance(value, str)
    data = value.encode() if isinstance(value, str) else value
    if text and len(data) < 1 << 5:
        return bytes((0xA0 | len(data),)) + data
    size = next(size for size in (1, 2, 4) if len(data) < 1 << 8 * size)
    return bytes(((0xD9 if text else 0xC4) + size.bit_length() - 1,)) + len(data).to_bytes(size, "big") + data

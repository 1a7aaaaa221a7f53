"""Records that somebody else puts into the topic: every way in which one can be wrong that an honest broker takes."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from tests.faults.placement import Party

_DAY_MICROS: Final = 86_400_000_000
_GARBAGE: Final = b"\xde\xad\xbe\xef not ours"


class Foreign(NamedTuple):
    """A record as it is sent; `packed` compresses it."""

    value: bytes | None
    key: bytes | None
    headers: list[tuple[str, bytes]]
    packed: bool = False


def header(version: int = 1, days_from_now: int = 0, events: int = 2, source: bytes = b"web") -> bytes:
    """What our header looks like, written by a stranger."""
    received_at = time.time_ns() // 1_000 + days_from_now * _DAY_MICROS
    texts = b"".join(struct.pack(">H", len(text)) + text for text in (source, b"eu-west-1-a", b""))
    return struct.pack(">BQqI", version, 1, received_at, events) + texts


def ours(data: bytes) -> list[tuple[str, bytes]]:
    """Under the name that our readers look for."""
    return [("dataflow", data)]


Variant = Callable[[bytes], Foreign]
# By name: from the key of a tenant of the cell to the record.
VARIANTS: Final[dict[str, Variant]] = {
    "no header": lambda key: Foreign(_GARBAGE, key, []),
    "other headers": lambda key: Foreign(_GARBAGE, key, [("content-type", b"application/json"), ("x", b"")]),
    "no header, packed": lambda key: Foreign(_GARBAGE * 50, key, [], packed=True),
    "a newer layout": lambda key: Foreign(b"\x00\x92\xc0\x90", key, ours(header(version=2))),
    "a torn header": lambda key: Foreign(b"\x00\x92\xc0\x90", key, ours(header()[:-9])),
    "no key": lambda _: Foreign(b"\x00\x92\xc0\x90", None, ours(header())),
    "a key that is no name": lambda _: Foreign(b"\x00\x92\xc0\x90", b"No Tenant\xff", ours(header())),
    "no value": lambda key: Foreign(None, key, ours(header())),
    "more events than a record holds": lambda key: Foreign(_GARBAGE, key, ours(header(events=0xFFFFFFFF))),
    "a time beyond all calendars": lambda key: Foreign(_GARBAGE, key, ours(header(days_from_now=10**7))),
    "a time in many years": lambda key: Foreign(_GARBAGE, key, ours(header(days_from_now=800))),
    "a time long ago": lambda key: Foreign(_GARBAGE, key, ours(header(days_from_now=-800))),
    "a garbage body": lambda key: Foreign(b"\x01" + _GARBAGE, key, ours(header())),
    "a body of a newer format": lambda key: Foreign(b"\x07" + _GARBAGE, key, ours(header(events=3))),
    "an empty body": lambda key: Foreign(b"", key, ours(header(events=1))),
    "fewer events than its header says": lambda key: Foreign(b"\x00\x92\xc0\x90", key, ours(header(events=2))),
}


def variant(choice: int) -> tuple[str, Variant]:
    """One of them."""
    name = sorted(VARIANTS)[choice % len(VARIANTS)]
    return name, VARIANTS[name]


class Weight(NamedTuple):
    """What a record of the topic comes to in the ledger: `events` of `tenant`."""

    tenant: str
    events: int


def weigh(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], parties: dict[str, Party], unreadable: str) -> Weight:
    """An auditor's reading of a record's headers, which shares no code with the cell: one event of `unreadable` when it is not ours."""
    said = next((data for name, data in headers if name == "dataflow"), b"")
    tenant = (key or b"").decode("ascii", "replace")
    if value is None or tenant not in parties or len(said) < _FIXED or said[0] != 1 or not _whole(said):
        return Weight(unreadable, 1)
    epoch, received_at, events = (int.from_bytes(said[at:end], "big", signed=at == 9) for at, end in ((1, 9), (9, 17), (17, 21)))
    if (
        epoch > _EPOCH_MAX
        or not 1 <= events <= _EVENTS_MAX
        or not -366 * _DAY_MICROS <= received_at - time.time_ns() // 1_000 <= _DAY_MICROS
    ):
        return Weight(unreadable, 1)
    return Weight(tenant, events)


_FIXED: Final = 21
_EPOCH_MAX: Final = 0x7FFFFFFFFFFFFFFF
_EVENTS_MAX: Final = 100_000


def _whole(said: bytes) -> bool:
    """Three texts, each behind its length in two bytes."""
    at = _FIXED
    for _ in range(3):
        start, at = at + 2, at + 2 + int.from_bytes(said[at : at + 2], "big")
        try:
            said[start:at].decode()
        except UnicodeDecodeError:
            return False
    return at <= len(said)

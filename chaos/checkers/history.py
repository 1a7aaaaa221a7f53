"""What a run left behind, as seen from outside: what clients sent and were told, and what stands in each copy afterwards.

The clients' side is kept by the clients themselves, outside the blast radius; the cells' side is read back over the wire (or
out of the simulation's stores). Checkers judge a history and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Answer = Literal["acknowledged", "rejected", "unknown"]
Kind = Literal["log", "store", "other"]


class Sent(NamedTuple):
    """One event that a client sent, over all its attempts. `sequence` orders the events that one sequential client sent for one user,
    and is None for a client that is not sequential (Segment's SDK puts a refused batch at the end of its queue). `answer` is the last
    word: `unknown` when no attempt was ever answered for good."""

    tenant: str
    user: str
    message_id: str
    sequence: int | None
    answer: Answer


class Stored(NamedTuple):
    """One visible row. `position` is where its log record stands: (partition, offset, ordinal)."""

    cell: str
    tenant: str
    user: str
    message_id: str
    position: tuple[int, int, int]


class LedgerLine(NamedTuple):
    """A cell's ledger for one tenant: events that record headers of the log count, and what became of them."""

    cell: str
    tenant: str
    accepted: int
    stored: int
    duplicate: int
    quarantined: int
    held: int


class Poison(NamedTuple):
    """A record of the log that nobody can read, where an auditor found it. It counts as `events` of `tenant` in the ledger."""

    cell: str
    tenant: str
    events: int
    partition: int
    offset: int


class Recovery(NamedTuple):
    """How long after the last fault had ended a cell had applied everything again, by itself, and how long it may take."""

    cell: str
    seconds: float
    seconds_max: float


class Copy(NamedTuple):
    """A place that may hold customers' bytes: a table, a log, a file, a telemetry stream. Of some kinds it is certain that every event
    of a zone stands in one of them: there a search that finds none of them is blind."""

    zone: str
    name: str
    text: bytes
    kind: Kind = "other"


@dataclass(frozen=True)
class History:
    """All of it. `homes` maps a tenant to its cell; `zones` a cell to its residency zone; `canaries` a zone to its planted tokens."""

    sent: tuple[Sent, ...]
    stored: tuple[Stored, ...]
    ledger: tuple[LedgerLine, ...] = ()
    copies: tuple[Copy, ...] = ()
    homes: dict[str, str] = field(default_factory=dict)
    zones: dict[str, str] = field(default_factory=dict)
    canaries: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    poisons: tuple[Poison, ...] = ()
    recoveries: tuple[Recovery, ...] = ()

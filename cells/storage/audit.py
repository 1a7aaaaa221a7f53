"""The audit chain: who read what (`kernel.chain`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kernel.chain import Head, Link
from kernel.clock import Micros


class Reading(NamedTuple):
    """One access. `question` is canonical JSON of what was asked."""

    at: Micros
    actor: str
    tenant: str
    action: str
    question: str


Entry = Link[Reading]


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

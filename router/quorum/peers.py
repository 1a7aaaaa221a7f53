"""The ports of a site: the other sites, and the disk of one that only votes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from router.placement.entry import Ballot, Chunk, Entry, Place
from router.quorum.rules import Append, Appended, Candidacy, Vote


class Peer(Protocol):
    """Another site. Everything raises Failure(STORE_UNAVAILABLE) when it does not answer in time."""

    async def vote(self, asked: Candidacy) -> Vote:
        """Asks for its vote."""
        ...

    async def append(self, append: Append) -> Appended:
        """Tells it what this site leads to."""
        ...

    async def entries(self, after: int) -> Sequence[tuple[Place, Entry]] | None:
        """See `router.placement.entry.Replica`."""
        ...

    def copy(self) -> AsyncIterator[Chunk]:
        """See `router.placement.entry.Replica`."""
        ...


class Ballots(Protocol):
    """A disk. Raises Failure(STORE_UNAVAILABLE)."""

    async def ballot(self) -> Ballot:
        """What it must not forget."""
        ...

    async def promise(self, ballot: Ballot) -> None:
        """Keeps it."""
        ...

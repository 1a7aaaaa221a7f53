"""The ports of a site's part of a directory: its disk, and whoever must agree before anything is kept there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from router.placement.entry import ENTRIES_READ_MAX, Ballot, Chunk, Entry, Place
from router.placement.store import Store


class Agrees(Protocol):
    """Who must agree before entries are kept."""

    def give_up(self) -> None:
        """The disk keeps nothing here: somebody else is to lead."""
        ...

    def agreed(self, entries: Sequence[Entry]) -> AbstractAsyncContextManager[Place]:
        """The block keeps the entries, which follow one another; the place is that of the last one. Raises Failure(STORE_UNAVAILABLE)
        instead of entering it when no majority agrees: whether they are kept later on is not known then."""
        ...


class Replica(Store, Protocol):
    """A site's copy of the zone, on its disk. Entries are held first, which changes nothing, and settled once a majority holds them.

    Everything raises Failure(STORE_UNAVAILABLE).
    """

    async def ballot(self) -> Ballot:
        """What it must not forget."""
        ...

    async def promise(self, ballot: Ballot) -> None:
        """Keeps it."""
        ...

    async def hold(self, ballot: Ballot, entries: Sequence[Entry]) -> None:
        """Keeps the ballot and entries that are not settled, up to its last place; what was held before is forgotten."""
        ...

    async def held(self) -> tuple[Place, Sequence[Entry]] | None:
        """The entries that are held and not settled, and the place of the last one; None when there are none."""
        ...

    async def settled(self) -> Place:
        """Of the newest settled entry."""
        ...

    async def restate(self, place: Place) -> None:
        """The newest settled entry, if it has this number, stands at this place: a later leader had it agreed on again."""
        ...

    async def settle(self, place: Place, entry: Entry) -> None:
        """Changes the zone as the entry says, unless that is settled. Raises ValueError when it does not follow what is settled."""
        ...

    async def entries(self, after: int, limit: int = ENTRIES_READ_MAX) -> Sequence[tuple[Place, Entry]] | None:
        """The settled entries after number `after`, oldest first, none when there are none yet. None when they are not kept any more."""
        ...

    def copy(self) -> AsyncIterator[Chunk]:
        """The whole zone, as it is settled at one place."""
        ...

    async def take_copy(self, chunks: AsyncIterator[Chunk]) -> None:
        """Becomes what the chunks say, once all are there; unless it is as new as they are."""
        ...

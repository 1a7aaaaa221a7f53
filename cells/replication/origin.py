"""The log of another cell, as whoever replicates it sees it: a port. `api_client` is the real one.

Both ends check that they are of one zone and that they are wired to each other: Failure(PEER_REFUSED) is a defect that pages.
CELL_UNAVAILABLE: the other cell cannot be reached, or its log does not answer. OFFSET_OUT_OF_RANGE: it has dropped what is asked for.
"""

from __future__ import annotations

from typing import Protocol

from cells.eventlog.log import Bounds, Entry


class Origin(Protocol):
    """See the module's docstring."""

    async def fetch(self, partition: int, offset: int) -> list[Entry]:
        """Records of a partition from `offset` on, in order; empty when none came for a moment."""
        ...

    async def bounds(self) -> dict[int, Bounds]:
        """The bounds of every partition."""
        ...

"""What a site sees of the zone's cells, said to the directory again and again: the eyes of a region, and of the witness.

Nothing depends on it but failovers that nobody orders: an observer that is cut off says nothing, and counts for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from kernel.clock import Clock
from kernel.errors import Failure
from kernel.ids import CellId

_LOOK_SECONDS: Final = 0.5


class Sights(Protocol):
    """What an observer looks at, and whom it tells."""

    async def reaches(self, address: str) -> bool:
        """Whether who listens there says that it serves."""
        ...

    async def report(self, site: str, unreached: Iterable[CellId]) -> Mapping[CellId, str]:
        """Says it; the cells to look at, each with its address. Raises Failure(STORE_UNAVAILABLE): the directory does not listen."""
        ...


@dataclass
class Observer:
    """One site's."""

    site: str
    sights: Sights
    clock: Clock
    cells: Mapping[CellId, str] = field(default_factory=dict)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            await self.look()
            await self.clock.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """One look at every cell. Before the directory has named them there is nothing to say, and that is said."""
        names = list(self.cells)
        reached = await asyncio.gather(*(self.sights.reaches(self.cells[name]) for name in names))
        unreached = [name for name, there in zip(names, reached, strict=True) if not there]
        try:
            self.cells = await self.sights.report(self.site, unreached)
        except Failure:
            return

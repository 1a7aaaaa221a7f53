"""One session: brokers, a cell in split roles, clients, and the means to harm them. What each fault does is in `faults_*.py`."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chaos.checkers.points import Flight, Strike
from tests.faults import disk
from tests.faults.cell import Cell, standing
from tests.faults.observer import Observer
from tests.faults.placement import Party, placed
from tests.faults.traffic import Traffic, traffic_to
from tests.support.kafka import Brokers, laid_out
from tests.support.postgres import temporary_folder


@dataclass
class Session:
    """What stands, and which faults struck it so far."""

    seed: str
    brokers: Brokers
    cell: Cell
    traffic: Traffic
    observer: Observer
    small_disk: disk.SmallDisk | None
    strikes: list[Strike] = field(default_factory=list)
    large: int = 0
    healed_at: float = 0.0
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @property
    def parties(self) -> dict[str, Party]:
        """The tenants by name."""
        return {party.name: party for party in self.cell.placement.parties}

    async def wait_until_appending(self, partitions: frozenset[int] = frozenset(), seconds: float = 20.0) -> None:
        """Until a request to one of `partitions` is under way; what follows without waiting meets it. Raises AssertionError."""
        await self.traffic.notes.wait_until_in_flight(partitions, seconds)

    async def wait_until_applying(self) -> None:
        """Until a client was told that its events are durable: their apply is still to come, most of the time."""
        await self.traffic.notes.wait_until_acknowledged()

    def healed(self) -> None:
        """A fault ended: from now on the cell is to recover by itself."""
        self.healed_at = time.time()

    def took(self, kind: str, seconds: float) -> None:
        """Writes down how long a fault took, its end included."""
        self.seconds.setdefault(kind, []).append(seconds)

    def struck(self, kind: str, target: str, at: float, flight: Flight, partitions: frozenset[int] = frozenset()) -> None:
        """Writes down that a fault was sent."""
        self.strikes.append(Strike(kind, target, at, flight, partitions))


@asynccontextmanager
async def session(seed: str, nodes: int, commands: dict[str, tuple[str, ...]] | None = None) -> AsyncIterator[Session]:
    """A cell on `nodes` brokers, ready, with clients that do not send yet; until the block ends, then nothing of it is left."""
    folder = temporary_folder()
    kafka = laid_out(folder / "kafka", nodes)
    small = await asyncio.to_thread(disk.small_disk, kafka.nodes[-1]) if nodes > 1 else None
    try:
        await kafka.start_all()
        placement = placed(folder)
        async with (
            standing(folder, kafka, placement, commands or {}) as cell,
            traffic_to(cell.http, cell.grpc, placement.parties, seed) as traffic,
        ):
            yield Session(seed, kafka, cell, traffic, Observer(kafka.bootstrap, cell.topic, cell.group), small)
    finally:
        await kafka.stop_all()
        if small is not None:
            small.remove()
        shutil.rmtree(folder, ignore_errors=True)

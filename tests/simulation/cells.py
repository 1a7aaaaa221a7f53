"""What a directory asks of the simulation's cells, through the weather: `router.evacuation.cells.Cells` without a wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import astuple
from typing import Any, Protocol, TypeVar

from cells.admission.table import Admission
from cells.eventlog.log import Bounds, Entry
from cells.eventlog.memory import MemoryLog
from cells.ingest.accept import Acceptor
from cells.ingest.fence import Fence
from cells.replication import replicator
from cells.replication.replicator import Replicator
from cells.storage import chunk as wire
from cells.storage import copies as kept
from cells.storage.memory_copies import MemoryCopies
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.limits import FENCE_SECONDS_MAX
from router.evacuation.cells import Copy, Gap, Kept, Offsets, Part, Totals
from tests.simulation.faults import Weather
from tests.simulation.virtual import LoopClock

Answer = TypeVar("Answer")
# Parts are small, so that moves have many.
_PART_BYTES = 10_000
# A move has many calls: most of its steps must come through.
_RARE = 0.3
# A directory is nearer than a client.
_NEAR = 0.05


class Asked(Protocol):
    """A cell, as far as moves and its peers go."""

    acceptor: Acceptor | None
    admission: Admission
    log: MemoryLog
    replicators: dict[CellId, Replicator]
    copies: MemoryCopies
    fence: Fence | None
    clock: LoopClock

    async def serve(self, deed: Coroutine[Any, Any, Answer]) -> Answer:
        """As a task of its process."""
        ...


class SimCells:
    """See the module's docstring."""

    def __init__(self, cells: Mapping[CellId, Asked], weather: Weather) -> None:
        self._cells = cells
        self._weather = weather

    async def ends(self, cell: CellId, tenant: TenantId) -> Offsets:
        return await self._ask(cell, lambda asked: _fence(asked).ends())

    async def fence(self, cell: CellId, tenant: TenantId, epoch: Epoch) -> Offsets:
        def shut(asked: Asked) -> Awaitable[Offsets]:
            return _fence(asked).ends_behind(tenant, epoch, asked.clock.monotonic() + FENCE_SECONDS_MAX)

        return await self._ask(cell, shut)

    async def export(self, cell: CellId, tenant: TenantId, epoch: Epoch, cursor: bytes) -> Part:
        part = await self._ask(cell, lambda asked: asked.copies.export(tenant, epoch, wire.decode_cursor(cursor), _PART_BYTES))
        chunk, after = wire.encode(part.chunk), wire.encode(part.cursor)
        at = part.cursor
        return Part(chunk, after, at.given, at.settled or {}, at.past, part.more, part.events_kept)

    async def mark(self, cell: CellId, tenant: TenantId, epoch: Epoch) -> bytes:
        return wire.encode(await self._ask(cell, lambda asked: asked.copies.mark(tenant, epoch)))

    async def begin(self, cell: CellId, tenant: TenantId, origin: CellId, move: str, cursor: bytes, dedicated: bool) -> Copy:
        begun = await self._ask(cell, lambda asked: asked.copies.begin(tenant, origin, move, wire.decode_cursor(cursor), dedicated))
        return _copy(begun)

    async def take(self, cell: CellId, tenant: TenantId, epoch: Epoch, origin: CellId, move: str, seq: int, part: Part) -> Copy:
        chunk, cursor = wire.decode(part.chunk), wire.decode_cursor(part.cursor)
        assert cursor is not None
        return _copy(await self._ask(cell, lambda asked: asked.copies.take(origin, move, seq, chunk, cursor)))

    async def digest(self, cell: CellId, tenant: TenantId, after: bytes = b"", until: bytes = b"") -> Totals:
        cursors = wire.decode_cursor(after), wire.decode_cursor(until)
        return _totals(await self._ask(cell, lambda asked: asked.copies.digest(tenant, *cursors)))

    async def digest_profiles(self, cell: CellId, tenant: TenantId) -> Totals:
        return _totals(await self._ask(cell, lambda asked: asked.copies.digest_profiles(tenant)))

    async def erase(self, cell: CellId, tenant: TenantId, epoch: Epoch, move: str) -> tuple[int, bool]:
        return await self._ask(cell, lambda asked: asked.copies.erase(tenant, epoch, move))

    async def gap(self, cell: CellId, origin: CellId) -> Gap:
        async def stand(asked: Asked) -> Gap:
            replicator = asked.replicators[origin]
            revision = asked.admission.revision
            kept, heard_at = await replicator.standing_now()
            return Gap(cell, _kept(kept), heard_at, asked.clock.now(), _kept(await replicator.applied()), revision)

        return await self._ask(cell, stand)

    async def answers(self, cell: CellId) -> bool:
        return self._cells[cell].acceptor is not None

    async def _ask(self, cell: CellId, deed: Callable[[Asked], Awaitable[Answer]]) -> Answer:
        """Delayed, refused before the deed, or its answer lost behind it."""
        await self._weather.travel(_NEAR)
        if self._weather.strikes(self._weather.refused * _RARE):
            raise Failure(Reason.CELL_UNAVAILABLE, "refused")
        asked = self._cells[cell]
        try:
            answer = await asked.serve(_done(deed, asked))
        except ConnectionError as error:
            raise Failure(Reason.CELL_UNAVAILABLE, str(error)) from error
        await self._weather.travel(_NEAR)
        if self._weather.strikes(self._weather.answer_lost * _RARE):
            raise Failure(Reason.CELL_UNAVAILABLE, "the answer was lost")
        return answer


async def _done(deed: Callable[[Asked], Awaitable[Answer]], asked: Asked) -> Answer:
    """Begun when its task begins: a process that is killed before has done nothing."""
    return await deed(asked)


def _kept(found: Mapping[int, replicator.Kept]) -> tuple[Kept, ...]:
    return tuple(Kept(partition, one.until, one.end) for partition, one in sorted(found.items()))


class SimOrigin:
    """A cell's log as its peer sees it, through the weather: `cells.replication.origin.Origin`."""

    def __init__(self, asked: Asked, weather: Weather) -> None:
        self._asked = asked
        self._weather = weather

    async def fetch(self, partition: int, offset: int) -> list[Entry]:
        records = 1 + self._weather.random.randrange(8)
        return await self._ask(lambda: self._asked.log.fetch(partition, offset, records, 1 << 40, 0.5))

    async def bounds(self) -> dict[int, Bounds]:
        return await self._ask(self._asked.log.bounds)

    async def _ask(self, deed: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        await self._weather.travel(_NEAR)
        if self._weather.strikes(self._weather.refused):
            raise Failure(Reason.CELL_UNAVAILABLE, "refused")
        try:
            answer = await self._asked.serve(deed())
        except ConnectionError as error:
            raise Failure(Reason.CELL_UNAVAILABLE, str(error)) from error
        await self._weather.travel(_NEAR)
        return answer


def _fence(asked: Asked) -> Fence:
    if asked.fence is None:
        raise Failure(Reason.CELL_UNAVAILABLE, "the cell was never started")
    return asked.fence


def _copy(copy: kept.Copy) -> Copy:
    return Copy(copy.seq, b"" if copy.cursor is None else wire.encode(copy.cursor), _totals(copy.added))


def _totals(totals: kept.Totals) -> Totals:
    return Totals(*astuple(totals))

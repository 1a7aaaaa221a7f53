"""Moves what is in the table `event` to records and event rows, as df_apply, while both the previous code and this one apply.

Each transaction moves a few of one schema and day, so that nobody waits for long and a crash costs nothing: what it took is gone from
the one place and stands in the other, or neither. It takes its locks in the order of an apply - ownership, the old table, event keys,
records, ledger - so that no deadlock comes of it. One process at a time converts. A day that a repeat applied now may still be near
is converted while nobody applies rows of its tenants.

An event whose key is stored already is dropped, and the ledger, which had counted it as stored, counts it as a duplicate: two codes
that apply at the same time do not see each other's rows until this has run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import date
from typing import Final

import asyncpg

from cells.storage import convert, dedup, metrics
from cells.storage.convert import Home, OldEvent, Piece, Plan
from cells.storage.postgres import Connection, Session
from cells.storage.sql import sql
from cells.storage.tally import TenantHour
from kernel.clock import Clock, Micros
from kernel.errors import Failure, Reason
from kernel.limits import APPLY_SECONDS_MAX
from kernel.metrics import Meter

EVENTS_AT_ONCE: Final = 1_000
_TRANSACTIONS_MAX: Final = 20_000
_ROUNDS_MAX: Final = 32
_LOCK: Final = 7_305_003

Tid = tuple[int, int]
_BEGINNING: Final[Tid] = (0, 0)


@dataclass(frozen=True, slots=True)
class _Step:
    """What one transaction did. `last` is where the next one goes on; None: nothing is left of the day, or another process converts."""

    moved: int = 0
    repeated: int = 0
    last: Tid | None = None


class Converter:
    """See the module's docstring. `session` is df_apply's."""

    def __init__(self, session: Session, clock: Clock, meter: Meter) -> None:
        self._session = session
        self._clock = clock
        self._meter = meter

    async def run(self) -> int:
        """Moves everything, or the first twenty million events of it, with a pause after each transaction that is as long as it took.
        Returns how many it moved. Raises Failure(STORE_UNAVAILABLE): what was moved by then stays moved."""
        left, moved = _TRANSACTIONS_MAX, 0
        async with self._session.connection(APPLY_SECONDS_MAX) as connection:
            leaves = [
                (row["home"], row["day"])
                for home in [row["home"] for row in await connection.fetch(sql("homes"))]
                if await connection.fetchval(sql("any_old_event", home))
                for row in await connection.fetch(sql("old_days"), home)
            ]
        for home, day in leaves:
            last: Tid | None = _BEGINNING
            while last is not None and left > 0:
                began = self._clock.monotonic()
                step = await self._step(home, day, last)
                self._meter.add(metrics.CONVERTED, step.moved, outcome="moved")
                self._meter.add(metrics.CONVERTED, step.repeated, outcome="duplicate")
                left, moved, last = left - 1, moved + step.moved, step.last
                if last is not None:
                    await self._clock.sleep(self._clock.monotonic() - began)
        return moved

    async def _step(self, home: str, day: date, last: Tid) -> _Step:
        async with self._session.connection(APPLY_SECONDS_MAX) as connection:
            try:
                if last == _BEGINNING:
                    await connection.execute(sql("make_day"), home, day)
                await connection.execute("BEGIN")
                step = await _Move(connection, home, day, self._clock.now()).some(last)
                await connection.execute("COMMIT")
            except asyncpg.PostgresError as error:
                raise Failure(Reason.STORE_UNAVAILABLE, type(error).__name__) from error
        return step


@dataclass(frozen=True, slots=True)
class _Move:
    """One transaction's work."""

    connection: Connection
    home: str
    day: date
    now: Micros

    async def some(self, last: Tid) -> _Step:
        """Moves the next few events behind `last`, which says where to look first and no more: a plan may pass events over, so a day is
        done when nothing is found from its beginning."""
        if not await self.connection.fetchval(sql("convert_lock"), _LOCK):
            return _Step()
        found = await self.connection.fetch(sql("old_events", self.home), self.day, last, EVENTS_AT_ONCE)
        if not found:
            return _Step(last=None if last == _BEGINNING else _BEGINNING)
        if self.day >= dedup.window_begins(self.now) - dedup.WINDOW:
            await self.connection.execute(sql("hold_tenants"), sorted({row["tenant"] for row in found}))
        tids = [row["ctid"] for row in found]
        await self.connection.execute(sql("drop_old_events", self.home), self.day, tids)
        planned = await self._planned([OldEvent(*list(row.values())[1:]) for row in found])
        pieces, late = await self._keep(planned)
        repeated = planned.repeated + late
        if repeated:
            columns = zip(*((*hour, -events, events, 0, 0) for hour, events in sorted(repeated.items())), strict=True)
            await self.connection.execute(sql("store_ledger", self.home), *columns)
        return _Step(sum(piece.record.events for piece in pieces), repeated.total(), max(tids))

    async def _planned(self, events: list[OldEvent]) -> Plan:
        keys = convert.keys_of(events)
        days = (self.day - dedup.WINDOW, self.day + dedup.WINDOW)
        known = await self.connection.fetch(sql("find_rows", self.home), sorted(keys.values()), *days)
        return convert.plan(events, keys, [dedup.Found(*row) for row in known])

    async def _keep(self, planned: Plan) -> tuple[list[Piece], Counter[TenantHour]]:
        """Stores the rows, then the records that have any; also what an apply stored meanwhile, per tenant and hour."""
        pieces: list[Piece] = []
        for piece in convert.pieces(planned, await self._free_places(planned)):
            pieces.append(piece)
            await asyncio.sleep(0)
        if not pieces:
            return [], Counter()
        rows = [row for piece in pieces for row in piece.rows]
        kept = {row["message_key"] for row in await self.connection.fetch(sql("keep_rows", self.home), *zip(*rows, strict=True))}
        left = [convert.without(piece, kept) for piece in pieces]
        records = [(*piece.record, piece.stored_at) for piece in left if piece.rows]
        if records:
            await self.connection.execute(sql("keep_pieces", self.home), *zip(*records, strict=True))
        return left, Counter(hour for before, after in zip(pieces, left, strict=True) for hour in convert.lost(before, after))

    async def _free_places(self, planned: Plan) -> dict[Home, int]:
        """A place for each piece that no piece has which was met before."""
        places = {home: home[0] for home in planned.kept}
        for _ in range(_ROUNDS_MAX if places else 0):
            asked = [(place, offset) for (_, offset), place in places.items()]
            found = await self.connection.fetch(sql("taken_places", self.home), self.day, *zip(*asked, strict=True))
            if not found:
                break
            places = convert.avoid(places, {(row["partition"], row["log_offset"]) for row in found})
        return places

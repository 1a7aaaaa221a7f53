"""`copies.Copies` on PostgreSQL, as df_apply, beside the applies and with connections of its own.

An export reads one snapshot. A take locks in the order of an apply - copy, ownership, event keys, records, dead letters, held,
traits, identities, ledger - so that no deadlock comes of it, and reads back what it stored in the same transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from cells.storage import chunk as wire
from cells.storage import export
from cells.storage.chunk import Chunk, Cursor, KeptHeld, KeptLetter, KeptRecord, Key, LedgerLine
from cells.storage.copies import Copy, Part, Totals
from cells.storage.postgres import EVENT_COLUMNS, INDEX_PLANS, RECORD_COLUMNS, Bounds, Connection, Session
from cells.storage.postgres_taking import Taking, columns, digest, digest_at
from cells.storage.sql import sql
from kernel.clock import Clock, Micros
from kernel.effects import EventRow, RecordRow, TraitClaim
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.limits import APPLY_SECONDS_MAX, ERASE_ROWS_MAX

_BOUNDS: Final = Bounds(connections=4, statement_seconds=APPLY_SECONDS_MAX)
_ERASE: Final = ("erase_rows", "erase_records", "erase_nodes", "erase_traits", "erase_letters", "erase_held")
# A place or a day that another transaction made, or took, meanwhile: the same step again finds it.
_STALE: Final = (asyncpg.UniqueViolationError, asyncpg.CheckViolationError, asyncpg.UndefinedTableError)
_LETTERS: Final = ("partition", "log_offset", "ordinal", "received_at", "message_id", "reason", "detail", "payload", "stored_at")
_TOTALS: Final = ("events", "events_sum", "records", "records_sum", "others", "others_sum")
_HELD: Final = ("partition", "log_offset", "received_at", "events", "record", "stored_at")


class PostgresCopies:
    """See the module's docstring and the port's. `dsn` is df_apply's; `cell` is whose store it is."""

    def __init__(self, dsn: str, cell: CellId, clock: Clock) -> None:
        self._session = Session(dsn, "dataflow-copies", _BOUNDS, INDEX_PLANS)
        self._cell = cell
        self._clock = clock

    async def close(self) -> None:
        """Cuts its connections. Idempotent."""
        await self._session.close()

    async def export(self, tenant: TenantId, epoch: Epoch, cursor: Cursor | None, bytes_max: int) -> Part:
        """See the port."""
        async with self._snapshot(tenant) as source:
            source.check_owner(epoch)
            if cursor is None and await source.fetchval("old_event_of", tenant):
                raise Failure(Reason.STORE_UNAVAILABLE, "events of an older version are still being converted", retry_after_seconds=60)
            return await export.export(source, tenant, epoch, cursor, bytes_max)

    async def mark(self, tenant: TenantId, epoch: Epoch) -> Cursor:
        """See the port."""
        async with self._snapshot(tenant) as source:
            if source.state.epoch != epoch:
                raise Failure(Reason.MOVED, f"the cell is at epoch {source.state.epoch}", retry_after_seconds=1)
            return await export.end(source)

    async def begin(self, tenant: TenantId, origin: CellId, move: str, cursor: Cursor | None, dedicated: bool) -> Copy:
        """See the port."""
        async with self._connection() as connection:
            if dedicated:
                home = await connection.fetchval(sql("dedicate"), tenant)
                await connection.execute(sql("settle"), tenant, home)
            async with connection.transaction():
                state = await _ownership(connection, "copy_ownership", tenant)
                await connection.execute(sql("begin_copy"), tenant, origin, move, None if cursor is None else wire.encode(cursor))
                copy = _copy(await connection.fetchrow(sql("copy"), tenant, origin))
            if copy.cursor is None and await connection.fetchval(sql("anything_left", state.home), tenant):
                raise Failure(Reason.MOVE_NOT_NOW, "something of the tenant is here already")
            return copy

    async def take(self, origin: CellId, move: str, seq: int, chunk: Chunk, cursor: Cursor) -> Copy:
        """See the port."""
        async with self._connection() as connection:
            home = (await _ownership(connection, "ownership", chunk.tenant)).home
            for day in sorted(chunk.days):
                await connection.execute(sql("make_day"), home, day)
            async with connection.transaction():
                held = await connection.fetchrow(sql("lock_copy"), chunk.tenant, origin)
                if held is None or held["move"] != move:
                    raise Failure(Reason.NOT_MOVING, f"by {move} from cell {origin}")
                if held["seq"] != seq:
                    return _copy(held)
                state = await _ownership(connection, "copy_ownership", chunk.tenant)
                _check_taking(state, chunk.epoch)
                added = await Taking(connection, state.home, chunk, self._clock.now()).all()
                await connection.execute(sql("keep_ledger"), chunk.tenant, *columns(self._foreign(chunk.ledger), len(LedgerLine._fields)))
                await connection.execute(sql("step_copy"), chunk.tenant, origin, wire.encode(cursor), *_values(added))
                return _copy(await connection.fetchrow(sql("copy"), chunk.tenant, origin))

    async def digest(self, tenant: TenantId, after: Cursor | None, until: Cursor | None) -> Totals:
        """See the port. Of everything it is a few statements per day, each in a state of its own: what lies before a cursor stays."""
        if after is not None and until is not None:
            async with self._snapshot(tenant) as source:
                return await source.digest_at(await export.keys_between(source, after, until))
        offsets = until.given if until is not None else {}
        bounds = (list(offsets), list(offsets.values()), until is None)
        async with self._connection() as connection:
            home = (await _ownership(connection, "ownership", tenant)).home
            days = [row["received_day"] for row in await connection.fetch(sql("days_of", home), tenant)]
            others = await connection.fetchrow(sql("digest_others", home), tenant, *bounds)
        total = Totals(0, 0, 0, 0, *digest(others))
        for day in days:
            async with self._connection() as connection:
                events = await connection.fetchrow(sql("digest_day", home), tenant, day, *bounds)
                records = await connection.fetchrow(sql("digest_records", home), tenant, day, *bounds)
                total += Totals(*digest(events), *digest(records))
        return total

    async def digest_profiles(self, tenant: TenantId) -> Totals:
        """See the port."""
        async with self._snapshot(tenant) as source:
            return Totals(*digest(await source.fetchrow("digest_nodes", tenant)), *digest(await source.fetchrow("digest_traits", tenant)))

    async def ledger_of(self, tenant: TenantId) -> list[LedgerLine]:
        """See the port."""
        async with self._snapshot(tenant) as source:
            return await source.ledger()

    async def erase(self, tenant: TenantId, epoch: Epoch, move: str) -> tuple[int, bool]:
        """See the port. Each table's part is a transaction of its own, in which neither the owner nor the move can become another."""
        removed = 0
        async with self._connection() as connection:
            for name in _ERASE:
                async with connection.transaction():
                    home = await _erasable(connection, tenant, epoch, move)
                    if home is None:
                        return removed, False
                    status = await connection.execute(sql(name, home), tenant, ERASE_ROWS_MAX)
                    removed += int(status.rpartition(" ")[2])
            if removed:
                return removed, True
            async with connection.transaction():
                home = await _erasable(connection, tenant, epoch, move)
                if home is None:
                    return 0, False
                left = await connection.fetchval(sql("anything_left", home), tenant)
                if not left:
                    await connection.execute(sql("erase_ledger_before"), tenant)
                    await connection.execute(sql("erase_copies"), tenant)
                return 0, left

    def _foreign(self, lines: Iterable[LedgerLine]) -> list[LedgerLine]:
        """A cell keeps its own ledger itself."""
        return [line for line in lines if line.cell != self._cell]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        async with self._session.connection(APPLY_SECONDS_MAX) as connection:
            try:
                yield connection
            except _STALE as error:
                raise Failure(Reason.STORE_UNAVAILABLE, type(error).__name__) from error

    @asynccontextmanager
    async def _snapshot(self, tenant: TenantId) -> AsyncIterator[_Snapshot]:
        async with self._connection() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            yield _Snapshot(connection, self._cell, tenant, await _ownership(connection, "ownership", tenant))


@dataclass(frozen=True, slots=True)
class _State:
    """What the cell knows of a tenant's ownership."""

    epoch: int
    state: str
    home: str


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """`export.Source`: one transaction."""

    connection: Connection
    cell: CellId
    tenant: TenantId
    state: _State

    def check_owner(self, epoch: Epoch) -> None:
        """Raises Failure(MOVED) unless the tenant is this cell's own at this epoch."""
        if (self.state.state, self.state.epoch) != ("owner", epoch):
            raise Failure(Reason.MOVED, f"the cell is {self.state.state} at epoch {self.state.epoch}", retry_after_seconds=1)

    async def positions(self) -> dict[int, int]:
        """See Source."""
        return {row["partition"]: row["next_offset"] for row in await self.connection.fetch(sql("positions"))}

    async def keys_below_zero(self, after: Key, limit: int) -> list[tuple[Key, int]]:
        """See Source."""
        return _keys(await self.fetch("keys_below_zero", self.tenant, *after, limit))

    async def keys_of(self, partition: int, first: int, until: int, limit: int) -> list[tuple[Key, int]]:
        """See Source."""
        return _keys(await self.fetch("keys_of", self.tenant, partition, first, until, limit))

    async def records(self, keys: Sequence[Key]) -> list[KeptRecord]:
        """See Source."""
        rows = await self.fetch("records_of", self.tenant, *columns(keys, 2))
        return [KeptRecord(RecordRow(*(row[name] for name in RECORD_COLUMNS)), Micros(row["stored_at"])) for row in rows]

    async def rows(self, records: Sequence[KeptRecord], found: Sequence[bytes]) -> list[EventRow]:
        """See Source."""
        places = {(kept.record.partition, kept.record.offset, kept.record.received_day) for kept in records}
        days = sorted({kept.record.received_day for kept in records})
        rows = [EventRow(*(row[name] for name in EVENT_COLUMNS)) for row in await self.fetch("rows_of", found, days)]
        return [row for row in rows if (row.partition, row.offset, row.received_day) in places]

    async def letters(self, keys: Sequence[Key]) -> list[KeptLetter]:
        """See Source."""
        rows = await self.fetch("letters_of", self.tenant, *columns(keys, 2))
        return [KeptLetter(*(row[name] for name in _LETTERS)) for row in rows]

    async def held(self, keys: Sequence[Key]) -> list[KeptHeld]:
        """See Source."""
        return [KeptHeld(*(row[name] for name in _HELD)) for row in await self.fetch("held_of", self.tenant, *columns(keys, 2))]

    async def marker(self) -> int:
        """See Source: no transaction that is still to be seen has a smaller number."""
        return int(await self.connection.fetchval(sql("marker")))

    async def nodes(self, since: int | None, after: str, limit: int) -> list[tuple[str, str]]:
        """See Source."""
        rows = await self.fetch("nodes_after", self.tenant, after, limit, None if since is None else str(since))
        return [(row["node"], row["component"]) for row in rows]

    async def traits(self, since: int | None, after: tuple[str, str], limit: int) -> list[TraitClaim]:
        """See Source."""
        rows = await self.fetch("traits_after", self.tenant, *after, limit, None if since is None else str(since))
        return [TraitClaim(*row) for row in rows]

    async def ledger(self) -> list[LedgerLine]:
        """See Source."""
        own = [LedgerLine(self.cell, *row) for row in await self.fetch("ledger_of", self.tenant)]
        return own + [LedgerLine(*row) for row in await self.fetch("ledger_before", self.tenant)]

    async def events_kept(self) -> int:
        """See Source."""
        return int(await self.connection.fetchval(sql("events_kept", self.state.home), self.tenant))

    async def digest_at(self, keys: Sequence[Key]) -> Totals:
        """Of what lies at some keys."""
        if not keys:
            return Totals()
        return await digest_at(self.connection, self.state.home, self.tenant, keys)

    async def fetch(self, name: str, *values: object) -> list[asyncpg.Record]:
        """A statement's rows."""
        return list(await self.connection.fetch(sql(name, self.state.home), *values))

    async def fetchrow(self, name: str, *values: object) -> asyncpg.Record | None:
        """A statement's only row."""
        return await self.connection.fetchrow(sql(name, self.state.home), *values)

    async def fetchval(self, name: str, *values: object) -> object:
        """A statement's only value."""
        return await self.connection.fetchval(sql(name, self.state.home), *values)


async def _erasable(connection: Connection, tenant: TenantId, epoch: Epoch, move: str) -> str | None:
    """The schema to erase from; None where this move has nothing. Held until the transaction ends."""
    if await connection.fetchval(sql("lock_copy_of"), tenant, move) is None:
        return None
    state = await _ownership(connection, "copy_ownership", tenant)
    _check_released(state, epoch)
    return state.home


async def _ownership(connection: Connection, name: str, tenant: TenantId) -> _State:
    row = await connection.fetchrow(sql(name), tenant)
    if row is None:
        raise Failure(Reason.MOVED, "the cell has not heard of the tenant", retry_after_seconds=1)
    return _State(row["epoch"], row["state"], row["home"])


def _check_released(state: _State, epoch: Epoch) -> None:
    if (state.state, state.epoch) != ("released", epoch):
        raise Failure(Reason.MOVED, f"the cell is {state.state} at epoch {state.epoch}", retry_after_seconds=1)


def _check_taking(state: _State, epoch: Epoch) -> None:
    """Who lives elsewhere is taken; also where the copy meets what its standby folds by itself."""
    if state.state == "owner" or state.epoch != epoch:
        raise Failure(Reason.MOVED, f"the cell is {state.state} at epoch {state.epoch}", retry_after_seconds=1)


def _copy(row: asyncpg.Record | None) -> Copy:
    if row is None:
        raise RuntimeError("a copy was begun and is not there")
    cursor = None if row["cursor"] is None else wire.decode_cursor(row["cursor"])
    return Copy(row["seq"], cursor, Totals(*(int(row[name]) for name in _TOTALS)))


def _values(totals: Totals) -> tuple[int, ...]:
    return totals.events, totals.events_sum, totals.records, totals.records_sum, totals.others, totals.others_sum


def _keys(rows: Iterable[asyncpg.Record]) -> list[tuple[Key, int]]:
    return [((row["partition"], row["log_offset"]), row["bytes"]) for row in rows]

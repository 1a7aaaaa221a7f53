"""`store.Reader` on PostgreSQL, as df_query: row-level security answers for the isolation, the WHERE clauses only for speed.

Each read is one read-only transaction in which `dataflow.tenant` is set; outside it the role sees nothing at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date
from typing import Final

import asyncpg

from cells.eventlog import codec
from cells.eventlog.envelope import Envelope
from cells.storage.convert import partition_of
from cells.storage.held import HELD_RECORDS_MAX, ordinal_in
from cells.storage.postgres import EVENT_COLUMNS, QUERY_BOUNDS, READ_PLANS, RECORD_COLUMNS, Connection, Session
from cells.storage.profile import profile_of
from cells.storage.sql import sql
from cells.storage.store import Cursor, Filter, Listed, Profile, Stored, Traced
from kernel.clock import Micros
from kernel.effects import EventRow, RecordRow, TraitClaim
from kernel.ids import TenantId, is_name, message_keys
from kernel.limits import QUERY_SECONDS_MAX, READ_BYTES_MAX

_SHARED: Final = "tenants"
# A page may stand in as many records as it has events: few bodies are held at a time.
_RECORDS_AT_ONCE: Final = 16

_Key = tuple[date, int, int]


class PostgresReader:
    """See the module's docstring and the port's. `dsn` is df_query's."""

    def __init__(self, dsn: str) -> None:
        self._session = Session(dsn, "dataflow-query", QUERY_BOUNDS, READ_PLANS)
        self._homes: dict[TenantId, str] = {}

    async def close(self) -> None:
        """Cuts its connections. Idempotent."""
        await self._session.close()

    async def list_events(self, tenant: TenantId, which: Filter, page_size: int, after: Cursor | None) -> Listed:
        """See the port."""
        cursor = (after.event_at, after.message_key, after.received_day) if after else (None, None, None)
        values = (tenant, which.since, which.until, which.type, which.name, which.anonymous_id, which.source, *cursor, page_size + 1)
        async with self._reading(tenant) as (connection, home):
            if which.user_id is None:
                rows = await connection.fetch(sql("list_events", home), *values)
            else:
                rows = await connection.fetch(sql("list_events_of_user", home), *values, which.user_id)
            page = rows[: await _affordable(connection, home, rows[:page_size])]
            return Listed(await _joined(connection, home, page), len(page) < len(rows))

    async def get_event(self, tenant: TenantId, message_id: str) -> Stored | None:
        """See the port."""
        async with self._reading(tenant) as (connection, home):
            return await _event(connection, home, tenant, message_id)

    async def count_events(self, tenant: TenantId, which: Filter, bucket_seconds: int) -> list[tuple[Micros, int]]:
        """See the port."""
        values = (which.since, which.until, which.type, which.name, which.anonymous_id, which.source, which.user_id)
        async with self._reading(tenant) as (connection, home):
            rows = await connection.fetch(sql("count_events", home), tenant, *values, bucket_seconds * 1_000_000)
        return [(Micros(row["start"]), row["events"]) for row in rows]

    async def profile(self, tenant: TenantId, node: str) -> Profile | None:
        """See the port."""
        async with self._reading(tenant) as (connection, home):
            members = [row["node"] for row in await connection.fetch(sql("members", home), tenant, node)]
            claims = await connection.fetch(sql("traits", home), tenant, members or [node])
        if not members and not claims:
            return None
        return profile_of(members or [node], [TraitClaim(*row) for row in claims])

    async def trace(self, tenant: TenantId, message_id: str) -> Traced:
        """See the port."""
        async with self._reading(tenant) as (connection, home):
            stored = await _event(connection, home, tenant, message_id)
            if stored is not None:
                return Traced("stored", "", stored.row.partition, stored.row.offset, stored.row.ordinal, stored)
            letter = await connection.fetchrow(sql("get_dead_letter", home), tenant, message_id)
            if letter is not None:
                return Traced("dead_letter", letter["reason"], partition_of(letter["partition"]), letter["log_offset"], letter["ordinal"])
            for partition, offset, record in await connection.fetch(sql("get_held", home), tenant, HELD_RECORDS_MAX):
                ordinal = ordinal_in(record, message_id)
                if ordinal is not None:
                    return Traced("held", "the cell does not own the tenant", partition_of(partition), offset, ordinal)
        return Traced("unknown")

    @asynccontextmanager
    async def _reading(self, tenant: TenantId) -> AsyncIterator[tuple[Connection, str]]:
        """A connection that sees `tenant` alone, and its schema. What is not even a name sees nothing: no tenant is set."""
        async with self._session.connection(QUERY_SECONDS_MAX) as connection:
            setting = f"; SET LOCAL dataflow.tenant = '{tenant}'" if is_name(tenant) else ""
            await connection.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY{setting}")
            home = self._homes.get(tenant) or await connection.fetchval(sql("home"), tenant) or _SHARED
            if home != _SHARED:
                self._homes[tenant] = home
            yield connection, home
            await connection.execute("COMMIT")


async def _event(connection: Connection, home: str, tenant: TenantId, message_id: str) -> Stored | None:
    rows = await connection.fetch(sql("get_event", home), tenant, message_keys(tenant, [message_id])[0])
    found = await _joined(connection, home, rows)
    return found[0] if found else None


async def _affordable(connection: Connection, home: str, rows: Sequence[asyncpg.Record]) -> int:
    """How many of the rows a page may have, by the size of the records that they stand in: each is fetched and opened on a loop that serves
    others too."""
    keys = list(dict.fromkeys(map(_key, rows)))
    if not keys:
        return 0
    sizes = {_key(found): found["bytes"] for found in await connection.fetch(sql("record_sizes", home), *zip(*keys, strict=True))}
    left, opened = READ_BYTES_MAX, set[_Key]()
    for count, key in enumerate(map(_key, rows)):
        left -= 0 if key in opened else sizes[key]
        opened.add(key)
        if left < 0 and count:
            return count
    return len(rows)


async def _joined(connection: Connection, home: str, rows: Sequence[asyncpg.Record]) -> list[Stored]:
    """The rows with their events, in the order of `rows`. Each body is opened once, with a breath after it, and only what is asked
    for is kept of it."""
    wanted: dict[_Key, list[int]] = {}
    for row in rows:
        wanted.setdefault(_key(row), []).append(row["ordinal"])
    records: dict[_Key, tuple[RecordRow, Micros]] = {}
    envelopes: dict[tuple[_Key, int], Envelope] = {}
    keys = sorted(wanted)
    for first in range(0, len(keys), _RECORDS_AT_ONCE):
        for found in await connection.fetch(sql("records", home), *zip(*keys[first : first + _RECORDS_AT_ONCE], strict=True)):
            key, body = _key(found), codec.decode(found["body"])
            records[key] = (_record_row(found), Micros(found["stored_at"]))
            envelopes |= {(key, ordinal): body.envelopes[ordinal] for ordinal in wanted[key]}
            await asyncio.sleep(0)
    return [Stored(_event_row(row), records[_key(row)][0], envelopes[_key(row), row["ordinal"]], records[_key(row)][1]) for row in rows]


def _key(row: asyncpg.Record) -> _Key:
    return row["received_day"], row["partition"], row["log_offset"]


def _event_row(row: asyncpg.Record) -> EventRow:
    return EventRow(*(row[column] for column in EVENT_COLUMNS))._replace(partition=partition_of(row["partition"]))


def _record_row(row: asyncpg.Record) -> RecordRow:
    return RecordRow(*(row[column] for column in RECORD_COLUMNS))._replace(partition=partition_of(row["partition"]), body=b"")

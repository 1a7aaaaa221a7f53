"""`store.Reader` on PostgreSQL, as df_query: row-level security answers for the isolation, the WHERE clauses only for speed.

Each read is one read-only transaction in which `dataflow.tenant` is set; outside it the role sees nothing at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from cells.storage.held import HELD_RECORDS_MAX, ordinal_in
from cells.storage.postgres import QUERY_BOUNDS, READ_PLANS, Connection, Session
from cells.storage.profile import profile_of
from cells.storage.sql import sql
from cells.storage.store import Cursor, Filter, Profile, Stored, Traced
from kernel.clock import Micros
from kernel.effects import EventRow, TraitClaim
from kernel.ids import CellId, TenantId, is_name
from kernel.limits import QUERY_SECONDS_MAX

_SHARED = "tenants"


class PostgresReader:
    """See the module's docstring and the port's. `dsn` is df_query's."""

    def __init__(self, dsn: str) -> None:
        self._session = Session(dsn, "dataflow-query", QUERY_BOUNDS, READ_PLANS, None)
        self._homes: dict[TenantId, str] = {}

    async def close(self) -> None:
        """Cuts its connections. Idempotent."""
        await self._session.close()

    async def list_events(self, tenant: TenantId, which: Filter, page_size: int, after: Cursor | None) -> list[Stored]:
        """See the port."""
        cursor = (after.event_at, after.message_id) if after else (None, None)
        values = (tenant, which.since, which.until, which.type, which.name, which.anonymous_id, which.source, *cursor, page_size)
        async with self._reading(tenant) as (connection, home):
            if which.user_id is None:
                rows = await connection.fetch(sql("list_events", home), *values)
            else:
                rows = await connection.fetch(sql("list_events_of_user", home), *values, which.user_id)
        return [_stored(row) for row in rows]

    async def get_event(self, tenant: TenantId, message_id: str) -> Stored | None:
        """See the port."""
        async with self._reading(tenant) as (connection, home):
            row = await connection.fetchrow(sql("get_event", home), tenant, message_id)
        return None if row is None else _stored(row)

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
            row = await connection.fetchrow(sql("get_event", home), tenant, message_id)
            if row is not None:
                stored = _stored(row)
                return Traced("stored", "", stored.partition, stored.row.offset, stored.row.ordinal, stored)
            letter = await connection.fetchrow(sql("get_dead_letter", home), tenant, message_id)
            if letter is not None:
                return Traced("dead_letter", letter["reason"], letter["partition"], letter["log_offset"], letter["ordinal"])
            for partition, offset, record in await connection.fetch(sql("get_held", home), tenant, HELD_RECORDS_MAX):
                ordinal = ordinal_in(record, message_id)
                if ordinal is not None:
                    return Traced("held", "the cell does not own the tenant", partition, offset, ordinal)
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


def _stored(row: asyncpg.Record) -> Stored:
    event = EventRow(
        tenant=TenantId(row["tenant"]),
        message_id=row["message_id"],
        received_at=Micros(row["received_at"]),
        event_at=Micros(row["event_at"]),
        type=row["type"],
        name=row["name"],
        user_id=row["user_id"],
        anonymous_id=row["anonymous_id"],
        group_id=row["group_id"],
        source=row["source"],
        cell=CellId(row["cell"]),
        epoch=row["epoch"],
        offset=row["log_offset"],
        ordinal=row["ordinal"],
        content_hash=row["content_hash"],
        payload=row["payload"],
    )
    return Stored(event, row["partition"], Micros(row["stored_at"]))

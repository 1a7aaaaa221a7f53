"""`audit.AuditTrail` on PostgreSQL, as df_audit: a role that may add and read, never change or remove."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from cells.storage.audit import Entry, Reading
from cells.storage.postgres import AUDIT_BOUNDS, READ_PLANS, Session
from cells.storage.sql import sql
from kernel.chain import BEGINNING, Head, Link
from kernel.clock import Micros
from kernel.limits import QUERY_SECONDS_MAX


class PostgresAuditTrail:
    """See the port. `dsn` is df_audit's."""

    def __init__(self, dsn: str) -> None:
        self._session = Session(dsn, "dataflow-audit", AUDIT_BOUNDS, READ_PLANS)

    async def close(self) -> None:
        """Cuts its connections. Idempotent."""
        await self._session.close()

    async def head(self, chain: str) -> Head:
        """See the port."""
        async with self._session.connection(QUERY_SECONDS_MAX) as connection:
            row = await connection.fetchrow(sql("audit_last"), chain)
        return BEGINNING if row is None else Head(row["seq"], row["hash"])

    async def append(self, chain: str, entries: Sequence[Entry]) -> bool:
        """See the port."""
        async with self._session.connection(QUERY_SECONDS_MAX) as connection:
            try:
                rows = [(entry.seq, *entry.fields, entry.prev_hash, entry.hash) for entry in entries]
                await connection.execute(sql("audit_append"), chain, *zip(*rows, strict=True))
            except asyncpg.UniqueViolationError:
                return False
        return True

    async def read(self, chain: str, after: int, entries_max: int) -> list[Entry]:
        """See the port."""
        async with self._session.connection(QUERY_SECONDS_MAX) as connection:
            rows = await connection.fetch(sql("audit_read"), chain, after, entries_max)
        return [
            Link(r["seq"], Reading(Micros(r["at"]), r["actor"], r["tenant"], r["action"], r["question"]), r["prev_hash"], r["hash"])
            for r in rows
        ]

"""Consumer groups over advisory locks: a member is a connection, and a dead connection gives everything back by itself.

Every member holds a shared lock on (group, -1), which is counted; a partition is held by an exclusive lock on (group, number).
"""

from __future__ import annotations

import math
import zlib

import asyncpg

from kernel.errors import Failure, Reason

_LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)


class PostgresMembership:
    """`cells.eventlog.log.Membership`."""

    def __init__(self, dsn: str, members_sql: str, group: str, partitions: int) -> None:
        self._dsn = dsn
        self._members_sql = members_sql
        self._key = zlib.crc32(group.encode()) & 0x7FFFFFFF
        self._partitions = partitions
        self._connection: asyncpg.Connection | None = None
        self._held: set[int] = set()

    async def assignment(self) -> frozenset[int]:
        """Gives back what is above the fair share, takes what is free below it. Empty while PostgreSQL is away."""
        try:
            return await self._balance()
        except _LOST as error:
            await self.leave()
            raise Failure(Reason.LOG_UNAVAILABLE, type(error).__name__, retry_after_seconds=1) from error

    async def leave(self) -> None:
        """Closes the connection, and with it every lock."""
        connection, self._connection, self._held = self._connection, None, set()
        if connection is not None:
            connection.terminate()

    async def _balance(self) -> frozenset[int]:
        if self._connection is None:
            self._connection = await asyncpg.connect(self._dsn, timeout=5.0)
            await self._connection.execute("SELECT pg_advisory_lock_shared($1::integer, -1)", self._key, timeout=5.0)
        members = await self._connection.fetchval(self._members_sql, self._key, timeout=5.0)
        fair = math.ceil(self._partitions / max(1, members))
        for partition in sorted(self._held, reverse=True)[: max(0, len(self._held) - fair)]:
            await self._connection.execute("SELECT pg_advisory_unlock($1::integer, $2::integer)", self._key, partition, timeout=5.0)
            self._held.discard(partition)
        for partition in range(self._partitions):
            if len(self._held) >= fair:
                break
            if partition in self._held:
                continue
            taken = "SELECT pg_try_advisory_lock($1::integer, $2::integer)"
            if await self._connection.fetchval(taken, self._key, partition, timeout=5.0):
                self._held.add(partition)
        return frozenset(self._held)

"""Brings a database to this code's schema: plain SQL files in order, one transaction, under an advisory lock.

Every migration must leave the previous code running on the new schema (add, fill, switch, and only later remove).
"""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from cells.storage.sql import Migration, migrations, sql


class MigrationChanged(Exception):
    """A migration that is applied already now has another text."""


async def migrate(owner_dsn: str, steps: Sequence[Migration] | None = None) -> list[int]:
    """Applies what is missing, as df_owner; returns the versions that it applied, none the second time.

    A database that is ahead of this code is left alone. Raises MigrationChanged, OSError, asyncpg.PostgresError.
    """
    connection = await asyncpg.connect(owner_dsn, timeout=10.0, command_timeout=600.0)
    try:
        async with connection.transaction():
            await connection.execute(sql("migrate_lock"))
            await connection.execute(sql("migrate_begin"))
            rows = await connection.fetch(sql("migrate_done"))
            return await _apply(connection, migrations() if steps is None else steps, {row["version"]: row["checksum"] for row in rows})
    finally:
        await connection.close(timeout=10.0)


async def _apply(connection: asyncpg.Connection[asyncpg.Record], steps: Sequence[Migration], done: dict[int, str]) -> list[int]:
    applied = []
    for step in steps:
        checksum = done.get(step.version)
        if checksum is None:
            await connection.execute(step.text)
            await connection.execute(sql("migrate_record"), step.version, step.name, step.checksum)
            applied.append(step.version)
        elif checksum != step.checksum:
            raise MigrationChanged(f"migration {step.version:04} {step.name} was applied with another text")
    return applied

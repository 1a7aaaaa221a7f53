"""Databases and their owning roles on a server, made when they are not there."""

from __future__ import annotations

import secrets

import asyncpg

from cli.errors import Unable
from kernel.scram import scram_verifier

_LOCK = 7_400_001


async def own_database(server_dsn: str, database: str, role: str, password: str) -> None:
    """Makes login role `role` (or sets its password) and its `database`. `server_dsn` is a superuser's URL. Raises Unable.

    The names are ours; of the password only its verifier is sent.
    """
    try:
        server = await asyncpg.connect(server_dsn, timeout=10.0)
        try:
            await server.execute("SELECT pg_advisory_lock($1)", _LOCK)
            known = await server.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role)
            verifier = scram_verifier(password, secrets.token_bytes(16))
            quoted = await server.fetchval("SELECT format('%I LOGIN PASSWORD %L', $1::text, $2::text)", role, verifier)
            await server.execute(f"{'ALTER' if known else 'CREATE'} ROLE {quoted}")
            if not await server.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", database):
                names = await server.fetchval("SELECT format('%I OWNER %I', $1::text, $2::text)", database, role)
                await server.execute(f"CREATE DATABASE {names} TEMPLATE template0 ENCODING 'UTF8'")
        finally:
            await server.close(timeout=10.0)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        raise Unable(f"database {database} cannot be made: {type(error).__name__}: {error}") from error

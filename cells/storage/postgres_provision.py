"""Makes a cell's database from nothing: database, roles with scram passwords, schema. Idempotent, safe to run twice at once.

df_owner owns the schema and migrates. df_apply may write many tenants and has no reading API. df_query sees the current tenant
alone. df_audit appends to and reads the audit chain. None of them may create roles, bypass row-level security or is a superuser.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from cells.storage.postgres import Dsn
from cells.storage.postgres_migrate import migrate
from kernel.scram import scram_verifier

_LOCK: Final = 7_305_002
_MAINTENANCE: Final = "postgres"


@dataclass(frozen=True, slots=True)
class Passwords:
    """Of the four roles, from the caller's secrets."""

    owner: str = field(repr=False)
    apply: str = field(repr=False)
    query: str = field(repr=False)
    audit: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Dsns:
    """How each role reaches the database. They hold passwords."""

    owner: str = field(repr=False)
    apply: str = field(repr=False)
    query: str = field(repr=False)
    audit: str = field(repr=False)


def dsns(admin_dsn: str, passwords: Passwords) -> Dsns:
    """The roles' DSNs of the database that `admin_dsn` names."""
    admin = Dsn(admin_dsn)
    return Dsns(*(admin.as_role(role, secret).text for role, secret in _roles(passwords)))


async def provision(admin_dsn: str, passwords: Passwords) -> Dsns:
    """Makes everything that is missing in the database that `admin_dsn` names, sets the passwords and migrates.

    The administrator needs CREATEDB and CREATEROLE. Raises OSError, asyncpg.PostgresError, MigrationChanged.
    """
    admin = Dsn(admin_dsn)
    server = await asyncpg.connect(admin.to(_MAINTENANCE).text, timeout=10.0)
    try:
        await server.execute("SELECT pg_advisory_lock($1)", _LOCK)
        for role, secret in _roles(passwords):
            await _make_role(server, role, secret)
        await _make_database(server, admin.database)
    finally:
        await server.close(timeout=10.0)
    made = dsns(admin_dsn, passwords)
    await migrate(made.owner)
    return made


def _roles(passwords: Passwords) -> tuple[tuple[str, str], ...]:
    return (("df_owner", passwords.owner), ("df_apply", passwords.apply), ("df_query", passwords.query), ("df_audit", passwords.audit))


async def _make_role(server: asyncpg.Connection[asyncpg.Record], role: str, password: str) -> None:
    if not await server.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role):
        await server.execute(f"CREATE ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION")
    await server.execute(f"ALTER ROLE {role} PASSWORD '{scram_verifier(password, secrets.token_bytes(16))}'")


async def _make_database(server: asyncpg.Connection[asyncpg.Record], name: str) -> None:
    quoted = await server.fetchval("SELECT quote_ident($1)", name)
    if not await server.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
        await server.execute(f"CREATE DATABASE {quoted} TEMPLATE template0 ENCODING 'UTF8'")
    await server.execute(f"GRANT CONNECT, CREATE ON DATABASE {quoted} TO df_owner")
    await server.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {quoted} TO df_apply")
    await server.execute(f"GRANT CONNECT ON DATABASE {quoted} TO df_query, df_audit")

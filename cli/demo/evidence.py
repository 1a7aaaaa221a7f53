"""Reads back what every cell holds, for the oracle: visible rows through the query API, ledgers and copies by an auditor's own eyes.

The auditor shares no code with ingest or storage: it reads tables with its own SQL and files as bytes.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import asyncpg
import zstandard

from chaos.checkers.history import Copy, Kind, LedgerLine
from cli.local.fleet import LocalFleet

_TOKEN_READ_BYTES: Final = 8 * 1024 * 1024
UNAPPLIED_SQL: Final = (
    "SELECT coalesce(sum(r.events), 0) FROM eventlog.record r LEFT JOIN cell.position p ON p.partition = r.partition"
    ' WHERE r."offset" >= coalesce(p.next_offset, 0)'
)
_ACCEPTED_SQL: Final = "SELECT tenant, sum(events)::bigint FROM eventlog.record WHERE cell = $1 GROUP BY tenant"
_SCHEMAS_SQL: Final = "SELECT table_schema FROM information_schema.tables WHERE table_name = 'ledger'"
_TABLES_SQL: Final = (
    "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
)
# A body is a byte of format, then the batch, compressed or not; a frame of zstd begins with its magic number, whatever the format says.
_SEALED: Final = b"\x28\xb5\x2f\xfd"
_OPENED_BYTES_MAX: Final = 64 * 1024 * 1024
_BYTES_SQL: Final = (
    "SELECT format('%I.%I', n.nspname, c.relname), format('%I', a.attname)"
    " FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
    " AND a.atttypid = 'bytea'::regtype AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2"
)
_KINDS: Final[tuple[tuple[re.Pattern[str], Kind], ...]] = (
    (re.compile(r"eventlog\.record(_.*)?"), "log"),
    (re.compile(r"tenants?(_\w+)?\.record(_.*)?"), "store"),
)


async def unapplied(fleet: LocalFleet) -> int:
    """Events in all cells' logs that are not applied."""
    total = 0
    for cell in fleet.layout.fleet.cells:
        connection = await asyncpg.connect(fleet.dsn(cell))
        try:
            total += int(await connection.fetchval(UNAPPLIED_SQL))
        finally:
            await connection.close()
    return total


async def ledger_lines(dsn: str, cell: str) -> list[LedgerLine]:
    """What the cell accepted itself: the left side from record headers, the right side from the ledger tables. `dsn` is a superuser's, of
    the cell's database."""
    connection = await asyncpg.connect(dsn)
    try:
        accepted = {row[0]: row[1] for row in await connection.fetch(_ACCEPTED_SQL, cell)}
        right: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        for (schema,) in await connection.fetch(_SCHEMAS_SQL):
            rows = await connection.fetch(f'SELECT tenant, stored, duplicate, quarantined, held FROM "{schema}".ledger')  # noqa: S608  # a name from the catalogue
            for tenant, *counts in rows:
                right[tenant] = [have + more for have, more in zip(right[tenant], counts, strict=True)]
    finally:
        await connection.close()
    return [LedgerLine(cell, tenant, accepted.get(tenant, 0), *right[tenant]) for tenant in sorted({*accepted, *right})]


async def copies(fleet: LocalFleet, tokens: tuple[bytes, ...]) -> list[Copy]:
    """Where the planted tokens are: every table of every database as text, with whatever is compressed in it opened as well, and every
    file of every zone as bytes (WAL included).

    A Copy's text is reduced to the tokens that were found in it: the whole would not fit in memory.
    """
    found: list[Copy] = []
    for zone in fleet.layout.fleet.zones:
        owners = [zone, *(cell.name for cell in fleet.layout.fleet.cells_of(zone))]
        for owner in owners:
            found += await _tables(fleet, zone, owner, tokens)
        found += await asyncio.to_thread(_files, zone, fleet.layout.zone_folder(zone), tokens)
    return found


async def _tables(fleet: LocalFleet, zone: str, owner: str, tokens: tuple[bytes, ...]) -> list[Copy]:
    connection = await asyncpg.connect(fleet.dsn(owner))
    try:
        found = []
        for (table,) in await connection.fetch(_TABLES_SQL):
            search = TokenSearch(tokens)
            await connection.copy_from_query(f"SELECT * FROM {table}", output=search.feed, format="binary")  # noqa: S608  # a name from the catalogue
            found.append(Copy(zone, f"table {table} of {owner}", search.text))
        return found + [copy async for copy in opened(connection, zone, owner, tokens)]
    finally:
        await connection.close()


async def opened(connection: asyncpg.Connection, zone: str, owner: str, tokens: tuple[bytes, ...]) -> AsyncIterator[Copy]:
    """A Copy of every column of bytes: the bodies of records, in the log and in the store, and whatever else holds one. In a compressed
    body no search for a token sees it."""
    for table, column in await connection.fetch(_BYTES_SQL):
        search = TokenSearch(tokens)
        async with connection.transaction():
            values = connection.cursor(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL", prefetch=16)  # noqa: S608  # names from the catalogue
            async for (value,) in values:
                search.take(_open(value))
        yield Copy(zone, f"column {column} of table {table} of {owner}, opened", search.text, _kind(table))


def _kind(table: str) -> Kind:
    return next((kind for pattern, kind in _KINDS if pattern.fullmatch(table)), "other")


def _open(value: bytes) -> bytes:
    if value[1:5] != _SEALED:
        return value
    return zstandard.ZstdDecompressor().decompress(value[1:], max_output_size=_OPENED_BYTES_MAX)


def _files(zone: str, folder: Path, tokens: tuple[bytes, ...]) -> list[Copy]:
    found = []
    for path in sorted(folder.rglob("*")):
        search = TokenSearch(tokens)
        try:
            if not path.is_file():
                continue
            with path.open("rb") as file:
                while chunk := file.read(_TOKEN_READ_BYTES):
                    search.take(chunk)
        except FileNotFoundError:
            continue  # PostgreSQL removes files while we look; what was in them is in the WAL, which is searched too.
        found.append(Copy(zone, str(path.relative_to(folder.parent)), search.text))
    return found


class TokenSearch:
    """Finds tokens in a stream of chunks, also across their borders."""

    def __init__(self, tokens: tuple[bytes, ...]) -> None:
        self._tokens = tokens
        self._found: set[bytes] = set()
        self._tail = b""
        self._overlap = max((len(token) for token in tokens), default=1) - 1

    async def feed(self, chunk: bytes) -> None:
        """A chunk of a COPY."""
        self.take(chunk)

    def take(self, chunk: bytes) -> None:
        """The next chunk."""
        window = self._tail + chunk
        self._found.update(token for token in self._tokens if token in window)
        self._tail = window[-self._overlap :] if self._overlap else b""

    @property
    def text(self) -> bytes:
        """The tokens that were found."""
        return b"\n".join(sorted(self._found))

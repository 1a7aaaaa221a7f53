"""What a cell's store and log hold of a run, asked as the superuser behind the services' backs: parts for the verdict, and sizes.

The one place that knows how events are laid out in the store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from bench.verdict import WORD, Part
from bench.workload import UNSPREAD_POSITIONS

_ROWS_AT_ONCE: Final = 20_000
# `bench.workload.message_id` taken apart: 4 hexadecimal digits of the position, 16 that only spread, 8 of the run, 8 of the request.
_PARTS: Final = """
CREATE TEMPORARY TABLE part ON COMMIT DROP AS
WITH event AS (
    SELECT tenant, partition, log_offset, ('x' || right(message_id, 8))::bit(32)::bigint AS request,
           (('x' || left(message_id, 4))::bit(16)::int * $2::int) & 65535 AS position
    FROM tenants.event WHERE substr(message_id, 21, 8) = $1
)
SELECT tenant, request, position / $3::int AS word, partition, count(*) AS rows, bit_or(1::bigint << position % $3::int) AS mask,
       max(log_offset) AS last
FROM event GROUP BY 1, 2, 3, 4
"""
# Nothing tells the planner how many events are of one run: it would sort all of them. A table may be made by several workers, a cursor not.
_HASHED: Final = "SET LOCAL enable_sort = off; SET LOCAL work_mem = '256MB'; SET LOCAL max_parallel_workers_per_gather = 2"
_APPLIED: Final = "SELECT coalesce(sum(stored + duplicate + quarantined + held), 0)::bigint FROM tenants.ledger"
_SIZES: Final = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)) FILTER (WHERE n.nspname = 'eventlog'), 0)::bigint AS log,
       coalesce(sum(pg_total_relation_size(c.oid)) FILTER (WHERE n.nspname ~ '^tenants?(_|$)'), 0)::bigint AS store,
       pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS wal
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'
"""

# Until the transaction's end no apply ends, since each of them advances a position; whoever reads the positions may go on.
HOLD: Final = "LOCK TABLE cell.position IN EXCLUSIVE MODE"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes on disk, indexes included, and bytes of WAL ever written."""

    log: int
    store: int
    wal: int

    def since(self, before: Sizes) -> Sizes:
        """What came on top."""
        return Sizes(self.log - before.log, self.store - before.store, self.wal - before.wal)


async def parts(connection: asyncpg.Connection[asyncpg.Record], run: str, tenants: Sequence[str]) -> AsyncIterator[Part]:
    """Everything that is stored of `run`. `tenants` are names by index; another tenant's index is -1."""
    index = {name: number for number, name in enumerate(tenants)}
    async with connection.transaction():
        await connection.execute(_HASHED)
        await connection.execute(_PARTS, run, UNSPREAD_POSITIONS, WORD)
        async for row in connection.cursor("SELECT * FROM part", prefetch=_ROWS_AT_ONCE):
            yield Part(index.get(row["tenant"], -1), *(row[name] for name in ("request", "word", "partition", "rows", "mask", "last")))


async def applied(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """How many events the store was ever given, repeats included."""
    return int(await connection.fetchval(_APPLIED))


async def sizes(connection: asyncpg.Connection[asyncpg.Record]) -> Sizes:
    """Of a log in PostgreSQL; one in Kafka lies elsewhere, and is 0 here."""
    found = await connection.fetchrow(_SIZES)
    assert found is not None
    return Sizes(*found)


async def lose_one(connection: asyncpg.Connection[asyncpg.Record], run: str) -> None:
    """Sabotage: removes one event of the run."""
    await connection.execute(
        "DELETE FROM tenants.event WHERE (tenant, message_id) IN"
        " (SELECT tenant, message_id FROM tenants.event WHERE substr(message_id, 21, 8) = $1 LIMIT 1)",
        run,
    )


async def double_one(connection: asyncpg.Connection[asyncpg.Record], run: str) -> None:
    """Sabotage: stores one event of the run again, as if it had been received a day later, which no key forbids."""
    await connection.execute(
        "INSERT INTO tenants.event"
        " SELECT (jsonb_populate_record(e, jsonb_build_object('received_day', e.received_day + 1))).*"
        " FROM tenants.event e WHERE substr(e.message_id, 21, 8) = $1 LIMIT 1",
        run,
    )

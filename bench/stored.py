"""What a cell's store and log hold of a run, asked as the superuser behind the services' backs: parts for the verdict, and sizes.

The one place that knows how events are laid out in the store and in the log.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from bench.verdict import WORD, Part
from bench.workload import positions_by_request
from cells.eventlog import codec

_RECORDS_AT_ONCE: Final = 500
_POSITIONS: Final = "SELECT partition, next_offset FROM cell.position"
# The events that are stored of each record from a position of its partition on. An event's text, and so its message id, stands in the
# record's body.
_RECORDS: Final = """
SELECT r.tenant, r.partition, r.log_offset, r.body, o.ordinals
FROM (
    SELECT e.received_day, e.partition, e.log_offset, array_agg(e.ordinal) AS ordinals
    FROM tenants.event_row e LEFT JOIN unnest($1::int[], $2::bigint[]) AS since (partition, first) USING (partition)
    WHERE e.log_offset >= coalesce(since.first, 0)
    GROUP BY 1, 2, 3
) AS o JOIN tenants.record r USING (received_day, partition, log_offset)
"""
# Nothing tells the planner how many events there are to a record: it would sort all of them.
_HASHED: Final = "SET LOCAL enable_sort = off; SET LOCAL work_mem = '512MB'; SET LOCAL max_parallel_workers_per_gather = 2"
_BEHIND: Final = """
SELECT r.body FROM eventlog.record r JOIN unnest($2::int[], $3::bigint[]) AS gap (partition, until) USING (partition)
WHERE r.cell = $1 AND r."offset" >= gap.until
"""
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


async def positions(connection: asyncpg.Connection[asyncpg.Record]) -> dict[int, int]:
    """How far the store has come, by partition."""
    return {row["partition"]: row["next_offset"] for row in await connection.fetch(_POSITIONS)}


async def parts(
    connection: asyncpg.Connection[asyncpg.Record], run: str, tenants: Sequence[str], since: Mapping[int, int]
) -> AsyncIterator[Part]:
    """Everything of `run` that was stored from some positions on. `tenants` are names by index; another tenant's index is -1."""
    index = {name: number for number, name in enumerate(tenants)}
    async with connection.transaction():
        await connection.execute(_HASHED)
        records = connection.cursor(_RECORDS, list(since), list(since.values()), prefetch=_RECORDS_AT_ONCE)
        async for tenant, partition, offset, body, ordinals in records:
            ids = codec.decode_columns(body).message_ids
            for request, found in positions_by_request(run, [ids[ordinal] for ordinal in ordinals]).items():
                for word, inside in _words(found).items():
                    mask = sum({1 << position for position in inside})
                    yield Part(index.get(tenant, -1), request, word, partition, len(inside), mask, offset)


def _words(found: Sequence[int]) -> dict[int, list[int]]:
    """Positions inside a word, by word."""
    words: dict[int, list[int]] = defaultdict(list)
    for position in found:
        words[position // WORD].append(position % WORD)
    return words


async def behind(connection: asyncpg.Connection[asyncpg.Record], run: str, cell: str, until: Mapping[int, int]) -> frozenset[int]:
    """Requests of `run` that `cell` itself accepted into its log, at or behind these offsets of its partitions."""
    rows = await connection.fetch(_BEHIND, cell, list(until), list(until.values()))
    return frozenset(request for row in rows for request in positions_by_request(run, codec.decode_columns(row["body"]).message_ids))


async def applied(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """How many events the store was ever given, repeats included."""
    return int(await connection.fetchval(_APPLIED))


async def sizes(connection: asyncpg.Connection[asyncpg.Record]) -> Sizes:
    """Of a log in PostgreSQL; one in Kafka lies elsewhere, and is 0 here."""
    found = await connection.fetchrow(_SIZES)
    assert found is not None
    return Sizes(*found)


async def lose_one(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Sabotage: removes one event of the latest record."""
    await connection.execute(
        "DELETE FROM tenants.event_row"
        " WHERE message_key = (SELECT message_key FROM tenants.event_row ORDER BY log_offset DESC, partition LIMIT 1)"
    )


async def double_one(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Sabotage: stores an event of the latest record again, as if it had been received a day later, which no key forbids."""
    for relation in ("event_row", "record"):
        await connection.execute(
            f"INSERT INTO tenants.{relation}"  # noqa: S608  # a name of ours
            " SELECT (jsonb_populate_record(e, jsonb_build_object('received_day', e.received_day + 1))).*"
            f" FROM tenants.{relation} e ORDER BY log_offset DESC, partition LIMIT 1"
        )

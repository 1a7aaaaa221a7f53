"""What storing must not cost: a look at rows that have nothing to do with the event."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace

import asyncpg
import pytest

from cells.storage.store import Cursor
from kernel.effects import Applied, IdentityClaim
from kernel.limits import READ_BYTES_MAX
from tests.support.processes import eventually
from tests.support.storage_room import ACME, EVER, Room, batch, effects, event, postgres_room

__all__ = ["postgres_room"]
pytestmark = pytest.mark.postgres

_APPLIES, _EVENTS = 12, 20
_SCANS = """
    SELECT coalesce(sum(idx_scan), 0)::bigint, coalesce(sum(idx_tup_read), 0)::bigint FROM pg_stat_user_indexes
    WHERE schemaname = 'tenants' AND relname ~ $1 AND indexrelname ~ $2
"""


async def _used(room: Room, relation: str, index: str) -> tuple[int, int]:
    """Scans of some indexes of the shared schema, by patterns, and entries that they returned; read after the store's sessions have
    ended, when all is counted."""
    connection = await asyncpg.connect(room.admin_dsn)
    (found,) = await connection.fetch(_SCANS, relation, index)
    await connection.close()
    return int(found[0]), int(found[1])


async def test_an_event_is_never_looked_for_by_time(postgres_room: Room) -> None:
    """A young partition is believed empty, whatever it holds: a look-up by the time index would then read the whole tenant."""
    for number in range(_APPLIES):
        rows = [event(f"m{number}-{index}") for index in range(_EVENTS)]
        assert await postgres_room.apply(effects(*rows)) == Applied(_EVENTS, 0, 0, 0, 0)
    await postgres_room.store.close()

    async def inserted() -> bool:
        connection = await asyncpg.connect(postgres_room.admin_dsn)
        counted = await connection.fetchval("SELECT sum(n_tup_ins) FROM pg_stat_user_tables WHERE relname ~ '^event_row_'")
        await connection.close()
        return int(counted or 0) == _APPLIES * _EVENTS

    await eventually(inserted, "the sessions' statistics are there")
    assert await _used(postgres_room, "^event_row_", "event_at") == (0, 0)


async def test_a_repeat_is_not_looked_for_by_time_once_there_is_much(postgres_room: Room) -> None:
    """Repeats that came while the partition was young must not fix the plan for those that come later."""
    small = [[event(f"small-{number}-{index}") for index in range(5)] for number in range(6)]
    large = [[event(f"large-{number}-{index}") for index in range(500)] for number in range(6)]
    for rows in small:
        assert await postgres_room.apply(effects(*rows)) == Applied(len(rows), 0, 0, 0, 0)
        assert await postgres_room.apply(effects(*rows)) == Applied(0, len(rows), 0, 0, 0)
    for rows in large:
        assert await postgres_room.apply(effects(*rows)) == Applied(len(rows), 0, 0, 0, 0)
    for rows in large:
        assert await postgres_room.apply(effects(*rows)) == Applied(0, len(rows), 0, 0, 0)
    await postgres_room.store.close()

    async def counted() -> bool:
        _, entries = await _used(postgres_room, "^event_row_", "pkey")
        return entries >= sum(map(len, [*small, *large]))

    await eventually(counted, "the sessions' statistics are there")
    assert await _used(postgres_room, "^event_row_", "event_at") == (0, 0)


async def test_a_settled_claim_is_asked_about_once_more_only(postgres_room: Room) -> None:
    """The first apply stores a claim, the second learns that it is settled; later ones leave the graph alone."""
    claim = IdentityClaim(ACME, "u:ann", "a:phone")
    for number in range(_APPLIES):
        await postgres_room.apply(effects(event(f"m{number}"), identities=(claim,)))
    await postgres_room.store.close()

    async def counted() -> bool:
        scans, _ = await _used(postgres_room, "^node$", "")
        return scans > 0

    await eventually(counted, "the sessions' statistics are there")
    scans, _ = await _used(postgres_room, "^node$", "node_pkey")
    assert scans < _APPLIES


async def test_a_reader_looks_up_an_event_and_its_record_by_their_keys(postgres_room: Room) -> None:
    """Among many, in a young partition: neither the tenant's other events nor records that hold none of the answer are read."""
    for number in range(_APPLIES):
        await postgres_room.apply(effects(*(event(f"m{number}-{index}") for index in range(10 * _EVENTS))))
    await postgres_room.store.close()
    for number in range(_APPLIES):
        assert await postgres_room.reader.get_event(ACME, f"m{number}-3") is not None
    await postgres_room.reader.close()

    async def read() -> list[int]:
        connection = await asyncpg.connect(postgres_room.admin_dsn)
        counted = "SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint FROM pg_stat_user_tables WHERE relname ~ $1"
        found = [await connection.fetchval(counted, pattern) for pattern in ("^event_row_", "^record_")]
        await connection.close()
        return found

    async def counted() -> bool:
        return min(await read()) >= _APPLIES

    await eventually(counted, "the sessions' statistics are there")
    assert await read() == [_APPLIES, _APPLIES]
    assert await _used(postgres_room, "^event_row_", "event_at") == (0, 0)


async def test_a_page_opens_bodies_up_to_a_bound(postgres_room: Room) -> None:
    """Events that stand in large records of their own come in shorter pages, which together are complete; no page holds or opens more
    than READ_BYTES_MAX of bodies, but for one event whose body alone is larger."""
    size, count = 1 << 20, 64
    for number in range(count):
        stuffing = event(f"stuffing{number}", name="Stuffing", payload=random.Random(number).randbytes(size))
        await postgres_room.apply(batch(stuffing, event(f"m{number}")))
    wanted = replace(EVER, name="Order Done")
    giant = event("stuffing-giant", name="Stuffing", payload=random.Random(count).randbytes(READ_BYTES_MAX))
    await postgres_room.apply(batch(giant, event(f"m{count}")))
    assert len((await postgres_room.reader.list_events(ACME, wanted, 1, None)).events) == 1
    found: list[str] = []
    after: Cursor | None = None
    more = True
    tracemalloc.start()
    try:
        while more:
            page = await postgres_room.reader.list_events(ACME, wanted, count + 1, after)
            assert 1 <= len(page.events) < READ_BYTES_MAX // size + 1
            found += [stored.envelope.message_id for stored in page.events]
            last, more = page.events[-1].row, page.more
            after = Cursor(last.event_at, last.message_key, last.received_day)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sorted(found) == sorted(f"m{number}" for number in range(count + 1))
    assert peak < 4 * READ_BYTES_MAX

"""What a take holds still on a real PostgreSQL while it stores."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from kernel.epoch import Epoch
from kernel.limits import COPY_BYTES
from tests.support.copies_room import HOME, TARGET, Pair, postgres_pair
from tests.support.processes import eventually
from tests.support.storage_room import ACME

__all__ = ["postgres_pair"]

pytestmark = pytest.mark.postgres
_WAITING_SQL = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


async def test_nobody_becomes_the_owner_in_the_middle_of_a_take(postgres_pair: Pair) -> None:
    """Law: a part that was let in because the tenant is released here is stored before the cell owns it, or not at all."""
    pair = postgres_pair
    await pair.home.put("m1")
    copy, more = await pair.step()
    while copy.cursor is None or not copy.cursor.past:
        copy, more = await pair.step()
    await pair.home.put("m2")
    part = await pair.home.copies.export(ACME, Epoch(1), copy.cursor, COPY_BYTES)
    assert more
    assert part.chunk.rows
    admin, watcher = await asyncpg.connect(pair.target.admin_dsn), await asyncpg.connect(pair.target.admin_dsn)
    try:
        async with admin.transaction():
            await admin.execute("LOCK TABLE tenants.dead_letter IN ACCESS EXCLUSIVE MODE")
            taking = asyncio.create_task(pair.target.copies.take(HOME, "m1", copy.seq, part.chunk, part.cursor))

            async def waiting(count: int) -> bool:
                return bool(await watcher.fetchval(_WAITING_SQL) == count)

            await eventually(lambda: waiting(1), "the take waits for the table", 10)
            owning = asyncio.create_task(pair.target.own(2, TARGET, ACME))
            await eventually(lambda: waiting(2), "the owner waits for the take", 10)
            assert not owning.done()
        assert (await taking).seq == copy.seq + 1
        await owning
    finally:
        await admin.close()
        await watcher.close()
    assert await pair.target.ids() == ["m1", "m2"]

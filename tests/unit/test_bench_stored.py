"""What a real store is asked about a run: the verdict's parts, and when a session sees what another one committed."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import AsyncIterator, Mapping

import asyncpg
import pytest

from bench import stored
from bench.verdict import Ledger, Verdict
from bench.visibility import LOOK_SECONDS, Watch
from bench.workload import message_id
from kernel.ids import TenantId
from tests.support.processes import eventually
from tests.support.storage_room import Room, batch, effects, event, postgres_room

__all__ = ["postgres_room"]
pytestmark = pytest.mark.postgres
RUN, OTHER = "0a1b2c3d", "ffffffff"
TENANTS = ("acme", "globex")
BATCH, REQUESTS = 100, 6
BUSY_SECONDS = 0.5  # a machine that runs other tests as well looks later than it would


@pytest.fixture
async def admin(postgres_room: Room) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(postgres_room.admin_dsn)
    yield connection
    await connection.close()


async def apply_run(room: Room, run: str, first: int = 0) -> None:
    """Six requests of a run in two partitions, of two tenants in turn, from offset `first` on."""
    for request in range(REQUESTS):
        tenant = TenantId(TENANTS[request % 2])
        events = [
            event(message_id(run, request, position), tenant, offset=first + request // 2, ordinal=position) for position in range(BATCH)
        ]
        await room.apply(batch(*events, partition=request % 2))


async def judge(admin: asyncpg.Connection[asyncpg.Record], since: Mapping[int, int] | None = None) -> Verdict:
    """The verdict when every request was acknowledged, on what was stored from some positions on."""
    ledger = Ledger(BATCH, array("B", [request % 2 for request in range(REQUESTS)]))
    async for part in stored.parts(admin, RUN, TENANTS, since or {}):
        ledger.add(part)
        assert part.partition == part.request % 2
        assert part.offset == part.request // 2
    return ledger.verdict(array("d", [0.0] * REQUESTS))


async def test_a_whole_run_is_found(postgres_room: Room, admin: asyncpg.Connection[asyncpg.Record]) -> None:
    """Law: every event of the run is found where it stands, and nothing of another run."""
    await apply_run(postgres_room, RUN)
    await apply_run(postgres_room, OTHER, 100)
    assert await judge(admin) == Verdict(REQUESTS * BATCH, REQUESTS * BATCH, 0, 0, 0, 0)


async def test_what_was_there_before_is_not_looked_at(postgres_room: Room, admin: asyncpg.Connection[asyncpg.Record]) -> None:
    """Law: a run is judged by what came after its beginning, and a partition that was empty then counts from its start."""
    before = await stored.positions(admin)
    await apply_run(postgres_room, RUN)
    assert (await judge(admin, before)).holds
    after = await stored.positions(admin)
    assert after == {0: REQUESTS // 2, 1: REQUESTS // 2}
    assert (await judge(admin, after)).stored == 0
    assert (await judge(admin, {0: 0, 1: after[1]})).missing == REQUESTS // 2 * BATCH


async def test_a_planted_loss_is_found(postgres_room: Room, admin: asyncpg.Connection[asyncpg.Record]) -> None:
    """Law: one event that is not there any more makes the run void."""
    await apply_run(postgres_room, RUN)
    await stored.lose_one(admin)
    verdict = await judge(admin)
    assert (verdict.missing, verdict.doubled, verdict.holds) == (1, 0, False)


async def test_a_planted_double_is_found(postgres_room: Room, admin: asyncpg.Connection[asyncpg.Record]) -> None:
    """Law: one event that is there twice makes the run void."""
    await postgres_room.store.maintain()
    await apply_run(postgres_room, RUN)
    await stored.double_one(admin)
    verdict = await judge(admin)
    assert (verdict.missing, verdict.doubled, verdict.holds) == (0, 1, False)


async def test_what_the_store_was_given_is_counted(postgres_room: Room, admin: asyncpg.Connection[asyncpg.Record]) -> None:
    """Law: repeats count, since whoever waits for the store counts sendings; sizes only grow by what is added."""
    before = await stored.sizes(admin)
    assert await stored.applied(admin) == 0
    await apply_run(postgres_room, RUN)
    await apply_run(postgres_room, RUN)
    assert await stored.applied(admin) == 2 * REQUESTS * BATCH
    grown = (await stored.sizes(admin)).since(before)
    assert grown.store > REQUESTS * BATCH * 100
    assert grown.wal > 0


async def test_another_session_sees_a_position_move(postgres_room: Room, admin: asyncpg.Connection[asyncpg.Record]) -> None:
    """Law: an apply is visible to the watch after it was asked for, and no later than a look after it was answered."""
    watch = Watch(admin)
    applies: list[tuple[float, float]] = []

    async def seen() -> bool:
        return all(watch.visible_at(0, offset) is not None for offset in range(len(applies)))

    async with watch.following():
        assert watch.visible_at(0, 0) is None
        for number in range(3):
            began = time.monotonic()
            await postgres_room.apply(effects(event(f"event-{number}")))
            applies.append((began, time.monotonic()))
        await eventually(seen, "the watch tells of every apply")
    for offset, (began, ended) in enumerate(applies):
        moment = watch.visible_at(0, offset)
        assert moment is not None
        assert began <= moment <= ended + LOOK_SECONDS + BUSY_SECONDS
    assert watch.visible_at(0, 3) is None
    assert watch.visible_at(1, 0) is None


async def test_a_locked_store_holds_back_what_is_queryable(postgres_room: Room, admin: asyncpg.Connection[asyncpg.Record]) -> None:
    """Law: while a session locks the positions no apply ends, and whoever reads them may."""
    holder = await asyncpg.connect(postgres_room.admin_dsn)
    async with holder.transaction():
        await holder.execute(stored.HOLD)
        applying = asyncio.create_task(postgres_room.apply(effects(event("held"))))
        await eventually(lambda: waits(admin), "the apply waits for the lock")
        assert await admin.fetchval("SELECT coalesce(max(next_offset), 0) FROM cell.position") == 0
        assert not applying.done()
    await applying
    assert await admin.fetchval("SELECT max(next_offset) FROM cell.position") == 1
    await holder.close()


async def waits(admin: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Whether some session waits for a lock."""
    return bool(await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

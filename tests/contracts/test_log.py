"""The event log's specification (cells.eventlog.log) on every adapter."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from cells.eventlog.log import partition_of
from cells.eventlog.memory import MemoryLog
from cells.eventlog.postgres import open_log, provision
from kernel.clock import DAY, Clock
from kernel.errors import Failure, Reason
from kernel.ids import TenantId
from kernel.limits import RECORD_BYTES_MAX
from kernel.process.clock import SystemClock
from tests.contracts.conftest import Bench
from tests.support.postgres import Databases
from tests.support.processes import eventually
from tests.support.records import blob


async def test_offsets_start_at_zero_and_grow_by_one_per_partition(bench: Bench) -> None:
    """Each partition counts for itself."""
    assert await bench.append(0, "a", "b", "c") == [0, 1, 2]
    assert await bench.append(3, "d") == [0]


async def test_what_went_in_comes_out_in_order_from_any_offset(bench: Bench) -> None:
    """A fetch from n gives exactly the records n, n+1, ... with every field as it was."""
    await bench.append(1, *"abcde")
    assert await bench.texts(1, 2) == ["c", "d", "e"]
    entry = (await bench.log.fetch(1, 4, 1, 1, 0.0))[0]
    assert (entry.offset, entry.record) == (4, blob("e"))


async def test_concurrent_appends_lose_nothing_and_share_no_offset(bench: Bench) -> None:
    """The offsets of n concurrent appends are n different ones, and what stands at each is what was promised there."""
    texts = [f"r{number}" for number in range(200)]
    offsets = await asyncio.gather(*(bench.log.append(0, blob(text), bench.deadline()) for text in texts))
    assert sorted(offsets) == list(range(200))
    stored = await bench.texts(0)
    assert all(stored[offset] == text for offset, text in zip(offsets, texts, strict=True))


async def test_a_sequential_client_keeps_its_order(bench: Bench) -> None:
    """Beside nine others that write to the same partition, one that awaits each append finds its records in its order."""

    async def client(name: str) -> None:
        for number in range(20):
            await bench.append(2, f"{name}-{number}")

    await asyncio.gather(*(client(f"c{n}") for n in range(10)))
    stored = await bench.texts(2)
    for name in (f"c{n}" for n in range(10)):
        own = [text for text in stored if text.startswith(f"{name}-")]
        assert own == [f"{name}-{number}" for number in range(20)]


async def test_records_that_are_appended_together_stand_together(bench: Bench) -> None:
    """Law: beside others that write to the same partition, each stretch stands whole and in its order behind the offset that was told."""

    async def stretch(name: str) -> int:
        return await bench.log.append_all(1, [blob(f"{name}-{number}") for number in range(40)], bench.deadline())

    async def single(name: str) -> None:
        for number in range(20):
            await bench.append(1, f"{name}-{number}")

    *bases, _, _ = await asyncio.gather(*(stretch(f"s{n}") for n in range(10)), single("a"), single("b"))
    stored = await bench.texts(1)
    assert len(stored) == 10 * 40 + 2 * 20
    for name, base in zip((f"s{n}" for n in range(10)), bases, strict=True):
        assert base is not None
        assert stored[base : base + 40] == [f"{name}-{number}" for number in range(40)]


async def test_one_that_is_too_large_takes_its_stretch_with_it(bench: Bench) -> None:
    """Law: all of a stretch or none of it."""
    with pytest.raises(Failure) as refused:
        await bench.log.append_all(0, [blob("a"), blob("b", RECORD_BYTES_MAX + 1), blob("c")], bench.deadline())
    assert refused.value.reason is Reason.RECORD_TOO_LARGE
    await bench.append(0, "d")
    assert await bench.texts(0) == ["d"]


async def test_a_fetch_is_bounded_in_records_and_bytes_but_gives_one(bench: Bench) -> None:
    """However small the bounds, the first record comes."""
    for _ in range(4):
        await bench.log.append(0, blob("x", 1_000), bench.deadline())
    assert len(await bench.log.fetch(0, 0, 3, 1 << 20, 0.0)) == 3
    assert len(await bench.log.fetch(0, 0, 10, 1_500, 0.0)) == 2
    assert len(await bench.log.fetch(0, 0, 10, 1, 0.0)) == 1


async def test_a_waiting_fetch_is_woken_by_an_append(bench: Bench) -> None:
    """It does not sit out its whole wait."""
    waiting = asyncio.create_task(bench.log.fetch(0, 0, 10, 1 << 20, 30.0))
    await asyncio.sleep(0)
    await bench.append(0, "late")
    async with asyncio.timeout(5):
        assert [entry.offset for entry in await waiting] == [0]


async def test_a_fetch_at_the_end_returns_empty_after_its_wait(bench: Bench) -> None:
    """No record is no error."""
    assert await bench.log.fetch(0, 0, 10, 1 << 20, 0.05) == []


async def test_another_process_sees_what_was_acknowledged(bench: Bench) -> None:
    """A second log over the same storage reads the record as soon as the first one's append returned, and continues its offsets."""
    await bench.append(0, "a")
    other = await bench.again(1 << 40)
    assert [entry.record.body for entry in await other.fetch(0, 0, 10, 1 << 20, 0.0)] == [b"a"]
    assert await other.append(0, blob("b"), bench.deadline()) == 1
    assert await bench.append(0, "c") == [2]


async def test_an_oversize_record_is_refused_and_harms_no_neighbour(bench: Bench) -> None:
    """The limit is checked before anything is stored."""
    with pytest.raises(Failure) as caught:
        await bench.log.append(0, blob("x", RECORD_BYTES_MAX + 1), bench.deadline())
    assert caught.value.reason is Reason.RECORD_TOO_LARGE
    assert await bench.append(0, "y") == [0]


async def test_a_passed_deadline_is_an_unavailable_log(bench: Bench) -> None:
    """The caller is never kept beyond its deadline."""
    with pytest.raises(Failure) as caught:
        await bench.log.append(0, blob("x"), bench.clock.monotonic() - 1)
    assert caught.value.reason is Reason.LOG_UNAVAILABLE


async def test_bounds_name_the_first_retained_and_the_next_offset(bench: Bench) -> None:
    """For every partition, also the empty ones."""
    await bench.append(1, "a", "b")
    bounds = await bench.log.bounds()
    assert {number: tuple(bound) for number, bound in bounds.items()} == {0: (0, 0), 1: (0, 2), 2: (0, 0), 3: (0, 0)}


async def test_trim_drops_whole_old_days_and_says_so_to_readers(bench: Bench) -> None:
    """Records of ended days go, newer ones stay, offsets go on, and a reader of dropped ones is told - never skipped ahead."""
    bench.clock.shift = -3 * DAY
    await bench.append(0, "old", "older")
    bench.clock.shift = 0
    assert await bench.append(0, "new") == [2]
    assert await bench.log.trim(bench.clock.now()) >= 1
    assert (await bench.log.bounds())[0] == (2, 3)
    assert await bench.texts(0, 2) == ["new"]
    with pytest.raises(Failure) as caught:
        await bench.log.fetch(0, 1, 10, 1 << 20, 0.0)
    assert caught.value.reason is Reason.OFFSET_OUT_OF_RANGE


async def test_a_fully_trimmed_partition_still_refuses_dropped_offsets(bench: Bench) -> None:
    """Emptiness is no excuse for silence."""
    bench.clock.shift = -3 * DAY
    await bench.append(0, "old")
    bench.clock.shift = 0
    await bench.log.trim(bench.clock.now())
    assert (await bench.log.bounds())[0] == (1, 1)
    with pytest.raises(Failure) as caught:
        await bench.log.fetch(0, 0, 10, 1 << 20, 0.0)
    assert caught.value.reason is Reason.OFFSET_OUT_OF_RANGE


async def test_a_full_log_sheds_and_stores_nothing(bench: Bench) -> None:
    """Above the byte bound the answer is LOG_FULL, a retriable one."""
    tight = await bench.again(10)

    async def is_full() -> bool:
        try:
            await tight.append(0, blob("x", 100), bench.deadline())
        except Failure as failure:
            return failure.reason is Reason.LOG_FULL
        return False

    await eventually(is_full, "LOG_FULL")
    before = (await tight.bounds())[0].next
    assert await is_full()
    assert (await tight.bounds())[0].next == before


async def test_members_share_the_partitions_and_a_leaver_gives_back(bench: Bench) -> None:
    """Two members hold disjoint halves; when one leaves, the other gets all."""
    first, second = await bench.log.join("g", "m1"), await bench.log.join("g", "m2")

    async def shared() -> bool:
        one, two = await first.assignment(), await second.assignment()
        return len(one) == len(two) == 2 and not one & two

    await eventually(shared, "two halves")
    await first.leave()

    async def everything() -> bool:
        return await second.assignment() == frozenset(range(4))

    await eventually(everything, "all partitions")
    await second.leave()


async def test_groups_do_not_see_each_other(bench: Bench) -> None:
    """A member of one group takes nothing from another's."""
    first, second = await bench.log.join("g1", "m"), await bench.log.join("g2", "m")
    assert await first.assignment() == await second.assignment() == frozenset(range(4))
    await first.leave()
    await second.leave()


async def test_a_closed_log_refuses_and_closing_twice_is_fine(bench: Bench) -> None:
    """After close nothing is taken in silence."""
    other = await bench.again(1 << 39)
    await other.close()
    with pytest.raises(Failure):
        await other.append(0, blob("x"), bench.deadline())
    if isinstance(other, MemoryLog):
        return
    await other.close()


def test_partitions_are_stable_and_spread_bounds_a_tenant() -> None:
    """A tenant with spread s is found in at most s partitions, whatever its users; spread 1 is one partition."""
    tenant = TenantId("acme-retail")
    assert partition_of(tenant, "u1", 1, 8) == partition_of(tenant, "u2", 1, 8)
    assert len({partition_of(tenant, f"u{n}", 3, 8) for n in range(500)}) == 3
    assert partition_of(tenant, "u1", 3, 8) == partition_of(tenant, "u1", 3, 8)


@pytest.mark.postgres
async def test_an_append_whose_connection_dies_fails_or_is_durable_never_both_lost_and_acknowledged(postgres: Databases) -> None:
    """PostgreSQL's backends are terminated in mid-append, again and again: every acknowledged record is found, at its offset."""
    clock: Clock = SystemClock()
    await provision(postgres.admin_dsn, "df_log", "secret", 2)
    log = await open_log(postgres.role_dsn("df_log", "secret"), clock)
    admin = await asyncpg.connect(postgres.admin_dsn)
    acknowledged: dict[int, str] = {}
    refusals: set[Reason] = set()

    async def client(who: int) -> None:
        for number in range(60):
            text = f"{who}-{number}"
            try:
                acknowledged[await log.append(0, blob(text), clock.monotonic() + 10)] = text
            except Failure as failure:
                refusals.add(failure.reason)

    async def killer() -> int:
        kills = 0
        while any(not task.done() for task in clients):
            kills += await admin.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE usename = 'df_log' AND state = 'active' AND datname = current_database()"
            )
            await asyncio.sleep(0.005)
        return kills

    async def together(who: int) -> None:
        for number in range(60):
            texts = [f"{who}-{number}-{part}" for part in range(5)]
            try:
                base = await log.append_all(0, [blob(text) for text in texts], clock.monotonic() + 10)
            except Failure as failure:
                refusals.add(failure.reason)
            else:
                acknowledged.update({base + part: text for part, text in enumerate(texts)})

    clients = [asyncio.create_task(client(who)) for who in range(4)] + [asyncio.create_task(together(4))]
    kills = await killer()
    await asyncio.gather(*clients)
    await admin.close()
    assert kills > 0, "the fault hit nothing: the run is void"
    assert refusals <= {Reason.LOG_UNAVAILABLE}
    stored = {entry.offset: entry.record.body.decode() for entry in await log.fetch(0, 0, 10_000, 1 << 30, 0.0)}
    assert {offset: stored.get(offset) for offset in acknowledged} == acknowledged
    assert sorted(stored) == list(range(len(stored)))
    parts = [text.rpartition("-") for text in stored.values() if text.startswith("4-")]
    assert [int(part) for _, _, part in parts] == list(range(5)) * (len(parts) // 5), "a stretch was parted"
    await log.close()


@pytest.mark.postgres
async def test_a_member_whose_connection_dies_loses_its_partitions_and_joins_again(postgres: Databases) -> None:
    """The other member takes over; the returned one gets its half back."""
    await provision(postgres.admin_dsn, "df_log", "secret", 4)
    log = await open_log(postgres.role_dsn("df_log", "secret"), SystemClock())
    first, second = await log.join("g", "m1"), await log.join("g", "m2")
    assert await first.assignment() == frozenset(range(4))
    admin = await asyncpg.connect(postgres.admin_dsn)
    killed = await admin.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database()) AND mode = 'ShareLock'"
    )
    await admin.close()
    assert killed == 1

    async def taken_over() -> bool:
        return await second.assignment() == frozenset(range(4))

    await eventually(taken_over, "the survivor has everything")

    async def shared() -> bool:
        try:
            one, two = await first.assignment(), await second.assignment()
        except Failure:
            return False
        return len(one) == len(two) == 2 and not one & two

    await eventually(shared, "two halves again")
    await first.leave()
    await second.leave()
    await log.close()


@pytest.mark.postgres
async def test_two_logs_of_one_server_do_not_share_their_members(postgres: Databases) -> None:
    """Each in its own database: both sole members get every partition."""
    logs = []
    for dsn in (postgres.admin_dsn, await postgres.create()):
        await provision(dsn, "df_log", "secret", 4)
        logs.append(await open_log(dsn, SystemClock()))
    members = [await log.join("g", "m") for log in logs]
    assert [await member.assignment() for member in members] == [frozenset(range(4))] * 2
    assert [await member.assignment() for member in members] == [frozenset(range(4))] * 2
    for member, log in zip(members, logs, strict=True):
        await member.leave()
        await log.close()

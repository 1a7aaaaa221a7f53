"""Moving the previous version's events, on a real PostgreSQL: in pieces, through crashes, beside applies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from cells.storage.convert import OldEvent
from cells.storage.postgres import INDEX_PLANS
from cells.storage.postgres_apply import PostgresStore
from cells.storage.postgres_convert import EVENTS_AT_ONCE
from cells.storage.sql import sql
from cells.storage.store import LedgerRow
from kernel.clock import DAY, Micros, day_of, hour_of
from kernel.effects import Applied
from kernel.ids import TenantId
from kernel.limits import PAGE_EVENTS_MAX
from kernel.process.clock import SystemClock
from tests.support.clock import ManualClock
from tests.support.processes import eventually
from tests.support.storage_room import ACME, CELL, EVER, GLOBEX, NOW, Room, batch, effects, event, postgres_room

__all__ = ["postgres_room"]
pytestmark = pytest.mark.postgres

_INSERT = """
    INSERT INTO {home}.event (tenant, message_id, received_day, received_at, event_at, stored_at, epoch, log_offset, content_hash,
        partition, ordinal, type, name, user_id, anonymous_id, group_id, source, cell, payload)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
"""


def old(message_id: str, tenant: TenantId = ACME, at: int = NOW, offset: int = 0, ordinal: int = 0, partition: int = 0) -> OldEvent:
    """A row of the previous version's table."""
    head = (day_of(Micros(at)), Micros(at), Micros(at), Micros(at + 5), 1, offset, 7, partition, ordinal)
    payload = f'{{ "of": "{tenant}/{message_id}", "n": 1.50 }}'
    return OldEvent(tenant, message_id, *head, "track", "E", "ann", None, None, "web", CELL, payload)


async def put(room: Room, events: Sequence[OldEvent], home: str = "tenants") -> None:
    """Stores them as the previous version did, and counts them in the ledger as it did."""
    connection = await asyncpg.connect(room.admin_dsn)
    async with connection.transaction():
        for day in sorted({one.received_day for one in events}):
            await connection.execute("SELECT cell.make_day($1, $2)", home, day)
        await connection.executemany(_INSERT.format(home=home), events)
        for one in events:
            await connection.execute(sql("store_ledger", home), [one.tenant], [hour_of(one.received_at)], [1], [0], [0], [0])
    await connection.close()


async def left(room: Room, home: str = "tenants") -> int:
    """How many are in the old table."""
    connection = await asyncpg.connect(room.admin_dsn)
    found: int = await connection.fetchval(f"SELECT count(*) FROM {home}.event")  # noqa: S608  # our own name
    await connection.close()
    return found


class LiveClock(ManualClock):
    """Its date stands still, its waits are real: a conversion pauses."""

    _real = SystemClock()

    def monotonic(self) -> float:
        return self._real.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._real.sleep(seconds)


@pytest.fixture
async def live(postgres_room: Room) -> AsyncIterator[Room]:
    """A room whose clock runs."""
    assert postgres_room.dsns is not None
    clock, meter = LiveClock(NOW), postgres_room.meter
    store = PostgresStore(postgres_room.dsns.apply, clock, meter)
    yield Room(store, postgres_room.reader, clock, meter, postgres_room.dsns, postgres_room.admin_dsn)
    await store.close()


async def pages(room: Room, tenant: TenantId) -> dict[str, tuple[bytes, int, int]]:
    """Every stored event's payload and place in the log, by message id."""
    found: dict[str, tuple[bytes, int, int]] = {}
    listed = (await room.reader.list_events(tenant, EVER, PAGE_EVENTS_MAX, None)).events
    for stored in listed:
        assert stored.envelope.message_id not in found, "twice"
        found[stored.envelope.message_id] = (stored.envelope.payload, stored.row.partition, stored.row.offset)
        assert stored.record.partition == stored.row.partition
    return found


def expected(events: Sequence[OldEvent], tenant: TenantId = ACME) -> dict[str, tuple[bytes, int, int]]:
    """The same of what was put."""
    return {one.message_id: (one.payload.encode(), one.partition, one.offset) for one in events if one.tenant == tenant}


async def test_all_is_moved_and_read_as_it_was(live: Room) -> None:
    """Of several tenants, days, partitions and schemas: payloads byte for byte, the log's own places; a second time there is nothing."""
    vip = TenantId("very-important")
    await live.own(vip, dedicated=True)
    shared = [
        old(f"m{partition}-{offset}-{ordinal}", tenant, NOW - days * DAY, 10 * days + offset, ordinal, partition)
        for days in (0, 1, 30)
        for partition in range(2)
        for offset, tenant in enumerate((ACME, GLOBEX))
        for ordinal in range(5)
    ]
    shared = list({(one.tenant, one.message_id): one for one in shared}.values())
    own = [old(f"v{ordinal}", vip, ordinal=ordinal) for ordinal in range(3)]
    await put(live, shared)
    await put(live, own, "tenant_very_important")
    await live.store.maintain()
    assert (await left(live), await left(live, "tenant_very_important")) == (0, 0)
    for tenant in (ACME, GLOBEX, vip):
        assert await pages(live, tenant) == expected([*shared, *own], tenant)
    (stored,) = [one for one in await live.all(vip) if one.envelope.message_id == "v1"]
    assert (stored.stored_at, stored.record.received_at, stored.record.events) == (NOW + 5, NOW, 3)
    before = dict(live.meter.values)
    await live.store.maintain()
    assert live.meter.values == before


async def test_a_record_larger_than_a_transaction_is_moved_in_pieces(live: Room) -> None:
    """None of which is read for another, or for a record of the log that comes to lie at the same offset."""
    count = 2 * EVENTS_AT_ONCE + 300
    some = [old(f"m{number}", offset=number % 3, ordinal=number // 3) for number in range(count)]
    await put(live, some)
    await live.store.maintain()
    assert await left(live) == 0
    for offset in range(3):
        assert await live.apply(effects(event(f"later{offset}", offset=offset))) == Applied(1, 0, 0, 0, 0)
    for one in some[::37]:
        stored = await live.reader.get_event(ACME, one.message_id)
        assert stored is not None
        assert (stored.envelope.payload, stored.row.offset) == (one.payload.encode(), one.offset)
    for offset in range(3):
        stored = await live.reader.get_event(ACME, f"later{offset}")
        assert stored is not None
        assert (stored.envelope.payload, stored.row.offset, stored.row.partition) == (b'{"a":1}', offset, 0)
    assert sum(events for _, events in await live.reader.count_events(ACME, EVER, 3_600)) == count + 3


async def test_what_a_conversion_had_done_when_it_died_stays_done(live: Room) -> None:
    """Each event is in the one place or in the other, never in none; the next one ends what this one began."""
    some = [old(f"m{number}", ordinal=number) for number in range(2 * EVENTS_AT_ONCE)]
    await put(live, some)
    converting = asyncio.create_task(live.store.maintain())
    while await left(live) == len(some):
        await asyncio.sleep(0)
    converting.cancel()
    await asyncio.gather(converting, return_exceptions=True)
    counted = sum(events for _, events in await live.reader.count_events(ACME, EVER, 3_600))
    assert counted + await left(live) == len(some)
    await live.store.maintain()
    assert await left(live) == 0
    assert sum(events for _, events in await live.reader.count_events(ACME, EVER, 3_600)) == len(some)


async def test_an_event_that_both_versions_stored_is_kept_once_and_the_ledger_says_so(live: Room) -> None:
    """They do not see each other's rows while both apply. What is stored already wins; stored + duplicate stays what was accepted."""
    await put(live, [old("m1"), old("m2", at=NOW - DAY), old("m3", GLOBEX), old("m4", at=NOW - 4 * DAY)])
    payload = b'{"by":"this version"}'
    mine = [event(one, payload=payload) for one in ("m1", "m2", "m4")]
    assert await live.apply(batch(*mine)) == Applied(3, 0, 0, 0, 0)
    await live.store.maintain()
    assert sorted(await live.ids()) == ["m1", "m2", "m4", "m4"]
    assert await live.ids(GLOBEX) == ["m3"]
    texts = {(one.envelope.message_id, one.envelope.payload) for one in await live.all(ACME)}
    assert texts == {("m1", payload), ("m2", payload), ("m4", payload), ("m4", old("m4").payload.encode())}
    assert await live.store.ledger() == [
        LedgerRow(ACME, Micros(NOW - 4 * DAY), 1, 0, 0, 0),
        LedgerRow(ACME, Micros(NOW - DAY), 0, 1, 0, 0),
        LedgerRow(ACME, NOW, 3, 1, 0, 0),
        LedgerRow(GLOBEX, NOW, 1, 0, 0, 0),
    ]
    assert await live.apply(batch(*mine)) == Applied(0, 3, 0, 0, 0)


async def test_two_processes_convert_what_one_would(live: Room) -> None:
    """One waits for the other, or goes away: no event is moved twice, none fails."""
    some = [old(f"m{number}", ordinal=number) for number in range(1_500)]
    await put(live, some)
    assert live.dsns is not None
    other = PostgresStore(live.dsns.apply, live.clock, live.meter)
    await asyncio.gather(live.store.maintain(), other.maintain())
    await other.close()
    assert await left(live) == 0
    assert sum(events for _, events in await live.reader.count_events(ACME, EVER, 3_600)) == len(some)
    assert sum(line.stored for line in await live.store.ledger()) == len(some)


async def test_applies_go_on_beside_a_conversion(live: Room) -> None:
    """Of the same tenant, hour and keys: none fails, each key is stored once, and the ledger adds up to all that was ever accepted."""
    some = [old(f"m{number}", ordinal=number) for number in range(2_000)]
    await put(live, some)
    converting = asyncio.create_task(live.store.maintain())
    applied = 0
    while not converting.done():
        ids = [f"m{(applied * 7 + number) % 2_500}" for number in range(50)]
        outcome = await live.apply(batch(*(event(one, payload=old(one).payload.encode(), offset=applied) for one in ids), partition=1))
        assert isinstance(outcome, Applied)
        applied += 1
    await converting
    await live.store.maintain()
    assert await left(live) == 0
    found = sum(events for _, events in await live.reader.count_events(ACME, EVER, 3_600))
    (line,) = await live.store.ledger()
    assert line.stored == found
    assert line.stored + line.duplicate == len(some) + 50 * applied
    for number in range(0, 2_000, 41):
        stored = await live.reader.get_event(ACME, f"m{number}")
        assert stored is not None
        assert stored.envelope.payload == old(f"m{number}").payload.encode()


async def test_a_repeat_applied_today_beside_a_conversion_of_yesterday_is_stored_once(live: Room) -> None:
    """No index sees both: the apply waits until the conversion's transaction ends, and then finds the row."""
    await live.store.maintain()
    await put(live, [old("m1", at=NOW - DAY)])
    await live.apply(effects(event("m0")))
    other, watch = await asyncpg.connect(live.admin_dsn), await asyncpg.connect(live.admin_dsn)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'df_apply' AND wait_event_type = 'Lock'"
    await other.execute("BEGIN")
    await other.execute("LOCK tenants.record IN SHARE MODE")
    converting = asyncio.create_task(live.store.maintain())

    async def stopped() -> bool:
        return bool(await watch.fetchval(waits) == 1)

    await eventually(stopped, "the conversion stored its row and waits for the table of records")
    applying = asyncio.create_task(live.apply(effects(event("m1", at=NOW, offset=9), partition=1)))

    async def second() -> bool:
        return bool(await watch.fetchval(waits) == 2)

    await eventually(second, "the apply waits too")
    await other.execute("ROLLBACK")
    await other.close()
    await watch.close()
    await converting
    assert await applying == Applied(0, 1, 0, 0, 1)
    assert sorted(await live.ids()) == ["m0", "m1"]


async def test_old_events_are_walked_by_their_place(live: Room) -> None:
    """A transaction goes on where the one before it ended: what was taken away is not walked over again."""
    await put(live, [old(f"m{number}", ordinal=number) for number in range(500)])
    assert live.dsns is not None
    connection = await asyncpg.connect(live.dsns.apply, server_settings=INDEX_PLANS)
    values = f"(date '{day_of(NOW)}', '(3,1)'::tid, 1000)"
    await connection.execute(f"PREPARE walk (date, tid, int) AS {sql('old_events')}")
    for mode in ("force_custom_plan", "force_generic_plan"):
        await connection.execute(f"SET plan_cache_mode = {mode}")
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE walk {values}"))
        assert "Tid Range Scan" in plan, plan
        assert "Seq Scan" not in plan, plan
    await connection.close()


async def test_no_plan_leaves_an_event_behind(live: Room) -> None:
    """Whatever order the old table is read in: here by its key, which runs against the order in which events lie."""
    some = [old(f"m{9_999 - number}", ordinal=number) for number in range(2 * EVENTS_AT_ONCE + 100)]
    await put(live, some)
    admin = await asyncpg.connect(live.admin_dsn)
    name = await admin.fetchval("SELECT quote_ident(current_database())")
    for scan in ("enable_tidscan", "enable_bitmapscan"):
        await admin.execute(f"ALTER DATABASE {name} SET {scan} = off")
    await admin.close()
    await live.store.maintain()
    assert await left(live) == 0
    assert sum(events for _, events in await live.reader.count_events(ACME, EVER, 3_600)) == len(some)

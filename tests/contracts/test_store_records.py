"""Laws of records: an event is read out of the body that it came in, and a record's place in the log is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import asyncpg
import pytest

from cells.storage.store import Cursor
from kernel.clock import DAY, HOUR, Micros, day_of, hour_of
from kernel.effects import Applied, Effects, RecordRow
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.limits import PAGE_EVENTS_MAX
from tests.support.processes import eventually
from tests.support.storage_room import ACME, EVER, GLOBEX, NOW, Room, batch, effects, event, memory_room, only, postgres_room, room

__all__ = ["memory_room", "postgres_room", "room"]


def _events(count: int, tenant: TenantId = ACME, prefix: str = "m") -> Effects:
    """A record of this many events, each of which holds its own name."""
    ids = [f"{prefix}{number}" for number in range(count)]
    return batch(*(event(one, tenant, payload=f'{{"of":"{tenant}/{one}"}}'.encode()) for one in ids))


async def test_the_same_record_again_is_the_same(room: Room) -> None:
    """More of its events may be stored later, beside what is there: the record stays as it was first kept, its time included."""
    whole = _events(3)
    assert await room.apply(only(whole, 0)) == Applied(1, 0, 0, 0, 0)
    room.clock.advance(60)
    assert await room.apply(only(whole, 0, 1, 2)) == Applied(2, 1, 0, 0, 0)
    found = {one.envelope.message_id: one for one in await room.all(ACME)}
    assert sorted(found) == ["m0", "m1", "m2"]
    assert {one.stored_at for one in found.values()} == {NOW}
    assert {one.record for one in found.values()} == {only(whole, 0).records[0]._replace(body=b"")}


@pytest.mark.parametrize(
    "other",
    [{"tenant": GLOBEX}, {"at": Micros(NOW + HOUR)}, {"cell": CellId("eu-b-1")}],
    ids=lambda other: next(iter(other)),
)
async def test_another_record_in_its_place_means_that_the_log_was_replaced(room: Room, other: dict[str, object]) -> None:
    """LOG_REPLACED, and nothing changes: no row, no ledger, no position; the rest of the apply is not stored either."""
    await room.apply(effects(event("m1", offset=7)))
    ledger = await room.store.ledger()
    intruder = event("m2", **{"offset": 7, **other})  # type: ignore[arg-type]  # test values by name
    with pytest.raises(Failure) as caught:
        await room.apply(effects(event("m3"), intruder))
    assert caught.value.reason is Reason.LOG_REPLACED
    assert (await room.ids(), await room.ids(GLOBEX)) == (["m1"], [])
    assert await room.store.ledger() == ledger
    assert await room.store.positions() == {0: 1}
    assert await room.apply(effects(event("m3"))) == Applied(1, 0, 0, 0, 0)


async def test_a_place_is_a_partition_an_offset_and_a_day(room: Room) -> None:
    """The same offset of another partition or of another day is another record."""
    for partition, at in ((0, NOW), (1, NOW), (0, NOW - 30 * DAY)):
        made = event(f"m{partition}-{at}", at=at, offset=7, payload=f'{{"at":{at}}}'.encode())
        assert await room.apply(effects(made, partition=partition)) == Applied(1, 0, 0, 0, 0)
    for stored in await room.all(ACME):
        assert stored.envelope.payload == f'{{"at":{stored.record.received_at}}}'.encode()


def _record(made: Effects, **changed: object) -> Effects:
    (record,) = made.records
    values: dict[str, object] = {**record._asdict(), **changed}
    return replace(made, records=(RecordRow(**values),))  # type: ignore[arg-type]  # a row's fields by name


_UNFIT: dict[str, Callable[[Effects], Effects]] = {
    "no record": lambda made: replace(made, records=()),
    "a record of another offset": lambda made: _record(made, offset=made.records[0].offset + 1),
    "a record of another partition": lambda made: _record(made, partition=1),
    "a record of another tenant": lambda made: _record(made, tenant=GLOBEX),
    "a record of another day": lambda made: _record(made, received_at=Micros(NOW - DAY)),
    "a record that says another day": lambda made: _record(made, received_day=made.records[0].received_day.replace(day=1)),
    "a record with more events than rows": lambda made: _record(made, events=3),
    "a row too few": lambda made: replace(made, rows=made.rows[:1]),
    "a record without rows": lambda made: replace(made, rows=()),
    "two records at one offset": lambda made: replace(made, records=(made.records[0], made.records[0]._replace(tenant=GLOBEX))),
    "rows of another partition": lambda made: replace(made, rows=tuple(row._replace(partition=1) for row in made.rows)),
    "rows of another day": lambda made: replace(
        made, rows=tuple(row._replace(received_day=row.received_day.replace(day=1)) for row in made.rows)
    ),
}


@pytest.mark.parametrize("unfit", _UNFIT)
async def test_rows_and_records_that_do_not_belong_together_are_refused(room: Room, unfit: str) -> None:
    """A row whose record is missing could never be read again, one that stands in another's would be read as that: ValueError."""
    with pytest.raises(ValueError):
        await room.apply(_UNFIT[unfit](_events(2)))
    assert await room.store.positions() == {}
    assert await room.all(ACME) == []


async def test_reading_never_mixes_bodies(room: Room) -> None:
    """Tenants that use the same ids, in records at the same offsets of several partitions and in shared pages: each event is read
    with its own text, whichever question finds it."""
    for partition in range(3):
        for number in range(20):
            for tenant in (ACME, GLOBEX):
                ids = [f"{partition}-{number}-{index}" for index in range(3)]
                texts = [f'{{"of":"{tenant}/{one}"}}'.encode() for one in ids]
                offset = 2 * number + (tenant == GLOBEX)
                some = [event(one, tenant, offset=offset, payload=text) for one, text in zip(ids, texts, strict=True)]
                await room.apply(batch(*some, partition=partition))
    for tenant in (ACME, GLOBEX):
        listed = (await room.reader.list_events(tenant, EVER, PAGE_EVENTS_MAX, None)).events
        assert len(listed) == 3 * 20 * 3
        for stored in listed:
            message_id = stored.envelope.message_id
            assert stored.envelope.payload == f'{{"of":"{tenant}/{message_id}"}}'.encode()
            assert await room.reader.get_event(tenant, message_id) == stored
            assert (await room.reader.trace(tenant, message_id)).stored == stored


async def test_a_page_may_end_between_an_event_and_its_late_repeat(room: Room) -> None:
    """A repeat after the window is a second row of the same key and time: pages of one meet both, the later one first."""
    for days in (-3, 0):
        assert await room.apply(effects(event("m1", at=NOW + days * DAY, event_at=NOW))) == Applied(1, 0, 0, 0, 0)
    days_found = []
    for which in (EVER, replace(EVER, user_id="ann")):
        after: Cursor | None = None
        while page := (await room.reader.list_events(ACME, which, 1, after)).events:
            last = page[-1].row
            after = Cursor(last.event_at, last.message_key, last.received_day)
            days_found.append(last.received_day)
    assert days_found == [day_of(NOW), day_of(Micros(NOW - 3 * DAY))] * 2


async def test_schemas_with_different_days_in_one_apply(room: Room) -> None:
    """Around midnight one tenant's rows may be of one day and a dedicated tenant's of the next, and neither schema know the other's."""
    vip = TenantId("very-important")
    await room.own(vip, dedicated=True)
    then = NOW - 400 * DAY
    rows = (event("m1", at=then), event("m1", vip, at=then + DAY), event("m2", vip, at=then + DAY))
    assert await room.apply(effects(*rows)) == Applied(3, 0, 0, 0, 0)
    assert (sorted(await room.ids()), sorted(await room.ids(vip))) == (["m1"], ["m1", "m2"])


async def test_applies_of_the_same_keys_at_once_store_each_once(room: Room) -> None:
    """From several partitions, in records of their own: all succeed, each key is stored by one of them, and the ledger knows."""
    ids = [f"m{number}" for number in range(200)]

    async def consume(partition: int) -> Applied:
        order = ids if partition % 2 else ids[::-1]
        outcome = await room.apply(batch(*(event(one) for one in order), partition=partition))
        assert isinstance(outcome, Applied)
        return outcome

    outcomes = await asyncio.gather(*(consume(partition) for partition in range(4)))
    assert sum(outcome.stored for outcome in outcomes) == len(ids)
    assert sum(outcome.duplicate for outcome in outcomes) == 3 * len(ids)
    assert sorted(await room.ids()) == sorted(ids)
    assert [(line.stored, line.duplicate) for line in await room.store.ledger()] == [(len(ids), 3 * len(ids))]


@pytest.mark.postgres
@pytest.mark.parametrize("first_ago", [0, 1])
async def test_two_days_repeats_of_one_key_at_once_are_stored_once(postgres_room: Room, first_ago: int) -> None:
    """No index sees both. The one that comes second while the other is in mid-transaction waits for its end, and then finds its row."""
    room = postgres_room
    days = (NOW - first_ago * DAY, NOW - (1 - first_ago) * DAY)
    await room.apply(effects(event("m0", at=days[0])))
    other, watch = await asyncpg.connect(room.admin_dsn), await asyncpg.connect(room.admin_dsn)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'df_apply' AND wait_event_type = 'Lock'"
    try:
        await other.execute("BEGIN")
        await other.execute("SELECT FROM tenants.ledger WHERE hour = $1 FOR UPDATE", hour_of(Micros(days[0])))
        first = asyncio.create_task(room.apply(effects(event("m1", at=days[0]), partition=1)))

        async def stopped() -> bool:
            return bool(await watch.fetchval(waits) == 1)

        await eventually(stopped, "the first apply stored its row and waits for the ledger")
        second = asyncio.create_task(room.apply(effects(event("m1", at=days[1]), partition=2)))

        async def settled() -> bool:
            return second.done() or await watch.fetchval(waits) == 2

        await eventually(settled, "the second apply waits too, or is done")
        await other.execute("ROLLBACK")
        assert (await first, await second) == (Applied(1, 0, 0, 0, 0), Applied(0, 1, 0, 0, 0))
    finally:
        await other.close()
        await watch.close()
    assert sorted(await room.ids()) == ["m0", "m1"]


@pytest.mark.postgres
async def test_an_apply_that_meets_anothers_key_waits_and_begins_again(postgres_room: Room) -> None:
    """It looked before the other one stored, and stores after: it finds the key then, as if it had come later."""
    room = postgres_room
    await room.apply(effects(event("m0")))
    other = await asyncpg.connect(room.admin_dsn)
    try:
        await other.execute("BEGIN")
        row = event("m1", content_hash=1).row(9)
        columns = tuple("log_offset" if name == "offset" else name for name in row._fields)
        await other.copy_records_to_table("event_row", schema_name="tenants", records=[row], columns=columns)
        late = asyncio.create_task(room.apply(effects(event("m1", content_hash=2), event("m2"))))
        waits = (
            "SELECT count(*) > 0 FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = 'df_apply' AND wait_event = 'transactionid'"
        )

        async def waiting() -> bool:
            answer: bool = await other.fetchval(waits)
            return answer

        await eventually(waiting, "the apply waits for the other's key")
        await other.execute("COMMIT")
        assert await late == Applied(1, 1, 0, 0, 1)
    finally:
        await other.close()

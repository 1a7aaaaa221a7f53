"""The laws of `cells.storage.store`, on every adapter."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from cells.storage.store import Cursor, Filter, LedgerRow
from kernel.clock import DAY, HOUR, Micros, hour_of, parse_iso
from kernel.effects import Applied, Apply, DeadLetter, Duplicate, HeldRecord, IdentityClaim, TraitClaim
from kernel.epoch import Claim, Epoch
from kernel.errors import Failure, Reason
from kernel.ids import TenantId
from kernel.limits import IDENTITY_NODES_MAX
from tests.support.processes import eventually
from tests.support.storage_room import ACME, CELL, EVER, GLOBEX, NOW, Room, effects, event, memory_room, postgres_room, room

__all__ = ["memory_room", "postgres_room", "room"]

LETTER = DeadLetter(ACME, NOW, 9, 2, "bad-1", "UNPROCESSABLE_EVENT", "shape", b"\x00not json")


async def test_an_apply_stores_and_moves_the_position(room: Room) -> None:
    """What was applied is readable, and the position is the next offset."""
    assert await room.apply(effects(event("m1"), event("m2", event_at=NOW + 1))) == Applied(2, 0, 0, 0, 0)
    assert await room.ids() == ["m2", "m1"]
    assert await room.store.positions() == {0: 1}


async def test_every_field_comes_back_as_it_went_in(room: Room) -> None:
    """The payload byte for byte: escapes of NUL and lone surrogates, numbers of 100 digits, key order, white space."""
    payload = b'{ "z":1, "a":"\\u0000\\ud800", "n":' + b"9" * 100 + b'.10e5, "z":2,\t"\xc3\xa9":"\xf0\x9f\x98\x80" }'
    full = event(
        "m\u00e9", name=None, user_id=None, anonymous_id="anon", group_id="g", offset=5, ordinal=3, content_hash=2**63 - 1, payload=payload
    )
    await room.apply(effects(full, partition=2))
    stored = await room.reader.get_event(ACME, "m\u00e9")
    assert stored is not None
    assert (stored.row, stored.record, stored.stored_at) == (full.row(2), full.record(2)._replace(body=b""), NOW)
    assert stored.envelope == full.envelope


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"])
async def test_times_at_the_edge_of_the_calendar_are_kept(room: Room, text: str) -> None:
    """Event times of the years 1 to 9999 are stored exactly and are found by their own range."""
    at = parse_iso(text)
    assert at is not None
    await room.apply(effects(event("m1", event_at=at)))
    found = await room.reader.list_events(ACME, Filter(at, Micros(at + 1)), 10, None)
    assert [stored.row.event_at for stored in found.events] == [at]
    assert await room.reader.count_events(ACME, EVER, 3_600) == [(hour_of(at), 1)]


async def test_a_backfill_of_old_days_is_stored(room: Room) -> None:
    """Any received day has room, the first time it appears."""
    outcome = await room.apply(effects(*(event(f"m{day}", at=NOW - day * 400 * DAY) for day in range(5))))
    assert outcome == Applied(5, 0, 0, 0, 0)


async def test_the_first_occurrence_in_one_apply_wins(room: Room) -> None:
    """A repeat inside an apply is a duplicate; with another content it is a conflict as well."""
    rows = (event("m1", content_hash=1, name="first"), event("m0"), event("m1", content_hash=1), event("m1", content_hash=2))
    assert await room.apply(effects(*rows)) == Applied(2, 2, 0, 0, 1)
    stored = await room.reader.get_event(ACME, "m1")
    assert stored is not None
    assert stored.row.name == "first"


async def test_rule_one_across_applies(room: Room) -> None:
    """The same envelope again is a duplicate; another content under the same id is a conflict and does not replace it."""
    await room.apply(effects(event("m1", content_hash=1)))
    assert await room.apply(effects(event("m1", content_hash=1), event("m2"))) == Applied(1, 1, 0, 0, 0)
    assert await room.apply(effects(event("m1", content_hash=2), event("m1", content_hash=1))) == Applied(0, 2, 0, 0, 1)
    assert await room.apply(effects(event("m1", GLOBEX))) == Applied(1, 0, 0, 0, 0), "ids are a tenant's own"


@pytest.mark.parametrize(("days", "stored"), [(0, 0), (1, 0), (2, 0), (3, 1)])
@pytest.mark.parametrize("newer_first", [False, True])
async def test_rule_two_holds_to_the_edge_of_its_window(room: Room, days: int, stored: int, newer_first: bool) -> None:
    """An id sent again within SEEN_WINDOW_DAYS of its received day, in whatever order the two are applied, is a duplicate."""
    rows = [event("m1", content_hash=1), event("m1", at=NOW + days * DAY, content_hash=2)]
    room.clock.advance(days * 86_400)
    first, second = reversed(rows) if newer_first else rows
    await room.apply(effects(first))
    expected = Applied(1, 0, 0, 0, 0) if stored else Applied(0, 1, 0, 0, 1)
    if newer_first and days == 3:
        expected = Applied(1, 0, 0, 0, 0)
    assert await room.apply(effects(second)) == expected


async def test_before_the_window_rule_one_alone_holds(room: Room) -> None:
    """Rows received before the window has begun are duplicates of the same received day only."""
    old = NOW - 30 * DAY
    await room.apply(effects(event("m1", at=old)))
    assert await room.apply(effects(event("m1", at=old))) == Applied(0, 1, 0, 0, 0)
    assert await room.apply(effects(event("m1", at=old + DAY))) == Applied(1, 0, 0, 0, 0)


async def test_maintenance_may_run_at_any_time(room: Room) -> None:
    """Twice too; rule 2 holds across it."""
    await room.store.maintain()
    await room.apply(effects(event("m1")))
    room.clock.advance(2 * 86_400)
    await room.store.maintain()
    await room.store.maintain()
    assert await room.apply(effects(event("m1", at=NOW + 2 * DAY))) == Applied(0, 1, 0, 0, 0)


async def test_the_same_range_again_changes_nothing(room: Room) -> None:
    """A replayed apply at an old position, and one from a position not reached yet, are Duplicate."""
    await room.apply(effects(event("m1")))
    assert await room.apply(effects(event("m9")), expected=0) == Duplicate(1)
    assert await room.apply(effects(event("m9")), expected=5) == Duplicate(1)
    assert await room.apply(effects(event("m9"), partition=3), expected=5) == Duplicate(0)
    assert await room.ids() == ["m1"]
    assert await room.store.positions() == {0: 1}


async def test_the_position_is_checked_before_the_claim(room: Room) -> None:
    """A zombie consumer with an outdated claim hears that the position moved, not that it is fenced."""
    await room.apply(effects(event("m1")))
    assert await room.apply(effects(event("m2")), expected=0, epochs={}) == Duplicate(1)


async def test_the_ledger_grows_by_what_was_accepted(room: Room) -> None:
    """Per tenant and received hour: stored + duplicate + quarantined + held, over several applies."""
    held = HeldRecord(GLOBEX, NOW, 4, 17, b"record")
    await room.apply(effects(event("m1"), event("m1"), event("m2", at=NOW - HOUR), dead_letters=(LETTER,), held=(held,)))
    await room.apply(effects(event("m1"), event("m3")))
    assert await room.store.ledger() == [
        LedgerRow(ACME, Micros(NOW - HOUR), 1, 0, 0, 0),
        LedgerRow(ACME, NOW, 2, 2, 1, 0),
        LedgerRow(GLOBEX, NOW, 0, 0, 0, 17),
    ]


async def test_effects_that_do_not_add_up_are_refused(room: Room) -> None:
    """A fold that loses an event, or a position that does not move forward, is a defect: ValueError, nothing changes."""
    lossy = effects(event("m1"), event("m2"))
    lossy.accepted[ACME, hour_of(NOW)] += 1
    with pytest.raises(ValueError, match="add up"):
        await room.apply(lossy)
    with pytest.raises(ValueError, match="forward"):
        await room.store.apply(Apply(effects(event("m1")), Claim(CELL, {ACME: Epoch(1)}), 0, 0), room.clock.monotonic() + 5)
    assert await room.store.positions() == {}


async def test_an_apply_without_events_moves_the_position(room: Room) -> None:
    """An empty range is a range."""
    assert await room.apply(effects(), epochs={}) == Applied(0, 0, 0, 0, 0)
    assert await room.store.positions() == {0: 1}


async def test_identities_form_one_person(room: Room) -> None:
    """Claims over several applies and in any order are one component; a node that nobody mentioned has no profile."""
    for pair in (("u:ann", "a:1"), ("a:2", "a:3"), ("a:3", "u:ann"), ("u:ann", "a:1")):
        await room.apply(effects(event(f"m{pair}"), identities=(IdentityClaim(ACME, *pair),)))
    for node in ("u:ann", "a:1", "a:2", "a:3"):
        profile = await room.reader.profile(ACME, node)
        assert profile is not None
        assert (profile.user_ids, profile.anonymous_ids) == (("ann",), ("1", "2", "3"))
    assert await room.reader.profile(ACME, "u:bob") is None
    assert await room.reader.profile(GLOBEX, "u:ann") is None


async def test_a_component_is_bounded(room: Room) -> None:
    """A claim that would make a person of more than IDENTITY_NODES_MAX nodes is dropped and counted; the apply goes on."""
    claims = tuple(IdentityClaim(ACME, "u:kiosk", f"a:{number:04}") for number in range(IDENTITY_NODES_MAX + 5))
    assert isinstance(await room.apply(effects(event("m1"), identities=claims)), Applied)
    profile = await room.reader.profile(ACME, "u:kiosk")
    assert profile is not None
    assert len(profile.anonymous_ids) == IDENTITY_NODES_MAX - 1
    assert room.meter.values["dataflow_storage_identity_claims_dropped_total", ()] == 6


async def test_the_last_writer_of_a_trait_wins(room: Room) -> None:
    """By (at, message id), whatever the order; over all nodes of a person; a node with traits alone has a profile."""
    late, early, twin = (
        TraitClaim(ACME, "u:ann", "plan", value, Micros(at), id_)
        for value, at, id_ in (('"b"', 5, "m1"), ('"a"', 1, "m9"), ('"c"', 5, "m2"))
    )
    for claims in ((late, twin), (early,), (late,)):
        await room.apply(effects(event("m1"), traits=claims))
    await room.apply(effects(event("m1"), traits=(TraitClaim(ACME, "a:1", "plan", '"z"', Micros(9), "m0"),)))
    profile = await room.reader.profile(ACME, "u:ann")
    assert profile is not None
    assert profile.traits == {"plan": '"c"'}
    await room.apply(effects(event("m1"), identities=(IdentityClaim(ACME, "u:ann", "a:1"),)))
    profile = await room.reader.profile(ACME, "u:ann")
    assert profile is not None
    assert profile.traits == {"plan": '"z"'}


async def test_trace_tells_where_a_message_is(room: Room) -> None:
    """Stored, dead letter with its reason and place, or unknown; never another tenant's."""
    await room.apply(effects(event("m1", offset=3, ordinal=1), dead_letters=(LETTER,), partition=2))
    traced = await room.reader.trace(ACME, "m1")
    assert (traced.place, traced.partition, traced.offset, traced.ordinal) == ("stored", 2, 3, 1)
    traced = await room.reader.trace(ACME, "bad-1")
    assert (traced.place, traced.why, traced.partition, traced.offset, traced.ordinal) == ("dead_letter", "UNPROCESSABLE_EVENT", 2, 9, 2)
    assert (await room.reader.trace(ACME, "m2")).place == "unknown"
    assert (await room.reader.trace(GLOBEX, "m1")).place == "unknown"


async def test_pages_are_newest_first_and_complete(room: Room) -> None:
    """Walking pages by cursor meets every event once, ties by message key, in descending order."""
    rows = [event(f"m{number:02}", event_at=NOW - number // 4) for number in range(23)]
    await room.apply(effects(*rows))
    found: list[str] = []
    after: Cursor | None = None
    while page := (await room.reader.list_events(ACME, EVER, 5, after)).events:
        found += [stored.envelope.message_id for stored in page]
        last = page[-1].row
        after = Cursor(last.event_at, last.message_key, last.received_day)
    assert found == [one.message_id for one in sorted(rows, key=lambda r: (r.event_at, r.row(0).message_key), reverse=True)]


async def test_filters_are_a_conjunction(room: Room) -> None:
    """Each field narrows; `since` is inside, `until` outside; counts use the same filter, buckets start at multiples since 1970."""
    rows = [
        event("m1", user_id="ann", type="track", source="web", event_at=NOW),
        event("m2", user_id="bob", type="page", source="app", anonymous_id="x", event_at=NOW + 1),
        event("m3", user_id="ann", type="page", source="web", name="Home", event_at=NOW + HOUR),
    ]
    await room.apply(effects(*rows))

    async def ids(since: int = NOW, until: int = NOW + DAY, **other: str) -> list[str]:
        which = Filter(Micros(since), Micros(until), **other)
        listed = [stored.envelope.message_id for stored in (await room.reader.list_events(ACME, which, 10, None)).events]
        assert sum(events for _, events in await room.reader.count_events(ACME, which, 60)) == len(listed)
        return listed

    assert await ids() == ["m3", "m2", "m1"]
    assert await ids(since=NOW + 1, until=NOW + HOUR) == ["m2"]
    assert await ids(user_id="ann") == ["m3", "m1"]
    assert await ids(user_id="ann", type="page", name="Home", source="web") == ["m3"]
    assert await ids(anonymous_id="x") == ["m2"]
    assert await ids(source="none") == []
    assert await room.reader.count_events(ACME, EVER, 3_600) == [(NOW, 2), (NOW + HOUR, 1)]


async def test_reads_see_one_tenant(room: Room) -> None:
    """Whatever the tenant's name is, even none, only its own rows are seen."""
    await room.apply(effects(event("m1"), event("m2", GLOBEX)))
    assert (await room.ids(), await room.ids(GLOBEX)) == (["m1"], ["m2"])
    for name in ("stranger", "", "acme' OR true --", "*", "%"):
        assert await room.ids(TenantId(name)) == []
        assert await room.reader.get_event(TenantId(name), "m1") is None


async def test_a_dedicated_tenant_reads_and_writes_as_any_other(room: Room) -> None:
    """A schema of its own changes nothing in what is promised, in one apply with others too."""
    vip = TenantId("very-important")
    await room.own(vip, dedicated=True)
    await room.own(vip, dedicated=True)
    rows = (event("m1", vip), event("m1"), event("m1", vip, content_hash=9))
    claims = (IdentityClaim(vip, "u:ann", "a:1"),)
    assert await room.apply(effects(*rows, identities=claims)) == Applied(2, 1, 0, 0, 1)
    assert (await room.ids(vip), await room.ids()) == (["m1"], ["m1"])
    assert await room.reader.profile(vip, "a:1") is not None
    assert [(line.tenant, line.stored, line.duplicate) for line in await room.store.ledger()] == [(ACME, 1, 0), (vip, 1, 1)]


async def test_two_appliers_of_one_position(room: Room) -> None:
    """Exactly one of many concurrent appliers of a range wins; the others hear Duplicate."""
    outcomes = await asyncio.gather(*(room.apply(effects(event("m1")), expected=0) for _ in range(5)))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Applied"] + ["Duplicate"] * 4
    assert await room.ids() == ["m1"]


async def test_concurrent_partitions_of_the_same_tenants(room: Room) -> None:
    """Applies of different partitions that share ids, people and hours end as if one came after the other; none deadlocks."""

    async def consume(partition: int) -> list[Applied]:
        done = []
        for step in range(8):
            numbers = range(step * 10, step * 10 + 20)
            order = numbers if partition % 2 else reversed(numbers)
            rows = [event(f"m{number}", tenant) for number in order for tenant in (ACME, GLOBEX)]
            claims = tuple(IdentityClaim(one.tenant, f"a:{one.message_id}", "u:ann") for one in rows)
            traits = tuple(TraitClaim(one.tenant, "u:ann", one.message_id, "1", NOW, one.message_id) for one in rows)
            outcome = await room.apply(effects(*rows, identities=claims, traits=traits, partition=partition))
            assert isinstance(outcome, Applied)
            done.append(outcome)
        return done

    outcomes = [outcome for part in await asyncio.gather(*(consume(partition) for partition in range(4))) for outcome in part]
    assert sum(outcome.stored for outcome in outcomes) == 2 * 90
    assert sum(line.stored + line.duplicate for line in await room.store.ledger()) == 4 * 8 * 40
    profile = await room.reader.profile(ACME, "u:ann")
    assert profile is not None
    assert (len(profile.anonymous_ids), len(profile.traits)) == (90, 90)


async def test_a_deadline_in_the_past_applies_nothing(room: Room) -> None:
    """Failure(STORE_UNAVAILABLE), and the position has not moved."""
    with pytest.raises(Failure) as caught:
        await room.store.apply(Apply(effects(event("m1")), Claim(CELL, {ACME: Epoch(1)}), 0, 1), room.clock.monotonic())
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert await room.store.positions() == {}


@pytest.mark.postgres
async def test_a_connection_killed_in_mid_apply_leaves_all_or_nothing(postgres_room: Room) -> None:
    """An apply whose backend is terminated while it waits raises STORE_UNAVAILABLE; applying again then stores all of it, claims and
    traits included: nothing was taken for settled that was not committed."""
    room = postgres_room
    await room.apply(effects(event("m1")))
    again = effects(
        event("m2"),
        dead_letters=(LETTER,),
        identities=(IdentityClaim(ACME, "u:ann", "a:1"),),
        traits=(TraitClaim(ACME, "a:1", "plan", '"gold"', NOW, "m2"),),
    )
    blocker = await asyncpg.connect(room.admin_dsn)
    try:
        await blocker.execute("BEGIN; LOCK TABLE tenants.ledger IN EXCLUSIVE MODE")
        doomed = asyncio.create_task(room.apply(again))
        kill = (
            "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity"
            " WHERE datname = current_database() AND usename = 'df_apply' AND wait_event_type = 'Lock'"
        )

        async def killed() -> bool:
            answer: bool = await blocker.fetchval(kill)
            return answer

        await eventually(killed, "an apply waits for the ledger")
        with pytest.raises(Failure) as caught:
            await doomed
        assert caught.value.reason is Reason.STORE_UNAVAILABLE
        assert await room.ids() == ["m1"]
        assert await room.store.positions() == {0: 1}
        await blocker.execute("ROLLBACK")
        assert await room.reader.profile(ACME, "u:ann") is None
        assert await room.apply(again) == Applied(1, 0, 1, 0, 0)
        profile = await room.reader.profile(ACME, "u:ann")
        assert profile is not None
        assert (profile.anonymous_ids, dict(profile.traits)) == (("1",), {"plan": '"gold"'})
    finally:
        await blocker.close()

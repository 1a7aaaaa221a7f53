"""The directory's store, as its port specifies it, in memory and in PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from typing import Any

import pytest

from cli.local.postgres import Postgres
from kernel.chain import Head, Verdict, verify
from kernel.clock import DAY, Micros
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, SourceId, TenantId, hash_of
from kernel.limits import Plan
from router.evacuation.states import Turn
from router.evacuation.steps import FailOver, StartMove, TurnMove
from router.placement.memory import MemoryStore
from router.placement.postgres import PostgresStore, open_store
from router.placement.steps import (
    AddReadKey,
    AddSource,
    AddWriteKey,
    ChangeDemand,
    ChangePlan,
    CreateTenant,
    PinTenant,
    RevokeKey,
    Step,
    Suspend,
)
from router.placement.store import Done, Intent, Store
from router.placement.table import Credential, Pin, Source, Table, Topology, Update
from tests.support.postgres import Databases, databases
from tests.support.router_words import EU, ZONES, cell

TOPOLOGY = Topology((cell("a1"), cell("b1", 7_100, 2.0)), tuple(sorted(ZONES.items())))
ONE = TenantId("one")
NOW = 1_795_262_400_000_000


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.postgres)])
def server(request: pytest.FixtureRequest) -> Postgres | None:
    """The server that the adapter needs, if any; its fixture has a loop of its own, so it is asked for outside of any."""
    return None if request.param == "memory" else request.getfixturevalue("postgres_server")


@pytest.fixture
async def store(server: Postgres | None) -> AsyncIterator[Store]:
    """An adapter that holds a topology, at revision 1."""
    if server is None:
        made = MemoryStore(EU)
        await made.adopt(TOPOLOGY)
        yield made
        return
    async with databases(server) as made_databases, open_store(made_databases.admin_dsn, EU) as opened:
        await opened.adopt(TOPOLOGY)
        yield opened


def made(name: str, home: str = "a1", **other: Any) -> CreateTenant:
    """The step that makes a tenant in a cell."""
    return CreateTenant(TenantId(name), other.pop("plan", Plan()), other.pop("demand", 1.0), Pin(CellId(home), "a test's"), **other)


def source(name: str, *keys: str, slug: str = "") -> AddSource:
    """The step that gives `one` a source."""
    return AddSource(ONE, Source(SourceId(name), slug or f"eu-{name}", tuple(Credential(hash_of(key)) for key in keys)))


def asked(request_id: str = "", at: int = NOW, **other: Any) -> Intent:
    """An intent of ann's."""
    return Intent("ann", Micros(at), request_id, **other)


async def do(store: Store, *steps: Step) -> Done:
    """Takes them one after the other; the last one's answer."""
    for step in steps:
        done = await store.change(step, asked())
    return done


async def refused(call: Awaitable[object]) -> Reason:
    """Why a call is refused."""
    with pytest.raises(Failure) as raised:
        await call
    return raised.value.reason


async def test_every_change_is_one_revision(store: Store) -> None:
    """Law: each change raises the revision by one, is logged, and stands in the table with its revision."""
    plan, other = Plan(events_per_second=7.5, spread=2), Plan(burst_events=9.0)
    await do(store, made("one", plan=plan, dedicated_schema=True, demand=12.5), source("web", "k1"))
    await do(store, AddWriteKey(ONE, SourceId("web"), Credential(hash_of("k2"))), AddReadKey(ONE, Credential(hash_of("r1"))))
    assert (await store.tenant(ONE)).plan == plan
    pin = Pin(CellId("b1"), "because", Micros(NOW + 7))
    await do(store, Suspend(ONE, True), ChangePlan(ONE, other), ChangeDemand(ONE, 2.0), PinTenant(ONE, pin))
    done = await do(store, RevokeKey(hash_of("k1")))
    held = await store.tenant(ONE)
    assert done == Done(held, 10)
    assert (held.since, held.plan, held.pinned, held.suspended, held.dedicated_schema, held.demand) == (10, other, pin, True, True, 2.0)
    assert (held.cell, held.epoch) == ("a1", 1), "a pin moves nobody"
    assert held.sources[0].write_keys == (Credential(hash_of("k1"), True), Credential(hash_of("k2")))
    assert held.read_keys == (Credential(hash_of("r1")),)
    table = await store.table()
    assert (table.revision, table.zone, dict(table.tenants), table.zones) == (10, EU, {ONE: held}, ZONES)
    assert tuple(table.cells.values()) == TOPOLOGY.cells
    assert await store.revision() == 10
    await do(store, PinTenant(ONE, None))
    assert (await store.tenant(ONE)).pinned is None


async def test_the_log_replays_to_the_table(store: Store) -> None:
    """Law: from any revision on, the changes lead step by step to the present table."""
    await do(store, made("one"))
    start = await store.table()
    await do(store, source("web", "k1"), made("two", "b1"), Suspend(ONE, True), PinTenant(ONE, Pin(CellId("b1"), "why")))
    changes = await store.changes(start.revision)
    assert changes is not None
    replayed: Table = start
    for change in changes:
        assert change.tenant is not None
        replayed = replayed.apply(Update(EU, change.revision - 1, change.revision, (change.tenant,)))
    assert replayed == await store.table()
    assert [change.revision for change in await store.changes(start.revision, 2) or ()] == [3, 4]
    assert await store.changes(6) == ()
    assert await store.changes(7) is None


async def test_topology_changes_are_logged_without_a_tenant(store: Store) -> None:
    """Law: adopting what is held changes nothing; adopting another topology is a change; the home of a tenant cannot go."""
    assert await store.adopt(TOPOLOGY) == 1
    moved = replace(TOPOLOGY, cells=(cell("a1", 7_500), TOPOLOGY.cells[1]))
    assert await store.adopt(moved) == 2
    assert [change.tenant for change in await store.changes(1) or ()] == [None]
    await do(store, made("one"))
    assert await refused(store.adopt(replace(TOPOLOGY, cells=TOPOLOGY.cells[1:]))) is Reason.SNAPSHOT_REFUSED
    assert await store.revision() == 3


async def test_refused_changes_change_nothing(store: Store) -> None:
    """Law: a refused change gives its reason and leaves table, revision and audit chain as they were."""
    await do(store, made("one"), made("two"), source("web", "k1"))
    before, deeds = await store.table(), await store.audit()
    two, ghost = TenantId("two"), TenantId("ghost")
    cases: list[tuple[Step, Reason]] = [
        (made("one"), Reason.TENANT_EXISTS),
        (made("three", "us-1"), Reason.UNKNOWN_CELL),
        (made("three", demand=1e9), Reason.CELL_FULL),
        (CreateTenant(TenantId("three"), Plan(), 1e9), Reason.ZONE_EXHAUSTED),
        (source("web", slug="eu-other"), Reason.SOURCE_EXISTS),
        (AddSource(two, source("web").source), Reason.KEY_EXISTS),
        (AddSource(two, source("app", "k1").source), Reason.KEY_EXISTS),
        (AddSource(ghost, source("app").source), Reason.UNKNOWN_TENANT),
        (AddReadKey(two, Credential(hash_of("k1"))), Reason.KEY_EXISTS),
        (AddReadKey(ONE, Credential(hash_of("k1"))), Reason.KEY_EXISTS),
        (AddReadKey(ghost, Credential(hash_of("x"))), Reason.UNKNOWN_TENANT),
        (AddWriteKey(ONE, SourceId("app"), Credential(hash_of("x"))), Reason.UNKNOWN_SOURCE),
        (Suspend(ghost, True), Reason.UNKNOWN_TENANT),
        (ChangePlan(ghost, Plan()), Reason.UNKNOWN_TENANT),
        (ChangeDemand(ghost, 1.0), Reason.UNKNOWN_TENANT),
        (PinTenant(ghost, None), Reason.UNKNOWN_TENANT),
        (PinTenant(ONE, Pin(CellId("us-1"), "why")), Reason.UNKNOWN_CELL),
        (RevokeKey(hash_of("nobody's")), Reason.UNKNOWN_KEY),
    ]
    for step, reason in cases:
        assert await refused(store.change(step, asked("r"))) is reason, step
    assert await refused(store.tenant(ghost)) is Reason.UNKNOWN_TENANT
    assert await store.table() == before
    assert await store.audit() == deeds
    assert not (await store.change(Suspend(ONE, True), asked("r"))).repeated, "a refused request used up its name"


async def test_asking_for_what_is_so_changes_nothing(store: Store) -> None:
    """Law: suspending a suspended tenant, revoking a revoked key, pinning as it is pinned are no changes."""
    await do(store, made("one"), source("web", "k1"))
    for step in (
        Suspend(ONE, True),
        RevokeKey(hash_of("k1")),
        PinTenant(ONE, None),
        ChangeDemand(ONE, 3.0),
        ChangePlan(ONE, Plan(spread=3)),
    ):
        first = await do(store, step)
        deeds = len(await store.audit())
        assert await do(store, step) == first
        assert len(await store.audit()) == deeds


async def test_concurrent_changes_leave_no_gap(store: Store) -> None:
    """Law: revisions of concurrent changes are distinct and gapless, and every one of them is told."""
    await asyncio.gather(*(do(store, made(f"tenant-{number}")) for number in range(20)))
    changes = await store.changes(1)
    assert changes is not None
    assert [change.revision for change in changes] == list(range(2, 22))
    assert {change.tenant.name for change in changes if change.tenant} == {f"tenant-{number}" for number in range(20)}
    assert verify(await store.audit()).broken_at is None


async def test_a_repeated_request_gives_the_first_answer(store: Store) -> None:
    """Law: within a day the same request changes nothing more, whatever happened since, however many ask at once; another request may
    not have its name; after a day the name is free."""
    request = asked("r1", fingerprint=b"same")
    first, *others = await asyncio.gather(*(store.change(made("one"), request) for _ in range(5)))
    answers = sorted((first, *others), key=lambda done: done.repeated)
    assert [done.repeated for done in answers] == [False] + [True] * 4
    assert {(done.tenant.since, done.revision) for done in answers} == {(2, 2)}
    await do(store, Suspend(ONE, True))
    again = await store.change(made("one"), asked("r1", NOW + DAY, fingerprint=b"same"))
    assert (again.repeated, again.revision, again.tenant.suspended) == (True, 2, False)
    assert await refused(store.change(made("two"), asked("r1", fingerprint=b"other"))) is Reason.REQUEST_REUSED
    later = await store.change(Suspend(ONE, False), asked("r1", NOW + DAY + 1, fingerprint=b"other"))
    assert (later.repeated, later.revision) == (False, 4)


async def test_a_dry_run_says_what_would_be_and_keeps_nothing(store: Store) -> None:
    """Law: the same answer or refusal as in earnest, but for the revision; and then everything is as it was."""
    await do(store, made("one"), source("web", "k1"))
    before, deeds = await store.table(), await store.audit()
    for step in (made("two"), Suspend(ONE, True), source("app", "k2"), RevokeKey(hash_of("k1")), PinTenant(ONE, None), Suspend(ONE, False)):
        tried = await store.change(step, asked("dry", dry_run=True))
        assert await store.table() == before
        assert await store.audit() == deeds
        assert tried.revision == before.revision
    assert (await store.change(Suspend(ONE, True), asked("x", dry_run=True))).tenant.suspended
    assert await refused(store.change(made("one"), asked(dry_run=True))) is Reason.TENANT_EXISTS
    assert await refused(store.change(AddReadKey(ONE, Credential(hash_of("k1"))), asked(dry_run=True))) is Reason.KEY_EXISTS
    assert not (await store.change(Suspend(ONE, True), asked("dry"))).repeated, "a dry run used up its name"


async def test_a_change_of_what_was_changed_meanwhile_is_refused(store: Store) -> None:
    """Law: of two that have seen the same tenant one is served; revision 0 means that there must be none."""
    seen = (await store.change(made("one"), asked(if_revision=0))).tenant.since
    both = [store.change(ChangeDemand(ONE, float(rate)), asked(if_revision=seen)) for rate in (5, 6)]
    found = await asyncio.gather(*both, return_exceptions=True)
    failures = [one for one in found if isinstance(one, Failure)]
    assert [failure.reason for failure in failures] == [Reason.STALE_REVISION]
    assert await refused(store.change(Suspend(ONE, True), asked(if_revision=0))) is Reason.STALE_REVISION


async def test_the_audit_tells_who_did_what(store: Store) -> None:
    """Law: an entry for each change in its order, chained, without a key in it; pages of any size make the same record."""
    await do(store, made("one"), source("web", "secret-key"))
    await store.change(Suspend(ONE, True), Intent("bob", Micros(NOW + 1), "r7"))
    entries = await store.audit()
    deeds = [entry.fields for entry in entries]
    assert [(deed.actor, deed.action, deed.tenant, deed.revision, deed.request_id) for deed in deeds] == [
        ("ann", "CreateTenant", "one", 2, ""),
        ("ann", "AddSource", "one", 3, ""),
        ("bob", "Suspend", "one", 4, "r7"),
    ]
    assert json.loads(deeds[2].what) == {"subject": "one", "suspended": True}
    assert "secret-key" not in str(entries)
    assert verify(entries) == Verdict(Head(3, entries[-1].hash))
    assert [*await store.audit(0, 2), *await store.audit(2, 2)] == list(entries)


def start(name: str, move: str, target: str | None = "b1", at: int = NOW) -> StartMove:
    """The step that starts a move."""
    return StartMove(TenantId(name), move, None if target is None else CellId(target), "a test's", Micros(at), 60)


def turn(name: str, move: str, how: Turn, **other: Any) -> TurnMove:
    """The step that takes a move on."""
    return TurnMove(TenantId(name), move, how, Micros(NOW), **other)


async def test_a_move_is_kept_with_its_tenant(store: Store) -> None:
    """Law: what is read, replayed and listed is what the steps made: the fence, the new home and epoch, and the move itself."""
    await do(store, made("one"), made("two"), PinTenant(ONE, None), PinTenant(TenantId("two"), None))
    await do(store, start("two", "m2", at=NOW + 1), start("one", "m1"), turn("one", "m1", "begin"))
    assert [name for name, _ in await store.moving()] == ["one", "two"], "the oldest first"
    fenced = (await do(store, turn("one", "m1", "fence"))).tenant
    assert (fenced.cell, fenced.epoch, fenced.fenced) == ("a1", 1, True)
    assert await store.tenant(ONE) == fenced
    moved = (await do(store, turn("one", "m1", "switch", epoch=Epoch(1)))).tenant
    assert (moved.cell, moved.epoch, moved.fenced) == ("b1", 2, False)
    assert (await store.table()).tenants[ONE] == moved
    changes = await store.changes(0)
    assert changes is not None
    assert changes[-1].tenant == moved
    await do(store, turn("one", "m1", "finish"), turn("one", "m1", "erased"), turn("two", "m2", "abort"))
    assert list(await store.moving()) == []
    assert (await store.tenant(ONE)).move is not None, "the last move is remembered"


async def test_a_tenant_on_its_way_takes_room_in_both_cells(store: Store) -> None:
    """Law: until it has switched it is counted at home and where it goes; then in its new home alone."""
    full = TOPOLOGY.cells[1].capacity
    await do(store, made("one", demand=full), PinTenant(ONE, None), start("one", "m1"))
    assert await refused(store.change(made("three", "b1"), asked())) is Reason.CELL_FULL
    assert await refused(store.change(made("three", "a1"), asked())) is Reason.CELL_FULL
    await do(store, turn("one", "m1", "begin"), turn("one", "m1", "fence"), turn("one", "m1", "switch"))
    assert await refused(store.change(made("three", "b1"), asked())) is Reason.CELL_FULL
    await do(store, made("three", "a1"))


async def test_who_has_switched_takes_room_once(store: Store) -> None:
    """Law: although its move can still be rolled back, it is counted in its new home alone, and there once."""
    half = TOPOLOGY.cells[1].capacity / 2
    await do(store, made("one", demand=half), PinTenant(ONE, None), start("one", "m1"))
    await do(store, turn("one", "m1", "begin"), turn("one", "m1", "fence"), turn("one", "m1", "switch"))
    await do(store, made("two", "b1", demand=half), made("three", "a1", demand=half))


async def test_a_topology_without_a_cell_of_a_move_is_refused(store: Store) -> None:
    """Law: until a move has ended, both its cells belong to the zone."""
    await do(store, made("one"), PinTenant(ONE, None), start("one", "m1"))
    assert await refused(store.adopt(Topology(TOPOLOGY.cells[:1], TOPOLOGY.zones))) is Reason.SNAPSHOT_REFUSED
    await do(store, turn("one", "m1", "abort"))
    await store.adopt(Topology(TOPOLOGY.cells[:1], TOPOLOGY.zones))


async def test_a_switch_that_was_made_ready_for_another_fence_is_refused(store: Store) -> None:
    """Law: whoever drained the source behind one fence cannot switch behind the next one: writes were taken in between."""
    await do(store, made("one"), PinTenant(ONE, None), start("one", "m1"), turn("one", "m1", "begin"))
    await do(store, turn("one", "m1", "fence"), turn("one", "m1", "unfence"), turn("one", "m1", "fence"))
    assert await refused(store.change(turn("one", "m1", "switch", epoch=Epoch(1)), asked())) is Reason.STALE_REVISION
    assert (await do(store, turn("one", "m1", "switch", epoch=Epoch(2)))).tenant.epoch == 3


async def test_two_that_fill_a_cell_at_once(store: Store) -> None:
    """Law: room is what it is when the step is taken: of two tenants that fit one by one, one finds the cell full."""
    half = 0.7 * TOPOLOGY.cells[0].capacity
    found = await asyncio.gather(*(do(store, made(name, demand=half)) for name in ("one", "two")), return_exceptions=True)
    assert [failure.reason for failure in found if isinstance(failure, Failure)] == [Reason.CELL_FULL]


@pytest.mark.postgres
async def test_a_trimmed_log_says_so(postgres: Databases) -> None:
    """Law: what the log no longer holds is None, never a gap."""
    async with open_store(postgres.admin_dsn, EU) as opened:
        short = PostgresStore(opened._pool, EU, changes_kept=3)
        for kept in (MemoryStore(EU, changes_kept=3), short):
            await kept.adopt(TOPOLOGY)
            for number in range(6):
                await do(kept, made(f"tenant-{number}"))
            assert await kept.changes(3) is None
            assert [change.revision for change in await kept.changes(4) or ()] == [5, 6, 7]


@pytest.mark.postgres
async def test_a_restarted_directory_finds_everything(postgres: Databases) -> None:
    """Law: what was acknowledged is there after a restart; migrating again is harmless; an unreachable server has its reason."""
    async with open_store(postgres.admin_dsn, EU) as first:
        await first.adopt(TOPOLOGY)
        await do(first, made("one"), source("web", "k1"))
        deeds = await first.audit()
        before = await first.table()
    async with open_store(postgres.admin_dsn, EU) as second:
        assert await second.table() == before
        assert await second.audit() == deeds
    with pytest.raises(Failure, match="STORE_UNAVAILABLE"):
        async with open_store("postgres://nobody@127.0.0.1:1/none", EU):
            pass


async def test_a_standby_is_kept_with_its_tenant(store: Store) -> None:
    """Law: what is read and replayed is what the steps made: who stands by, who did before a move, and homes that changed places. A
    topology without any of them is refused, until nothing of the tenant is there."""
    cells = (cell("a1", peer="b1"), cell("b1", 7_100, peer="a1"), cell("c1", 7_200))
    await store.adopt(Topology(cells, TOPOLOGY.zones))
    await do(store, made("two", "c1"), made("one"), PinTenant(ONE, None))
    assert [(await store.tenant(TenantId(name))).standby for name in ("one", "two")] == ["b1", None]
    assert await refused(store.adopt(Topology(cells[::2], TOPOLOGY.zones))) is Reason.SNAPSHOT_REFUSED
    over = (await do(store, FailOver(ONE, CellId("a1"), "lost", Micros(NOW)))).tenant
    assert (over.cell, over.standby, over.epoch) == ("b1", "a1", 2)
    await do(store, start("one", "m1", "c1"), turn("one", "m1", "begin"), turn("one", "m1", "fence"))
    left = (await do(store, turn("one", "m1", "switch"))).tenant
    assert left.move is not None
    assert (left.cell, left.standby, left.move.standby) == ("c1", None, "a1")
    for after in (over, left):
        assert after in [change.tenant for change in await store.changes(0) or ()]
    assert await store.tenant(ONE) == left == (await store.table()).tenants[ONE]
    assert await refused(store.adopt(Topology(cells[1:], TOPOLOGY.zones))) is Reason.SNAPSHOT_REFUSED
    await do(store, turn("one", "m1", "finish"), turn("one", "m1", "erased"))
    await store.adopt(Topology(cells[2:], TOPOLOGY.zones))

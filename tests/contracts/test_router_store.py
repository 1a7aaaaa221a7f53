"""The directory's store, as its port specifies it, in memory and in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from cli.local.postgres import Postgres
from kernel.errors import Failure, Reason
from kernel.ids import SourceId, TenantId, hash_of
from kernel.limits import Plan
from router.placement.memory import MemoryStore
from router.placement.postgres import PostgresStore, open_store
from router.placement.store import Store
from router.placement.table import Credential, Table, Topology, Update
from tests.support.postgres import Databases, databases
from tests.support.router_words import EU, ZONES, cell, source, tenant

TOPOLOGY = Topology((cell("a1"), cell("b1", 7_100, 2.0)), tuple(sorted(ZONES.items())))
ONE = TenantId("one")


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


async def test_every_mutation_is_one_revision(store: Store) -> None:
    """Law: each mutation raises the revision by one, is logged, and stands in the table with its revision."""
    plan = Plan(events_per_second=7.5, spread=2)
    await store.create_tenant(replace(tenant("one"), plan=plan, pin=TOPOLOGY.cells[0].cell, dedicated_schema=True))
    await store.add_source(ONE, source("web", "k1"))
    await store.add_write_key(ONE, SourceId("web"), Credential(hash_of("k2")))
    await store.add_read_key(ONE, Credential(hash_of("r1")))
    await store.suspend(ONE, True)
    assert await store.revoke(hash_of("k1")) == 7
    held = await store.tenant(ONE)
    assert (held.since, held.plan, held.pin, held.suspended, held.dedicated_schema) == (7, plan, "a1", True, True)
    assert held.sources[0].write_keys == (Credential(hash_of("k1"), True), Credential(hash_of("k2")))
    assert held.read_keys == (Credential(hash_of("r1")),)
    table = await store.table()
    assert (table.revision, table.zone, table.tenants, table.zones) == (7, EU, {ONE: held}, ZONES)
    assert tuple(table.cells.values()) == TOPOLOGY.cells
    assert await store.revision() == 7


async def test_the_log_replays_to_the_table(store: Store) -> None:
    """Law: from any revision on, the changes lead step by step to the present table."""
    await store.create_tenant(tenant("one"))
    start = await store.table()
    await store.add_source(ONE, source("web", "k1"))
    await store.create_tenant(tenant("two", "b1"))
    await store.suspend(ONE, True)
    changes = await store.changes(start.revision)
    assert changes is not None
    replayed: Table = start
    for change in changes:
        assert change.tenant is not None
        replayed = replayed.apply(Update(EU, change.revision - 1, change.revision, (change.tenant,)))
    assert replayed == await store.table()
    assert [change.revision for change in await store.changes(start.revision, 2) or ()] == [3, 4]
    assert await store.changes(5) == ()
    assert await store.changes(6) is None


async def test_topology_changes_are_logged_without_a_tenant(store: Store) -> None:
    """Law: adopting what is held changes nothing; adopting another topology is a change; the home of a tenant cannot go."""
    assert await store.adopt(TOPOLOGY) == 1
    moved = replace(TOPOLOGY, cells=(cell("a1", 7_500), TOPOLOGY.cells[1]))
    assert await store.adopt(moved) == 2
    assert [change.tenant for change in await store.changes(1) or ()] == [None]
    await store.create_tenant(tenant("one"))
    with pytest.raises(Failure) as raised:
        await store.adopt(replace(TOPOLOGY, cells=TOPOLOGY.cells[1:]))
    assert raised.value.reason is Reason.SNAPSHOT_REFUSED
    assert await store.revision() == 3


async def test_refused_mutations_change_nothing(store: Store) -> None:
    """Law: a refused mutation gives its reason and leaves table and revision as they were."""
    await store.create_tenant(tenant("one"))
    await store.create_tenant(tenant("two"))
    await store.add_source(ONE, source("web", "k1"))
    before = await store.table()
    two, ghost = TenantId("two"), TenantId("ghost")
    cases = [
        (store.create_tenant(tenant("one")), Reason.TENANT_EXISTS),
        (store.add_source(ONE, replace(source("web"), slug="eu-other")), Reason.TENANT_EXISTS),
        (store.add_source(two, source("web")), Reason.TENANT_EXISTS),
        (store.add_source(two, source("app", "k1")), Reason.TENANT_EXISTS),
        (store.add_source(ghost, source("app")), Reason.UNKNOWN_TENANT),
        (store.add_read_key(two, Credential(hash_of("k1"))), Reason.TENANT_EXISTS),
        (store.add_read_key(ghost, Credential(hash_of("x"))), Reason.UNKNOWN_TENANT),
        (store.add_write_key(ONE, SourceId("app"), Credential(hash_of("x"))), Reason.UNKNOWN_SOURCE),
        (store.suspend(ghost, True), Reason.UNKNOWN_TENANT),
        (store.revoke(hash_of("nobody's")), Reason.UNKNOWN_KEY),
        (store.tenant(ghost), Reason.UNKNOWN_TENANT),
    ]
    for call, reason in cases:
        with pytest.raises(Failure) as raised:
            await call
        assert raised.value.reason is reason
    assert await store.table() == before


async def test_repeating_what_is_so_changes_nothing(store: Store) -> None:
    """Law: suspending a suspended tenant and revoking a revoked key are no steps."""
    await store.create_tenant(tenant("one"))
    await store.add_source(ONE, source("web", "k1"))
    await store.suspend(ONE, True)
    await store.revoke(hash_of("k1"))
    before = await store.revision()
    await store.suspend(ONE, True)
    assert await store.revoke(hash_of("k1")) == before == await store.revision()


async def test_concurrent_mutations_leave_no_gap(store: Store) -> None:
    """Law: revisions of concurrent mutations are distinct and gapless, and every one of them is told."""
    await asyncio.gather(*(store.create_tenant(tenant(f"tenant-{number}")) for number in range(20)))
    changes = await store.changes(1)
    assert changes is not None
    assert [change.revision for change in changes] == list(range(2, 22))
    assert {change.tenant.name for change in changes if change.tenant} == {f"tenant-{number}" for number in range(20)}


@pytest.mark.postgres
async def test_a_trimmed_log_says_so(postgres: Databases) -> None:
    """Law: what the log no longer holds is None, never a gap."""
    async with open_store(postgres.admin_dsn, EU) as opened:
        short = PostgresStore(opened._pool, EU, changes_kept=3)
        for kept in (MemoryStore(EU, changes_kept=3), short):
            await kept.adopt(TOPOLOGY)
            for number in range(6):
                await kept.create_tenant(tenant(f"tenant-{number}"))
            assert await kept.changes(3) is None
            assert [change.revision for change in await kept.changes(4) or ()] == [5, 6, 7]


@pytest.mark.postgres
async def test_a_restarted_directory_finds_everything(postgres: Databases) -> None:
    """Law: what was acknowledged is there after a restart; migrating again is harmless; an unreachable server has its reason."""
    async with open_store(postgres.admin_dsn, EU) as first:
        await first.adopt(TOPOLOGY)
        await first.create_tenant(tenant("one"))
        before = await first.table()
    async with open_store(postgres.admin_dsn, EU) as second:
        assert await second.table() == before
    with pytest.raises(Failure, match="STORE_UNAVAILABLE"):
        async with open_store("postgres://nobody@127.0.0.1:1/none", EU):
            pass

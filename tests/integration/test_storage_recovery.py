"""The store after PostgreSQL was killed: nothing half applied, and it finds the server again by itself."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest

from cells.storage.postgres_apply import PostgresStore
from cells.storage.postgres_provision import provision
from cells.storage.postgres_read import PostgresReader
from cli.local.postgres import Postgres
from kernel.effects import Applied
from kernel.errors import Failure, Reason
from kernel.metrics import MemoryMeter
from tests.support.clock import ManualClock
from tests.support.postgres import temporary_folder
from tests.support.processes import eventually, free_port
from tests.support.storage_room import ACME, NOW, PASSWORDS, Room, effects, event, own_both

pytestmark = pytest.mark.postgres


@pytest.fixture
async def server() -> AsyncIterator[Postgres]:
    """A server of the test's own, to be killed."""
    folder = temporary_folder()
    made = Postgres(folder, free_port(), "test-superuser")
    await made.start()
    yield made
    await made.stop()
    shutil.rmtree(folder, ignore_errors=True)


async def test_a_killed_server_is_found_again(server: Postgres) -> None:
    """SIGKILL under load: callers hear STORE_UNAVAILABLE, after the restart the same objects go on at the stored position."""
    dsns = await provision(server.dsn("cell"), PASSWORDS)
    clock, meter = ManualClock(NOW), MemoryMeter()
    store, reader = PostgresStore(dsns.apply, clock, meter), PostgresReader(dsns.query)
    room = await own_both(Room(store, reader, clock, meter, dsns))
    assert await room.apply(effects(event("m1"))) == Applied(1, 0, 0, 0, 0)
    assert await room.ids() == ["m1"]
    await server.kill()
    for attempt in (room.apply(effects(event("m2"))), room.ids(), store.positions()):
        with pytest.raises(Failure) as caught:
            await attempt
        assert caught.value.reason is Reason.STORE_UNAVAILABLE
    await server.start()

    async def reachable() -> bool:
        try:
            return await store.positions() == {0: 1} and await room.ids() == ["m1"]
        except Failure:
            return False

    await eventually(reachable, "the store answers again")
    assert await room.apply(effects(event("m2"), event("m1"))) == Applied(1, 1, 0, 0, 0)
    assert sorted(await room.ids(ACME)) == ["m1", "m2"]
    await store.close()
    await reader.close()


async def test_a_store_may_be_opened_while_its_database_is_down(server: Postgres) -> None:
    """A cell starts before its PostgreSQL does."""
    dsns = await provision(server.dsn("cell"), PASSWORDS)
    await server.stop()
    store = PostgresStore(dsns.apply, ManualClock(NOW), MemoryMeter())
    with pytest.raises(Failure):
        await store.positions()
    await server.start()
    assert await store.positions() == {}
    await store.close()


async def test_a_refused_login_is_no_defect(server: Postgres) -> None:
    """A wrong password, and a database that is not there: STORE_UNAVAILABLE names the role; with the right one the next call is fine."""
    dsns = await provision(server.dsn("cell"), PASSWORDS)
    for wrong in (dsns.apply.replace(PASSWORDS.apply, "guess"), dsns.apply.replace("/cell", "/sell")):
        store = PostgresStore(wrong, ManualClock(NOW), MemoryMeter())
        with pytest.raises(Failure, match="refuses df_apply") as caught:
            await store.positions()
        assert caught.value.reason is Reason.STORE_UNAVAILABLE
        await store.close()
    store = PostgresStore(dsns.apply, ManualClock(NOW), MemoryMeter())
    assert await store.positions() == {}
    await store.close()

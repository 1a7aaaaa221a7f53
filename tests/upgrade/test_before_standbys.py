"""The code of before there were standbys, on this code's schemas: it goes on as it did, and takes nothing from what it does not know."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from cells.storage.postgres_apply import PostgresStore
from cells.storage.postgres_provision import dsns, provision
from cells.storage.postgres_read import PostgresReader
from kernel.chain import verify
from kernel.clock import Micros
from kernel.epoch import Epoch, Ownership, OwnershipState
from kernel.ids import CellId, TenantId
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock
from router.evacuation.steps import FailOver
from router.placement.postgres import open_store
from router.placement.store import Intent
from tests.support.postgres import Databases
from tests.support.storage_room import EVER, PASSWORDS
from tests.upgrade import applier, steps_of
from tests.upgrade.test_previous_directory import Previous
from tests.upgrade.test_previous_store import Applier, running

pytestmark = pytest.mark.postgres
ACME, GLOBEX = TenantId("acme"), TenantId("globex")
A, B, PEER = CellId("a1"), CellId("b1"), CellId("eu-b-1")
_ANSWER_SECONDS = 30.0


class Both:
    """The previous code in its process, on log partition 0, and this one here, on partition 1."""

    def __init__(self, old: Applier, new: PostgresStore, now: Micros) -> None:
        self._old, self._new, self._now = old, new, now
        self._offsets = [0, 0]

    async def give(self, partition: int, tenant: str, epoch: int = 1) -> str:
        """What the store says of one more record; its message id tells of its place."""
        offset = self._offsets[partition]
        given: dict[str, object] = {"tenant": tenant, "offset": offset, "at": self._now, "ids": [f"{partition}/{offset}"], "epoch": epoch}
        if partition:
            outcome = type(await applier.outcome_of(self._new, partition, **given)).__name__  # type: ignore[arg-type]  # by name
        else:
            outcome = await self._old.ask(attempt={"partition": partition, **given})
        self._offsets[partition] += outcome == "Applied"
        return outcome

    async def own(self, tenant: TenantId, epoch: int, state: OwnershipState) -> None:
        """This code's word."""
        await self._new.own([Ownership(tenant, Epoch(epoch), state)], [])


async def test_a_cell_of_both_versions_folds_what_it_owns_and_a_standby_is_this_ones_alone(
    before_standbys: Path, postgres: Databases
) -> None:
    """Law: on this schema the previous code applies what the cell owns. A tenant that the cell stands by for is fenced for it, and when it
    hears that such a one lives elsewhere, this code goes on standing by; once the cell is the home, both apply. How far another cell's log
    is kept is no position of this one's."""
    passwords = [PASSWORDS.owner, PASSWORDS.apply, PASSWORDS.query, PASSWORDS.audit]
    async with running(before_standbys, lambda hello: hello["states"] == ["owner", "released"]) as old:
        await old.ask(provision=postgres.admin_dsn, passwords=passwords)
        await old.ask(own=["acme"])
        store = PostgresStore(dsns(postgres.admin_dsn, PASSWORDS).apply, SystemClock(), MemoryMeter())
        both = Both(old, store, SystemClock().now())
        assert await both.give(0, "acme") == "Applied"
        await provision(postgres.admin_dsn, PASSWORDS)
        await old.ask(provision=postgres.admin_dsn, passwords=passwords)
        assert [await both.give(partition, "acme") for partition in (0, 1)] == ["Applied", "Applied"]
        await both.own(GLOBEX, 1, "standby")
        assert await store.replicate(PEER, 0, 0, 7)
        assert [await both.give(partition, "globex") for partition in (0, 1)] == ["Fenced", "Applied"]
        await old.ask(own=["globex"], state="released")
        assert await both.give(1, "globex") == "Applied", "the previous code released what stands by here"
        await old.ask(own=["globex"], epoch=2, state="owner")
        assert [await both.give(partition, "globex", 2) for partition in (0, 1)] == ["Applied", "Applied"]
        await both.own(GLOBEX, 3, "standby")
        assert [await both.give(partition, "globex", 3) for partition in (0, 1)] == ["Fenced", "Applied"]
        assert (await store.replicated(PEER), await store.positions()) == ({0: 7}, {0: 3, 1: 5})
    reader = PostgresReader(dsns(postgres.admin_dsn, PASSWORDS).query)
    stored = {tenant: len((await reader.list_events(tenant, EVER, 100, None)).events) for tenant in (ACME, GLOBEX)}
    assert stored == {ACME: 3, GLOBEX: 5}
    await reader.close()
    await store.close()


async def test_a_directory_of_both_versions_keeps_the_standby_that_only_one_knows(before_standbys: Path, postgres: Databases) -> None:
    """Law: the previous code goes on on this schema. What it makes has no standby, what it changes keeps the one that it has, and epochs,
    revisions and the audit chain are one for both. It tells followers of no standby: this code's next change does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(before_standbys), str(before_standbys / "proto" / "gen")))}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, steps_of.__file__, postgres.admin_dsn, cwd=before_standbys, env=environment, stdin=pipe, stdout=pipe
    )
    old = Previous(process)
    try:
        assert "standby" not in await old.read(), "this is not the previous code"
        await old.ask("create", "before")
        async with open_store(postgres.admin_dsn, steps_of.ZONE) as store:

            async def here(what: str, name: str) -> None:
                for step in steps_of.step_of(what, name):
                    await store.change(step, Intent("this code", steps_of.NOW))

            async def standbys() -> dict[str, CellId | None]:
                return {str(name): tenant.standby for name, tenant in (await store.table()).tenants.items()}

            await store.adopt(steps_of.topology())
            await here("create", "new")
            await old.ask("create", "after")
            await old.ask("suspend", "new")
            await here("suspend", "before")
            assert await standbys() == {"before": None, "new": B, "after": None}
            told = [change.tenant.standby for change in await store.changes(0) or () if change.tenant and change.tenant.name == "new"]
            assert told[-1] is None
            await here("resume", "new")
            assert (await store.changes(0) or ())[-1].tenant == await store.tenant(TenantId("new"))
            await store.change(FailOver(TenantId("new"), A, "lost", steps_of.NOW), Intent("this code", steps_of.NOW))
            revision, seen = await old.ask("suspend", "new")
            assert seen == {"after": ["a1", 1, False], "before": ["a1", 1, True], "new": ["b1", 2, True]}
            after = await store.tenant(TenantId("new"))
            assert (after.cell, after.standby, after.epoch, after.suspended) == (B, A, 2, True)
            assert [change.revision for change in await store.changes(1) or ()] == list(range(2, revision + 1))
            assert verify(await store.audit()).broken_at is None
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), _ANSWER_SECONDS) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

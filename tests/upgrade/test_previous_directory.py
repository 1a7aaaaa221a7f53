"""The previous version's directory beside this one's, on one database: each reads what the other changed, and no revision is missing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from kernel.chain import verify
from kernel.clock import Micros
from kernel.ids import CellId, TenantId
from kernel.limits import Plan
from router.placement.postgres import open_store
from router.placement.steps import ChangeDemand, CreateTenant, PinTenant
from router.placement.store import Intent
from router.placement.table import Pin
from tests.support.postgres import Databases
from tests.upgrade import directory_of

pytestmark = pytest.mark.postgres
_ANSWER_SECONDS = 30.0


class Previous:
    """The process of `directory_of.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def read(self) -> Any:
        """The next answer."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), _ANSWER_SECONDS)
        assert line, "the previous code ended: see its words above"
        return json.loads(line)

    async def ask(self, what: str, name: str = "") -> Any:
        """Revision, tenants and the changes that it reads after a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, name]).encode() + b"\n")
        return await self.read()


async def test_two_versions_of_the_directory_share_a_database(previous: Path, postgres: Databases) -> None:
    """Law: with this version's schema the previous code goes on; what this one pins and weighs does not disturb it, what it creates has the
    defaults here, and a change of either is a revision for both."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(previous), str(previous / "proto" / "gen")))}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, directory_of.__file__, postgres.admin_dsn, cwd=previous, env=environment, stdin=pipe, stdout=pipe
    )
    old = Previous(process)
    try:
        assert "create_tenant" in await old.read(), "this is not the previous code"
        await old.ask("create", "before")
        async with open_store(postgres.admin_dsn, directory_of.ZONE) as store:
            intent = Intent("ann", Micros(1_795_262_400_000_000))
            pin = Pin(CellId("b1"), "because")
            await store.change(CreateTenant(TenantId("new"), Plan(), 7.0, pin), intent)
            await store.change(PinTenant(TenantId("before"), pin), intent)
            await old.ask("create", "after")
            await old.ask("source", "new")
            revision, told, changes = await old.ask("suspend", "before")
            await store.change(ChangeDemand(TenantId("after"), 5.0), intent)
            table = await store.table()
            assert {str(name): [one.cell, one.suspended, len(one.sources)] for name, one in table.tenants.items()} == told
            assert (table.revision, changes) == (revision + 1, list(range(2, revision + 1)))
            held = {str(name): (one.demand, one.pinned) for name, one in table.tenants.items()}
            assert held == {"before": (1.0, pin), "new": (7.0, pin), "after": (5.0, None)}
            assert [change.revision for change in await store.changes(1) or ()] == list(range(2, revision + 2))
            assert verify(await store.audit()).broken_at is None
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), _ANSWER_SECONDS) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

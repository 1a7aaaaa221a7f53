"""The ledger on real PostgreSQL, and the auditor who shares no code with either of its sides."""

from __future__ import annotations

import json
import random

import asyncpg
import pytest

from cells.eventlog.postgres import PostgresLog, open_log
from cells.eventlog.postgres import provision as provision_log
from cells.processing.partition import PartitionLoop, Wiring
from cells.storage.postgres_apply import PostgresStore
from cells.storage.postgres_provision import Passwords
from cells.storage.postgres_provision import provision as provision_store
from cells.tracing import OFF
from chaos.checkers.history import History
from chaos.checkers.verdicts import ledger_balances
from cli.demo.evidence import ledger_lines
from kernel.epoch import Claim, Epoch, Ownership
from kernel.ids import TenantId
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock
from tests.support.postgres import Databases
from tests.support.records import CELL, TENANT, envelope, record

CLINIC = TenantId("clinic-north")


class Room:
    """A cell's log and store in one database, and what processes partition 0."""

    def __init__(self, log: PostgresLog, store: PostgresStore, dsn: str) -> None:
        self.log, self.store, self.dsn, self.clock = log, store, dsn, SystemClock()
        claim = Claim(CELL, {TENANT: Epoch(1), CLINIC: Epoch(1)})
        wiring = Wiring(log, store, lambda: claim, self._nothing, self.clock, MemoryMeter(), OFF)
        self.loop = PartitionLoop(wiring, 0)

    async def _nothing(self) -> None:
        return

    async def append(self, *message_ids: str, tenant: TenantId = TENANT) -> None:
        await self.log.append(0, record(*(envelope(one) for one in message_ids), tenant=tenant), self.clock.monotonic() + 5)

    async def findings(self) -> list[str]:
        return ledger_balances(History((), (), tuple(await ledger_lines(self.dsn, CELL))))

    async def execute(self, sql: str) -> str:
        connection = await asyncpg.connect(self.dsn)
        try:
            return str(await connection.execute(sql))
        finally:
            await connection.close()


@pytest.fixture
async def room(postgres: Databases) -> Room:
    await provision_store(postgres.admin_dsn, Passwords("owner", "apply", "query", "audit"))
    await provision_log(postgres.admin_dsn, "df_log", "log", 1)
    store = PostgresStore(postgres.role_dsn("df_apply", "apply"), SystemClock(), MemoryMeter())
    await store.own([Ownership(TENANT, Epoch(1), "owner"), Ownership(CLINIC, Epoch(1), "owner")], [CLINIC])
    log = await open_log(postgres.role_dsn("df_log", "log"), SystemClock())
    return Room(log, store, postgres.admin_dsn)


@pytest.mark.postgres
async def test_the_ledger_balances_over_stored_duplicate_and_dedicated_events(room: Room) -> None:
    """New, repeated and dead events, of a shared and of a dedicated tenant."""
    await room.append("a", "b")
    await room.append("a", "c")
    await room.append("x", tenant=CLINIC)
    await room.log.append(0, record(envelope("poison", type="nonsense"), envelope("d")), room.clock.monotonic() + 5)
    position = 0
    while position < 4:
        position = await room.loop.step(position)
    assert {(row.tenant, row.stored, row.duplicate, row.quarantined) for row in await room.store.ledger()} == {
        (TENANT, 4, 1, 1),
        (CLINIC, 1, 0, 0),
    }
    assert await room.findings() == []
    await room.log.close()
    await room.store.close()


@pytest.mark.postgres
async def test_the_auditor_finds_a_planted_skip(room: Room) -> None:
    """A consumer that jumps over one record loses its events in silence - but not before the auditor."""
    for message_id in "abc":
        await room.append(message_id)
    assert await room.loop.step(0) == 3
    await room.append("skipped")
    assert await room.execute("UPDATE cell.position SET next_offset = next_offset + 1") == "UPDATE 1"
    await room.append("d")
    assert await room.loop.step(4) == 5
    assert await room.findings() == [f"ledger: {TENANT} in {CELL}: accepted 5, accounted for 4"]
    await room.log.close()
    await room.store.close()


@pytest.mark.postgres
async def test_what_postgresql_can_never_keep_is_quarantined_and_the_cell_goes_on(room: Room) -> None:
    """A trait whose name fits no index row, from a writer that knew no bound: its record alone becomes dead letters."""
    name = "".join(f"{number:x}" for number in random.Random(7).choices(range(16), k=4_000))
    poison = envelope("poison", type="identify", payload=json.dumps({"traits": {name: 1}}).encode())
    for message_id in ("a", "b"):
        await room.append(message_id)
    await room.log.append(0, record(poison), room.clock.monotonic() + 5)
    await room.append("c")
    position = 0
    for _ in range(10):
        if position == 4:
            break
        position = await room.loop.step(position)
    assert position == 4
    assert [(row.stored, row.quarantined) for row in await room.store.ledger()] == [(3, 1)]
    assert await room.findings() == []
    await room.log.close()
    await room.store.close()

"""The previous version's store beside this one's, on one database: nothing is lost, nothing is told twice, nothing changes a byte."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cells.storage.postgres_apply import PostgresStore
from cells.storage.postgres_provision import dsns, provision
from cells.storage.postgres_read import PostgresReader
from kernel.clock import DAY, Micros
from kernel.ids import TenantId
from kernel.limits import PAGE_EVENTS_MAX
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock
from tests.support.postgres import Databases
from tests.support.storage_room import EVER, PASSWORDS
from tests.upgrade import applier

pytestmark = pytest.mark.postgres

TENANTS = ("acme", "globex", "very-important")
DEDICATED = "very-important"
_ANSWER_SECONDS = 30.0


class Applier:
    """The process of `applier.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def read(self) -> Any:
        """The next answer."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), _ANSWER_SECONDS)
        assert line, "the previous code ended: see its words above"
        return json.loads(line)

    async def ask(self, **command: object) -> Any:
        """One command's answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        return await self.read()


@asynccontextmanager
async def running(code: Path, proof: Callable[[Any], bool] = lambda hello: "payload" in hello["fields"]) -> AsyncIterator[Applier]:
    """The applier over this code; it is proved to be the previous one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(code), str(code / "proto" / "gen")))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        applier.__file__,
        cwd=code,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        made = Applier(process)
        assert proof(await made.read()), "this is not the previous code"
        yield made
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), _ANSWER_SECONDS) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class Both:
    """The previous code in its process, on log partition 0, and this one here, on partition 1. `sent` counts what each was given."""

    def __init__(self, old: Applier, new: PostgresStore, now: Micros) -> None:
        self._old, self._new, self._now = old, new, now
        self._offsets: Counter[int] = Counter()
        self.sent: Counter[tuple[str, str]] = Counter()
        self.places: dict[tuple[str, str], set[tuple[int, int]]] = {}

    async def give(self, partition: int, tenant: str, ids: list[str], days_ago: int = 0) -> None:
        """Has one record stored."""
        offset, at = self._offsets[partition], self._now - days_ago * DAY
        self._offsets[partition] += 1
        for one in ids:
            self.sent[tenant, one] += 1
            self.places.setdefault((tenant, one), set()).add((partition, offset))
        if partition:
            stored, duplicate = await applier.apply_record(self._new, partition, tenant, offset, at, ids)
        else:
            stored, duplicate = await self._old.ask(partition=partition, tenant=tenant, offset=offset, at=at, ids=ids)
        assert stored + duplicate == len(ids)

    async def many(self, partition: int, name: str, records: int) -> None:
        """Records of every tenant, of today and yesterday: some events are this partition's own, some are given to both."""
        for number in range(records):
            for tenant in TENANTS:
                own = [f"{name}-{number}-{index}" for index in range(20)]
                shared = [f"shared-{number}-{index}" for index in range(5)]
                await self.give(partition, tenant, [*own, *shared], days_ago=number % 2)


async def _old_rows(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    counts = [
        await connection.fetchval(f"SELECT count(*) FROM {home}.event")  # noqa: S608  # our own names
        for home in ("tenants", "tenant_very_important")
    ]
    await connection.close()
    return sum(counts)


async def _check(reader: PostgresReader, store: PostgresStore, both: Both) -> None:
    """Every event once, as it was sent, at a place where it was; every ledger adds up to what was given."""
    lines = [asdict(line) for line in await store.ledger()]
    for tenant in TENANTS:
        ids = {one for name, one in both.sent if name == tenant}
        page, found = (await reader.list_events(TenantId(tenant), EVER, PAGE_EVENTS_MAX, None)).events, []
        for stored in page:
            message_id = stored.envelope.message_id
            found.append(message_id)
            assert stored.envelope.payload == applier.payload_of(tenant, message_id)
            assert (stored.row.partition, stored.row.offset) in both.places[tenant, message_id]
            assert (stored.envelope.user_id, stored.row.anonymous_id, stored.record.cell) == ("ann", f"device-{message_id}", applier.CELL)
            assert await reader.get_event(TenantId(tenant), message_id) == stored
        assert sorted(found) == sorted(ids)
        mine = [line for line in lines if line["tenant"] == tenant]
        assert sum(line["stored"] for line in mine) == len(ids)
        assert sum(line["stored"] + line["duplicate"] for line in mine) == sum(n for (name, _), n in both.sent.items() if name == tenant)


async def test_both_versions_apply_and_all_is_read_once(previous: Path, postgres: Databases) -> None:
    """The previous code stores on its own schema, goes on on this one's while this code applies and moves its events over, and repeats
    what was moved: each event is read once, byte for byte, and ledgers add up."""
    clock, passwords = SystemClock(), [PASSWORDS.owner, PASSWORDS.apply, PASSWORDS.query, PASSWORDS.audit]
    made = dsns(postgres.admin_dsn, PASSWORDS)
    store, reader = PostgresStore(made.apply, clock, MemoryMeter()), PostgresReader(made.query)
    async with running(previous) as old:
        await old.ask(provision=postgres.admin_dsn, passwords=passwords)
        await old.ask(own=TENANTS, dedicated=[DEDICATED])
        both = Both(old, store, clock.now())
        await both.many(0, "before", 4)
        await provision(postgres.admin_dsn, PASSWORDS)
        assert (await reader.list_events(TenantId("acme"), EVER, 10, None)).events == [], "the run is void: there was nothing to move"
        await asyncio.gather(both.many(0, "previous", 6), both.many(1, "this", 6), store.maintain())
        await store.maintain()
        assert await _old_rows(postgres.admin_dsn) == 0
        await _check(reader, store, both)
        again = [f"before-{number}-{index}" for number in range(2) for index in range(20)]
        await both.give(0, "acme", again)
        assert await _old_rows(postgres.admin_dsn) == len(again), "the previous code does not see what was moved"
    await store.maintain()
    assert await _old_rows(postgres.admin_dsn) == 0
    await _check(reader, store, both)
    await reader.close()
    await store.close()

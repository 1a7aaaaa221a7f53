"""Moves of tenants under load (P7): how long writes are refused, and what is in the new home afterwards.

    python -m bench.moves
    python -m bench.moves --tenants 2 --stored 1000

Ten tenants with a history each send all the time, one request after the other, and move at once; an eleventh stays, and tells what the
copying costs others. Exit code 2 when anything was lost, stored twice or out of order; 1 when a promise was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import asyncpg
import click
import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from bench import report, resources
from bench.rows import Row, below
from cells.eventlog import codec
from cli.local.fleet import LocalFleet
from cli.local.layout import PORTS_TOTAL
from cli.local.ports import free_block
from dataflow.routing.v1 import routing_pb2 as pb

OUTPUT: Final = Path("build/bench/moves.json")
ZONE, HOME, TARGET = "eu", "eu-west-1-a", "eu-central-1-a"
PAUSE_MS: Final = 1_000.0
BATCH_EVENTS: Final = 20
_RATE: Final = 200  # events per second of each tenant
_READY_SECONDS: Final = 120.0
_LIVE_SECONDS: Final = 30.0
_MOVE_SECONDS: Final = 300.0
_LOOK_SECONDS: Final = 0.1
_AGAIN_SECONDS: Final = 0.02
_ORDER_SQL: Final = (
    "SELECT r.epoch, e.log_offset, e.ordinal, r.body FROM tenants.event_row e JOIN tenants.record r"
    " USING (partition, log_offset, received_day) WHERE e.tenant = $1 ORDER BY r.epoch, e.log_offset, e.ordinal"
)


@dataclass
class Client:
    """One sequential client, at a steady rate; a request that is refused is repeated until it is taken. `waits` are (when it was due,
    seconds until it was acknowledged)."""

    name: str
    key: str
    acknowledged: list[str] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    refused: int = 0

    async def send(self, web: aiohttp.ClientSession, count: int) -> None:
        """The next so many events, as one batch, until they are taken."""
        first = len(self.acknowledged)
        ids = [f"{number:08}" for number in range(first, first + count)]
        events = [
            {"type": "track", "event": "Order Completed", "userId": f"user-{n[-3:]}", "messageId": n, "properties": _FILL} for n in ids
        ]
        body = msgspec.json.encode({"batch": events})
        while True:
            async with web.post("/v1/batch", data=body, headers=_headers(self.key)) as answer:
                if answer.status == 200:
                    break
                if answer.status not in (429, 503):
                    raise RuntimeError(f"{answer.status}: {await answer.text()}")
            self.refused += 1
            await asyncio.sleep(_AGAIN_SECONDS)
        self.acknowledged += ids

    async def run(self, web: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        """Until `stop`. Late is late: the schedule does not wait for an answer."""
        began, sent = time.perf_counter(), 0
        while not stop.is_set():
            due = began + sent * BATCH_EVENTS / _RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await self.send(web, BATCH_EVENTS)
            self.waits.append((due, time.perf_counter() - due))
            sent += 1


def _headers(key: str) -> dict[str, str]:
    return {"x-api-key": key, "content-type": "application/json"}


_FILL: Final = {"text": "x" * 350, "total": 42.5}


@dataclass
class Found:
    """What was measured. `pauses` and `waits` are milliseconds, of each tenant."""

    tenants: int
    stored: int
    pauses: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    events: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0

    @property
    def holds(self) -> bool:
        """Whether the moves were right at all."""
        return not (self.lost or self.duplicated or self.out_of_order)

    def rows(self) -> list[Row]:
        """The figures of P7."""
        pauses, waits = sorted(self.pauses), sorted(self.waits)
        before, during = (statistics.quantiles(self.others[name], n=100)[98] for name in ("before", "during"))
        return [
            below("P7", "writes refused, the longest of all moves", pauses[-1], "ms", PAUSE_MS, (pauses[0], pauses[-1])),
            below("P7", "a client's longest wait, the longest of all", waits[-1], "ms", PAUSE_MS, (waits[0], waits[-1])),
            below("P7", "events lost, doubled or out of order", float(self.lost + self.duplicated + self.out_of_order), "events", 1.0),
            Row("P7", "events copied per second, all moves together", self.events / self.seconds, "events/s"),
            Row("P7", "a tenant that stays, p99 to acknowledged before the moves", before, "ms"),
            Row("P7", "the same during the moves", during, "ms"),
        ]


@contextlib.asynccontextmanager
async def fleet(*, sites: bool = False) -> AsyncIterator[LocalFleet]:
    """Two cells of a zone in a temporary folder, erased afterwards. With `sites` both regions keep the zone's directory."""
    state = tempfile.mkdtemp(prefix="dataflow-bench-", dir="/tmp")  # short, for socket paths
    os.chmod(state, 0o711)  # noqa: S103  # PostgreSQL may run as another user
    try:
        async with LocalFleet(Path(state), free_block(PORTS_TOTAL), cells=(HOME, TARGET), sites=sites) as made:
            await made.wait_until_ready(_READY_SECONDS)
            yield made
    finally:
        shutil.rmtree(state, ignore_errors=True)


async def tenants_of(made: LocalFleet, count: int) -> list[Client]:
    """Tenants of HOME, pinned to nothing, that may send at any rate; each with a client whose key works."""
    clients = []
    plan = pb.Plan(events_per_second=1e6, burst_events=1e6, requests_per_second=1e6)
    async with made.access.directory(ZONE) as directory:
        for number in range(count):
            name = f"mover-{number:02}"
            await directory.create_tenant(name, pinned_cell=HOME, plan=plan)
            await directory.pin_tenant(name, None)
            clients.append(Client(name, (await directory.create_source(name, "web"))[1]))
    return clients


async def measured(count: int, stored: int, seconds: float, found: Found, console: Console) -> None:
    """The whole story."""
    async with fleet() as made, aiohttp.ClientSession(made.access.zone_endpoint(ZONE)) as web:
        clients = await tenants_of(made, count + 1)
        movers, stays = clients[:-1], clients[-1]
        await _wait_until_live(web, clients)
        console.print(f"storing {stored:,} events of each of {count} tenants")
        for client in movers:
            for first in range(0, stored, 500):
                await client.send(web, min(500, stored - first))
        stop = asyncio.Event()
        tasks = [asyncio.create_task(client.run(web, stop)) for client in clients]
        await asyncio.sleep(seconds)
        console.print(f"moving them, while they send {count * _RATE:,} events/s")
        began, held = time.perf_counter(), sum(len(client.acknowledged) for client in movers)
        await _move(made, [client.name for client in movers], found)
        ended = time.perf_counter()
        found.seconds, found.events = ended - began, held
        await asyncio.sleep(2.0)
        stop.set()
        await asyncio.gather(*tasks)
        found.waits = [1e3 * max(wait for due, wait in client.waits if due >= began - 1) for client in movers]
        found.others = {
            "before": [1e3 * wait for due, wait in stays.waits if due < began],
            "during": [1e3 * wait for due, wait in stays.waits if began <= due < ended],
        }
        for client in movers:
            await _judge(made, client, found)


async def _wait_until_live(web: aiohttp.ClientSession, clients: Sequence[Client]) -> None:
    """Every edge knows every key: so many requests at once take connections of their own."""
    deadline = time.monotonic() + _LIVE_SECONDS
    for client in clients:
        while True:
            headers = _headers(client.key)
            answers = await asyncio.gather(*(web.post("/v1/batch", data=b'{"batch":[]}', headers=headers) for _ in range(8)))
            for answer in answers:
                answer.release()
            if all(answer.status == 400 for answer in answers):
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"the edges do not know the key of {client.name}")
            await asyncio.sleep(_LOOK_SECONDS)


async def _move(made: LocalFleet, names: Sequence[str], found: Found) -> None:
    """Starts all of them and waits until they have switched."""
    deadline = time.monotonic() + _MOVE_SECONDS
    async with made.access.directory(ZONE) as directory:
        for name in names:
            await directory.start_move(name, TARGET, "a benchmark")
        while True:
            moves = {one.tenant: one for one in await directory.list_moves(ended=True)}
            if all(moves[name].move.state == "switched" for name in names):
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"the moves do not end: {moves}")
            await asyncio.sleep(_LOOK_SECONDS)
    found.pauses = [1e3 * moves[name].progress.pause_seconds for name in names]


async def _judge(made: LocalFleet, client: Client, found: Found) -> None:
    """What the new home holds against what the client was told."""
    connection = await asyncpg.connect(made.dsn(TARGET))
    try:
        deadline = time.monotonic() + _LIVE_SECONDS
        while True:
            rows = await connection.fetch(_ORDER_SQL, client.name)
            if len(rows) >= len(client.acknowledged) or time.monotonic() > deadline:
                break
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        await connection.close()
    bodies = {row["body"]: codec.decode(row["body"]).envelopes for row in rows}
    ids = [bodies[row["body"]][row["ordinal"]].message_id for row in rows]
    found.lost += len(set(client.acknowledged) - set(ids))
    found.duplicated += len(ids) - len(set(ids))
    found.out_of_order += sum(1 for before, after in itertools.pairwise(ids) if after < before)


@click.command()
@click.option("--tenants", default=10, show_default=True, help="how many move")
@click.option("--stored", default=20_000, show_default=True, help="events of each before the moves")
@click.option("--seconds", default=15.0, show_default=True, help="of load before the moves")
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True, help="a JSON file")
def main(tenants: int, stored: int, seconds: float, output: Path) -> None:
    """The figures of P7."""
    console, found, commit = Console(width=120), Found(tenants, stored), report.commit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measured(tenants, stored, seconds, found, console))
    rows = found.rows()
    report.write(output, _document(found, rows, commit))
    table = Table(title=f"{tenants} tenants move, {stored:,} events each, {tenants * _RATE:,} events/s")
    for column in ("promise", "target", "figure", ""):
        table.add_column(column)
    for row in rows:
        between = "" if row.spread is None else f" ({row.spread[0]:,.0f} to {row.spread[1]:,.0f})"
        said = "" if row.reached is None else "reached" if row.reached else "missed"
        table.add_row(f"{row.id} {row.label}", row.target, f"{row.figure:,.0f} {row.unit}{between}", said)
    console.print(table)
    sys.exit(0 if found.holds and all(row.reached is not False for row in rows) else 1 if found.holds else 2)


def _document(found: Found, rows: list[Row], commit: str) -> dict[str, object]:
    altered = [] if (found.tenants, found.stored) == (10, 20_000) else [f"tenants {found.tenants}", f"stored {found.stored}"]
    entries = []
    for row in rows:
        entry: dict[str, object] = {
            "id": row.id,
            "label": row.label,
            "figure": round(row.figure, 3),
            "unit": row.unit,
            "target": row.target,
        }
        entry |= {} if row.spread is None else {"spread": [round(value, 3) for value in row.spread]}
        entry |= {"holds": found.holds, "disturbed": False, "short": False, "altered": altered, "command": "python -m bench.moves"}
        entry |= {} if altered or row.reached is None else {"reached": row.reached}
        entries.append(entry)
    return {
        "scenario": "moves",
        "about": "ten tenants with a history move at once while they send",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "hardware": resources.hardware(),
        "rows": entries,
        "runs": [{"pause_ms": found.pauses, "longest_wait_ms": found.waits, "seconds": found.seconds, "events": found.events}],
    }


if __name__ == "__main__":
    main()

"""One cell under load: open loop, through its edge, until every event is queryable.

    python -m bench.cell --rate 8000 --batch 100 --seconds 60 --protocol http

Starts a fleet of one cell (its PostgreSQL holds log and store), sends on a schedule that waits for nobody, and counts at the end:
exit code 1 when an acknowledged event is not stored, or one is stored twice. Latencies run from the scheduled arrival.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import asyncpg
import click
import uvloop
from rich.console import Console

from bench import report, resources
from bench.clients import Client, GrpcClient, HttpClient
from bench.visibility import Watch
from bench.workload import TENANTS, Bodies, Due, Load, Protocol, number_of
from cli.local.fleet import LocalFleet
from cli.local.layout import PORTS_TOTAL
from cli.local.ports import free_block
from dataflow.routing.v1 import routing_pb2
from kernel.clock import SECOND, Micros
from kernel.limits import BATCH_BYTES_HARD_MAX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CELL: Final = "us-east-1-a"
_REGION, _ZONE = "us-east-1", "us"
_READY_SECONDS: Final = 120.0
_LIVE_SECONDS: Final = 20.0
_APPLY_SECONDS: Final = 120.0
_PROGRESS_SECONDS: Final = 10.0
_BREATH: Final = 32
_SIZES: Final = """
    SELECT sum(pg_total_relation_size(inhrelid)) FILTER (WHERE inhparent = 'eventlog.record'::regclass)::bigint,
           sum(pg_total_relation_size(inhrelid)) FILTER (WHERE inhparent = 'tenants.event'::regclass)::bigint,
           pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint
    FROM pg_inherits WHERE inhparent IN ('eventlog.record'::regclass, 'tenants.event'::regclass)
"""
_STORED: Final = "SELECT message_id, partition, log_offset FROM tenants.event WHERE substr(message_id, 17, 12) = $1"
Route = Literal["edge", "zone"]


@dataclass(frozen=True)
class Bench:
    """A running fleet of one cell with tenants that may send at any rate."""

    fleet: LocalFleet
    keys: tuple[str, ...]

    def address(self, route: Route) -> str:
        """Where requests go: the region's edge, or the zone's endpoint before it."""
        return f"127.0.0.1:{self.fleet.layout.ports[f'edge/{_REGION}' if route == 'edge' else f'zone/{_ZONE}']}"

    def pids(self) -> dict[str, int]:
        """The processes on the path, and this one."""
        names = {"cell": f"cell/{CELL}", "postgres": f"postgres/{CELL}", "envoy": f"envoy/{_REGION}", "endpoint": f"endpoint/{_ZONE}"}
        return {**{name: self.fleet.pid(full) for name, full in names.items()}, "generator": os.getpid()}


@contextlib.asynccontextmanager
async def one_cell(say: Callable[[str], None]) -> AsyncIterator[Bench]:
    """A fresh fleet in a temporary folder, erased afterwards."""
    state = tempfile.mkdtemp(prefix="dataflow-bench-", dir="/tmp")  # short, for socket paths
    os.chmod(state, 0o711)  # noqa: S103  # PostgreSQL may run as another user
    try:
        say("starting one cell, its PostgreSQL, its edge")
        async with LocalFleet(Path(state), free_block(PORTS_TOTAL), cells=(CELL,)) as fleet:
            await fleet.wait_until_ready(_READY_SECONDS)
            plan = routing_pb2.Plan(events_per_second=1e6, burst_events=1e6, batch_bytes_max=BATCH_BYTES_HARD_MAX)
            keys = []
            async with fleet.access.directory(_ZONE) as directory:
                for number in range(TENANTS):
                    await directory.create_tenant(f"bench-{number:02}", plan=plan)
                    keys.append((await directory.create_source(f"bench-{number:02}", "web"))[1])
            bench = Bench(fleet, tuple(keys))
            await _wait_until_live(bench)
            yield bench
    finally:
        shutil.rmtree(state, ignore_errors=True)


async def _wait_until_live(bench: Bench) -> None:
    """Until the edge and the cell know every key."""
    client, bodies = HttpClient(bench.address("edge"), bench.keys), Bodies("http", "probe", 1)
    deadline = time.monotonic() + _LIVE_SECONDS
    waiting = set(range(len(bench.keys)))
    while waiting:
        for tenant in sorted(waiting):
            with contextlib.suppress(OSError):
                if await client.send(tenant, bodies.path(1), bodies.make(1, _now())):
                    waiting.discard(tenant)
        if time.monotonic() > deadline:
            raise RuntimeError(f"the edge does not know the keys of {len(waiting)} tenants")
        await asyncio.sleep(0.1)
    await client.close()


@dataclass
class Sending:
    """One run of the schedule. Request n holds the events n * batch and following; moments are monotonic seconds.

    `due` holds each request's first sending; any sending that is acknowledged acknowledges it.
    """

    load: Load
    client: Client
    bodies: Bodies
    began: float = 0.0
    born: Micros = field(init=False)
    sendings: int = 0
    due: list[float] = field(default_factory=list)
    acknowledged: dict[int, float] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    unanswered: set[int] = field(default_factory=set)

    async def run(self) -> None:
        """Sends each request at its moment, whatever became of those before; returns when all are answered or given up."""
        self.began, self.born = time.monotonic(), _now()
        async with asyncio.TaskGroup() as tasks:
            for number, due in enumerate(self.load.schedule()):
                wait = self.began + due.after_seconds - time.monotonic()
                if wait > 0 or number % _BREATH == 0:
                    await asyncio.sleep(max(0.0, wait))
                if due.request == len(self.due):
                    self.due.append(self.began + due.after_seconds)
                self.sendings += 1
                tasks.create_task(self._one(due))

    async def _one(self, due: Due) -> None:
        first = due.request * self.load.batch
        body = self.bodies.make(first, Micros(self.born + int(due.born_seconds * SECOND)))
        try:
            good = await self.client.send(due.tenant, self.bodies.path(first), body)
        except (OSError, TimeoutError):
            self.unanswered.add(due.request)
            return
        if good:
            self.acknowledged.setdefault(due.request, time.monotonic())
        else:
            self.refused.add(due.request)

    async def tell(self, say: Callable[[str], None]) -> None:
        """Now and then."""
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            sent, done = len(self.due), len(self.acknowledged.keys() | self.refused | self.unanswered)
            say(
                f"{time.monotonic() - self.began:4.0f} of {self.load.seconds:.0f} s: {sent * self.load.batch:,} events sent,"
                f" {len(self.acknowledged) * self.load.batch:,} acknowledged, {sent - done} requests in flight"
            )


async def measure(
    bench: Bench, protocol: Protocol, load: Load, route: Route, warmup_seconds: float, command: str, say: Callable[[str], None]
) -> report.Figures:
    """Runs `load` and gathers its figures."""
    run = secrets.token_hex(6)
    client: Client = (HttpClient if protocol == "http" else GrpcClient)(bench.address(route), bench.keys)
    sending = Sending(load, client, Bodies(protocol, run, load.batch))
    connection = await asyncpg.connect(bench.fleet.dsn(CELL))
    watch, pids = Watch(connection), bench.pids()
    say(f"offering {load.events_per_second:,.0f} events/s over {protocol} in batches of {load.batch} for {load.seconds:.0f} s")
    gc.freeze()
    sizes, before = await connection.fetchrow(_SIZES), resources.usage(pids)
    following, telling = asyncio.create_task(watch.follow()), asyncio.create_task(sending.tell(say))
    await sending.run()
    telling.cancel()
    if not await watch.finish(following, _APPLY_SECONDS):
        say("not everything was applied in time")
    after, grown = resources.usage(pids), await connection.fetchrow(_SIZES)
    stored = await connection.fetch(_STORED, run.rjust(12, "0"))
    await connection.close()
    await client.close()
    assert sizes is not None
    assert grown is not None
    bytes_grown = [int(b - a) for a, b in zip(sizes, grown, strict=True)]
    return _figures(sending, watch, stored, (before, after), bytes_grown, resources.memory_mib(pids), warmup_seconds, protocol, command)


def _figures(
    sending: Sending,
    watch: Watch,
    stored: list[asyncpg.Record],
    usage: tuple[resources.Usage, resources.Usage],
    bytes_grown: list[int],
    memory: dict[str, float],
    warmup_seconds: float,
    protocol: Protocol,
    command: str,
) -> report.Figures:
    batch, due, acknowledged = sending.load.batch, sending.due, sending.acknowledged
    numbers: set[int] = set()
    visible: dict[int, float] = {}
    for identifier, partition, offset in stored:
        number = number_of(identifier)
        numbers.add(number)
        moment = watch.timelines[partition].visible_at(offset)
        visible[number // batch] = max(moment, visible.get(number // batch, 0.0))
    expected = {number for request in acknowledged for number in range(request * batch, (request + 1) * batch)}
    warm = sending.began + warmup_seconds
    last_ack, last_visible = max(acknowledged.values(), default=warm), max(visible.values(), default=warm)
    before, after = usage
    millions = max(1, len(expected)) / 1e6
    seconds = {name: after.seconds[name] - before.seconds[name] for name in before.seconds}
    capacity = (after.at - before.at) * (os.cpu_count() or 1)
    machine = after.machine - before.machine
    events = max(1, len(numbers))
    return report.Figures(
        command=command,
        protocol=protocol,
        batch=batch,
        offered_events_per_second=sending.load.events_per_second,
        seconds=sending.load.seconds,
        sent=len(due) * batch,
        acknowledged=len(expected),
        retried=(sending.sendings - len(due)) * batch,
        rejected=len(sending.refused - acknowledged.keys()) * batch,
        unanswered=len(sending.unanswered - sending.refused - acknowledged.keys()) * batch,
        stored=len(stored),
        missing=len(expected - numbers),
        unexpected=len(stored) - len(numbers) + sum(number >= len(due) * batch for number in numbers),
        acknowledged_events_per_second=round(len(expected) / (last_ack - sending.began)),
        queryable_events_per_second=round(len(numbers) / (last_visible - sending.began)),
        drain_seconds=round(last_visible - last_ack, 3),
        acknowledged_ms=report.percentiles([at - due[n] for n, at in acknowledged.items() if due[n] >= warm]),
        queryable_ms=report.percentiles([at - due[n] for n, at in visible.items() if due[n] >= warm]),
        cpu_seconds_per_million={name: round(spent / millions, 2) for name, spent in seconds.items()},
        machine_cpu_share=round(machine / capacity, 3),
        others_cpu_share=round(max(0.0, machine - sum(seconds.values())) / capacity, 3),
        memory_mib={name: round(mib, 1) for name, mib in memory.items()},
        log_bytes_per_event=round(bytes_grown[0] / events, 1),
        store_bytes_per_event=round(bytes_grown[1] / events, 1),
        wal_bytes_per_event=round(bytes_grown[2] / events, 1),
    )


def _now() -> Micros:
    return Micros(int(time.time() * SECOND))


@click.command()
@click.option("--rate", default=8_000.0, show_default=True, help="events per second")
@click.option("--batch", default=100, show_default=True, help="events per request")
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--protocol", type=click.Choice(("http", "grpc")), default="http", show_default=True)
@click.option("--route", type=click.Choice(("edge", "zone")), default="edge", show_default=True, help="the edge, or the zone's endpoint")
@click.option("--warmup", default=5.0, show_default=True, help="first seconds that no latency is taken of")
@click.option("--seed", default=1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="a JSON file")
def main(rate: float, batch: int, seconds: float, protocol: Protocol, route: Route, warmup: float, seed: int, output: Path | None) -> None:
    """One cell under load, figures at the end."""
    console = Console(width=120)

    async def play() -> report.Figures:
        async with one_cell(console.print) as bench:
            command = "python -m bench.cell " + " ".join(sys.argv[1:])
            return await measure(bench, protocol, Load(rate, batch, seconds, seed), route, warmup, command, console.print)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(play())
    report.show(console, figures)
    if output is not None:
        report.write(output, {"hardware": resources.hardware(), "figures": figures.json()})
    sys.exit(0 if figures.holds else 1)


if __name__ == "__main__":
    main()

"""The edge with a crowd of tenants (P5): what it takes to hold them, how soon a change is live, what routing costs, first tenant and last.

    python -m bench.edge
    python -m bench.edge --tenants 1000 --seconds 2

Two real edges, and followers that stand for more of them: each takes every signed update over the wire, as an agent does. Exit code 2 when
something was refused that should not be; 1 when a promise was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import statistics
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
import uvloop
from rich.console import Console
from rich.table import Table

from bench import report, resources
from bench.crowd import REGIONS, ZONE, Crowd, crowd, key_of, name_of
from bench.line import Line, request
from bench.rows import Row, at_least, below
from kernel.ids import hash_of
from router.api.client import DirectoryFeed
from router.placement import codec

OUTPUT: Final = Path("build/bench/edge.json")
LIVE_MS: Final = 50.0
CHANGES_PER_SECOND: Final = 40.0
KIB_PER_KEY: Final = 3.0
HOP_MS: Final = 0.6
EDGE_P50_MS: Final = 2.0
EDGE_P99_MS: Final = 8.0
SAME_PERCENT: Final = 10.0
_CHANGES: Final = 60
_RATE: Final = 50
_ASKED_PER_SECOND: Final = 400
_LINES: Final = 8
_LOOK_SECONDS: Final = 0.001
_FOLLOWERS: Final = 8
_LIVE_SECONDS: Final = 5.0


@dataclass
class Found:
    """What was measured. Sizes are MiB by number of tenants and kind of process; waits and latencies are milliseconds."""

    tenants: int
    sizes: dict[int, dict[str, float]] = field(default_factory=dict)
    starts: dict[int, float] = field(default_factory=dict)
    live: list[float] = field(default_factory=list)
    followed: list[float] = field(default_factory=list)
    changed_per_second: float = 0.0
    refused: int = 0
    asked: int = 0
    latencies: dict[str, list[float]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    micros: dict[str, list[float]] = field(default_factory=dict)

    def kib_per_key(self) -> float:
        """Of Envoy's memory: a tenant has a key and a slug, and both are looked up."""
        return (self.sizes[self.tenants]["envoy"] - self.sizes[0]["envoy"]) * 1_024 / (2 * self.tenants)

    def rows(self) -> list[Row]:
        """The figures of P5."""
        plain, first, last = (self.latencies[name] for name in ("plain", "first", "last"))
        edge, added = sorted(first + last), statistics.median(first + last) - statistics.median(plain)
        apart = 100 * abs(statistics.median(self.micros["last"]) / statistics.median(self.micros["first"]) - 1)
        live = sorted(self.live)
        return [
            below("P5", "added to a plain Envoy, p50", added, "ms", HOP_MS),
            below("P5", "the whole edge, p50", statistics.median(edge), "ms", EDGE_P50_MS),
            below("P5", "the whole edge, p99", _rank(edge, 0.99), "ms", EDGE_P99_MS),
            below("P5", "a change live in every edge, p50", statistics.median(live), "ms", LIVE_MS, (live[0], live[-1])),
            below("P5", "a change live in every edge, p99", _rank(live, 0.99), "ms", LIVE_MS),
            at_least("P5", "changes", self.changed_per_second, "per second", CHANGES_PER_SECOND),
            below("P5", "requests refused meanwhile", 100 * self.refused / max(1, self.asked), "%", 0.001),
            below("P5", "Envoy's memory for a key", self.kib_per_key(), "KiB", KIB_PER_KEY),
            below("P5", "CPU of the last tenant's requests and the first's, apart", apart, "%", SAME_PERCENT),
        ]


async def sizes(zone: Crowd, counts: list[int], found: Found, console: Console) -> None:
    """What each count of tenants takes."""
    found.sizes[0] = zone.mib()
    for held, count in zip([0, *counts], counts, strict=False):
        found.starts[count] = await zone.grow(held, count)
        found.sizes[count] = zone.mib()
        shown = "  ".join(f"{kind} {mib:,.0f}" for kind, mib in found.sizes[count].items())
        console.print(f"{count:,} tenants: served {found.starts[count]:.1f} s after the directory's restart; MiB: {shown}", highlight=False)


class Heard:
    """When the last of the followers had parsed which revision."""

    def __init__(self) -> None:
        self._times: dict[int, list[float]] = {}
        self._news = asyncio.Condition()
        self._telling: set[asyncio.Task[None]] = set()

    def tell(self, revision: int) -> None:
        """One more of them has it, now."""
        self._times.setdefault(revision, []).append(time.perf_counter())

        async def wake() -> None:
            async with self._news:
                self._news.notify_all()

        task = asyncio.create_task(wake())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def by_all(self, revision: int) -> float:
        """Raises TimeoutError when one of them lacks it for too long."""
        async with asyncio.timeout(_LIVE_SECONDS), self._news:
            await self._news.wait_for(lambda: len(self._times.get(revision, ())) == _FOLLOWERS)
        return max(self._times[revision])


@contextlib.asynccontextmanager
async def following(zone: Crowd, heard: Heard) -> AsyncIterator[None]:
    """Followers beside the real agents, each with a connection of its own; `heard` is told."""
    address = f"127.0.0.1:{zone.fleet.layout.ports[f'directory-grpc/{ZONE}']}"
    token = zone.fleet.access.follower_token(ZONE)
    ready = [asyncio.Event() for _ in range(_FOLLOWERS)]

    async def follow(number: int) -> None:
        async for signed in DirectoryFeed(address, token, f"edge-{number}").watch(0, lambda: None):
            heard.tell(codec.parse_update(signed.update).to_revision)
            ready[number].set()

    tasks = [asyncio.create_task(follow(number)) for number in range(_FOLLOWERS)]
    try:
        await asyncio.gather(*(event.wait() for event in ready))
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def changes(zone: Crowd, found: Found) -> None:
    """One after the other: a new key, its revocation, a suspension, its end; each until every edge, real or not, has it."""
    heard = Heard()
    async with following(zone, heard), zone.fleet.access.directory(ZONE) as directory, contextlib.AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(Line(zone.edge(region))) for region in REGIONS]

        async def until(key: str, status: int, started: float) -> None:
            for line in lines:
                while await line.ask(request(key)) != status:
                    if time.perf_counter() - started > _LIVE_SECONDS:
                        raise RuntimeError(f"a change is not live after {_LIVE_SECONDS} s")
                    await asyncio.sleep(_LOOK_SECONDS)
            found.live.append(1e3 * (time.perf_counter() - started))

        for number in range(0, _CHANGES, 4):
            tenant = name_of((number * 7_919) % found.tenants)
            started = time.perf_counter()
            _, key = await directory.create_write_key(tenant, "web")
            await until(key, 200, started)
            started = time.perf_counter()
            revision = await directory.revoke_key(hash_of(key))
            await until(key, 401, started)
            found.followed.append(1e3 * (await heard.by_all(revision) - started))
            for suspended, status in ((True, 403), (False, 200)):
                started = time.perf_counter()
                await directory.suspend_tenant(tenant, suspended)
                await until(key_of((number * 7_919) % found.tenants), status, started)


async def pressed(zone: Crowd, found: Found, seconds: float) -> None:
    """Changes at a rate, while other tenants' requests go on at every edge: none of these may be refused, and at the end all are live."""
    done = asyncio.Event()

    async def asking(region: str, number: int) -> None:
        async with Line(zone.edge(region)) as line:
            while not done.is_set():
                found.asked += 1
                found.refused += await line.ask(request(key_of(number))) != 200
                await asyncio.sleep(2 / _ASKED_PER_SECOND)

    keys: list[str] = []

    async def change(number: int) -> None:
        keys.append((await directory.create_write_key(name_of((number * 104_729) % found.tenants), "web"))[1])

    async with zone.fleet.access.directory(ZONE) as directory, asyncio.TaskGroup() as tasks:
        for number, region in enumerate(REGIONS):
            tasks.create_task(asking(region, number))
        started, count = time.perf_counter(), int(seconds * _RATE)
        making = []
        for number in range(count):
            await asyncio.sleep(max(0.0, started + number / _RATE - time.perf_counter()))
            making.append(tasks.create_task(change(number)))
        await asyncio.gather(*making)
        found.changed_per_second = count / (time.perf_counter() - started)
        await asyncio.sleep(2 * LIVE_MS / 1e3)
        done.set()
    for region in REGIONS:
        async with Line(zone.edge(region)) as line:
            found.asked += len(keys)
            found.refused += sum([await line.ask(request(key)) != 200 for key in keys])


async def costs(zone: Crowd, found: Found, seconds: float) -> None:
    """Requests of the first and of the last tenant through an edge, and through an Envoy without a map, in turn: latency at a rate that
    leaves it idle most of the time, then as many as it can and the CPU that each takes."""
    edge = zone.edge(REGIONS[0])
    ways = {
        "plain": (zone.plain, key_of(0), zone.envoys["plain"]),
        "first": (edge, key_of(0), zone.envoys[REGIONS[0]]),
        "last": (edge, key_of(found.tenants - 1), zone.envoys[REGIONS[0]]),
    }
    for turn in range(6):
        for name in ways if turn % 2 == 0 else reversed(ways):
            port, key, pid = ways[name]
            found.latencies.setdefault(name, []).extend(await _calmly(port, request(key), seconds / 3))
            before, rate = resources.usage({name: [pid]}), await _busily(port, request(key), seconds / 3)
            spent = resources.spent(before, resources.usage({name: [pid]}))
            found.rates.setdefault(name, []).append(rate)
            found.micros.setdefault(name, []).append(1e6 * spent.seconds[name] / (rate * seconds / 3))


async def _calmly(port: int, text: bytes, seconds: float) -> list[float]:
    """Milliseconds of each request, one at a time, at a steady rate; a late answer delays the next, as it does for one client."""
    waits: list[float] = []
    async with Line(port) as line:
        began = time.perf_counter()
        for number in range(int(seconds * _ASKED_PER_SECOND)):
            await asyncio.sleep(max(0.0, began + number / _ASKED_PER_SECOND - time.perf_counter()))
            started = time.perf_counter()
            if await line.ask(text) != 200:
                raise RuntimeError("a request was refused")
            waits.append(1e3 * (time.perf_counter() - started))
    return waits


async def _busily(port: int, text: bytes, seconds: float) -> float:
    """Requests per second of several connections that ask without a pause."""
    until = time.perf_counter() + seconds

    async def one() -> int:
        asked = 0
        async with Line(port) as line:
            while time.perf_counter() < until:
                if await line.ask(text) != 200:
                    raise RuntimeError("a request was refused")
                asked += 1
        return asked

    return sum(await asyncio.gather(*(one() for _ in range(_LINES)))) / seconds


def _rank(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@click.command()
@click.option("--tenants", default=100_000, show_default=True, help="how many, at last")
@click.option("--seconds", default=9.0, show_default=True, help="length of each part that has one")
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True, help="a JSON file")
def main(tenants: int, seconds: float, output: Path) -> None:
    """The figures of P5, and what they are made of."""
    console, found, commit = Console(width=120), Found(tenants), report.commit()

    async def measured() -> None:
        async with crowd() as zone:
            await sizes(zone, [count for count in (1_000, 10_000) if count < tenants] + [tenants], found, console)
            await changes(zone, found)
            await pressed(zone, found, seconds)
            await costs(zone, found, seconds)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measured())
    rows = found.rows()
    report.write(output, _document(found, rows, commit))
    _show(console, found, rows)
    sys.exit(2 if found.refused else int(not all(row.reached for row in rows)))


def _document(found: Found, rows: list[Row], commit: str) -> dict[str, object]:
    altered = [] if found.tenants == 100_000 else [f"tenants {found.tenants}"]
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
        entry |= {"holds": not found.refused, "disturbed": False, "short": False, "altered": altered}
        entry |= {"command": "python -m bench.edge"} | ({} if altered else {"reached": row.reached})
        entries.append(entry)
    run = {
        "tenants": found.tenants,
        "mib": {str(count): sizes for count, sizes in found.sizes.items()},
        "seconds_to_serve": {str(count): seconds for count, seconds in found.starts.items()},
        "live_ms": [round(value, 2) for value in found.live],
        "followed_ms": [round(value, 2) for value in found.followed],
        "latency_ms": {name: {"p50": statistics.median(v), "p99": _rank(v, 0.99)} for name, v in found.latencies.items()},
        "requests_per_second": found.rates,
        "envoy_cpu_micros_per_request": found.micros,
    }
    return {
        "scenario": "edge",
        "about": "two edges, eight followers, a crowd of tenants",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "hardware": resources.hardware(),
        "rows": entries,
        "runs": [run],
    }


def _show(console: Console, found: Found, rows: list[Row]) -> None:
    table = Table(title=f"The edge, {found.tenants:,} tenants")
    for column in ("promise", "target", "figure", ""):
        table.add_column(column)
    for row in rows:
        between = "" if row.spread is None else f" ({row.spread[0]:,.1f} to {row.spread[1]:,.1f})"
        table.add_row(f"{row.id} {row.label}", row.target, f"{row.figure:,.2f} {row.unit}{between}", "reached" if row.reached else "missed")
    console.print(table)
    for name, micros in found.micros.items():
        said = f"{name}: {statistics.median(found.rates[name]):,.0f} requests/s, {statistics.median(micros):.0f} us of Envoy's CPU each"
        console.print(said, highlight=False)


if __name__ == "__main__":
    main()

"""A zone's directory at two regions with a witness (P5, P6): how many changes a second it takes, beside one process, and how soon another
site leads when the leader is lost.

    python -m bench.sites
    python -m bench.sites --times 1

Between the sites every byte is kept for half of a round trip, as between two regions of a zone. Exit code 2 when a change that was
acknowledged is not there in the end; 1 when a promise was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import aiohttp
import click
from rich.console import Console
from rich.table import Table

from bench import report, resources
from bench.rows import Row, at_least, below
from cli.directory import Directory
from cli.errors import Unable
from cli.local.fleet import LocalFleet
from cli.local.layout import PORTS_TOTAL, lay_out, select
from cli.local.ports import free_block
from gitops.fleet import FLEET
from kernel.ids import ZoneName

OUTPUT: Final = Path("build/bench/sites.json")
CHANGES_PER_SECOND: Final = 40.0
LEADER_SECONDS: Final = 10.0
ROUND_TRIP_SECONDS: Final = 0.06
ZONE: Final = ZoneName("eu")
CELLS: Final = ("eu-central-1-a", "eu-west-1-a")
REGIONS: Final = ("eu-central-1", "eu-west-1")
WITNESS: Final = "witness"
SITES: Final = (*REGIONS, WITNESS)
Kept = Literal["in one process", "at sites", "at sites apart"]
ALONE: Final[Kept] = "in one process"
APART: Final[Kept] = "at sites apart"
KEPT: Final[tuple[Kept, ...]] = (ALONE, "at sites", APART)
TENANTS: Final = 64
_READY_SECONDS: Final = 120.0
_SETTLE_SECONDS: Final = 3.0
_CHANGES_ALONE: Final = 40
_CHANGES_TOGETHER: Final = 640
_LOOK_SECONDS: Final = 0.02
_DEMANDS: Final = itertools.count(2)
"""No two changes ask for the same, so that none is asked for in vain."""


@dataclass
class Found:
    """Changes per second by how the directory is kept and by callers; seconds without a leader by how it was lost."""

    rates: dict[tuple[Kept, int], list[float]] = field(default_factory=dict)
    lost: dict[str, list[float]] = field(default_factory=dict)
    acknowledged: dict[str, float] = field(default_factory=dict)
    missing: int = 0

    def rows(self) -> list[Row]:
        """The figures."""
        rows: list[Row] = []
        for (kept, callers), rates in sorted(self.rates.items()):
            label = f"changes, directory {kept}, {callers} callers at once"
            spread = (min(rates), max(rates))
            row = at_least("P5", label, statistics.median(rates), "per second", CHANGES_PER_SECOND)
            rows.append(replace(row, spread=spread) if callers > 1 else replace(row, target="", reached=None, spread=spread))
        for how, seconds in sorted(self.lost.items()):
            label = f"the leader of the directory {how}, until the next change is acknowledged"
            rows.append(below("P6", label, statistics.median(seconds), "s", LEADER_SECONDS, (min(seconds), max(seconds))))
        return rows


class Relay:
    """Passes a TCP connection on, every byte late."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port = port
        self._seconds = seconds
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()
            return
        for source, target in ((reader, to_there), (there, writer)):
            task = asyncio.create_task(self._pass(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                loop.call_later(self._seconds, target.write, data)
        loop.call_later(self._seconds, target.close)


@contextlib.asynccontextmanager
async def zone(kept: Kept) -> AsyncIterator[LocalFleet]:
    """A fleet in a temporary folder, erased afterwards, whose sites reach each other through relays if they are apart."""
    state = _folder()
    base = free_block(PORTS_TOTAL + len(SITES))
    settings: dict[str, str] = {}
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, state, ignore_errors=True)
        if kept == APART:
            ports = lay_out(select(FLEET, CELLS), state, base, sites=True).ports
            relays = {name: base + PORTS_TOTAL + number for number, name in enumerate(SITES)}
            for name, port in relays.items():
                relay = Relay(ports[f"quorum/{ZONE if name == WITNESS else name}"], ROUND_TRIP_SECONDS / 2)
                await stack.enter_async_context(await asyncio.start_server(relay.serve, "127.0.0.1", port))
            settings["sites"] = ",".join(f"{name}=127.0.0.1:{port}" for name, port in relays.items())
        made = LocalFleet(state, base, cells=CELLS, sites=kept != ALONE, settings=settings)
        await stack.enter_async_context(made)
        await made.wait_until_ready(_READY_SECONDS)
        yield made


def _folder() -> Path:
    state = Path(tempfile.mkdtemp(prefix="dataflow-bench-", dir="/tmp"))  # short, for socket paths
    state.chmod(0o711)  # PostgreSQL may run as another user
    return state


async def changed(directory: Directory, found: Found, number: int) -> None:
    """One change, acknowledged."""
    name, demand = f"tenant-{number % TENANTS:02}", float(next(_DEMANDS))
    await directory.set_demand(name, demand)
    found.acknowledged[name] = demand


async def rate(directory: Directory, found: Found, kept: Kept, callers: int) -> None:
    """Changes per second by so many callers, each of whom waits for its last one."""
    changes = _CHANGES_ALONE if callers == 1 else _CHANGES_TOGETHER

    async def call(caller: int) -> None:
        for _ in range(changes // callers):
            await changed(directory, found, caller)

    began = time.monotonic()
    await asyncio.gather(*(call(number) for number in range(callers)))
    found.rates.setdefault((kept, callers), []).append(changes / (time.monotonic() - began))


async def lose(made: LocalFleet, found: Found, how: str, number: signal.Signals) -> None:
    """Its leader is lost: seconds until another one has acknowledged a change. It is back when this returns."""
    name = f"directory/{await _leader(made)}"
    made.hold(name)
    made.kill(name, number)
    began = time.monotonic()
    while True:
        with contextlib.suppress(Unable):
            async with made.access.directory(ZONE) as directory:
                await changed(directory, found, 0)
            break
    found.lost.setdefault(how, []).append(time.monotonic() - began)
    if number is signal.SIGSTOP:
        made.kill(name, signal.SIGCONT)
    made.release(name)
    await made.wait_until_ready(_READY_SECONDS)
    await asyncio.sleep(_SETTLE_SECONDS)


async def _leader(made: LocalFleet) -> str:
    async with asyncio.timeout(_READY_SECONDS), aiohttp.ClientSession() as web:
        for region in itertools.cycle(REGIONS):
            async with web.get(f"http://127.0.0.1:{made.layout.ports[f'directory-http/{region}']}/status") as answer:
                if (await answer.json())["leads"]:
                    return region
            await asyncio.sleep(_LOOK_SECONDS)
    raise TimeoutError


async def measured(times: int, found: Found, console: Console) -> None:
    """All of it, the kinds in turns."""
    for _, kept in itertools.product(range(times), KEPT):
        async with zone(kept) as made:
            async with made.access.directory(ZONE) as directory:
                found.acknowledged.clear()
                await asyncio.gather(*(directory.create_tenant(f"tenant-{number:02}") for number in range(TENANTS)))
                for callers in (1, TENANTS):
                    await rate(directory, found, kept, callers)
                    console.print(f"directory {kept}, {callers} callers: {found.rates[kept, callers][-1]:,.0f} changes/s", highlight=False)
            if kept == APART:
                for how, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP)):
                    await lose(made, found, how, number)
                    console.print(f"the leader is {how}: {found.lost[how][-1]:.1f} s", highlight=False)
            async with made.access.directory(ZONE) as directory:
                kept_there = {tenant.name: tenant.demand for tenant in await directory.list_tenants()}
            found.missing += sum(kept_there.get(name) != demand for name, demand in found.acknowledged.items())


@click.command()
@click.option("--times", default=3, show_default=True, help="how often each is measured")
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True, help="a JSON file")
def main(times: int, output: Path) -> None:
    """The figures."""
    console, found, commit = Console(width=120), Found(), report.commit()
    asyncio.run(measured(times, found, console))
    rows = found.rows()
    report.write(output, _document(found, rows, commit, times))
    table = Table(title=f"a zone's directory, {TENANTS} tenants; sites apart have a round trip of {1e3 * ROUND_TRIP_SECONDS:.0f} ms")
    for column in ("promise", "target", "figure", ""):
        table.add_column(column)
    for row in rows:
        between = "" if row.spread is None else f" ({row.spread[0]:,.1f} to {row.spread[1]:,.1f})"
        said = "" if row.reached is None else "reached" if row.reached else "missed"
        table.add_row(f"{row.id} {row.label}", row.target, f"{row.figure:,.1f} {row.unit}{between}", said)
    console.print(table)
    if found.missing:
        console.print(f"{found.missing} acknowledged changes are not there", style="bold red")
    sys.exit(2 if found.missing else 1 if any(row.reached is False for row in rows) else 0)


def _document(found: Found, rows: list[Row], commit: str, times: int) -> dict[str, object]:
    altered = [] if times == 3 else [f"times {times}"]
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
        entry |= {"holds": not found.missing, "disturbed": False, "short": False, "altered": altered, "command": "python -m bench.sites"}
        entry |= {} if altered or row.reached is None else {"reached": row.reached}
        entries.append(entry)
    runs = [{"kept": kept, "callers": callers, "changes_per_second": rates} for (kept, callers), rates in sorted(found.rates.items())]
    return {
        "scenario": "sites",
        "about": "changes of a directory that several sites agree on, and the loss of who leads it",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "hardware": resources.hardware(),
        "rows": entries,
        "runs": [*runs, *({"leader": how, "seconds": seconds} for how, seconds in sorted(found.lost.items()))],
    }


if __name__ == "__main__":
    main()

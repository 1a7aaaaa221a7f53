"""The fleet itself: `dataflow up|down|reset|status`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table

from cli.commands.options import console, run, running, state_option
from cli.errors import Unable
from cli.local import snippets
from cli.local.fleet import READY_SECONDS, LocalFleet, erase
from cli.local.layout import LOGS, PORT_BASE, Log
from cli.local.state import StateFolder, default_folder
from cli.local.supervisor import Status

_DOWN_SECONDS: Final = 120.0
_LOG_NAMES: Final[dict[Log, str]] = {"postgres": "PostgreSQL", "kafka": "Apache Kafka, one broker a cell"}
_POSTGRES_VARIABLE: Final = "DATAFLOW_POSTGRES_URL"


def _without_password(context: click.Context, parameter: click.Parameter, url: str) -> str:
    """Everybody on the machine can read a command line; an environment its owner alone."""
    typed = context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    if typed and (urlsplit(url).password or "password" in parse_qs(urlsplit(url).query)):
        raise Unable("--postgres-url holds a password, which every user of this machine could read", f"set {_POSTGRES_VARIABLE} instead")
    return url


@click.command()
@state_option
@click.option("--port-base", type=int, default=PORT_BASE, show_default=True, help="First port; the map is in <state>/ports.json.")
@click.option("--cell", "cells", multiple=True, help="Start only this cell and its zone. May be given several times.")
@click.option(
    "--postgres-url",
    default="",
    envvar=_POSTGRES_VARIABLE,
    callback=_without_password,
    help=f"Use this PostgreSQL server (superuser's URL without a database) instead of our own. With a password: in {_POSTGRES_VARIABLE}.",
)
@click.option(
    "--log",
    type=click.Choice(LOGS),
    default="postgres",
    show_default=True,
    help="What keeps each cell's events: its PostgreSQL, or an Apache Kafka of its own (`make kafka` fetches it). A state keeps its kind.",
)
@click.option(
    "--sites",
    is_flag=True,
    help="Keep each zone's directory in both of its regions, with a witness: it outlives either. A state keeps its kind.",
)
@click.option("--otlp-endpoint", default="", help="Export traces to this OTLP/HTTP base URL.")
def up(state: Path, port_base: int, cells: tuple[str, ...], postgres_url: str, log: Log, sites: bool, otlp_endpoint: str) -> None:
    """Start the fleet and keep it running until Ctrl-C (or `dataflow down`)."""
    console = Console()

    async def serve() -> None:
        stop = _signals()
        told: dict[str, str] = {}
        fleet = LocalFleet(
            state,
            port_base,
            cells=cells,
            log=log,
            sites=sites,
            postgres_url=postgres_url,
            otlp_endpoint=otlp_endpoint,
            watcher=lambda statuses: _tell(console, told, statuses),
        )
        console.print(f"starting {len(fleet.layout.fleet.cells)} cells in {state}, event logs in {_LOG_NAMES[log]}")
        began = time.monotonic()
        async with fleet:
            if await _first(fleet.wait_until_ready(READY_SECONDS), stop.wait()):
                console.print(f"ready after {time.monotonic() - began:.1f} s\n")
                console.print(_endpoints(fleet, state), markup=False, highlight=False, soft_wrap=True)
                await _first(_raise_when_failed(fleet), stop.wait())
            console.print("draining; once more Ctrl-C kills")
            stop.clear()
            await _first(fleet.stop(), _then_abort(stop, fleet))
        console.print("stopped, no process is left")

    run(serve)


@click.command()
@state_option
def down(state: Path) -> None:
    """Stop the fleet that runs in the state directory, and wait until it is gone. Its data stays."""
    folder = StateFolder(state)
    holder = folder.holder()
    if holder is None:
        click.echo(f"no fleet runs in {state}")
        return
    try:
        os.kill(holder, signal.SIGTERM)
    except PermissionError as error:
        raise Unable(f"the fleet in {state} belongs to another user (pid {holder})", "stop it as that user") from error
    deadline = time.monotonic() + _DOWN_SECONDS
    while folder.holder() is not None:
        if time.monotonic() > deadline:
            raise Unable(f"the fleet (pid {holder}) still runs after {_DOWN_SECONDS:.0f} s", f"see {state}/processes.json")
        time.sleep(0.1)
    click.echo("stopped")


@click.command()
@state_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(state: Path, yes: bool) -> None:
    """Remove all data, keys and secrets of the fleet in the state directory."""
    if not yes and not click.confirm(f"remove every event, tenant and key in {state}?", default=False):
        raise Unable("nothing was removed")
    erase(state)
    click.echo(f"{state} is empty; `dataflow up` starts afresh")


@click.command()
@state_option
def status(state: Path) -> None:
    """Show the processes of the running fleet. Exit code 1 when one is not ready."""
    access = running(state)
    rows = access.state.processes()
    table = Table("process", "pid", "state", "port", "uptime", "starts", "problem")
    for row in rows:
        uptime = f"{time.time() - row.started_at:.0f} s" if row.started_at else "-"
        table.add_row(row.name, str(row.pid or "-"), row.state, str(row.port), uptime, str(row.starts), row.problem[:80])
    console().print(table)
    raise SystemExit(0 if all(row.state == "ready" for row in rows) else 1)


COMMANDS: Final = (up, down, reset, status)


def _signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _first(one: Awaitable[object], other: Awaitable[object]) -> bool:
    """Waits until either is done and ends the other; whether it was `one`, whose exception is raised."""
    tasks = [asyncio.ensure_future(one), asyncio.ensure_future(other)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    won = tasks[0].done()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if won:
        tasks[0].result()
    return won


async def _raise_when_failed(fleet: LocalFleet) -> None:
    raise Unable(await fleet.wait_until_failed(), "correct that and start again; no data is lost")


async def _then_abort(stop: asyncio.Event, fleet: LocalFleet) -> None:
    await stop.wait()
    await fleet.abort()


def _tell(console: Console, told: dict[str, str], statuses: Mapping[str, Status]) -> None:
    """One line for each process that became ready, went down or failed."""
    for row in statuses.values():
        if row.state in ("ready", "down", "failed", "unready") and told.get(row.name) != f"{row.state}{row.pid}":
            told[row.name] = f"{row.state}{row.pid}"
            colour = "green" if row.state == "ready" else "red"
            console.print(f"  [{colour}]{row.state:8}[/] {row.name} (port {row.port}) {row.problem[:120]}", highlight=False, soft_wrap=True)


def _endpoints(fleet: LocalFleet, state: Path) -> str:
    access = fleet.access
    zones = access.zones()
    where = "" if state == default_folder() else f" --state {state}"
    lines = ["Endpoints (HTTP and gRPC on one port, in the clear or with TLS, which trusts the file):"]
    lines += [f"  zone {zone}: {access.zone_endpoint(zone)}    {access.authority_file(zone)}" for zone in zones]
    lines += [f"Port map: {state}/ports.json    Logs: {state}/zones/<zone>/logs", "", "First a tenant and a write key:"]
    lines += [f"  dataflow tenants create shop --zone {zones[0]}{where}", f"  dataflow sources create shop web{where}", ""]
    lines += ["Then events:", snippets.send(access.zone_endpoint(zones[0])), "And back out:"]
    lines += [f"  dataflow events list --tenant shop{where}", ""]
    lines += [f"Stop: Ctrl-C here, or `dataflow down{where}`. Data stays; `dataflow reset{where}` removes it."]
    return "\n".join(lines)

"""The demonstration as a story: start a fleet, send real traffic, kill a cell, kill a cell and its database, count every event.

`SABOTAGE=loss` takes one acknowledged event away behind the fleet's back, `SABOTAGE=leak` carries a token of one zone into the
other: both must end with exit code 1, so that the proof can fail.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

import asyncpg
import grpc.aio
from rich.console import Console
from rich.table import Table

from chaos.checkers.history import History
from chaos.checkers.verdicts import judge
from cli.demo import evidence, kills
from cli.demo.readback import Seen, freed, visible
from cli.demo.traffic import Tenant, Traffic, send_canary
from cli.errors import Unable
from cli.local.fleet import LocalFleet
from cli.local.layout import PORTS_TOTAL
from cli.local.ports import free_block
from kernel.ids import TenantId, ZoneName, message_keys

_TENANTS: Final = (
    ("berlin-mode", "eu", False),
    ("live-scores", "eu", False),
    ("globex-sso", "eu", False),
    ("acme-retail", "us", False),
    ("clinic-north", "us", True),
    ("deep-archive", "us", False),
)
_STEADY_SECONDS: Final = 8.0
_QUIET_SECONDS: Final = 90.0
_LIVE_SECONDS: Final = 15.0
_LOG_WIDTH: Final = 140
SABOTAGES: Final = ("", "loss", "leak")


def run_demo() -> int:
    """The exit code: 0 when everything held."""
    sabotage = os.environ.get("SABOTAGE", "")
    if sabotage not in SABOTAGES:
        raise Unable(f"SABOTAGE={sabotage} is not known", "it is loss or leak")
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    state = Path(tempfile.mkdtemp(prefix="dataflow-demo-", dir="/tmp"))  # short, for socket paths; made for us alone
    state.chmod(0o711)
    try:
        return asyncio.run(_Demo(console, state, sabotage).play())
    finally:
        shutil.rmtree(state, ignore_errors=True)


class _Demo:
    def __init__(self, console: Console, state: Path, sabotage: str) -> None:
        self._console = console
        self._fleet = LocalFleet(state, free_block(PORTS_TOTAL))
        self._sabotage = sabotage
        self._began = time.monotonic()

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/dim]  {text}", highlight=False)

    async def play(self) -> int:
        self._say("starting four cells in two residency zones, an edge per region, an endpoint and a directory per zone")
        async with self._fleet as fleet:
            await fleet.wait_until_ready()
            self._say(
                f"ready: {len(fleet.statuses)} processes; "
                + ", ".join(f"{z} at {fleet.access.zone_endpoint(z)}" for z in fleet.access.zones())
            )
            tenants = [await self._found(*about) for about in _TENANTS]
            for tenant in tenants:
                await _wait_until_live(tenant)
                await send_canary(tenant, tenant.canary)
                await send_canary(tenant, tenant.sealed, sealed=True)
            self._say(f"{len(tenants)} tenants placed; Segment's Python SDK and a gRPC client send for each of them")
            async with Traffic(tenants):
                await asyncio.sleep(_STEADY_SECONDS)
                steady_until = time.time()
                killed = await self._kill_twice(tenants)
            self._say(f"the clients have their last word on {sum(len(t.sent) for t in tenants):,} events; waiting until all is applied")
            await self._become_quiet()
            await self._do_sabotage(tenants)
            return await self._judge(tenants, killed, steady_until)

    async def _found(self, name: str, zone: str, dedicated: bool) -> Tenant:
        async with self._fleet.access.directory(zone) as directory:
            tenant = await directory.create_tenant(name, dedicated_schema=dedicated)
            _, write_key = await directory.create_source(name, "web")
            read_key = await directory.create_read_key(name)
        access = self._fleet.access
        canary, sealed = (f"{kind}-{zone}-{secrets.token_hex(16)}" for kind in ("canary", "sealed"))
        return Tenant(name, zone, tenant.cell, access.zone_endpoint(zone), access.zone_address(zone), write_key, read_key, canary, sealed)

    async def _kill_twice(self, tenants: list[Tenant]) -> list[kills.Kill]:
        """One cell of each zone: the busiest ones."""
        busiest = {zone: Counter(t.cell for t in tenants if t.zone == zone).most_common(1)[0][0] for zone in self._fleet.access.zones()}
        first, second = sorted(busiest)
        found = []
        for cell, names in ((busiest[first], ("cell/{}",)), (busiest[second], ("cell/{}", "postgres/{}"))):
            killed = await kills.stall_and_kill(self._fleet, cell, tuple(name.format(cell) for name in names), self._say)
            self._say(f"all ready again {killed.ready_again_seconds:.1f} s after the kill")
            found.append(killed)
            await asyncio.sleep(2.0)
        return found

    async def _become_quiet(self) -> None:
        deadline = time.monotonic() + _QUIET_SECONDS
        while (left := await evidence.unapplied(self._fleet)) > 0:
            if time.monotonic() > deadline:
                self._say(f"[red]{left:,} events are still not applied after {_QUIET_SECONDS:.0f} s[/red]")
                return
            await asyncio.sleep(0.5)

    async def _do_sabotage(self, tenants: list[Tenant]) -> None:
        if self._sabotage == "loss":
            victim = next(tenant for tenant in tenants if tenant.sent)
            lost = next(sent.message_id for sent in victim.sent if sent.answer == "acknowledged")
            connection = await asyncpg.connect(self._fleet.dsn(victim.cell))
            key = message_keys(TenantId(victim.name), [lost])[0]
            await connection.execute("DELETE FROM tenants.event_row WHERE tenant = $1 AND message_key = $2", victim.name, key)
            await connection.close()
            self._say(f"[yellow]sabotage: took the acknowledged event {lost} away[/yellow]")
        elif self._sabotage == "leak":
            ours, theirs = (next(t for t in tenants if t.zone == zone) for zone in ("eu", "us"))
            await send_canary(theirs, ours.sealed, sealed=True)
            await self._become_quiet()
            self._say("[yellow]sabotage: carried a token of zone eu into zone us[/yellow]")

    def _standby(self, tenant: Tenant) -> str:
        """Who takes the tenant's events while its cell is away."""
        fleet = self._fleet.layout.fleet
        return next((cell.peer or "" for cell in fleet.cells_of(ZoneName(tenant.zone)) if cell.name == tenant.cell), "")

    async def _judge(self, tenants: list[Tenant], killed: list[kills.Kill], steady_until: float) -> int:
        self._say("reading every event back, adding ledgers up, searching every file, table and WAL for the other zone's tokens")
        seen = {tenant.name: await visible(tenant, self._standby(tenant)) for tenant in tenants}
        lines = [line for cell in self._fleet.layout.fleet.cells for line in await evidence.ledger_lines(self._fleet.dsn(cell), cell)]
        tokens = {t.name: (t.canary.encode(), t.sealed.encode()) for t in tenants}
        planted = tuple(token for both in tokens.values() for token in both)
        copies = await evidence.copies(self._fleet, planted)
        history = History(
            sent=tuple(sent for tenant in tenants for sent in freed(tenant.sent, tenant.cell, seen[tenant.name])),
            stored=tuple(one.row for rows in seen.values() for one in rows),
            ledger=tuple(lines),
            copies=tuple(copies),
            homes={tenant.name: tenant.cell for tenant in tenants},
            zones={name: cell.zone for name, cell in self._fleet.layout.fleet.cells.items()},
            canaries={
                zone: tuple(token for t in tenants if t.zone == zone for token in tokens[t.name]) for zone in self._fleet.access.zones()
            },
        )
        findings = judge(history)
        self._console.print(_table(tenants, seen, steady_until))
        self._console.print(f"searched {len(copies):,} files and tables for {len(planted)} planted tokens", highlight=False)
        for kill in killed:
            self._console.print(
                f"killed {' and '.join(kill.names)} with {kill.waiting:,} acknowledged events not applied;"
                f" all ready again after {kill.ready_again_seconds:.1f} s",
                highlight=False,
            )
        for finding in findings:
            self._console.print(f"[red]{finding}[/red]", highlight=False)
        verdict = (
            "[bold red]it does not hold[/bold red]"
            if findings
            else "[bold green]it works[/bold green]: nothing lost, nothing twice, nothing out of its zone"
        )
        self._say(verdict)
        return 1 if findings else 0


async def _wait_until_live(tenant: Tenant) -> None:
    """Until the zone's edges know the tenant's keys: a query is answered."""
    deadline = time.monotonic() + _LIVE_SECONDS
    while True:
        try:
            await visible(tenant, tenant.cell)
        except grpc.aio.AioRpcError as error:
            if time.monotonic() > deadline:
                raise Unable(f"{tenant.name} is not live at {tenant.endpoint}: {error}") from error
            await asyncio.sleep(0.1)
        else:
            return


def _table(tenants: list[Tenant], seen: dict[str, list[Seen]], steady_until: float) -> Table:
    table = Table(title="Every event, counted by its own sender")
    for column in ("tenant", "zone", "cell"):
        table.add_column(column)
    for column in ("sent", "acknowledged", "stored", "duplicates", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for tenant in tenants:
        rows = seen[tenant.name]
        waits = sorted(
            (one.stored_at - born) * 1_000
            for one in rows
            if (born := tenant.born.get(one.row.message_id)) is not None and born < steady_until
        )
        visible_twice = len(rows) - len({one.row.message_id for one in rows})
        p50, p99 = (f"{q:.0f}" for q in (statistics.median(waits), waits[int(len(waits) * 0.99)])) if waits else ("-", "-")
        acknowledged = sum(sent.answer == "acknowledged" for sent in tenant.sent)
        cells = ", ".join(sorted({one.taken_by for one in rows}))
        table.add_row(
            tenant.name, tenant.zone, cells, f"{len(tenant.sent):,}", f"{acknowledged:,}", f"{len(rows):,}", str(visible_twice), p50, p99
        )
    table.caption = "end to end, before the kills: from the client's call until the event is queryable (the SDK batches for up to 100 ms)"
    return table

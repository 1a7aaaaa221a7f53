"""What a zone's directory knows beside its tenants: `dataflow cells|audit`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
from google.protobuf.json_format import MessageToJson
from rich.table import Table
from rich.text import Text

from cli.commands.failover import fail_over_cell
from cli.commands.moves import json_of, sure, table_of, wait_until_switched
from cli.commands.options import console, intent_options, output_option, run, running, state_option
from cli.errors import Unable
from dataflow.routing.v1 import routing_pb2 as pb
from kernel.chain import Link, verify

_PAGE_ENTRIES = 1_000
_MICROS = 1_000_000


@click.group()
def cells() -> None:
    """Look at cells: what they were tested for, what is taken, how much room there is. And empty them."""


@click.group()
def audit() -> None:
    """Who changed what in a zone's directory."""


@cells.command("list")
@output_option
@state_option
def list_cells(output: str, state: Path) -> None:
    """Show the cells of all zones. Room is what may still come with head-room for the failover of a peer."""
    access = running(state)

    async def show() -> None:
        table = Table("cell", "zone", "region", "standby", "tenants", "tested for", "demand", "room", "reached by")
        for zone in access.zones():
            async with access.directory(zone) as directory:
                for one in await directory.list_cells():
                    if output == "json":
                        click.echo(
                            MessageToJson(one, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None)
                        )
                    rates = (f"{rate:,.0f}/s" for rate in (one.capacity, one.demand, one.room))
                    table.add_row(one.cell, zone, one.region, one.peer, str(one.tenants), *rates, f"{one.reached_by} of {one.sites} sites")
        if output != "json":
            console().print(table)

    run(show)


@cells.command("evacuate")
@click.argument("cell")
@click.option("--reason", required=True, help="Why, for whoever comes next.")
@click.option("--keep", "keep_seconds", type=click.IntRange(0), default=None, help="Seconds in which each can be rolled back; an hour.")
@click.option("--yes", is_flag=True, help="Do not ask whether it is meant.")
@click.option("--wait", is_flag=True, help="Show how far they are until all have left.")
@intent_options
@output_option
@state_option
def evacuate_cell(
    cell: str, reason: str, keep_seconds: int | None, yes: bool, wait: bool, intent: pb.Intent, output: str, state: Path
) -> None:
    """Move every tenant out of CELL, a few at a time. The plan is shown first."""
    access = running(state)

    async def empty() -> None:
        async with access.directory(access.zone_of_cell(cell)) as directory:
            plan = await directory.evacuate_cell(cell, reason, keep_seconds, pb.Intent(dry_run=True))
            if output != "json":
                console().print(table_of(plan))
            if not plan or intent.dry_run:
                what = "nothing was changed" if plan else f"no tenant lives in {cell} that is not on its way out already"
                click.echo("\n".join(map(json_of, plan)) if output == "json" else what)
                return
            sure(yes, f"{len(plan)} tenants leave {cell}")
            started = await directory.evacuate_cell(cell, reason, keep_seconds, intent)
            if wait:
                await wait_until_switched(directory, [one.tenant for one in started])
        click.echo("\n".join(map(json_of, started)) if output == "json" else f"{len(started)} moves were started")

    run(empty)


cells.add_command(fail_over_cell)


@audit.command("list")
@click.option("--zone", required=True, help="Whose directory.")
@click.option("--after", type=click.IntRange(0), default=0, help="Only entries after this number.")
@output_option
@state_option
def list_audit(zone: str, after: int, output: str, state: Path) -> None:
    """Show who did what, oldest first; exit code 2 when the chain was tampered with."""
    access = running(state)

    async def show() -> None:
        entries: list[pb.AuditEntry] = []
        async with access.directory(access.zone(zone)) as directory:
            while page := await directory.list_audit(entries[-1].seq if entries else 0, _PAGE_ENTRIES):
                entries += page
        table = Table("no.", "when", "who", "what", "tenant", "revision", "request", "how")
        for one in entries:
            if one.seq <= after:
                continue
            if output == "json":
                click.echo(MessageToJson(one, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None))
            when = f"{datetime.fromtimestamp(one.at / _MICROS, UTC):%Y-%m-%d %H:%M:%S}"
            table.add_row(str(one.seq), when, one.actor, one.action, one.tenant, str(one.revision), one.request_id, Text(one.what))
        if output != "json":
            console().print(table)
        verdict = verify(map(_link, entries))
        if verdict.broken_at is not None:
            raise Unable(
                f"the audit chain is not whole: entry {verdict.broken_at} {verdict.problem}", "somebody changed the directory's database"
            )
        click.echo(f"whole up to {verdict.head}: keep that elsewhere, and a cut tail is found as well", err=True)

    run(show)


def _link(entry: pb.AuditEntry) -> Link[tuple[object, ...]]:
    fields = (entry.at, entry.actor, entry.request_id, entry.action, entry.tenant, entry.revision, entry.what)
    return Link(entry.seq, fields, entry.prev_hash, entry.hash)

"""Failing a lost cell over: `dataflow cells failover`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from google.protobuf.json_format import MessageToJson

from cli.commands.moves import sure
from cli.commands.options import output_option, run, running, state_option
from cli.errors import Unable
from dataflow.routing.v1 import routing_pb2 as pb

_MICROS = 1_000_000


@click.command("failover")
@click.argument("cell")
@click.option("--reason", required=True, help="Why, for whoever comes next.")
@click.option("--force", is_flag=True, help="Also when the cell answers.")
@click.option("--yes", is_flag=True, help="Do not ask whether it is meant.")
@click.option("--dry-run", is_flag=True, help="Show what would be missing, and change nothing.")
@output_option
@state_option
def fail_over_cell(cell: str, reason: str, force: bool, yes: bool, dry_run: bool, output: str, state: Path) -> None:
    """Give the tenants of CELL, which is lost, to the cells that stand by for them.

    What CELL acknowledged and its standby does not keep is missing until its disks are back: the gap is shown first. A cell that answers is
    emptied with `dataflow cells evacuate`, which leaves no gap.
    """
    access = running(state)

    async def go() -> None:
        async with access.directory(access.zone_of_cell(cell)) as directory:
            found = await directory.fail_over_cell(cell, reason, force, dry_run=True)
            if not (dry_run or yes):
                click.echo("\n".join(gaps_of(found)), err=True)
                sure(False, f"{len(found.tenants)} tenants leave {cell} for the cells that stand by for them")
            if not dry_run:
                found = await directory.fail_over_cell(cell, reason, force)
        if output == "json":
            click.echo(MessageToJson(found, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None))
        else:
            click.echo("\n".join(_report(cell, found, dry_run)))
        if found.left:
            raise Unable(f"{len(found.left)} tenants stay in {cell}", "see why above: who has no standby waits for the cell")

    run(go)


def gaps_of(found: pb.FailOverCellResponse) -> Iterator[str]:
    """The gap, as it is known."""
    for gap in found.gaps:
        missing = sum(one.end - one.until for one in gap.kept)
        heard = f"it was heard of last {(gap.asked_at - gap.heard_at) / _MICROS:.1f} s ago" if gap.heard_at else "it was never heard of"
        offsets = ", ".join(f"{one.partition} from {one.until}" for one in gap.kept)
        yield f"the gap at {gap.cell}: {missing:,} records are missing that it has heard of; {heard}, and what came since is missing too"
        yield f"  in its log (partition from offset): {offsets}"


def _report(cell: str, found: pb.FailOverCellResponse, dry_run: bool) -> Iterator[str]:
    if dry_run:
        yield "nothing was changed; this is what would be:"
    yield from gaps_of(found)
    for tenant in found.tenants:
        yield f"tenant {tenant.name} lives in cell {tenant.cell} (epoch {tenant.epoch})"
    for left in found.left:
        yield f"tenant {left.tenant} stays in {cell}: {left.why}"
    if not (found.tenants or found.left):
        yield f"no tenant lives in {cell}"
    if found.tenants and not dry_run:
        yield f"what is missing comes back by itself when {cell} is started again; then move tenants home with: dataflow moves start"

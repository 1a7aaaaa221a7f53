"""Moves of tenants between cells: `dataflow moves`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from google.protobuf.json_format import MessageToJson
from rich.live import Live
from rich.table import Table

from cli.commands.options import console, intent_options, output_option, run, running, state_option, would, zone_of_tenant
from cli.directory import Directory
from cli.errors import Unable
from dataflow.routing.v1 import routing_pb2 as pb

_MICROS: Final = 1_000_000
_LOOK_SECONDS: Final = 0.2
_ENDED: Final = frozenset({"settled", "aborted"})
_reason = click.option("--reason", required=True, help="Why, for whoever comes next.")
_yes = click.option("--yes", is_flag=True, help="Do not ask whether it is meant.")


@click.group()
def moves() -> None:
    """Move tenants to other cells of their zone, without losing a write."""


@moves.command("start")
@click.argument("tenant")
@click.option("--to", "target", default="", help="The cell; the directory chooses when not given.")
@_reason
@click.option("--keep", "keep_seconds", type=click.IntRange(0), default=None, help="Seconds in which it can be rolled back; an hour.")
@click.option("--wait", is_flag=True, help="Show how far it is until the tenant lives in the other cell.")
@intent_options
@output_option
@state_option
def start(tenant: str, target: str, reason: str, keep_seconds: int | None, wait: bool, intent: pb.Intent, output: str, state: Path) -> None:
    """Move TENANT to another cell of its zone. Its writes are refused for a moment; nothing is lost, and it can be rolled back."""
    access = running(state)

    async def begin() -> None:
        async with access.directory(await zone_of_tenant(access, tenant)) as directory:
            made = await directory.start_move(tenant, target, reason, keep_seconds, intent)
            if wait and not intent.dry_run:
                await wait_until_switched(directory, [tenant])
                made = await _tenant(directory, tenant)
        click.echo(json_of(made) if output == "json" else f"{would(intent)}{_page(made)}")

    run(begin)


@moves.command("list")
@click.option("--ended", is_flag=True, help="Also the last move of tenants that do not move now.")
@output_option
@state_option
def list_moves(ended: bool, output: str, state: Path) -> None:
    """Show the moves that are under way in all zones."""
    access = running(state)

    async def show() -> None:
        found: list[pb.MovingTenant] = []
        for zone in access.zones():
            async with access.directory(zone) as directory:
                found += await directory.list_moves(ended)
        if output == "json":
            for one in found:
                click.echo(json_of(one))
        else:
            console().print(table_of(found))

    run(show)


@moves.command("show")
@click.argument("tenant")
@output_option
@state_option
def show_move(tenant: str, output: str, state: Path) -> None:
    """Show the move of TENANT, the present one or the last."""
    access = running(state)

    async def show() -> None:
        async with access.directory(await zone_of_tenant(access, tenant)) as directory:
            found = await _tenant(directory, tenant)
            progress = {one.tenant: one for one in await directory.list_moves(True)}.get(tenant)
        if output == "json":
            click.echo(json_of(progress if progress is not None else found))
            return
        click.echo(_page(found))
        if progress is not None and progress.HasField("progress"):
            click.echo(f"  now     {_doing(progress)}")

    run(show)


@moves.command("pause")
@click.argument("tenant")
@_reason
@intent_options
@output_option
@state_option
def pause(tenant: str, reason: str, intent: pb.Intent, output: str, state: Path) -> None:
    """Let the move of TENANT stand still. The tenant goes on where it lives."""
    _change(tenant, pb.MOVE_CHANGE_PAUSE, reason, intent, output, state)


@moves.command("resume")
@click.argument("tenant")
@_reason
@intent_options
@output_option
@state_option
def resume(tenant: str, reason: str, intent: pb.Intent, output: str, state: Path) -> None:
    """Let the move of TENANT go on."""
    _change(tenant, pb.MOVE_CHANGE_RESUME, reason, intent, output, state)


@moves.command("abort")
@click.argument("tenant")
@_reason
@intent_options
@output_option
@state_option
def abort(tenant: str, reason: str, intent: pb.Intent, output: str, state: Path) -> None:
    """End the move of TENANT before it has switched: it stays where it lives, and what the other cell has taken is erased."""
    _change(tenant, pb.MOVE_CHANGE_ABORT, reason, intent, output, state)


@moves.command("finish")
@click.argument("tenant")
@_reason
@_yes
@intent_options
@output_option
@state_option
def finish(tenant: str, reason: str, yes: bool, intent: pb.Intent, output: str, state: Path) -> None:
    """Erase TENANT from the cell that it has left, before its time: from then on it cannot be rolled back."""
    sure(yes or intent.dry_run, f"{tenant} is erased from the cell that it has left, and cannot be rolled back any more")
    _change(tenant, pb.MOVE_CHANGE_FINISH, reason, intent, output, state)


@moves.command("rollback")
@click.argument("tenant")
@_reason
@_yes
@intent_options
@output_option
@state_option
def rollback(tenant: str, reason: str, yes: bool, intent: pb.Intent, output: str, state: Path) -> None:
    """Bring TENANT back to the cell that it has left, with everything that it sent since."""
    sure(yes or intent.dry_run, f"{tenant} goes back to the cell that it has left; its writes are refused for a moment once more")
    _change(tenant, pb.MOVE_CHANGE_ROLL_BACK, reason, intent, output, state)


async def _tenant(directory: Directory, name: str) -> pb.Tenant:
    found = await directory.find_tenant(name)
    if found is None:
        raise Unable(f"there is no tenant {name} any more")
    return found


def sure(yes: bool, what: str) -> None:
    """Asks whether `what` is meant, unless it was said already."""
    if not yes:
        click.confirm(f"{what}. Is that meant?", abort=True)


def _change(tenant: str, change: pb.MoveChange.ValueType, reason: str, intent: pb.Intent, output: str, state: Path) -> None:
    access = running(state)

    async def go() -> None:
        async with access.directory(await zone_of_tenant(access, tenant)) as directory:
            after = await directory.change_move(tenant, change, reason, intent)
        click.echo(json_of(after) if output == "json" else f"{would(intent)}{_page(after)}")

    run(go)


async def wait_until_switched(directory: Directory, tenants: Sequence[str]) -> None:
    """Shows how far they are, until all have left or one stands still, which raises Unable."""
    with Live(console=console(), refresh_per_second=4, transient=True) as live:
        while True:
            found = [one for one in await directory.list_moves(True) if one.tenant in tenants]
            live.update(table_of(found))
            for one in found:
                if one.move.paused or one.move.state in ("aborting", "aborted"):
                    raise Unable(f"the move of {one.tenant} is {_state(one)}: {one.move.remark}", f"see dataflow moves show {one.tenant}")
            if all(one.move.state in ("switched", "erasing", "settled") for one in found):
                return
            await asyncio.sleep(_LOOK_SECONDS)


def table_of(found: Sequence[pb.MovingTenant]) -> Table:
    """Moves for people."""
    table = Table("tenant", "from", "to", "state", "since", "events", "left", "now")
    for one in found:
        progress = one.progress
        share = f"{progress.events:,} of {progress.events_expected:,}" if progress.events_expected else f"{progress.events:,}"
        left = f"{progress.eta_seconds:.0f} s" if progress.eta_seconds >= 1 else ""
        since = f"{time.time() - one.move.changed_at / _MICROS:.0f} s"
        table.add_row(one.tenant, one.move.source, one.move.target, _state(one), since, share, left, _doing(one))
    return table


def _state(one: pb.MovingTenant) -> str:
    return f"{one.move.state} (paused)" if one.move.paused else one.move.state


def _doing(one: pb.MovingTenant) -> str:
    if one.move.paused or (one.move.remark and not one.HasField("progress")):
        return one.move.remark
    paused = f", writes were refused for {one.progress.pause_seconds:.2f} s" if one.progress.pause_seconds else ""
    return f"{one.progress.doing}{paused}" if one.HasField("progress") else ""


def _page(tenant: pb.Tenant) -> str:
    move = tenant.move
    lines = [f"tenant {tenant.name} lives in cell {tenant.cell} (epoch {tenant.epoch})"]
    if not tenant.HasField("move"):
        return f"{lines[0]} and was never moved"
    began, changed = (f"{datetime.fromtimestamp(at / _MICROS, UTC):%Y-%m-%d %H:%M:%S} UTC" for at in (move.started_at, move.changed_at))
    lines += [
        f"  move    {move.id}, from {move.source} to {move.target}: {move.reason}",
        f"  state   {move.state}{' (paused)' if move.paused else ''} since {changed}; it was asked for at {began}",
    ]
    if move.state == "switched":
        ends = datetime.fromtimestamp(move.changed_at / _MICROS + move.keep_seconds, UTC)
        lines.append(f"  back    until {ends:%Y-%m-%d %H:%M:%S} UTC by: dataflow moves rollback {tenant.name} --reason ...")
    if move.remark:
        lines.append(f"  said    {move.remark}")
    return "\n".join(lines)


def json_of(message: pb.Tenant | pb.MovingTenant) -> str:
    """A line for programs."""
    return MessageToJson(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None)

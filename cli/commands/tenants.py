"""Tenants and where they live: `dataflow tenants`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
from google.protobuf.json_format import MessageToJson
from rich.table import Table

from cli.commands.options import console, intent_options, output_option, run, running, state_hint, state_option, would, zone_of_tenant
from cli.directory import Directory
from cli.errors import Unable
from cli.local.access import Access
from dataflow.routing.v1 import routing_pb2 as pb
from kernel.ids import is_name

_MICROS: Final = 1_000_000
_WHEN: Final = click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"))


@click.group()
def tenants() -> None:
    """Create tenants, look at them, and say where they live and what they may."""


@tenants.command("create")
@click.argument("name")
@click.option("--zone", required=True, help="Residency zone, e.g. eu. It is part of the tenant's identity.")
@click.option("--cell", default="", help="Pin it to this cell instead of letting the directory place it.")
@click.option("--reason", default="pinned when it was created", help="Why it is pinned.")
@click.option("--demand", type=click.FloatRange(0), default=0, help="Events per second that it will send; hardly any when not given.")
@click.option("--dedicated-schema", is_flag=True, help="Keep its rows in a schema of its own.")
@intent_options
@output_option
@state_option
def create_tenant(
    name: str, zone: str, cell: str, reason: str, demand: float, dedicated_schema: bool, intent: pb.Intent, output: str, state: Path
) -> None:
    """Create tenant NAME in a residency zone and place it."""
    check_name("tenant", name)
    access = running(state)
    pin = pb.Pin(cell=cell, reason=reason) if cell else None

    async def create() -> None:
        await _check_free(access, name, access.zone(zone))
        async with access.directory(zone) as directory:
            made = await directory.create_tenant(name, dedicated_schema=dedicated_schema, demand=demand, pin=pin, intent=intent)
        if output == "json":
            click.echo(_json(made))
            return
        click.echo(f"{would(intent)}tenant {made.name} lives in cell {made.cell} (zone {made.zone}, epoch {made.epoch})")
        click.echo(f"next: dataflow sources create {made.name} web{state_hint(state)}")

    run(create)


@tenants.command("list")
@output_option
@state_option
def list_tenants(output: str, state: Path) -> None:
    """Show all tenants of all zones."""
    access = running(state)

    async def show() -> None:
        table = Table("tenant", "zone", "cell", "epoch", "demand", "sources", "schema", "state")
        for zone in access.zones():
            async with access.directory(zone) as directory:
                for one in await directory.list_tenants():
                    if output == "json":
                        click.echo(_json(one))
                    names = ", ".join(source.name for source in one.sources)
                    schema = "dedicated" if one.dedicated_schema else "shared"
                    table.add_row(one.name, one.zone, _home(one), str(one.epoch), f"{one.demand:g}/s", names, schema, _state(one))
        if output != "json":
            console().print(table)

    run(show)


@tenants.command("show")
@click.argument("name")
@output_option
@state_option
def show_tenant(name: str, output: str, state: Path) -> None:
    """Show everything about tenant NAME."""
    access = running(state)

    async def show() -> None:
        async with access.directory(await zone_of_tenant(access, name)) as directory:
            found = await directory.find_tenant(name)
        if found is None:
            raise Unable(f"there is no tenant {name} any more")
        click.echo(_json(found) if output == "json" else _page(found))

    run(show)


@tenants.command("suspend")
@click.argument("name")
@intent_options
@output_option
@state_option
def suspend(name: str, intent: pb.Intent, output: str, state: Path) -> None:
    """Refuse the events of tenant NAME from now on, until `resume`. What it has sent stays."""
    _change(name, lambda directory: directory.suspend_tenant(name, True, intent), intent, output, state)


@tenants.command("resume")
@click.argument("name")
@intent_options
@output_option
@state_option
def resume(name: str, intent: pb.Intent, output: str, state: Path) -> None:
    """Take events of tenant NAME again."""
    _change(name, lambda directory: directory.suspend_tenant(name, False, intent), intent, output, state)


@tenants.command("pin")
@click.argument("name")
@click.option("--cell", required=True, help="The cell.")
@click.option("--reason", required=True, help="Why, for whoever comes next.")
@click.option("--until", type=_WHEN, default=None, help="When the pin ends, in UTC; for good when not given.")
@intent_options
@output_option
@state_option
def pin(name: str, cell: str, reason: str, until: datetime | None, intent: pb.Intent, output: str, state: Path) -> None:
    """Pin tenant NAME to a cell. It stays where it lives until it is moved."""
    ends = 0 if until is None else int(until.replace(tzinfo=UTC).timestamp()) * _MICROS
    word = pb.Pin(cell=cell, reason=reason, expires_at=ends)
    _change(name, lambda directory: directory.pin_tenant(name, word, intent), intent, output, state)


@tenants.command("unpin")
@click.argument("name")
@intent_options
@output_option
@state_option
def unpin(name: str, intent: pb.Intent, output: str, state: Path) -> None:
    """Let the directory place tenant NAME again. It stays where it lives until it is moved."""
    _change(name, lambda directory: directory.pin_tenant(name, None, intent), intent, output, state)


@tenants.command("set-demand")
@click.argument("name")
@click.argument("events_per_second", type=click.FloatRange(0))
@intent_options
@output_option
@state_option
def set_demand(name: str, events_per_second: float, intent: pb.Intent, output: str, state: Path) -> None:
    """Say what tenant NAME is expected to send: placement keeps room for it."""
    _change(name, lambda directory: directory.set_demand(name, events_per_second, intent), intent, output, state)


@tenants.command("set-plan")
@click.argument("name")
@click.option("--events-per-second", type=click.FloatRange(0, min_open=True), default=None, help="Sustained quota.")
@click.option("--burst", "burst_events", type=click.FloatRange(1), default=None, help="Events above it that a burst may hold.")
@click.option("--batch-bytes", "batch_bytes_max", type=click.IntRange(1), default=None, help="Largest request, decompressed.")
@click.option("--batch-events", "batch_events_max", type=click.IntRange(1), default=None, help="Most events in a request.")
@click.option("--spread", type=click.IntRange(1), default=None, help="Log partitions that its users are spread over.")
@click.option("--requests-per-second", type=click.FloatRange(0, min_open=True), default=None, help="Requests of any size, at each edge.")
@intent_options
@output_option
@state_option
def set_plan(name: str, intent: pb.Intent, output: str, state: Path, **numbers: float | None) -> None:
    """Change what tenant NAME may ask; what is not given stays."""
    given: dict[str, Any] = {field: value for field, value in numbers.items() if value is not None}

    async def change(directory: Directory) -> pb.Tenant:
        held = await directory.find_tenant(name)
        if held is None:
            raise Unable(f"there is no tenant {name} any more")
        plan = pb.Plan()
        plan.CopyFrom(held.plan)
        plan.MergeFrom(pb.Plan(**given))
        intent.if_revision = held.revision
        return await directory.set_plan(name, plan, intent)

    _change(name, change, intent, output, state)


def check_name(what: str, name: str) -> None:
    """Raises Unable for what cannot be a name."""
    if not is_name(name):
        raise Unable(f"{name!r} cannot name a {what}", "use 2 to 63 lower-case letters, digits and hyphens, beginning with a letter")


def _change(name: str, make: Callable[[Directory], Awaitable[pb.Tenant]], intent: pb.Intent, output: str, state: Path) -> None:
    """Makes a change of a tenant, and shows the tenant after it."""
    access = running(state)

    async def change() -> None:
        async with access.directory(await zone_of_tenant(access, name)) as directory:
            after = await make(directory)
        click.echo(_json(after) if output == "json" else f"{would(intent)}{_page(after)}")

    run(change)


async def _check_free(access: Access, name: str, zone: str) -> None:
    """A tenant's name is unique in the fleet, and each directory knows its own zone alone."""
    for other in access.zones():
        if other == zone:
            continue
        async with access.directory(other) as directory:
            if await directory.find_tenant(name) is not None:
                raise Unable(f"there is a tenant {name} in zone {other}", "a name is unique in the fleet: choose another one")


def _json(tenant: pb.Tenant) -> str:
    return MessageToJson(tenant, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None)


def _home(tenant: pb.Tenant) -> str:
    return f"{tenant.cell} (pinned)" if tenant.HasField("pin") and tenant.pin.cell == tenant.cell else tenant.cell


def _state(tenant: pb.Tenant) -> str:
    return "suspended" if tenant.suspended else "active"


def _page(tenant: pb.Tenant) -> str:
    plan = tenant.plan
    lines = [
        f"tenant {tenant.name} ({_state(tenant)}) lives in cell {tenant.cell}: zone {tenant.zone}, epoch {tenant.epoch}",
        f"  demand  {tenant.demand:g} events/s expected",
        f"  plan    {plan.events_per_second:g} events/s, bursts of {plan.burst_events:g}, spread over {plan.spread}",
        f"  batches {plan.batch_events_max} events and {plan.batch_bytes_max} bytes at most",
        f"  asks    {plan.requests_per_second:g} requests/s at each edge",
    ]
    if tenant.HasField("pin"):
        ends = datetime.fromtimestamp(tenant.pin.expires_at / _MICROS, UTC)
        until = f"until {ends:%Y-%m-%d %H:%M} UTC" if tenant.pin.expires_at else "for good"
        where = "" if tenant.pin.cell == tenant.cell else "; it is still to be moved there"
        lines.append(f"  pinned  to {tenant.pin.cell} {until}: {tenant.pin.reason or 'no reason given'}{where}")
    lines += [f"  source  {source.name}, slug {source.slug}, {_keys(source.write_keys)}" for source in tenant.sources]
    if tenant.read_keys:
        lines.append(f"  reads   {_keys(tenant.read_keys)}")
    return "\n".join(lines)


def _keys(keys: Any) -> str:
    return ", ".join(f"key {key.hash[:12]}{' (revoked)' if key.revoked else ''}" for key in keys) or "no key"

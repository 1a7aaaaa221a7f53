"""Tenants, their sources and keys: `dataflow tenants|sources|keys`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from cli.commands.options import console, run, running, state_hint, state_option, zone_of_tenant
from cli.errors import Unable
from cli.local import snippets
from cli.local.access import Access
from kernel.ids import is_name


@click.group()
def tenants() -> None:
    """Create and list tenants."""


@click.group()
def sources() -> None:
    """Create sources, which hold write keys."""


@click.group()
def keys() -> None:
    """Create read keys."""


@tenants.command("create")
@click.argument("name")
@click.option("--zone", required=True, help="Residency zone, e.g. eu. It is part of the tenant's identity.")
@click.option("--cell", default="", help="Pin it to this cell instead of letting the directory place it.")
@click.option("--dedicated-schema", is_flag=True, help="Keep its rows in a schema of its own.")
@state_option
def create_tenant(name: str, zone: str, cell: str, dedicated_schema: bool, state: Path) -> None:
    """Create tenant NAME in a residency zone and place it."""
    _check_name("tenant", name)
    access = running(state)

    async def create() -> None:
        await _check_free(access, name, access.zone(zone))
        async with access.directory(zone) as directory:
            made = await directory.create_tenant(name, pinned_cell=cell, dedicated_schema=dedicated_schema)
        click.echo(f"tenant {made.name} lives in cell {made.cell} (zone {made.zone}, epoch {made.epoch})")
        click.echo(f"next: dataflow sources create {made.name} web{state_hint(state)}")

    run(create)


@tenants.command("list")
@state_option
def list_tenants(state: Path) -> None:
    """Show all tenants of all zones."""
    access = running(state)

    async def show() -> None:
        table = Table("tenant", "zone", "cell", "epoch", "sources", "schema", "state")
        for zone in access.zones():
            async with access.directory(zone) as directory:
                for one in await directory.list_tenants():
                    names = ", ".join(source.name for source in one.sources)
                    schema = "dedicated" if one.dedicated_schema else "shared"
                    table.add_row(one.name, one.zone, one.cell, str(one.epoch), names, schema, "suspended" if one.suspended else "active")
        console().print(table)

    run(show)


@sources.command("create")
@click.argument("tenant")
@click.argument("name")
@state_option
def create_source(tenant: str, name: str, state: Path) -> None:
    """Create source NAME of TENANT and print its write key, which cannot be shown again."""
    _check_name("source", name)
    access = running(state)

    async def create() -> None:
        zone = await zone_of_tenant(access, tenant)
        async with access.directory(zone) as directory:
            source, key = await directory.create_source(tenant, name)
        click.echo(f"source {source.name} of {tenant}, slug {source.slug}")
        click.echo(f"write key (shown this once): {key}\n")
        click.echo(snippets.send(access.zone_endpoint(zone), key))

    run(create)


@keys.command("create-read")
@click.argument("tenant")
@state_option
def create_read(tenant: str, state: Path) -> None:
    """Mint a read key of TENANT and print it, which cannot be shown again."""
    access = running(state)

    async def create() -> None:
        zone = await zone_of_tenant(access, tenant)
        async with access.directory(zone) as directory:
            key = await directory.create_read_key(tenant)
        click.echo(f"read key (shown this once): {key}\n")
        click.echo(snippets.read(access.zone_endpoint(zone), key))

    run(create)


async def _check_free(access: Access, name: str, zone: str) -> None:
    """A tenant's name is unique in the fleet, and each directory knows its own zone alone."""
    for other in access.zones():
        if other == zone:
            continue
        async with access.directory(other) as directory:
            if any(found.name == name for found in await directory.list_tenants()):
                raise Unable(f"there is a tenant {name} in zone {other}", "a name is unique in the fleet: choose another one")


def _check_name(what: str, name: str) -> None:
    if not is_name(name):
        raise Unable(f"{name!r} cannot name a {what}", "use 2 to 63 lower-case letters, digits and hyphens, beginning with a letter")

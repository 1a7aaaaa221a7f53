"""Sources and keys: `dataflow sources|keys`."""

from __future__ import annotations

from pathlib import Path

import click

from cli.commands.options import intent_options, run, running, state_option, would, zone_of_tenant
from cli.commands.tenants import check_name
from cli.errors import Unable
from cli.local import snippets
from dataflow.routing.v1 import routing_pb2 as pb
from kernel.ids import parse_key

_HASH_CHARS = 64


@click.group()
def sources() -> None:
    """Create sources, which hold write keys."""


@click.group()
def keys() -> None:
    """Create and revoke keys."""


@sources.command("create")
@click.argument("tenant")
@click.argument("name")
@intent_options
@state_option
def create_source(tenant: str, name: str, intent: pb.Intent, state: Path) -> None:
    """Create source NAME of TENANT and print its write key, which cannot be shown again."""
    check_name("source", name)
    access = running(state)

    async def create() -> None:
        zone = await zone_of_tenant(access, tenant)
        async with access.directory(zone) as directory:
            source, key = await directory.create_source(tenant, name, intent)
        click.echo(f"{would(intent)}source {source.name} of {tenant}, slug {source.slug}")
        _show("write key", key, snippets.send(access.zone_endpoint(zone), key))

    run(create)


@keys.command("create-write")
@click.argument("tenant")
@click.argument("source")
@intent_options
@state_option
def create_write(tenant: str, source: str, intent: pb.Intent, state: Path) -> None:
    """Mint another write key of SOURCE of TENANT and print it, which cannot be shown again.

    To rotate: create one, deploy it, revoke the old one.
    """
    access = running(state)

    async def create() -> None:
        zone = await zone_of_tenant(access, tenant)
        async with access.directory(zone) as directory:
            held, key = await directory.create_write_key(tenant, source, intent)
        click.echo(f"{would(intent)}source {held.name} of {tenant} has {sum(not one.revoked for one in held.write_keys)} keys that work")
        _show("write key", key, snippets.send(access.zone_endpoint(zone), key))

    run(create)


@keys.command("create-read")
@click.argument("tenant")
@intent_options
@state_option
def create_read(tenant: str, intent: pb.Intent, state: Path) -> None:
    """Mint a read key of TENANT and print it, which cannot be shown again."""
    access = running(state)

    async def create() -> None:
        zone = await zone_of_tenant(access, tenant)
        async with access.directory(zone) as directory:
            key = await directory.create_read_key(tenant, intent)
        click.echo(would(intent), nl=False)
        _show("read key", key, snippets.read(access.zone_endpoint(zone), key))

    run(create)


@keys.command("revoke")
@click.argument("tenant")
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@intent_options
@state_option
def revoke(tenant: str, key: str, yes: bool, intent: pb.Intent, state: Path) -> None:
    """Make KEY of TENANT unusable, for ever: the key itself, its SHA-256, or the beginning that `tenants show` prints."""
    access = running(state)

    async def end() -> None:
        async with access.directory(await zone_of_tenant(access, tenant)) as directory:
            held = await directory.find_tenant(tenant)
            if held is None:
                raise Unable(f"there is no tenant {tenant} any more")
            found = _find(held, key)
            if not (yes or intent.dry_run):
                click.confirm(f"revoke key {found[:12]} of {tenant}? Whoever uses it is refused from then on", abort=True)
            revision = await directory.revoke_key(found, intent)
        click.echo(f"{would(intent)}key {found[:12]} is refused from revision {revision} on")

    run(end)


def _find(tenant: pb.Tenant, key: str) -> str:
    """The hash of the tenant's key that is meant. Raises Unable when it is none, or several."""
    parsed = parse_key(key)
    wanted = key.lower() if parsed is None else parsed.hash
    hashes = [one.hash for one in (*(key for source in tenant.sources for key in source.write_keys), *tenant.read_keys)]
    found = [known for known in hashes if known.startswith(wanted)]
    if len(found) != 1:
        what = "several keys" if found else "no key"
        raise Unable(f"{tenant.name} has {what} that this names", f"`dataflow tenants show {tenant.name}` lists them")
    return found[0]


def _show(what: str, key: str, snippet: str) -> None:
    """A key that was kept, and what to do with it; without one the request was repeated, or only tried."""
    if not key:
        click.echo(f"no {what} to show: it is shown once, by the request that mints it")
        return
    click.echo(f"{what} (shown this once): {key}\n")
    click.echo(snippet)

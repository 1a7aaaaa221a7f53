"""Looking at events: `dataflow events list|tail|trace`, with a read key of the tenant, as any reader would."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from cli.commands.options import console, run, running, state_option, zone_of_tenant
from cli.errors import Unable
from cli.local.access import Access
from cli.query import Query
from dataflow.storage.v1 import query_pb2 as pb

_POLL_SECONDS: Final = 0.5
_OVERLAP_SECONDS: Final = 60
_PAGE_EVENTS: Final = 200
_PAGES_MAX: Final = 25
_REMEMBERED_MAX: Final = 20_000
_TYPES: Final = ("track", "identify", "page", "screen", "group", "alias")
_PLACES: Final = {
    pb.TraceEventResponse.PLACE_UNKNOWN: "not in this cell",
    pb.TraceEventResponse.PLACE_LOG: "in the log, not yet applied",
    pb.TraceEventResponse.PLACE_STORED: "stored, queryable",
    pb.TraceEventResponse.PLACE_DEAD_LETTER: "dead letter",
    pb.TraceEventResponse.PLACE_HELD: "held until the cell owns the tenant",
}
tenant_option = click.option("--tenant", required=True, help="Whose events.")


@click.group()
def events() -> None:
    """Read events back out of the right cell."""


@events.command("list")
@tenant_option
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True)
@click.option("--user", default="", help="Only this user id.")
@click.option("--type", "kind", type=click.Choice(_TYPES), default=None, help="Only events of this type.")
@click.option("--name", default="", help="Only events of this name.")
@state_option
def list_events(tenant: str, limit: int, user: str, kind: str | None, name: str, state: Path) -> None:
    """Show the newest events of the last 7 days: a table on a terminal, a line each elsewhere."""
    access = running(state)

    async def show() -> None:
        filters = pb.EventFilter(user_id=user, type=kind or "", name=name)
        async with await _query(access, tenant) as query:
            if sys.stdout.isatty():
                await _show_table(query.events(filters, limit))
                return
            async for event in query.events(filters, limit):
                click.echo(_line(event))

    run(show)


async def _show_table(found: AsyncIterator[pb.StoredEvent]) -> None:
    table = Table("happened", "type", "name", "user", "source", "cell")
    table.add_column("message id", overflow="fold", min_width=20)
    async for event in found:
        who = event.user_id or f"({event.anonymous_id})"
        cells = (_time(event.timestamp), event.type, event.name, who, event.source, event.cell, event.message_id)
        table.add_row(*(Text(_printable(cell)) for cell in cells))
    console().print(table)


@events.command("tail")
@tenant_option
@state_option
def tail(tenant: str, state: Path) -> None:
    """Print events as they become queryable, until Ctrl-C. Events that happened over a minute before they arrive are not shown."""
    access = running(state)

    async def follow() -> None:
        known: dict[str, None] = {}
        async with await _query(access, tenant) as query:
            while True:
                try:
                    fresh = await _fresh(query, known)
                except Unable as error:
                    click.echo(f"still trying: {error}", err=True)
                    fresh = []
                for event in fresh:
                    click.echo(_line(event))
                while len(known) > _REMEMBERED_MAX:
                    del known[next(iter(known))]
                await asyncio.sleep(_POLL_SECONDS)

    run(follow)


@events.command("trace")
@click.argument("message_id")
@click.option("--tenant", default="", help="Whose event; all tenants are asked when it is not given.")
@state_option
def trace(message_id: str, tenant: str, state: Path) -> None:
    """Tell where the event MESSAGE_ID is now, and why."""
    access = running(state)

    async def ask() -> None:
        names = [tenant] if tenant else await _all_tenants(access)
        for name in names:
            async with await _query(access, name) as query:
                found = await query.trace(message_id)
            if found.place != pb.TraceEventResponse.PLACE_UNKNOWN:
                click.echo(f"{_printable(message_id)} of tenant {name}: {_PLACES.get(found.place, 'unspecified')}")
                if found.why:
                    click.echo(f"  why: {_printable(found.why)}")
                click.echo(f"  log position: partition {found.partition}, offset {found.offset}, index {found.ordinal}")
                if found.HasField("event"):
                    click.echo(f"  {_line(found.event)}")
                    click.echo(f"  received {_time(found.event.received_at)}, stored {_time(found.event.stored_at)}")
                return
        raise Unable(
            f"{f'tenant {tenant} has no' if tenant else 'no tenant of this fleet has an'} event {_printable(message_id)}",
            "was it acknowledged? an event that was refused is not kept: the answer to its request said why",
        )

    run(ask)


async def _query(access: Access, tenant: str) -> Query:
    zone = await zone_of_tenant(access, tenant)
    return await access.query(zone, tenant)


async def _fresh(query: Query, known: dict[str, None]) -> list[pb.StoredEvent]:
    """Events of the last minute that are not in `known`, oldest first, at most a few pages; they are added to it."""
    since = Timestamp()
    since.FromSeconds(int(datetime.now(UTC).timestamp()) - _OVERLAP_SECONDS)
    fresh: list[pb.StoredEvent] = []
    token = ""
    for _ in range(_PAGES_MAX):
        page = await query.page(pb.EventFilter(since=since), _PAGE_EVENTS, token)
        new = [event for event in page.events if event.message_id not in known]
        known.update((event.message_id, None) for event in new)
        fresh += new
        token = page.next_page_token
        if not token or not new:
            break
    return fresh[::-1]


async def _all_tenants(access: Access) -> list[str]:
    names: list[str] = []
    for zone in access.zones():
        async with access.directory(zone) as directory:
            names += [found.name for found in await directory.list_tenants()]
    return names


def _time(at: Timestamp) -> str:
    return at.ToDatetime(UTC).isoformat(timespec="milliseconds")


def _line(event: pb.StoredEvent) -> str:
    who = event.user_id or event.anonymous_id
    return _printable(f"{_time(event.timestamp)} {event.cell} {event.type} {event.name or '-'} {who} {event.message_id}")


def _printable(text: str) -> str:
    """What a client sent, fit for a terminal: nothing in it moves the cursor or changes a colour."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)

"""Options that several commands share, and how they find a fleet."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from rich.console import Console

from cli.errors import Unable
from cli.local.access import Access, attach
from cli.local.state import default_folder
from dataflow.routing.v1 import routing_pb2 as pb

Answer = TypeVar("Answer")
Command = TypeVar("Command", bound=Callable[..., Any])

state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    default=default_folder,
    show_default="/var/lib/dataflow for root, else ~/.local/state/dataflow",
    envvar="DATAFLOW_STATE",
    help="State directory of the fleet.",
)


output_option = click.option(
    "--output", type=click.Choice(("table", "json")), default="table", show_default=True, help="For people, or for programs: a line each."
)


def intent_options(command: Command) -> Command:
    """`--dry-run` and `--request-id`, as one argument `intent`."""

    @click.option("--dry-run", is_flag=True, help="Check everything and say what would be done; keep nothing.")
    @click.option("--request-id", default="", help="Name the request: repeated within a day it does nothing a second time.")
    @functools.wraps(command)
    def asked(*arguments: Any, dry_run: bool, request_id: str, **options: Any) -> Any:
        return command(*arguments, intent=pb.Intent(dry_run=dry_run, request_id=request_id), **options)

    return cast("Command", asked)


def would(intent: pb.Intent) -> str:
    """What stands before words about a change that was only tried."""
    return "dry run, nothing is kept: " if intent.dry_run else ""


def console() -> Console:
    """Where tables go: as wide as the terminal, and wide enough for all columns in a pipe."""
    return Console(width=None if sys.stdout.isatty() else 200)


def run(make: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
    """Runs a command's coroutine. Ctrl-C ends it with exit code 130."""
    try:
        return asyncio.run(make())
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def running(state: Path) -> Access:
    """The fleet that runs in `state`. Raises Unable when none does."""
    access = attach(state)
    if access.state.holder() is None:
        raise Unable(f"no fleet runs in {state}", f"start it with `dataflow up{state_hint(state)}`")
    return access


def state_hint(state: Path) -> str:
    """What a suggested command needs to find the same fleet; empty for the one that is found without."""
    return "" if state == default_folder() else f" --state {state}"


async def zone_of_tenant(access: Access, tenant: str) -> str:
    """The residency zone that the tenant lives in, as the directories say. Raises Unable when none knows it."""
    for zone in access.zones():
        async with access.directory(zone) as directory:
            if await directory.find_tenant(tenant) is not None:
                return zone
    raise Unable(f"there is no tenant {tenant}", "`dataflow tenants list` shows all, `dataflow tenants create` makes one")

"""Options that several commands share, and how they find a fleet."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from cli.errors import Unable
from cli.local.access import Access, attach
from cli.local.state import default_folder

Answer = TypeVar("Answer")

state_option = click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, resolve_path=True),
    default=default_folder,
    show_default="/var/lib/dataflow for root, else ~/.local/state/dataflow",
    envvar="DATAFLOW_STATE",
    help="State directory of the fleet.",
)


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
            if any(found.name == tenant for found in await directory.list_tenants()):
                return zone
    raise Unable(f"there is no tenant {tenant}", "`dataflow tenants list` shows all, `dataflow tenants create` makes one")

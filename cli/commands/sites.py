"""Who keeps a zone's directory, and who leads: `dataflow sites`."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import click
from rich.table import Table

from cli.commands.options import console, output_option, running, state_option

_ANSWER_SECONDS = 2.0


@click.group()
def sites() -> None:
    """Look at the sites of the zones' directories: who leads, and how far each is."""


@sites.command("list")
@output_option
@state_option
def list_sites(output: str, state: Path) -> None:
    """Show what each site says of itself. Of a zone's sites one leads; `entry` is how far each is."""
    access = running(state)
    table = Table("zone", "site", "leads", "hears", "term", "entry", "revision")
    for zone in access.zones():
        for site, port in access.sites(zone):
            said = _status(port)
            if output == "json":
                click.echo(json.dumps({"zone": zone, "site": site, **said}))
            leads = "yes" if said.get("leads") else "" if said else "does not answer"
            table.add_row(zone, site, leads, *(str(said.get(name, "")) for name in ("leader", "term", "entry", "revision")))
    if output != "json":
        console().print(table)


def _status(port: int) -> dict[str, object]:
    """The page of a process on this machine; {} when it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=_ANSWER_SECONDS) as answer:
            return dict(json.load(answer))
    except (OSError, ValueError):
        return {}

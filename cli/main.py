"""The `dataflow` command. Errors are one clear line and exit code 2."""

from __future__ import annotations

import sys

import click

from cli.commands import demo, directory, events, fleet, keys, moves, sites, tenants
from cli.errors import Unable


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def dataflow() -> None:
    """A multi-region customer data platform on this machine: start it, make tenants, look at events."""


_GROUPS = (tenants.tenants, keys.sources, keys.keys, events.events, directory.cells, moves.moves, sites.sites, directory.audit)
for _command in (*fleet.COMMANDS, *_GROUPS, demo.demo):
    dataflow.add_command(_command)


def main() -> None:
    """The console script."""
    try:
        dataflow(prog_name="dataflow")
    except Unable as error:
        click.echo(f"dataflow: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()

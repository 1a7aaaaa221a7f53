"""`dataflow demo`: proves the promises on this machine."""

from __future__ import annotations

import sys

import click


@click.command()
def demo() -> None:
    """Start a fleet of its own, send real traffic, kill a cell and a database, and count every event."""
    from cli.demo.run import run_demo  # here alone: the SDK and the oracle are not for every command

    sys.exit(run_demo())

"""`dataflow demo`: proves the promises on this machine."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import click

from cli.errors import Unable


@click.command()
def demo() -> None:
    """Start a fleet of its own, send real traffic, kill a cell and a database, and count every event."""
    if importlib.util.find_spec("cli.demo") is None or importlib.util.find_spec("cli.demo.run") is None:
        raise Unable("this build holds no demonstration", "use `dataflow up`")
    sys.exit(importlib.import_module("cli.demo.run").run_demo())

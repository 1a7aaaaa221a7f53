"""Plays a scenario on a running cell: its takes one after the other, and what they show."""

from __future__ import annotations

from bench import report
from bench.fleet import Bench
from bench.measure import How, measure
from bench.progress import Teller
from bench.report import Played
from bench.rows import rows_of
from bench.scenarios import Scenario


async def play(bench: Bench, scenario: Scenario, how: How, teller: Teller, command: str, *, short: bool) -> Played:
    """Every run is shown as it ends."""
    teller.say(f"[bold]{scenario.name}[/bold]: {scenario.about}")
    runs = []
    for take in scenario.takes():
        runs.append(await measure(bench, take, how, teller))
        report.show_run(teller.console, runs[-1])
    return Played(scenario, runs, rows_of(scenario, runs), command, short)

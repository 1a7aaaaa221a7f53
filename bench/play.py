"""Plays a scenario on a running cell: its takes one after the other, and what they show."""

from __future__ import annotations

from bench import report
from bench.fleet import Bench
from bench.measure import How, measure
from bench.progress import Teller
from bench.report import Played
from bench.rows import merged, rows_of
from bench.scenarios import Scenario


async def play(
    bench: Bench, scenario: Scenario, how: How, teller: Teller, command: str, *, short: bool, times: int = 1, altered: tuple[str, ...] = ()
) -> Played:
    """Every run is shown as it ends."""
    teller.say(f"[bold]{scenario.name}[/bold]: {scenario.about}")
    measured = report.commit()
    played, rows = [], []
    for _ in range(times):
        runs = []
        for take in scenario.takes():
            runs.append(await measure(bench, take, how, teller))
            report.show_run(teller.console, runs[-1])
        played += runs
        rows.append(rows_of(scenario, runs))
    return Played(scenario, played, merged(rows), command, short, altered, measured)

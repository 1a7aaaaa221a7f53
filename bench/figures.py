"""Every scenario in its short form on one cell, and the figures that docs/validation.md is made of.

    python -m bench.figures [--log kafka] [--only noisy --only growth]

Writes docs/figures/<scenario>-<protocol>.json and a picture for each; `python -m bench.cell --scenario <scenario>` plays one at its full
length. Exit
code 2 when a run is void; a promise that is missed stands in the table.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
import uvloop
from rich.console import Console

from bench import picture, report
from bench.fleet import Bench, one_cell
from bench.measure import How
from bench.play import play
from bench.progress import Teller
from bench.report import Played
from bench.scenarios import SCENARIOS, Scenario
from cli.local.layout import LOGS, Log

OUTPUT: Final = Path("docs/figures")
_WARMUP_SECONDS: Final = 2.0


async def _all(scenarios: list[Scenario], log: Log, teller: Teller, output: Path) -> list[Played]:
    async with one_cell(teller.say, log) as bench:
        return [played for scenario in scenarios for played in await _one(bench, scenario, teller, output)]


async def _one(bench: Bench, scenario: Scenario, teller: Teller, output: Path) -> list[Played]:
    """Files are written as they come, so that a run which is interrupted leaves those before it."""
    short, found = replace(scenario, seconds=scenario.short_seconds), []
    for protocol in scenario.protocols:
        path = output / f"{scenario.name}-{protocol}{'-kafka' if bench.log == 'kafka' else ''}.json"
        command = f"python -m bench.cell --scenario {scenario.name} --protocol {protocol} --seconds {short.seconds:g}"
        if short.events_per_second != SCENARIOS[scenario.name].events_per_second:
            command += f" --rate {short.events_per_second:g}"
        command += " --log kafka" if bench.log == "kafka" else ""
        changes = (f"rate {short.events_per_second:g}",) if " --rate " in command else ()
        how = How(protocol, warmup_seconds=_WARMUP_SECONDS)
        found.append(await play(bench, short, how, teller, command, short=True, altered=changes))
        picture.draw(path.with_suffix(".svg"), f"{scenario.name}, {protocol}, log in {bench.log}", found[-1].shown)
        report.write(path, report.document(found[-1:]))
    return found


@click.command()
@click.option("--log", type=click.Choice(LOGS), default="postgres", show_default=True, help="where the cell's event log is")
@click.option("--only", type=click.Choice(tuple(SCENARIOS)), multiple=True, help="these alone")
@click.option("--scale", default=1.0, show_default=True, help="the share of each rate that is offered: a look at whether it all works")
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True)
def main(log: Log, only: tuple[str, ...], scale: float, output: Path) -> None:
    """The figures of docs/validation.md."""
    console = Console(width=120)
    if scale != 1 and output == OUTPUT:
        raise click.UsageError(f"a look at another scale is no figure: give it an --output of its own, not {OUTPUT}")
    chosen = [SCENARIOS[name] for name in only] or list(SCENARIOS.values())
    scenarios = [replace(scenario, events_per_second=scenario.events_per_second * scale) for scenario in chosen]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        played = runner.run(_all(scenarios, log, Teller(console), output))
    report.show_rows(console, played)
    console.print(f"{output} holds the figures and the pictures")
    sys.exit(0 if all(one.holds for one in played) else 2)


if __name__ == "__main__":
    main()

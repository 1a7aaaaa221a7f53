"""One scenario on a cell of its own: open loop, through its edge, until every event is queryable.

    python -m bench.cell --scenario throughput --protocol http
    python -m bench.cell --rate 8000 --batch 100 --seconds 60

Exit code 2 when the run is void, since an acknowledged event is not stored or one is stored twice; 1 when a promise was missed. With
`--sabotage loss` or `double` it must be 2; with `--sabotage pause` the cell stands still for a second, which p99.9 must show.
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
from bench.fleet import Route, one_cell
from bench.measure import How, Sabotage
from bench.play import play
from bench.progress import Teller
from bench.report import Played
from bench.scenarios import SCENARIOS, Scenario
from bench.workload import Protocol
from cli.local.layout import LOGS, Log

OUTPUT: Final = Path("build/bench")
WARMUP_SECONDS: Final = 5.0


@click.command()
@click.option("--scenario", "name", type=click.Choice(tuple(SCENARIOS)), default="throughput", show_default=True)
@click.option("--protocol", type=click.Choice(("http", "grpc")), default="http", show_default=True)
@click.option("--log", type=click.Choice(LOGS), default="postgres", show_default=True, help="where the cell's event log is")
@click.option("--rate", type=float, help="new events per second instead of the scenario's")
@click.option("--batch", type=int, help="events per request instead of the scenario's")
@click.option("--seconds", type=float, help="length of a run instead of the scenario's")
@click.option("--times", type=click.IntRange(1, 20), default=1, show_default=True, help="play it so often: medians, with their spread")
@click.option("--route", type=click.Choice(("edge", "zone")), default="edge", show_default=True, help="the edge, or the zone's endpoint")
@click.option("--warmup", default=WARMUP_SECONDS, show_default=True, help="first seconds that no latency is taken of")
@click.option("--sabotage", type=click.Choice(("", "loss", "double", "pause")), default="", help="a negative control")
@click.option("--output", type=click.Path(path_type=Path), help=f"a JSON file; a picture comes beside it  [default: in {OUTPUT}/]")
def main(
    name: str,
    protocol: Protocol,
    log: Log,
    rate: float | None,
    batch: int | None,
    seconds: float | None,
    times: int,
    route: Route,
    warmup: float,
    sabotage: Sabotage,
    output: Path | None,
) -> None:
    """One scenario, its figures at the end."""
    console, whole = Console(width=120), SCENARIOS[name]
    scenario = altered(whole, rate, batch, seconds)
    given = {"rate": rate, "batch": batch, "route": route if route != "edge" else None, "sabotage": sabotage or None}
    given["warm-up"] = warmup if warmup > WARMUP_SECONDS else None
    changes = tuple(f"{name} {value}" for name, value in given.items() if value is not None)
    how = How(protocol, route, warmup, sabotage)

    async def played() -> Played:
        teller = Teller(console)
        async with one_cell(teller.say, log) as bench:
            command = " ".join(["python -m bench.cell", *sys.argv[1:]])
            short = scenario.seconds < whole.seconds
            return await play(bench, scenario, how, teller, command, short=short, times=times, altered=changes)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(played())
    path = output or OUTPUT / f"{name}-{protocol}-{log}.json"
    report.write(path, report.document([found]))
    picture.draw(path.with_suffix(".svg"), f"{name}, {protocol}, log in {log}", found.shown)
    report.show_rows(console, [found])
    console.print(f"{path} and {path.with_suffix('.svg')} hold the figures and the picture")
    sys.exit(2 if not found.holds else 0 if found.reached else 1)


def altered(scenario: Scenario, rate: float | None, batch: int | None, seconds: float | None) -> Scenario:
    """The scenario with what is given instead of its own."""
    return replace(
        scenario,
        events_per_second=scenario.events_per_second if rate is None else rate,
        batch=scenario.batch if batch is None else batch,
        seconds=scenario.seconds if seconds is None else seconds,
    )


if __name__ == "__main__":
    main()

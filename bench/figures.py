"""The figures that the first step is held to, taken in one go and written where docs/validation.md is made from.

    python -m bench.figures [--repeats 3] [--add earlier.json]

Every repeat measures every row once, on one fleet; a row's figure is the median of its repeats, and all of them are kept. `--add`
puts runs that were taken before beside the new ones, disturbed ones too; `--repeats 0` only does that. Exit code 1 when an oracle
failed or a target was missed.
"""

from __future__ import annotations

import asyncio
import datetime
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from bench import report, resources
from bench.cell import Bench, measure, one_cell
from bench.report import Figures
from bench.workload import Load, Protocol

OUTPUT: Final = Path("docs/figures/first-step.json")
_WARMUP_SECONDS: Final = 5.0
_DISTURBED: Final = 0.10


@dataclass(frozen=True)
class Row:
    """One load and the promise it is measured for. `figure` reads it from a run; `reached` compares it with `target`."""

    id: str
    promise: str
    unit: str
    protocol: Protocol
    load: Load
    target: float
    figure: Callable[[Figures], float]
    at_least: bool = True

    def reached(self, value: float) -> bool:
        """Rows offer a little more than their target, since arrivals are random."""
        return value >= self.target if self.at_least else value < self.target

    @property
    def command(self) -> str:
        """What measures this row alone."""
        rate, batch, seconds = self.load.events_per_second, self.load.batch, self.load.seconds
        return f"python -m bench.cell --protocol {self.protocol} --rate {rate:g} --batch {batch} --seconds {seconds:g}"


def _queryable(figures: Figures) -> float:
    return figures.queryable_events_per_second


def _rows(seconds: float) -> tuple[Row, ...]:
    full, half, single = Load(8_500, 100, seconds), Load(4_000, 100, seconds / 2), Load(1_100, 1, seconds / 2)
    sustained = "events sustained from client to queryable, batches of 100, through the edge"
    quick = "p99 from scheduled arrival to queryable at half of the sustained rate, batches of 100"
    return (
        Row("throughput-http", sustained, "events/s", "http", full, 8_000, _queryable),
        Row("throughput-grpc", sustained, "events/s", "grpc", full, 8_000, _queryable),
        Row("latency-http", quick, "ms", "http", half, 500, lambda figures: figures.queryable_ms["p99"], at_least=False),
        Row("latency-grpc", quick, "ms", "grpc", half, 500, lambda figures: figures.queryable_ms["p99"], at_least=False),
        Row(
            "single-http",
            "single-event requests acknowledged durably",
            "requests/s",
            "http",
            single,
            1_000,
            lambda figures: figures.acknowledged_events_per_second,
        ),
    )


async def _run(rows: tuple[Row, ...], repeats: int, console: Console) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {row.id: [] for row in rows}
    if repeats == 0:
        return found
    async with one_cell(console.print) as bench:
        for repeat in range(repeats):
            for row in rows:
                console.print(f"[bold]{row.id}[/bold], {repeat + 1} of {repeats}")
                found[row.id].append(await _once(bench, row, repeat, console))
    return found


async def _once(bench: Bench, row: Row, repeat: int, console: Console) -> Figures:
    load = Load(row.load.events_per_second, row.load.batch, row.load.seconds, seed=repeat + 1)
    figures = await measure(bench, row.protocol, load, "edge", _WARMUP_SECONDS, row.command, console.print)
    report.show(console, figures)
    return figures


def _earlier(path: Path) -> dict[str, list[Figures]]:
    """The runs in a file of this command's. Raises SystemExit when they were taken on other hardware."""
    document = msgspec.json.decode(path.read_bytes())
    if document["hardware"] != resources.hardware():
        sys.exit(f"{path} is of other hardware: its figures do not compare with those of this machine")
    return {row["id"]: msgspec.convert(row["runs"], list[Figures]) for row in document["rows"]}


def _document(rows: tuple[Row, ...], found: Mapping[str, list[Figures]], command: str) -> dict[str, object]:
    return {
        "set": "first step",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip(),
        "command": command,
        "hardware": resources.hardware(),
        "rows": [_entry(row, found[row.id]) for row in rows],
    }


def _entry(row: Row, runs: list[Figures]) -> dict[str, object]:
    values = [row.figure(figures) for figures in runs]
    return {
        "id": row.id,
        "promise": row.promise,
        "protocol": row.protocol,
        "unit": row.unit,
        "target": f"{'>=' if row.at_least else '<'} {row.target:g}",
        "figure": statistics.median(values),
        "spread": [min(values), max(values)],
        "reached": row.reached(statistics.median(values)),
        "holds": all(figures.holds for figures in runs),
        "disturbed": any(figures.others_cpu_share > _DISTURBED for figures in runs),
        "command": row.command,
        "runs": [figures.json() for figures in runs],
    }


def _show(console: Console, document: dict[str, object]) -> bool:
    """Prints the table; whether all is well."""
    table = Table(title="Figures of the first step")
    for column in ("row", "target", "median", "lowest", "highest", "unit", ""):
        table.add_column(column)
    entries = document["rows"]
    assert isinstance(entries, list)
    for entry in entries:
        word = "reached" if entry["reached"] and entry["holds"] else "[red]missed[/red]" if entry["holds"] else "[red]events differ[/red]"
        low, high = entry["spread"]
        note = f"{word}{', disturbed' if entry['disturbed'] else ''}"
        table.add_row(entry["id"], entry["target"], f"{entry['figure']:,g}", f"{low:,g}", f"{high:,g}", entry["unit"], note)
    console.print(table)
    return all(entry["reached"] and entry["holds"] for entry in entries)


@click.command()
@click.option("--repeats", default=1, show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="length of a throughput run; the others take half of it")
@click.option("--add", type=click.Path(path_type=Path, exists=True), multiple=True, help="a file of earlier runs to put beside these")
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True)
def main(repeats: int, seconds: float, add: tuple[Path, ...], output: Path) -> None:
    """The figures of the first step."""
    console = Console(width=120)
    rows = _rows(seconds)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(_run(rows, repeats, console))
    for path in add:
        for name, runs in _earlier(path).items():
            found[name] = runs + found[name]
    document = _document(rows, found, " ".join(["python -m bench.figures", *sys.argv[1:]]))
    report.write(output, document)
    sys.exit(0 if _show(console, document) else 1)


if __name__ == "__main__":
    main()

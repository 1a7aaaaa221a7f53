"""A region is killed under load (P6): who fails, who waits, what is missing meanwhile, and what is there in the end.

    python -m bench.failover
    python -m bench.failover --scenario edge-lost --times 3

The zone eu with its two cells, which stand by for each other; clients insist until they are acknowledged. All processes of a region are
killed at once and stay away; a while later the directory fails its cell over to the peer; later still the region comes back with its
disks. `edge-alive` leaves the region its edge, `edge-lost` takes that too, and the directory that leads the zone. Exit code 2 when
anything was lost, stored twice or missing outside the gap that was told; 1 when a promise was missed.
"""

from __future__ import annotations

import asyncio
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
import matplotlib as mpl
import uvloop
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from bench import report, resources
from bench.latency import Samples
from bench.loss import OF_LOST, OF_PEER, SCENARIOS, Loss, Scenario, percentile, rows_of
from bench.region import BATCH, How, lose
from bench.rows import Row
from bench.run import DISTURBED_SHARE

OUTPUT: Final = Path("build/bench/failover.json")
_BIN_SECONDS: Final = 0.25
_MARKS: Final = {"killed": "-", "commanded": "--", "returned": ":"}


async def _all(scenarios: Sequence[Scenario], times: int, how: How, console: Console) -> list[Loss]:
    losses = []
    for _ in range(times):
        for scenario in scenarios:
            losses.append(await lose(scenario, how, lambda text: console.print(text, highlight=False)))
            show(console, losses[-1])
    return losses


def show(console: Console, loss: Loss) -> None:
    """Everything that is known of one."""
    table = Table(title=loss.scenario)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in loss.json().items():
        if not name.endswith("histogram_us"):
            table.add_row(name.replace("_", " "), str(dict(value) if isinstance(value, dict) else value))
    console.print(table)
    if not loss.holds:
        console.print(
            f"[bold red]VOID: {loss.lost} events lost, {loss.doubled} doubled, {loss.unexplained_events} missing outside the gap[/bold red]"
        )


def document(losses: Sequence[Loss], rows: Sequence[Row], command: str, altered: Sequence[str], commit: str) -> dict[str, object]:
    """What docs/figures/README.md describes. A scenario's own figures are void when one of its losses is."""
    entries = []
    for row in rows:
        mine = [loss for loss in losses if row.label.startswith(loss.scenario.replace("-", " "))]
        entry: dict[str, object] = {
            "id": row.id,
            "label": row.label,
            "figure": round(row.figure, 3),
            "unit": row.unit,
            "target": row.target,
        }
        entry |= {} if row.spread is None else {"spread": [round(value, 3) for value in row.spread]}
        entry |= {"holds": all(loss.holds for loss in mine), "disturbed": any(loss.others_share > DISTURBED_SHARE for loss in mine)}
        entry |= {"short": False, "altered": list(altered), "command": command}
        entry |= {} if altered or row.reached is None else {"reached": row.reached}
        entries.append(entry)
    return {
        "scenario": "failover",
        "about": "a region is killed under load, failed over to its peer, and comes back with its disks",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "hardware": resources.hardware(),
        "rows": entries,
        "runs": [loss.json() for loss in losses],
    }


def draw(path: Path, losses: Sequence[Loss]) -> None:
    """Latency over time, one picture for the first loss of each scenario; the same bytes for the same figures."""
    chosen = {loss.scenario: loss for loss in reversed(losses)}
    shown = [chosen[name] for name in SCENARIOS if name in chosen]
    with mpl.rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(6.5 * len(shown), 4), layout="constrained")
        for axes, loss in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            _over_time(axes, loss)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def _over_time(axes: Any, loss: Loss) -> None:
    samples = loss.samples
    lines = (
        ("tenants of the lost cell, acknowledged", samples.acknowledged, OF_LOST),
        ("the same, in the peer's store", samples.queryable, OF_LOST),
        ("tenants of its peer, acknowledged", samples.acknowledged, OF_PEER),
    )
    for number, (name, moments, stream) in enumerate(lines):
        seconds, middles, mosts = zip(*_binned(samples, moments, stream), strict=True)
        axes.plot(seconds, middles, color=f"C{number}", lw=1.0, label=f"{name}, median")
        axes.plot(seconds, mosts, color=f"C{number}", lw=0.4, label=f"{name}, longest")
    failed = [failure.begun for failure in loss.failures]
    axes.plot(failed, [1.0] * len(failed), "rx", ms=4, label=f"attempts that failed ({len(failed)} of {loss.attempts:,})")
    for mark, dashes in _MARKS.items():
        axes.axvline(getattr(loss.marks, mark), color="black", ls=dashes, lw=0.8, label=mark)
    axes.set(title=loss.scenario, xlabel="seconds after the start", ylabel="ms from due", yscale="log")
    axes.grid(visible=True, lw=0.3)
    axes.legend(fontsize=6, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))


def _binned(samples: Samples, moments: Sequence[float], stream: int) -> list[tuple[float, float, float]]:
    """(second, median, most) in milliseconds of what was due in each quarter of a second."""
    bins: dict[int, list[float]] = {}
    for due, moment, of in zip(samples.due, moments, samples.stream, strict=True):
        if of == stream and moment >= due:
            bins.setdefault(int(due / _BIN_SECONDS), []).append(1e3 * (moment - due))
    return [(at * _BIN_SECONDS, percentile(values, 0.5), max(values)) for at, values in sorted(bins.items())]


@click.command()
@click.option("--scenario", type=click.Choice([*SCENARIOS, "both"]), default="both", show_default=True)
@click.option("--times", default=1, show_default=True, help="how often each; figures are medians")
@click.option("--rate", default=How().rate, show_default=True, help="events per second of all tenants")
@click.option("--delay", default=How().delay_seconds, show_default=True, help="seconds from the kill to the failover's command")
@click.option(
    "--stall", default=How().stall_seconds, help="a control: seconds in which the peer stands still before the kill, so that there is a gap"
)
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True, help="a JSON file; a picture is put beside")
def main(scenario: str, times: int, rate: float, delay: float, stall: float, output: Path) -> None:
    """The figures of P6."""
    console, commit, how, promised = Console(width=140), report.commit(), How(rate=rate, delay_seconds=delay, stall_seconds=stall), How()
    chosen = [name for name in SCENARIOS if scenario in (name, "both")]
    asked = (("rate", rate, promised.rate), ("delay", delay, promised.delay_seconds), ("stall", stall, promised.stall_seconds))
    altered = [f"{name} {value:g}" for name, value, usual in asked if value != usual]
    command = " ".join(
        (
            "python -m bench.failover",
            *(f"--{change}" for change in altered),
            *([f"--scenario {scenario}"] if scenario != "both" else []),
            *([f"--times {times}"] if times > 1 else []),
        )
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        losses = runner.run(_all(chosen, times, how, console))
    rows = rows_of(losses)
    report.write(output, document(losses, rows, command, altered, commit))
    draw(output.with_suffix(".svg"), losses)
    _show_rows(console, rows, f"{rate:,.0f} events/s in batches of {BATCH}, {delay:g} s from the kill to the failover; {times} of each")
    console.print(f"{command}\n{resources.hardware()}\n{output} holds the figures, with a picture", highlight=False)
    holds = all(loss.holds for loss in losses)
    sys.exit(2 if not holds else 0 if altered or all(row.reached is not False for row in rows) else 1)


def _show_rows(console: Console, rows: Sequence[Row], title: str) -> None:
    table = Table(title=title)
    for column in ("promise", "target", "figure", ""):
        table.add_column(column)
    for row in rows:
        between = "" if row.spread is None else f" ({row.spread[0]:,.4g} to {row.spread[1]:,.4g})"
        said = "" if row.reached is None else "reached" if row.reached else "[red]missed[/red]"
        table.add_row(f"{row.id} {row.label}", row.target, f"{row.figure:,.4g} {row.unit}{between}", said)
    console.print(table)


if __name__ == "__main__":
    main()

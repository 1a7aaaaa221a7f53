"""Runs as a table on a terminal, and as the document that docs/validation.md is made of."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench import resources
from bench.rows import Row
from bench.run import Run
from bench.scenarios import Scenario


@dataclass(frozen=True)
class Played:
    """A scenario's runs over one protocol, what they show, and the command that does the same. `short`: shorter than was promised;
    `altered` names what else differs from the scenario."""

    scenario: Scenario
    runs: Sequence[Run]
    rows: Sequence[Row]
    command: str
    short: bool
    altered: tuple[str, ...] = ()
    commit: str = ""

    @property
    def holds(self) -> bool:
        """Every run counts."""
        return all(run.holds for run in self.runs)

    @property
    def shown(self) -> Sequence[Run]:
        """The runs that a picture has room for: the rates of a scenario, or the last pair."""
        return self.runs[-2:] if self.scenario.pairs else self.runs

    @property
    def reached(self) -> bool:
        """Every target. What is not the scenario as it was promised has none."""
        return bool(self.altered) or all(row.reached is not False for row in self.rows)


def document(played: Sequence[Played]) -> dict[str, object]:
    """What docs/figures/README.md describes: rows, and the runs that they come from."""
    return {
        "scenario": played[0].scenario.name,
        "about": played[0].scenario.about,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": played[0].commit,
        "hardware": resources.hardware(),
        "rows": [_entry(one, row) for one in played for row in one.rows],
        "runs": [run.json() for one in played for run in one.runs],
    }


def commit() -> str:
    """The code that is about to be measured; with `+changed` when it is not what was committed. Figures and their page are no code."""
    changed = _git("status", "--porcelain", "--", ".", ":!docs")
    return _git("rev-parse", "HEAD") + ("+changed" if changed else "")


def _git(*command: str) -> str:
    return subprocess.run(["git", *command], capture_output=True, text=True, check=False).stdout.strip()


def _entry(played: Played, row: Row) -> dict[str, object]:
    first = played.runs[0]
    where = f"{first.protocol}{', log in Kafka' if first.log == 'kafka' else ''}"
    entry: dict[str, object] = {
        "id": row.id,
        "label": f"{where}{', ' if row.label else ''}{row.label}",
        "figure": round(row.figure, 3),
        "unit": row.unit,
        "target": row.target,
        "holds": played.holds,
        "disturbed": any(run.disturbed for run in played.runs),
        "short": played.short,
        "altered": list(played.altered),
        "command": played.command,
    }
    reached = {} if row.reached is None or played.altered else {"reached": row.reached}
    return entry | reached | ({} if row.spread is None else {"spread": [round(value, 3) for value in row.spread]})


def write(path: Path, value: object) -> None:
    """JSON, indented, keys as given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def show_run(console: Console, run: Run) -> None:
    """Everything that is known of a run, in a small table."""
    told = run.json()
    table = Table(
        title=f"{run.take.label}: {run.protocol}, batches of {told['batch']}, {told['offered_events_per_second']:,} events/s offered"
    )
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name in ("sent", "repeats", "acknowledged", "rejected", "failed", "stored", "missing", "doubled", "strange"):
        table.add_row(name, _text(told[name]))
    table.add_row("acknowledged, queryable events/s", f"{run.acknowledged_per_second:,.0f}, {run.queryable_per_second:,.0f}")
    table.add_row("last queryable after last acknowledged, s", f"{told['drain_seconds']:.2f}")
    table.add_row("due to acknowledged, ms", _text(told["acknowledged_ms"]))
    table.add_row("due to queryable, ms", _text(told["queryable_ms"]))
    table.add_row("CPU s per million events", _text(told["cpu_seconds_per_million"]))
    table.add_row("CPU of the machine", f"{run.spent.machine_share:.0%}, not ours {run.spent.others_share:.0%}")
    table.add_row("peak memory, MiB", _text(told["peak_mib"]))
    sizes = (told["log_bytes_per_event"], told["store_bytes_per_event"], told["wal_bytes_per_event"])
    table.add_row("bytes per event", "log {:,.0f}  store {:,.0f}  WAL {:,.0f}".format(*sizes))
    console.print(table)
    if not run.holds:
        console.print("[bold red]VOID: what was acknowledged and what is stored differ[/bold red]")


def show_rows(console: Console, played: Sequence[Played]) -> None:
    """What was promised, and what was reached."""
    table = Table(title="Figures")
    for column in ("scenario", "promise", "target", "figure", ""):
        table.add_column(column)
    for one in played:
        for row in one.rows:
            label = f"{one.runs[0].protocol}{', ' if row.label else ''}{row.label}"
            reached = None if one.altered else row.reached
            word = "[red]VOID[/red]" if not one.holds else {True: "reached", False: "[red]missed[/red]", None: ""}[reached]
            notes = (word, "disturbed" if any(run.disturbed for run in one.runs) else "", "short" if one.short else "", *one.altered)
            spread = "" if row.spread is None else f" ({row.spread[0]:,.3g} to {row.spread[1]:,.3g})"
            table.add_row(
                one.scenario.name, f"{row.id} {label}", row.target, f"{row.figure:,.4g} {row.unit}{spread}", ", ".join(filter(None, notes))
            )
    console.print(table)


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return "  ".join(f"{name} {_text(part)}" for name, part in value.items()) or "-"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"

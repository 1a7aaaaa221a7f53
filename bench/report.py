"""A run's figures, their table and their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

_RANKS = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True)
class Figures:
    """Of one run. Counts are events, each counted once; `retried` says how many were sent again. Latencies are milliseconds from an
    event's scheduled arrival, the warm-up left out.

    `cpu_seconds_per_million` is per million acknowledged events and process; `others_cpu_share` is what processes that are not
    ours took of the machine meanwhile: above 0.05 the run was disturbed.
    """

    command: str
    protocol: str
    batch: int
    offered_events_per_second: float
    seconds: float
    sent: int
    acknowledged: int
    retried: int
    rejected: int
    unanswered: int
    stored: int
    missing: int
    unexpected: int
    acknowledged_events_per_second: float
    queryable_events_per_second: float
    drain_seconds: float
    acknowledged_ms: Mapping[str, float]
    queryable_ms: Mapping[str, float]
    cpu_seconds_per_million: Mapping[str, float]
    machine_cpu_share: float
    others_cpu_share: float
    memory_mib: Mapping[str, float]
    log_bytes_per_event: float
    store_bytes_per_event: float
    wal_bytes_per_event: float

    @property
    def holds(self) -> bool:
        """The oracle: everything acknowledged is stored once, and nothing else is, but what was never answered."""
        return self.missing == 0 and self.unexpected == 0 and self.acknowledged > 0

    def json(self) -> dict[str, object]:
        """Plain values, `holds` included."""
        return {**asdict(self), "holds": self.holds}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Exact ones, in milliseconds; empty when there are no samples."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    return {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * rank))] * 1_000, 1) for name, rank in _RANKS.items()} | {
        "max": round(ordered[-1] * 1_000, 1)
    }


def write(path: Path, value: object) -> None:
    """JSON, indented, keys as given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def show(console: Console, figures: Figures) -> None:
    """A small table."""
    table = Table(title=f"{figures.protocol}, batches of {figures.batch}, {figures.offered_events_per_second:,.0f} events/s offered")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name in ("sent", "retried", "acknowledged", "rejected", "unanswered", "stored", "missing", "unexpected"):
        table.add_row(name, f"{getattr(figures, name):,}")
    table.add_row("acknowledged events/s", f"{figures.acknowledged_events_per_second:,.0f}")
    table.add_row("queryable events/s", f"{figures.queryable_events_per_second:,.0f}")
    table.add_row("last queryable after last acknowledged, s", f"{figures.drain_seconds:.2f}")
    for title, values in (("acknowledged ms", figures.acknowledged_ms), ("queryable ms", figures.queryable_ms)):
        table.add_row(title, "  ".join(f"{name} {value:,.0f}" for name, value in values.items()))
    table.add_row("CPU s per million", "  ".join(f"{name} {value:.1f}" for name, value in figures.cpu_seconds_per_million.items()))
    table.add_row("CPU of the machine", f"{figures.machine_cpu_share:.0%}, not ours {figures.others_cpu_share:.0%}")
    table.add_row("memory MiB", "  ".join(f"{name} {value:.0f}" for name, value in figures.memory_mib.items()))
    sizes = (figures.log_bytes_per_event, figures.store_bytes_per_event, figures.wal_bytes_per_event)
    table.add_row("bytes per event", "log {:.0f}  store {:.0f}  WAL {:.0f}".format(*sizes))
    console.print(table)
    if not figures.holds:
        console.print("[bold red]stored and acknowledged events differ[/bold red]")

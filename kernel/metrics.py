"""Metrics as a closed vocabulary: a metric is declared once, with its unit, its meaning and what to do when it looks wrong.

`docs/metrics.md` is generated from the declarations. Shells record through a `Meter`; the real one is in
`kernel.process.telemetry`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

MetricKind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """`name` ends in its unit as Prometheus wants it (`_total`, `_seconds`, `_bytes`, `_events`)."""

    name: str
    kind: MetricKind
    meaning: str
    remedy: str
    labels: tuple[str, ...] = ()


LOOP_DELAY_SECONDS: Final = Metric(
    "dataflow_process_loop_delay_seconds",
    "gauge",
    "the longest time that the event loop kept a ready task waiting, in the last 5 s",
    "above 0.05 s: some slice of Python is too long, or the machine has too few cores",
)

TURNS_FAILED: Final = Metric(
    "dataflow_process_failed_turns_total",
    "counter",
    "turns of a periodic task that failed and come again: measuring lag, housekeeping, retention",
    "rising: the reason names what cannot be reached",
    ("task", "reason"),
)
PROCESS: Final = (LOOP_DELAY_SECONDS, TURNS_FAILED)


class Meter(Protocol):
    """Where a shell records. Labels must be those that the metric declares; a tenant's name may be one, a user's never."""

    def add(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Raises a counter."""
        ...

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Sets a gauge."""
        ...

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Adds a sample to a histogram."""
        ...


@dataclass
class MemoryMeter:
    """Keeps sums, last values and samples by (name, sorted labels): for tests and the simulation."""

    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = field(default_factory=dict)

    def add(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Sums."""
        key = (metric.name, tuple(sorted(labels.items())))
        self.values[key] = self.values.get(key, 0.0) + value

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Keeps the last value."""
        self.values[(metric.name, tuple(sorted(labels.items())))] = value

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Sums the samples."""
        self.add(metric, value, **labels)

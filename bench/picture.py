"""A picture of runs: latency over time, latency by percentile, CPU by kind of process. SVG, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.latency import KINDS, Kind
from bench.run import PATH, Run

_NINES: Final = (0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999)
_KINDS: Final = (*PATH, "control", "generator")
# A run is a colour, what is measured a stroke.
_STROKES: Final[dict[Kind, str]] = {"acknowledged": ":", "queryable": "-"}
_WIDTHS: Final = {"p50": 0.6, "p99": 1.2}


def draw(path: Path, title: str, runs: Sequence[Run]) -> None:
    """The runs over one another, each in a colour of its own."""
    with mpl.rc_context({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(13, 5), layout="constrained")
        figure.suptitle(title)
        over_time, by_percentile, cpu = figure.subplots(1, 3)
        for number, run in enumerate(runs):
            for kind in KINDS:
                _over_time(over_time, run, kind, f"C{number}")
                _by_percentile(by_percentile, run, kind, f"C{number}")
        _cpu(cpu, runs)
        _label(over_time, "latency over time", "seconds after the start", "ms from due")
        _label(by_percentile, "latency by percentile", "percentile", "ms from due")
        _label(cpu, "CPU", "", "seconds per million events")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def _over_time(axes: Any, run: Run, kind: Kind, colour: str) -> None:
    told = [(second, found) for second, found in run.samples.by_second(kind) if found]
    for rank, width in _WIDTHS.items():
        values = [found[rank] for _, found in told]
        label = f"{run.take.label}, {kind} {rank}"
        axes.plot([second for second, _ in told], values, color=colour, ls=_STROKES[kind], lw=width, label=label)
    axes.set_yscale("log")


def _by_percentile(axes: Any, run: Run, kind: Kind, colour: str) -> None:
    """The axis is that of one in so many events, so that nines are evenly spaced."""
    histogram = run.samples.histogram(kind, run.warmup_seconds)
    if histogram.get_total_count():
        found = histogram.get_percentile_to_value_dict(list(_NINES))
        values = [found[rank] / 1_000 for rank in _NINES]
        axes.plot([100 / (100 - rank) for rank in _NINES], values, color=colour, ls=_STROKES[kind], label=f"{run.take.label}, {kind}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([100 / (100 - rank) for rank in (0.0, 90.0, 99.0, 99.9, 99.99)], ["0", "90", "99", "99.9", "99.99"])


def _cpu(axes: Any, runs: Sequence[Run]) -> None:
    labels = [f"{number + 1}. {run.take.label}" for number, run in enumerate(runs)]
    base = [0.0] * len(runs)
    for kind in _KINDS:
        taken = [run.cpu_per_million.get(kind, 0.0) for run in runs]
        if any(taken):
            axes.bar(labels, taken, bottom=base, label=kind)
        base = [below + more for below, more in zip(base, taken, strict=True)]


def _label(axes: Any, title: str, across: str, up: str) -> None:
    axes.set(title=title, xlabel=across, ylabel=up)
    axes.grid(visible=True, lw=0.3)
    axes.legend(fontsize=6, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))

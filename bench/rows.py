"""What the runs of a scenario show, held against what was promised (docs/promises.py). Pure."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.latency import KINDS
from bench.run import Run
from bench.scenarios import Scenario
from kernel.errors import Reason

THROUGHPUT: Final = 25_000.0
SINGLE: Final = 2_500.0
SINGLE_P99_MS: Final = 100.0
P50_MS: Final = 100.0
P99_MS: Final = 500.0
OVERLOAD_P99_MS: Final = 1_000.0
CELL_MIB: Final = 512.0
UNSERVED_PERCENT: Final = 0.1
RECOVERY_SECONDS: Final = 5.0
NEIGHBOUR_PERCENT: Final = 20.0
GROWTH_PERCENT: Final = 10.0
CATCH_UP_TIMES: Final = 2.0
# What says that there is too much, and when to come again.
SHED: Final = frozenset({reason.name for reason in Reason if reason.spec.http == 429} | {"RESOURCE_EXHAUSTED"})
_REFUSED_SHARE: Final = 0.01  # of a second's events, from which on it is no normal second


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `id` is the promise's; `label` tells rows of one promise apart; `reached` is None where nothing was promised.

    `spread` holds the lowest and the highest when the figure is a median.
    """

    id: str
    label: str
    figure: float
    unit: str
    target: str = ""
    reached: bool | None = None
    spread: tuple[float, float] | None = None


def rows_of(scenario: Scenario, runs: Sequence[Run]) -> list[Row]:
    """The scenario's rows, given the runs of its takes in their order."""
    return _ROWS[scenario.name](scenario, runs)


def at_least(id_: str, label: str, figure: float, unit: str, bound: float) -> Row:
    """A figure that must be so large."""
    return Row(id_, label, figure, unit, f">= {bound:,g} {unit}", figure >= bound)


def below(id_: str, label: str, figure: float, unit: str, bound: float, spread: tuple[float, float] | None = None) -> Row:
    """A figure that must be smaller. One that could not be measured, NaN, is not."""
    return Row(id_, label, figure, unit, f"< {bound:,g} {unit}", figure < bound, spread)


def lost_patience(id_: str, label: str, runs: Sequence[Run], bound: float | None = UNSERVED_PERCENT) -> Row:
    """What was sent and not acknowledged, refused or unanswered, of the first stream: no latency tells of it."""
    worst = max(run.unserved_percent for run in runs)
    name = f"{label}{', ' if label else ''}not acknowledged"
    return Row(id_, name, worst, "% of events") if bound is None else below(id_, name, worst, "% of events", bound)


def _throughput(scenario: Scenario, runs: Sequence[Run]) -> list[Row]:
    return [at_least("P1", "", runs[0].queryable_per_second, "events/s", THROUGHPUT), lost_patience("P1", "", runs, None)]


def _latency(label: str) -> Callable[[Scenario, Sequence[Run]], list[Row]]:
    def rows(scenario: Scenario, runs: Sequence[Run]) -> list[Row]:
        found = runs[0].latency("queryable")
        return [
            below("P2", f"{label}p50", found.get("p50", math.nan), "ms", P50_MS),
            below("P2", f"{label}p99", found.get("p99", math.nan), "ms", P99_MS),
            lost_patience("P2", label.rstrip(", "), runs),
        ]

    return rows


def _single(scenario: Scenario, runs: Sequence[Run]) -> list[Row]:
    p99 = runs[0].latency("acknowledged").get("p99", math.nan)
    return [
        at_least("P3", "", runs[0].acknowledged_per_second, "requests/s", SINGLE),
        below("P3", "p99", p99, "ms", SINGLE_P99_MS),
        lost_patience("P3", "", runs, None),
    ]


def _growth(scenario: Scenario, runs: Sequence[Run]) -> list[Row]:
    """CPU of what an event passes through, at each higher rate against the lowest."""
    low = runs[0]
    rises = [(run, (run.path_cpu_per_million / max(low.path_cpu_per_million, 1e-9) - 1) * 100) for run in runs[1:]]
    return [
        *(
            Row(
                "P9",
                f"CPU per event, from {low.take.label} to {run.take.label}",
                rise,
                "%",
                f"<= {GROWTH_PERCENT:g} %",
                rise <= GROWTH_PERCENT,
            )
            for run, rise in rises
        ),
        *(below("P9", f"{run.take.label}, memory of the cell's process", run.peak_mib["cell"], "MiB", CELL_MIB) for run in runs),
        lost_patience("P9", "", runs),
    ]


def _noisy(scenario: Scenario, runs: Sequence[Run]) -> list[Row]:
    """How much later the others' events are queryable, in each pair of runs."""
    p99 = [(run.take.label, run.latency("queryable").get("p99", math.nan)) for run in runs]
    pairs = [dict(p99[at : at + 2]) for at in range(0, len(p99), 2)]
    rises = [(pair["beside"] / pair["alone"] - 1) * 100 for pair in pairs]
    spread = min(rises), max(rises)
    return [
        below("P8", "p99 to queryable, with against without", statistics.median(rises), "%", NEIGHBOUR_PERCENT, spread),
        lost_patience("P8", "victims", runs),
    ]


def _overload(scenario: Scenario, runs: Sequence[Run]) -> list[Row]:
    run = runs[0]
    before, during, _ = (leg.seconds for leg in scenario.legs())
    since, until = before, before + during
    refused, sent = run.outcomes.refused(), max(1, run.sent)
    otherwise = 100 * sum(requests for code, requests in refused.items() if code not in SHED) / sent
    return [
        *(below("R1", f"p99 to {kind}", run.latency(kind, since, until).get("p99", math.nan), "ms", OVERLOAD_P99_MS) for kind in KINDS),
        below("R1", "back to normal after", recovery_seconds(run, until), "s", RECOVERY_SECONDS),
        below("R1", "memory of the cell's process", run.peak_mib["cell"], "MiB", CELL_MIB),
        Row("R1", "refused", 100 * refused.total() / sent, "% of requests"),
        Row("R1", "refused, but not with 429 or RESOURCE_EXHAUSTED", otherwise, "% of requests", "0 %", otherwise == 0),
    ]


def recovery_seconds(run: Run, since: float) -> float:
    """From second `since` until the last one in which events were refused, or queryable no sooner than promised."""
    samples, last = run.samples, 0.0
    edges = bisect_left(samples.due, since)
    refused: dict[int, int] = {}
    offered: dict[int, int] = {}
    for due, moment in zip(samples.due[edges:], samples.acknowledged[edges:], strict=True):
        second = int(due - since)
        offered[second] = offered.get(second, 0) + 1
        refused[second] = refused.get(second, 0) + math.isnan(moment)
    for second, count in offered.items():
        late = run.latency("queryable", since + second, since + second + 1).get("p99", 0.0) >= P99_MS
        if late or refused[second] > _REFUSED_SHARE * count:
            last = max(last, second + 1.0)
    return last


def _catchup(scenario: Scenario, runs: Sequence[Run]) -> list[Row]:
    """How fast a backlog goes while events arrive at the live rate, and whether whoever sends them feels it."""
    run = runs[0]
    assert run.take.held is not None
    live, since = scenario.events_per_second, run.take.held[1]
    until = caught_up_at(run, since)
    backlog = run.samples.batch * sum(not math.isnan(moment) for moment in run.samples.acknowledged[: bisect_left(run.samples.due, since)])
    applied = run.samples.batch * sum(since < moment <= until for moment in run.samples.queryable)
    times = applied / max(until - since, 1e-9) / live
    reached = times >= CATCH_UP_TIMES and until < run.take.load.seconds
    meanwhile = run.latency("acknowledged", since, max(until, since + 1.0)).get("p99", math.nan)
    return [
        Row("R2", "behind", backlog / live, "s of the live rate"),
        Row("R2", "processed meanwhile", times, "times the live rate", f">= {CATCH_UP_TIMES:g} times", reached),
        below("R2", "p99 to acknowledged meanwhile", meanwhile, "ms", P99_MS),
        Row("R2", "p99 to acknowledged afterwards", run.latency("acknowledged", until).get("p99", math.nan), "ms"),
        Row("R2", "caught up after", until - since, "s"),
        lost_patience("R2", "", runs),
    ]


def caught_up_at(run: Run, since: float) -> float:
    """The moment at which all that was due before second `since` is queryable, and what is due then as soon as promised again; the
    run's end when that never came."""
    samples, end = run.samples, run.take.load.seconds
    backlog = samples.queryable[: bisect_left(samples.due, since)]
    seconds = (since + second for second in range(math.floor(end - since)))
    calm = next((at for at in seconds if run.latency("queryable", at, at + 1).get("p99", math.inf) < P99_MS), end)
    return max(calm, since, *backlog)


def merged(times: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of a scenario that was played several times: each the median, with the lowest and the highest; reached when all were."""
    if len(times) == 1:
        return list(times[0])
    found = []
    for rows in zip(*times, strict=True):
        figures = [row.figure for row in rows]
        reached = None if rows[0].reached is None else all(row.reached for row in rows)
        found.append(replace(rows[0], figure=statistics.median(figures), reached=reached, spread=(min(figures), max(figures))))
    return found


_ROWS: Final[Mapping[str, Callable[[Scenario, Sequence[Run]], list[Row]]]] = {
    "throughput": _throughput,
    "half": _latency(""),
    "single": _single,
    "climb": _latency("climb to ten times, "),
    "growth": _growth,
    "overload": _overload,
    "noisy": _noisy,
    "catchup": _catchup,
}

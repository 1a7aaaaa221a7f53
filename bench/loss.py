"""What is known of a region's loss after it, and what follows from that. Pure.

All moments are seconds after the load's start. The first stream of the load is the lost cell's tenants, the second their peer's own.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Final, Literal

from bench.insist import Failed
from bench.latency import Samples, encoded, percentiles
from bench.rows import UNSERVED_PERCENT, Row, below
from bench.verdict import Verdict

Scenario = Literal["edge-alive", "edge-lost"]
SCENARIOS: Final[tuple[Scenario, ...]] = ("edge-alive", "edge-lost")
OF_LOST, OF_PEER = 0, 1
WARMUP_SECONDS: Final = 3.0
SILENCE_SECONDS: Final = 1.0
SERVED_SECONDS: Final = 10.0
BEHIND_MS: Final = 1_000.0
# What is acknowledged so shortly before the disks return may be under way in the peer still, and is nobody's gap.
UNDER_WAY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Marks:
    """`killed`: the region; `commanded`, `told`: the failover was asked for and answered; `answering`: the peer answers every tenant's
    queries; `returned`: the region is started again; `ready`: all of it is; `ended`: the load."""

    killed: float
    commanded: float
    told: float
    answering: float
    returned: float
    ready: float
    ended: float


@dataclass(frozen=True, slots=True)
class Gap:
    """`records` are known to be missing, the lost cell was heard of `heard_seconds` before the question (None: never); `requests` are
    those whose records lie behind it in the lost cell's log, which its disks show."""

    records: int
    heard_seconds: float | None
    requests: frozenset[int]


@dataclass(frozen=True)
class Loss:
    """One region's loss. `samples` tell by request when it was due, acknowledged and, as `queryable`, seen in the peer's store; `home` when
    it was seen in the lost cell's, from its return on, and `begun` when the attempt began that was acknowledged. `attempts` are
    counted; `verdicts` are of what each cell holds in the end; `others_share` is of the machine before the kill."""

    scenario: Scenario
    marks: Marks
    samples: Samples
    home: array[float]
    begun: array[float]
    sent: int
    attempts: int
    failures: Sequence[Failed]
    gap: Gap
    verdicts: Mapping[str, Verdict]
    others_share: float

    @property
    def failed_percent(self) -> float:
        """Of all attempts."""
        return 100 * len(self.failures) / max(1, self.attempts)

    @property
    def given_up_percent(self) -> float:
        """Of all requests those that were never acknowledged, however often they were sent."""
        return 100 * (self.sent - sum(not math.isnan(moment) for moment in self.samples.acknowledged)) / max(1, self.sent)

    @property
    def silence_seconds(self) -> float:
        """The longest time from the kill on in which no request of the lost cell's tenants was acknowledged."""
        return longest_gap(self._acknowledged(OF_LOST), self.marks.killed, self.marks.ended)

    @property
    def longest_wait_seconds(self) -> float:
        """The longest that a request took from when it was due, its repeats included."""
        waits = (moment - due for due, moment in zip(self.samples.due, self.samples.acknowledged, strict=True) if not math.isnan(moment))
        return max(waits, default=math.nan)

    @property
    def taken_seconds(self) -> float:
        """From the kill until the peer acknowledged the first request of the lost cell's tenants that was sent after it."""
        killed, samples = self.marks.killed, self.samples
        after = (
            moment
            for begun, moment, stream in zip(self.begun, samples.acknowledged, samples.stream, strict=True)
            if begun >= killed and stream == OF_LOST
        )
        return min(after, default=math.nan) - killed

    @property
    def answering_seconds(self) -> float:
        """From the command until queries were answered."""
        return self.marks.answering - self.marks.commanded

    @property
    def queryable_seconds(self) -> float:
        """From the command until queries were answered and the peer's store had everything that had been acknowledged until the command,
        but for what it lacks until the disks return."""
        marks = self.marks
        seen = (
            there
            for told, there in zip(self.samples.acknowledged, self.samples.queryable, strict=True)
            if told <= marks.commanded and there <= marks.returned
        )
        return max(max(seen, default=math.nan), marks.answering) - marks.commanded

    @property
    def missing(self) -> frozenset[int]:
        """Requests that were acknowledged and that the peer had not when the disks returned."""
        returned = self.marks.returned
        told = enumerate(zip(self.samples.acknowledged, self.samples.queryable, strict=True))
        return frozenset(request for request, (moment, there) in told if moment < returned - UNDER_WAY_SECONDS and not there <= returned)

    @property
    def missing_events(self) -> int:
        """The events of `missing`."""
        return self.samples.batch * len(self.missing)

    @property
    def unexplained_events(self) -> int:
        """Those of them that do not lie behind the gap that was told."""
        return self.samples.batch * len(self.missing - self.gap.requests)

    @property
    def merged_seconds(self) -> float:
        """From the return until both cells' stores had everything that had been acknowledged before it; NaN when one of them never had."""
        returned = self.marks.returned
        told = zip(self.samples.acknowledged, self.samples.queryable, self.home, strict=True)
        seen = [moment for acknowledged, *both in told if acknowledged < returned for moment in both]
        return math.nan if any(map(math.isnan, seen)) else max(0.0, max(seen, default=math.nan) - returned)

    @property
    def behind_ms(self) -> list[float]:
        """How much later than its acknowledgement each request of the lost cell's tenants was seen in the peer's store, before the kill."""
        samples, killed = self.samples, self.marks.killed
        found = zip(samples.acknowledged, samples.queryable, samples.stream, strict=True)
        return [
            1e3 * max(0.0, there - told)
            for told, there, of in found
            if of == OF_LOST and WARMUP_SECONDS <= told < killed and there < killed
        ]

    @property
    def lost(self) -> int:
        """Events that were acknowledged and are not in both cells in the end."""
        return sum(verdict.missing for verdict in self.verdicts.values())

    @property
    def doubled(self) -> int:
        """Events that a cell holds twice, or that nobody sent."""
        return sum(verdict.doubled + verdict.strange for verdict in self.verdicts.values())

    @property
    def holds(self) -> bool:
        """Whether everything that was acknowledged is in both cells, once, and whatever was missing meanwhile had been told."""
        return all(verdict.holds for verdict in self.verdicts.values()) and not self.unexplained_events

    def phases(self, stream: int = OF_LOST) -> dict[str, dict[str, float]]:
        """Percentiles in milliseconds, due to acknowledged: before the kill, from there to the return, and after it."""
        marks = self.marks
        bounds = {
            "before": (WARMUP_SECONDS, marks.killed),
            "during": (marks.killed, marks.returned),
            "after": (marks.returned, marks.ended),
        }
        return {name: percentiles(self.samples.histogram("acknowledged", *of, stream)) for name, of in bounds.items()}

    def json(self) -> dict[str, object]:
        """Plain values; counts are events where they are not said to be of something else."""
        figures = {name: _rounded(of(self)) for name, (of, *_) in FIGURES.items()}
        return {
            "scenario": self.scenario,
            "marks": {name: round(getattr(self.marks, name), 3) for name in Marks.__slots__},
            "requests": self.sent,
            "attempts": self.attempts,
            "failed_attempts": len(self.failures),
            "failed": Counter(failure.why for failure in self.failures),
            "failed_seconds_after_the_kill": [round(failure.begun - self.marks.killed, 3) for failure in self.failures[:100]],
            **figures,
            "longest_wait_seconds": _rounded(self.longest_wait_seconds),
            "failover_call_seconds": _rounded(self.marks.told - self.marks.commanded),
            "lost_events": self.lost,
            "doubled_events": self.doubled,
            "gap_records": self.gap.records,
            "heard_seconds_before": self.gap.heard_seconds,
            "requests_behind_the_gap": len(self.gap.requests),
            "acknowledged_ms": self.phases(),
            "acknowledged_ms_of_the_peers_own": self.phases(OF_PEER),
            "acknowledged_histogram_us": encoded(self.samples.histogram("acknowledged", WARMUP_SECONDS)),
            "others_cpu_share": round(self.others_share, 3),
            "holds": self.holds,
        }

    def _acknowledged(self, stream: int) -> Iterator[float]:
        both = zip(self.samples.acknowledged, self.samples.stream, strict=True)
        return (moment for moment, of in both if of == stream and not math.isnan(moment))


def longest_gap(moments: Iterable[float], since: float, until: float) -> float:
    """The longest stretch between two moments, of which the first may lie before `since` and the last is `until` at the latest."""
    ordered = sorted(moment for moment in moments if moment <= until)
    before = [moment for moment in ordered if moment < since]
    inside = [moment for moment in ordered if moment >= since]
    return max(later - earlier for earlier, later in pairwise([before[-1] if before else since, *inside, until]))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share is not above; NaN of nothing."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan


def _p99(phase: str) -> Callable[[Loss], float]:
    return lambda loss: loss.phases()[phase].get("p99", math.nan)


# By name: how it is told of one loss, its label, its unit and its bound, if one was promised.
FIGURES: Final[Mapping[str, tuple[Callable[[Loss], float], str, str, float | None]]] = {
    "failed_percent": (lambda loss: loss.failed_percent, "attempts that failed, of all", "%", UNSERVED_PERCENT),
    "given_up_percent": (lambda loss: loss.given_up_percent, "requests never acknowledged, repeats included", "%", UNSERVED_PERCENT),
    "silence_seconds": (lambda loss: loss.silence_seconds, "longest time without an acknowledgement", "s", SILENCE_SECONDS),
    "taken_seconds": (lambda loss: loss.taken_seconds, "from the kill until the peer takes writes", "s", SILENCE_SECONDS),
    "p99_before_ms": (_p99("before"), "p99 to acknowledged, before the kill", "ms", None),
    "p99_during_ms": (_p99("during"), "p99 to acknowledged, from the kill to the return", "ms", None),
    "p99_after_ms": (_p99("after"), "p99 to acknowledged, from the return on", "ms", None),
    "behind_p99_ms": (lambda loss: percentile(loss.behind_ms, 0.99), "the peer behind the cell before the kill, p99", "ms", BEHIND_MS),
    "answering_seconds": (lambda loss: loss.answering_seconds, "from the command until queries are answered", "s", SERVED_SECONDS),
    "queryable_seconds": (lambda loss: loss.queryable_seconds, "from the command until all is queryable", "s", SERVED_SECONDS),
    "missing_events": (lambda loss: float(loss.missing_events), "missing at the peer until the disks return", "events", None),
    "unexplained_events": (lambda loss: float(loss.unexplained_events), "missing, and not behind the gap that was told", "events", 1.0),
    "merged_seconds": (lambda loss: loss.merged_seconds, "from the return until all is in both cells", "s", None),
    "wrong_events": (lambda loss: float(loss.lost + loss.doubled), "lost or doubled in the end", "events", 1.0),
}


def rows_of(losses: Sequence[Loss]) -> list[Row]:
    """The figures of P6: of each scenario medians, with the lowest and the highest of several losses; sums of what must not be at all."""
    return [
        _row(scenario, name, mine) for scenario in SCENARIOS for name in FIGURES if (mine := [x for x in losses if x.scenario == scenario])
    ]


def _row(scenario: Scenario, name: str, losses: Sequence[Loss]) -> Row:
    of, words, unit, bound = FIGURES[name]
    values = sorted(map(of, losses))
    label, spread = f"{scenario.replace('-', ' ')}, {words}", (values[0], values[-1]) if len(values) > 1 else None
    if unit == "events" and bound is not None:
        return below("P6", label, sum(values), unit, bound)
    return (
        Row("P6", label, median(values), unit, spread=spread) if bound is None else below("P6", label, median(values), unit, bound, spread)
    )


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)

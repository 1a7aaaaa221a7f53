"""What is known of a run after it, and what follows from that. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench.latency import KINDS, Kind, Samples, encoded, percentiles
from bench.outcomes import NO_ANSWER, Outcomes
from bench.resources import Spent
from bench.scenarios import Take
from bench.stored import Sizes
from bench.verdict import Verdict

# Kinds of processes on an event's path. What else there is - the control plane, the generator - does not grow with events, or not in
# a fleet.
PATH = ("cell", "postgres", "kafka", "envoy", "endpoint")
DISTURBED_SHARE = 0.10


@dataclass(frozen=True)
class Run:
    """One take. `sent` counts the different requests that left; `peak_mib` is by kind of process; `sizes` is what was added. Latencies
    leave out what was due in the first `warmup_seconds`."""

    take: Take
    protocol: str
    log: str
    sent: int
    outcomes: Outcomes
    samples: Samples
    verdict: Verdict
    spent: Spent
    peak_mib: Mapping[str, float]
    sizes: Sizes
    warmup_seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the run counts at all."""
        return self.verdict.holds

    @property
    def disturbed(self) -> bool:
        """Whether something else used so much of the machine that latencies mean little."""
        return self.spent.others_share > DISTURBED_SHARE

    @property
    def acknowledged_per_second(self) -> float:
        """Events, up to the last one that was."""
        return self.verdict.acknowledged / max(self.samples.last("acknowledged"), 1e-9)

    @property
    def queryable_per_second(self) -> float:
        """Events, up to the last one that was."""
        return self.samples.events("queryable") / max(self.samples.last("queryable"), 1e-9)

    @property
    def cpu_per_million(self) -> dict[str, float]:
        """CPU seconds by kind of process, per million acknowledged events."""
        millions = max(1, self.verdict.acknowledged) / 1e6
        return {kind: seconds / millions for kind, seconds in self.spent.seconds.items()}

    @property
    def path_cpu_per_million(self) -> float:
        """CPU seconds of everything that an event passes through."""
        return sum(seconds for kind, seconds in self.cpu_per_million.items() if kind in PATH)

    @property
    def unserved_percent(self) -> float:
        """Of the first stream's requests those that were due and never acknowledged, whether they were refused, unanswered or not sent."""
        ours = [math.isnan(moment) for moment, stream in zip(self.samples.acknowledged, self.samples.stream, strict=True) if stream == 0]
        return 100 * sum(ours) / max(1, len(ours))

    def latency(self, kind: Kind, since: float = 0.0, until: float = math.inf) -> dict[str, float]:
        """Percentiles in milliseconds of what was due between two seconds."""
        return percentiles(self.samples.histogram(kind, max(since, self.warmup_seconds), until))

    def json(self) -> dict[str, object]:
        """Plain values; counts are events."""
        batch, verdict, outcomes = self.take.load.batch, self.verdict, self.outcomes
        refused = outcomes.refused()
        unheard = refused.pop(NO_ANSWER, 0)
        events = max(1, verdict.stored)
        histograms = {kind: self.samples.histogram(kind, self.warmup_seconds) for kind in KINDS}
        return {
            "label": self.take.label,
            "protocol": self.protocol,
            "log": self.log,
            "batch": batch,
            "offered_events_per_second": round(self.take.load.events / self.take.load.seconds),
            "seconds": self.take.load.seconds,
            "warmup_seconds": self.warmup_seconds,
            "sent": self.sent * batch,
            "repeats": (outcomes.sent - self.sent) * batch,
            "acknowledged": verdict.acknowledged,
            "rejected": {code: requests * batch for code, requests in refused.items()},
            "failed": unheard * batch,
            "stored": verdict.stored,
            "missing": verdict.missing,
            "doubled": verdict.doubled,
            "strange": verdict.strange,
            "holds": verdict.holds,
            "acknowledged_events_per_second": round(self.acknowledged_per_second),
            "queryable_events_per_second": round(self.queryable_per_second),
            "drain_seconds": round(self.samples.last("queryable") - self.samples.last("acknowledged"), 3),
            **{f"{kind}_ms": percentiles(histogram) for kind, histogram in histograms.items()},
            **{f"{kind}_histogram_us": encoded(histogram) for kind, histogram in histograms.items()},
            "cpu_seconds_per_million": {kind: round(seconds, 2) for kind, seconds in self.cpu_per_million.items()},
            "machine_cpu_share": round(self.spent.machine_share, 3),
            "others_cpu_share": round(self.spent.others_share, 3),
            "peak_mib": {kind: round(mib, 1) for kind, mib in self.peak_mib.items()},
            "log_bytes_per_event": round(self.sizes.log / events, 1),
            "store_bytes_per_event": round(self.sizes.store / events, 1),
            "wal_bytes_per_event": round(self.sizes.wal / events, 1),
        }

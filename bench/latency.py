"""Latencies as HdrHistograms: microseconds, three significant digits, from 1 us to 2 min. Pure."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]  # the package has no types

Kind = Literal["acknowledged", "queryable"]
KINDS: Final[tuple[Kind, ...]] = ("acknowledged", "queryable")
RANKS: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
_MICROS_MAX: Final = 120_000_000
_DIGITS: Final = 3


@dataclass(frozen=True, slots=True)
class Samples:
    """When each request of `batch` events was due, acknowledged and queryable, by its number: seconds after the start, NaN for never.

    `stream` is the number of the stream that sent it.
    """

    batch: int
    due: array[float]
    acknowledged: array[float]
    queryable: array[float]
    stream: array[int]

    def histogram(self, kind: Kind, since: float = 0.0, until: float = math.inf, stream: int = 0) -> HdrHistogram:
        """Of events that were due in `since` <= second < `until`, from there to what `kind` says; those that never were are left out."""
        histogram = HdrHistogram(1, _MICROS_MAX, _DIGITS)
        part = slice(bisect_left(self.due, since), bisect_left(self.due, until))
        for due, moment, of in zip(self.due[part], self.moments(kind)[part], self.stream[part], strict=True):
            if of == stream and not math.isnan(moment):
                histogram.record_value(min(_MICROS_MAX, max(1, round((moment - due) * 1e6))), self.batch)
        return histogram

    def moments(self, kind: Kind) -> array[float]:
        """By request."""
        return self.acknowledged if kind == "acknowledged" else self.queryable

    def events(self, kind: Kind) -> int:
        """How many events ever were."""
        return self.batch * sum(not math.isnan(moment) for moment in self.moments(kind))

    def last(self, kind: Kind) -> float:
        """The moment of the last one; 0 when there is none."""
        return max((moment for moment in self.moments(kind) if not math.isnan(moment)), default=0.0)

    def by_second(self, kind: Kind) -> Iterator[tuple[int, dict[str, float]]]:
        """The percentiles, in milliseconds, of what the first stream had due in each second."""
        for second in range(int(self.due[-1]) + 1 if self.due else 0):
            yield second, percentiles(self.histogram(kind, second, second + 1))


def percentiles(histogram: HdrHistogram) -> dict[str, float]:
    """Milliseconds; empty when there are no samples."""
    if not histogram.get_total_count():
        return {}
    found: Mapping[float, int] = histogram.get_percentile_to_value_dict(list(RANKS.values()))
    return {name: round(found[rank] / 1_000, 2) for name, rank in RANKS.items()} | {"max": round(histogram.get_max_value() / 1_000, 2)}


def encoded(histogram: HdrHistogram) -> str:
    """HdrHistogram's compressed V2 form in base64: any of its tools can read and add it."""
    return bytes(histogram.encode()).decode()

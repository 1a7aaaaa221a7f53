"""Latencies: from the moment something was due, weighed by events, and readable by any tool of HdrHistogram."""

from __future__ import annotations

import math
from array import array

import pytest
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]  # the package has no types

from bench.latency import Samples, encoded, percentiles
from bench.visibility import Timeline

NEVER = math.nan


def samples(latencies: list[float], batch: int = 10, stream: list[int] | None = None) -> Samples:
    """One request each tenth of a second; queryable 0.1 s after it was acknowledged."""
    due = array("d", [number / 10 for number in range(len(latencies))])
    acknowledged = array("d", [at + latency for at, latency in zip(due, latencies, strict=True)])
    queryable = array("d", [at + 0.1 for at in acknowledged])
    return Samples(batch, due, acknowledged, queryable, array("B", stream or [0] * len(latencies)))


def test_percentiles_are_those_of_events() -> None:
    """Law: of 1,000 requests with latencies 1 to 1,000 ms, p50 is 500 ms, within the histogram's three digits; max is the longest."""
    told = percentiles(samples([number / 1_000 for number in range(1, 1_001)]).histogram("acknowledged"))
    assert told == pytest.approx({"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1_000}, rel=0.002)


def test_a_stall_is_in_the_tail() -> None:
    """Law: one second in a thousand that stood still is in p99.9 and not in p90; a run without it has no such tail."""
    calm, stalled = [0.01] * 10_000, [0.01] * 10_000
    stalled[5_000:5_020] = [1.0 - number / 10 % 1 for number in range(20)]
    assert percentiles(samples(calm).histogram("acknowledged"))["p99.9"] < 11
    told = percentiles(samples(stalled).histogram("acknowledged"))
    assert told["p99.9"] > 500
    assert told["p90"] < 11


def test_only_what_was_asked_for_is_counted() -> None:
    """Law: what was due before, after, in another stream, or never happened is left out."""
    made = samples([0.01, 0.02, NEVER, 0.04, 0.05], stream=[0, 0, 0, 1, 0])
    assert made.histogram("acknowledged").get_total_count() == 30
    assert made.histogram("acknowledged", since=0.05, until=0.35).get_total_count() == 10
    assert made.histogram("queryable", stream=1).get_total_count() == 10
    assert made.events("acknowledged") == 40
    assert made.last("acknowledged") == pytest.approx(0.45)
    assert percentiles(samples([NEVER]).histogram("queryable")) == {}


def test_latency_over_time() -> None:
    """Law: each second has the percentiles of what was due in it, and one without anything has none."""
    made = samples([0.01] * 10 + [0.2] * 10 + [NEVER] * 10)
    told = dict(made.by_second("acknowledged"))
    assert [told[second].get("p50") for second in range(3)] == [pytest.approx(10, rel=0.01), pytest.approx(200, rel=0.01), None]


def test_the_encoded_form_is_the_histogram() -> None:
    """Law: what is written to a file gives the same percentiles again."""
    histogram = samples([number / 1_000 for number in range(1, 1_001)]).histogram("queryable")
    decoded = HdrHistogram.decode(encoded(histogram))
    assert percentiles(decoded) == percentiles(histogram)
    assert decoded.get_total_count() == 10_000


def test_a_latency_beyond_the_scale_is_its_end() -> None:
    """Law: what takes longer than two minutes is not dropped."""
    assert percentiles(samples([500.0]).histogram("acknowledged"))["max"] == pytest.approx(120_000, rel=0.002)


def test_an_event_is_visible_once_the_position_is_behind_it() -> None:
    """Law: the record at an offset is queryable from the first look that found a greater position; before that it is not."""
    timeline = Timeline()
    for position, moment in ((0, 1.0), (5, 2.0), (5, 3.0), (9, 4.0)):
        timeline.note(position, moment)
    assert [timeline.visible_at(offset) for offset in (0, 4, 5, 8, 9)] == [2.0, 2.0, 4.0, 4.0, None]

"""The schedule of a load: exact counts, random moments, the shapes that scenarios ask for, and nothing that depends on the run."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest

from bench.scenarios import NEIGHBOUR, SCENARIOS
from bench.schedule import TENANTS, Leg, Load, Stream, at_once, plan, steady

RAMP = Load((Stream((Leg(30, 100, 100), Leg(60, 100, 1_000), Leg(10, 1_000, 0))),), batch=10, repeated=0.0)


def test_as_many_requests_are_due_as_the_rate_promises() -> None:
    """Law: the count is exact, moments only grow and lie within the run, and the repeats come on top."""
    schedule = plan(steady(5_000, 20, batch=100))
    assert len(schedule.first_due) == 1_000
    assert len(schedule.due) == 1_020
    assert all(a <= b for a, b in pairwise(schedule.due))
    assert schedule.due[0] >= 0
    assert schedule.due[-1] <= 20


def test_a_repeat_is_the_same_request_a_little_later() -> None:
    """Law: each request has one first sending, at its due moment, and what comes again comes within a second of it."""
    schedule = plan(steady(5_000, 20, batch=10))
    first: set[int] = set()
    for due, request in zip(schedule.due, schedule.request, strict=True):
        if request in first:
            assert 0 <= due - schedule.first_due[request] <= 1.0
        else:
            assert due == schedule.first_due[request]
            first.add(request)
    assert first == set(range(len(schedule.first_due)))


def test_arrivals_are_random_and_the_same_for_one_seed() -> None:
    """Law: gaps vary as those of a Poisson process do (their deviation is their mean); a seed decides all of it."""
    schedule = plan(steady(1_000, 50, batch=1))
    gaps = [b - a for a, b in pairwise(schedule.first_due)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation == pytest.approx(mean, rel=0.05)
    assert plan(steady(1_000, 50, batch=1)) == schedule
    assert plan(steady(1_000, 50, batch=1, seed=2)).due != schedule.due


def test_a_leg_knows_when_so_many_events_were_due() -> None:
    """Law: `moment` is the inverse of the rate's integral, for a steady, a rising and a falling leg, at both ends and between."""
    for leg in (Leg(10, 5, 5), Leg(60, 100, 1_000), Leg(10, 1_000, 0), Leg(10, 0, 50)):
        assert leg.moment(0) == 0
        assert leg.moment(leg.events) == pytest.approx(leg.seconds)
        at = leg.moment(leg.events / 3)
        rate = leg.begin + (leg.end - leg.begin) * at / leg.seconds
        assert (leg.begin + rate) / 2 * at == pytest.approx(leg.events / 3)


def test_a_climb_climbs() -> None:
    """Law: each second has about as many requests as the legs say."""
    seconds = Counter(int(due) for due in plan(RAMP).first_due)
    assert sum(seconds[second] for second in range(30)) == pytest.approx(300, rel=0.2)
    assert sum(seconds[second] for second in range(30, 60)) == pytest.approx(30 * 32.5, rel=0.15)
    assert sum(seconds[second] for second in range(60, 90)) == pytest.approx(30 * 77.5, rel=0.15)
    assert sum(seconds[second] for second in range(90, 100)) == pytest.approx(500, rel=0.2)


def test_tenants_are_skewed() -> None:
    """Law: Zipf's law: the first tenant has about 31 %, and everybody has something."""
    tenants = Counter(plan(steady(10_000, 10, batch=1)).tenant)
    assert set(tenants) == set(range(TENANTS))
    assert tenants[0] / tenants.total() == pytest.approx(0.31, abs=0.02)


def test_streams_keep_to_their_tenants() -> None:
    """Law: a neighbour's requests are its own, the others' are as they were without it."""
    alone, beside = list(SCENARIOS["noisy"].takes())[:2]
    assert (alone.label, beside.label) == ("alone", "beside")
    schedule, undisturbed = plan(beside.load), plan(alone.load)
    both = list(zip(schedule.first_due, schedule.tenant, schedule.stream, strict=True))
    assert [(due, tenant) for due, tenant, stream in both if stream == 0] == list(
        zip(undisturbed.first_due, undisturbed.tenant, strict=True)
    )
    assert {tenant for _, tenant, stream in both if stream == 1} == {NEIGHBOUR}


def test_at_once_is_a_request_for_each() -> None:
    """Law: a probe asks every tenant that it is given, now."""
    schedule = at_once((3, 5))
    assert (list(schedule.tenant), list(schedule.request), list(schedule.due)) == ([3, 5], [0, 1], [0.0, 0.0])


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios_are_whole(name: str) -> None:
    """Law: the parts of a run fill it, and a run in which processing is held back has time left to catch up."""
    scenario = SCENARIOS[name]
    assert sum(part.share for part in scenario.parts) == 1
    assert scenario.short_seconds < scenario.seconds
    for take in scenario.takes():
        assert take.load.seconds == pytest.approx(scenario.seconds)
        assert take.held is None or 0 <= take.held[0] < take.held[1] < scenario.seconds

"""When requests are due: decided before the run, so that a server that stalls is not forgiven what it made wait. Pure.

Arrivals are a Poisson process that is conditioned on its count: as many requests as the rate promises, at random moments.
"""

from __future__ import annotations

import heapq
import math
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

TENANTS: Final = 20
_TENANT_SKEW: Final = 1.1
_REPEAT_SECONDS: Final = (0.02, 1.0)


@dataclass(frozen=True, slots=True)
class Leg:
    """`seconds` in which the rate goes from `begin` to `end` events per second, in a straight line."""

    seconds: float
    begin: float
    end: float

    @property
    def events(self) -> float:
        """How many are due in it."""
        return self.seconds * (self.begin + self.end) / 2

    def moment(self, events: float) -> float:
        """Seconds after its start at which so many events were due."""
        slope = (self.end - self.begin) / self.seconds
        if slope == 0:
            return events / self.begin
        # The root is taken of what may be a rounding error below zero, where a falling leg reaches a rate of zero.
        return (math.sqrt(max(0.0, self.begin**2 + 2 * slope * events)) - self.begin) / slope


@dataclass(frozen=True, slots=True)
class Stream:
    """Who sends: new events in `legs`, one after the other, for `tenants` (indexes), of which the first are the largest."""

    legs: tuple[Leg, ...]
    tenants: Sequence[int] = range(TENANTS)


@dataclass(frozen=True, slots=True)
class Load:
    """`streams` at once, in requests of `batch` events. Latencies are those of the first stream; the others are its surroundings.

    The share `repeated` of the requests is sent again a little later with the same bytes, on top of the rate.
    """

    streams: tuple[Stream, ...]
    batch: int = 100
    seed: int = 1
    repeated: float = 0.02

    @property
    def seconds(self) -> float:
        """The length of the schedule."""
        return max(sum(leg.seconds for leg in stream.legs) for stream in self.streams)

    @property
    def events(self) -> float:
        """How many new events are due in all."""
        return sum(leg.events for stream in self.streams for leg in stream.legs)


def steady(events_per_second: float, seconds: float, batch: int = 100, seed: int = 1) -> Load:
    """One stream at one rate."""
    return Load((Stream((Leg(seconds, events_per_second, events_per_second),)),), batch, seed)


@dataclass(frozen=True, slots=True)
class Schedule:
    """`due` and `request` are by sending, in order of time; `first_due`, `tenant` and `stream` by request. Seconds after the start.

    Requests are numbered from 0 in the order of their first sendings; a number that comes again is a repeat.
    """

    due: array[float]
    request: array[int]
    first_due: array[float]
    tenant: array[int]
    stream: array[int]


def plan(load: Load) -> Schedule:
    """The same one for the same load."""
    dice = random.Random(load.seed)  # noqa: S311  # load, not secrets
    streams = [_arrivals(stream, number, load.batch, dice) for number, stream in enumerate(load.streams)]
    first_due, tenant, stream = array("d"), array("B"), array("B")
    for moment, of_tenant, of_stream in heapq.merge(*streams):
        first_due.append(moment)
        tenant.append(of_tenant)
        stream.append(of_stream)
    due, request = array("d"), array("L")
    for moment, number in heapq.merge(zip(first_due, range(len(first_due)), strict=True), _repeats(load, first_due, dice)):
        due.append(moment)
        request.append(number)
    return Schedule(due, request, first_due, tenant, stream)


def at_once(tenants: Sequence[int]) -> Schedule:
    """One request for each tenant, now."""
    count = len(tenants)
    due = array("d", bytes(8 * count))
    return Schedule(due, array("L", range(count)), due, array("B", tenants), array("B", bytes(count)))


def _arrivals(stream: Stream, number: int, batch: int, dice: random.Random) -> Iterator[tuple[float, int, int]]:
    """(moment, tenant, stream). Tenants follow Zipf's law: the first of 20 gets about 31 %."""
    events = sum(leg.events for leg in stream.legs)
    requests = round(events / batch)
    weights = list(accumulate(1 / rank**_TENANT_SKEW for rank in range(1, len(stream.tenants) + 1)))
    tenants = dice.choices(stream.tenants, cum_weights=weights, k=requests)
    points = sorted(dice.random() * events for _ in range(requests))
    return zip(_moments(stream.legs, points), tenants, (number for _ in range(requests)), strict=True)


def _moments(legs: Sequence[Leg], points: Sequence[float]) -> Iterator[float]:
    """When so many events were due, for growing numbers of events."""
    at, passed, following = 0.0, 0.0, iter(legs)
    leg = next(following)
    for point in points:
        while point > passed + leg.events:
            at, passed = at + leg.seconds, passed + leg.events
            leg = next(following)
        yield at + leg.moment(point - passed)


def _repeats(load: Load, first_due: array[float], dice: random.Random) -> list[tuple[float, int]]:
    """What clients send again although, or before, they were answered; none is due after the schedule's end."""
    chosen = dice.sample(range(len(first_due)), round(load.repeated * len(first_due)))
    return sorted((min(load.seconds, first_due[number] + dice.uniform(*_REPEAT_SECONDS)), number) for number in chosen)

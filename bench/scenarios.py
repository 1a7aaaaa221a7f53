"""The loads that a cell is measured with, by name. Pure: what is sent, when, and what happens meanwhile; `bench.rows` says what is
made of it, `docs/promises.py` what was promised.

Where a rate itself is the promise, a hundredth more is offered: the figure counts up to the last event, which is a little late.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bench.schedule import TENANTS, Leg, Load, Stream
from bench.workload import Protocol

NEIGHBOUR: Final = TENANTS  # the tenant after those of the load
NEIGHBOUR_QUOTA: Final = 200.0  # events per second
_NEIGHBOUR_EXCESS: Final = 50.0


@dataclass(frozen=True, slots=True)
class Take:
    """One run: its load, and from when to when (seconds after the start) processing is held back."""

    label: str
    load: Load
    held: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a run: its share of the seconds, and the factors of the rate at its beginning and end."""

    share: float
    begin: float = 1.0
    end: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """`events_per_second` is the rate at factor 1. There is one run for each of `factors`; with `pairs`, so many times one run alone and
    one beside a neighbour that sends fifty times its quota. `held` are the shares of a run between which processing is held back.

    When all scenarios are played one after the other, a run takes `short_seconds`, once over each of `protocols`.
    """

    name: str
    about: str
    events_per_second: float
    seconds: float
    short_seconds: float
    protocols: tuple[Protocol, ...] = ("http",)
    batch: int = 100
    parts: tuple[Part, ...] = (Part(1.0),)
    factors: tuple[float, ...] = (1.0,)
    pairs: int = 0
    held: tuple[float, float] | None = None

    def takes(self) -> Iterator[Take]:
        """The runs in order. Pairs change their order from one to the next, so that a machine that drifts favours neither side."""
        if self.pairs:
            for number in range(self.pairs):
                both = (self._take("alone", 1.0, number), self._take("beside", 1.0, number, beside=True))
                yield from both if number % 2 == 0 else both[::-1]
            return
        for number, factor in enumerate(self.factors):
            rate = f"{self.events_per_second * factor:,.0f}/s"
            yield self._take(rate if len(self.factors) > 1 else self.name, factor, number)

    def legs(self, factor: float = 1.0) -> tuple[Leg, ...]:
        """The rate over time."""
        rate = self.events_per_second * factor
        return tuple(Leg(part.share * self.seconds, part.begin * rate, part.end * rate) for part in self.parts)

    def _take(self, label: str, factor: float, number: int, beside: bool = False) -> Take:
        streams = [Stream(self.legs(factor))]
        if beside:
            rate = NEIGHBOUR_QUOTA * _NEIGHBOUR_EXCESS
            streams.append(Stream((Leg(self.seconds, rate, rate),), (NEIGHBOUR,)))
        held = None if self.held is None else (self.held[0] * self.seconds, self.held[1] * self.seconds)
        return Take(label, Load(tuple(streams), self.batch, seed=number + 1), held)


_ALL: Final = (
    Scenario("throughput", "the most that a cell is promised to sustain", 25_250, 600, 30, ("http", "grpc")),
    Scenario("half", "half of the most, where latency is promised", 12_500, 300, 20, ("http", "grpc")),
    Scenario("single", "requests of one event", 2_525, 300, 20, batch=1),
    Scenario("climb", "from the mean to ten times of it", 1_250, 120, 40, parts=(Part(0.25), Part(0.5, 1.0, 10.0), Part(0.25, 10.0, 10.0))),
    Scenario("growth", "what an event costs at a tenth, at a third and at all of the most", 25_000, 120, 15, factors=(0.1, 0.3, 1.0)),
    Scenario(
        "overload",
        "twice the promised rate for half of the time, and half of it before and after",
        25_000,
        120,
        32,
        parts=(Part(0.25, 0.5, 0.5), Part(0.5, 2.0, 2.0), Part(0.25, 0.5, 0.5)),
    ),
    Scenario("noisy", "what others feel of a tenant that sends fifty times its quota", 2_500, 60, 6, pairs=5),
    Scenario(
        "catchup",
        "an hour's events come in six minutes while processing is held back; then it catches up beside the live load",
        2_500,
        800,
        30,
        parts=(Part(0.45, 10.0, 10.0), Part(0.55)),
        held=(0.0, 0.45),
    ),
)
SCENARIOS: Final = {scenario.name: scenario for scenario in _ALL}

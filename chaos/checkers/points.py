"""Which faults count: a fault that nothing was under way for proves nothing. Pure; instants are seconds since 1970, of one machine's clock.

A fault of the way to the log must have met a request that was sent and not answered; a fault of the way to the store, an event that
was acknowledged and not applied. Both are told afterwards, from what clients wrote down and what the store says of its rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Flight = Literal["append", "apply"]


class Strike(NamedTuple):
    """A fault that was sent at `at` to `target`. It is to meet an operation of `flight` in one of `partitions`; none means any."""

    kind: str
    target: str
    at: float
    flight: Flight
    partitions: frozenset[int] = frozenset()


class Attempt(NamedTuple):
    """One request as its client saw it: sent, and answered or given up. `partitions` are where its events belong."""

    sent_at: float
    ended_at: float
    partitions: frozenset[int]


class Walk(NamedTuple):
    """One event from its acknowledgement to its row; `stored_at` is when the transaction that stored it began."""

    acknowledged_at: float
    stored_at: float
    partition: int


def met(strike: Strike, attempts: Iterable[Attempt], walks: Iterable[Walk]) -> bool:
    """Whether an operation that the strike is about was under way at its moment."""
    anywhere = not strike.partitions
    if strike.flight == "append":
        return any(
            attempt.sent_at < strike.at < attempt.ended_at and (anywhere or bool(strike.partitions & attempt.partitions))
            for attempt in attempts
        )
    return any(walk.acknowledged_at < strike.at < walk.stored_at and (anywhere or walk.partition in strike.partitions) for walk in walks)


def counted(strikes: Iterable[Strike], attempts: Sequence[Attempt], walks: Sequence[Walk]) -> Counter[str]:
    """How many strikes of each kind met something."""
    return Counter(strike.kind for strike in strikes if met(strike, attempts, walks))

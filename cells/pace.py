"""How fast this process applies and how far it is behind: what its own ingest may accept meanwhile. Pure but for the clock.

While applies succeed and yet fall back, accepting faster than applying only makes everybody wait longer: then ingest may accept what
is applied, and less of it the longer what is accepted now will wait. How long the oldest has waited shows that one apply runs into
the next, so that their rate is what the store can do; it says nothing of what came since, and who steers by it alone swings between
too much and too little. Who is late but makes up for it, after a moment of the disk's, is let be. Who has begun to hold back goes on
until it is not late any more and nobody had to be turned away for a while: to let go as soon as little waits would let the next wave
in. A store that does not apply at all is no reason to refuse: the log is there to keep what comes meanwhile; and one that catches up
applies several times of what comes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from kernel import limits
from kernel.clock import Clock


class _Late(NamedTuple):
    """Since when applies are late, and how many events had been accepted and applied by then."""

    since: float
    accepted: int
    applied: int


@dataclass
class Pace:
    """One per process that has both ingest and processing."""

    clock: Clock
    _events: int = 0
    _since: float = 0.0
    _rate: float | None = None
    _behind: dict[int, tuple[float, float]] = field(default_factory=dict)
    _late: _Late | None = None
    _holding: bool = False
    _latest: float = 0.0  # the rate of the last window alone
    _taken: int = 0
    _done: int = 0
    _refused_at: float = -math.inf
    _applied_at: float = -math.inf
    _arrived: deque[tuple[float, int]] = field(default_factory=deque)  # when a slice of time began, and the events accepted in it

    def accepted(self, events: int) -> None:
        """So many are on their way into the log."""
        now = self.clock.monotonic()
        self._taken += events
        if self._arrived and now - self._arrived[-1][0] < limits.PACE_BURST_SECONDS:
            began, before = self._arrived.pop()
            self._arrived.append((began, before + events))
            return
        self._arrived.append((now, events))
        while now - self._arrived[0][0] > limits.PACE_MEMORY_SECONDS:
            self._arrived.popleft()

    def fetched(self, partition: int, behind_seconds: float) -> None:
        """What `partition` applies next has waited in the log for so long."""
        now = self.clock.monotonic()
        if not self._behind:  # all were idle: how long says nothing of what they can do
            self._rate, self._events, self._since = None, 0, now
        self._behind[partition] = (behind_seconds, now)

    def applied(self, events: int) -> None:
        """An apply of so many is done."""
        now = self.clock.monotonic()
        self._events += events
        self._done += events
        self._applied_at = now
        if (elapsed := now - self._since) >= limits.PACE_WINDOW_SECONDS:
            rate = self._events / elapsed
            share = 1 - math.exp(-elapsed / limits.PACE_RATE_SECONDS)
            self._latest = rate
            self._rate = rate if self._rate is None else self._rate + share * (rate - self._rate)
            self._events, self._since = 0, now

    def idle(self, partition: int) -> None:
        """Nothing of `partition` waits, or the store does not take it, or another process has it now."""
        self._behind.pop(partition, None)

    def refused(self) -> None:
        """Ingest turned something away for what `events_per_second_max` said."""
        self._refused_at = self.clock.monotonic()

    def events_per_second_max(self) -> float | None:
        """What ingest may accept; None when nothing holds it back: from when it has accepted more than was applied for a while, being late,
        until it is not late and nobody had to be turned away, or nothing is applied at all."""
        now = self.clock.monotonic()
        behind = max((seconds for seconds, at in self._behind.values() if now - at <= limits.PACE_MEMORY_SECONDS), default=0.0)
        applies = now - self._applied_at <= (limits.PACE_MEMORY_SECONDS if self._holding else limits.PACE_AWAY_SECONDS)
        late = behind > limits.PACE_BEHIND_SECONDS
        if self._rate is None or not behind or not applies or not (late or self._holding):
            self._late, self._holding = None, False
            return None
        waits = self._waits(now, behind)
        if late and waits > limits.PACE_WAITS_SECONDS_MAX:
            self._holding |= self._falls_back(now)
        elif not self._holding or now - self._refused_at > limits.PACE_CALM_SECONDS:
            self._late, self._holding = None, False
        if not self._holding:
            return None
        share = limits.PACE_BEHIND_SECONDS / max(waits, limits.PACE_BEHIND_SECONDS / limits.PACE_SHARE_MAX)
        return max(self._rate, self._latest) * max(limits.PACE_SHARE_MIN, share)

    def _falls_back(self, now: float) -> bool:
        """Whether no less was accepted than applied since it is late, once that has lasted. A store that was away for a moment and makes up
        for it is late, and does not fall back."""
        late = self._late = self._late or _Late(now, self._taken, self._done)
        return now - late.since >= limits.PACE_LASTING_SECONDS and self._taken - late.accepted >= self._done - late.applied

    def _waits(self, now: float, behind: float) -> float:
        """Seconds until what is accepted now is applied, at the rate of the applies: what came in the last `behind` seconds, for that is as
        much as waits when the next apply begins."""
        if behind > limits.PACE_MEMORY_SECONDS or not self._rate:
            return behind
        return sum(events for began, events in self._arrived if now - began <= behind) / self._rate

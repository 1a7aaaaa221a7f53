"""How fast this process applies and how far it is behind: what its own ingest may accept meanwhile. Pure but for the clock.

While applies succeed and yet stay behind, accepting faster than applying only makes everybody wait longer: then ingest may accept
a little less than is applied, so that what is behind shrinks. A store that does not apply at all is no reason to refuse: the
log is there to keep what comes meanwhile; and one that catches up applies several times of what comes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kernel import limits
from kernel.clock import Clock


@dataclass
class Pace:
    """One per process that has both ingest and processing."""

    clock: Clock
    _events: int = 0
    _since: float = 0.0
    _rate: float | None = None
    _behind: dict[int, tuple[float, float]] = field(default_factory=dict)
    _behind_since: float | None = None

    def applied(self, partition: int, events: int, behind_seconds: float) -> None:
        """An apply of `partition` is done; its oldest event had waited in the log for `behind_seconds`."""
        now = self.clock.monotonic()
        if not self._behind:  # all were idle: how long says nothing of what they can do
            self._rate, self._events, self._since = None, 0, now
        else:
            self._events += events
        self._behind[partition] = (behind_seconds, now)
        if (elapsed := now - self._since) >= limits.PACE_WINDOW_SECONDS:
            self._rate, self._events, self._since = self._events / elapsed, 0, now

    def idle(self, partition: int) -> None:
        """Nothing of `partition` waits, or the store does not take it, or another process has it now."""
        self._behind.pop(partition, None)

    def events_per_second_max(self) -> float | None:
        """What ingest may accept; None when nothing holds it back. Being behind counts when it lasts."""
        now = self.clock.monotonic()
        behind = max((seconds for seconds, at in self._behind.values() if now - at <= limits.PACE_MEMORY_SECONDS), default=0.0)
        if behind <= limits.PACE_BEHIND_SECONDS or self._rate is None:
            self._behind_since = None
            return None
        if self._behind_since is None:
            self._behind_since = now
        return self._rate * limits.PACE_SHARE if now - self._behind_since >= limits.PACE_WINDOW_SECONDS else None

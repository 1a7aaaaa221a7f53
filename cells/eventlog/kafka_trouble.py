"""What the readers of one partition have met that does not pass by waiting: an offset behind the end, and a batch that is damaged.

An offset that the store names and the log does not have means that records are lost or that the topic is a new one. What is appended then
takes offsets that the store takes for applied, so nothing more may be acknowledged. Once that is sure it stays so for the process's life:
a new topic grows past the offset, and looks well again, while what stands before it is never applied. It is not sure at the first look,
for a leader of a moment ago may not know how far it may show its records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kernel.clock import Clock
from kernel.errors import Failure, Reason

# For how long an offset must be beyond the end, look after look, until the process gives the log up: a new leader does not show what its
# followers have not fetched, and one that hangs counts as a follower for up to `replica.lag.time.max.ms`, thirty seconds by default.
SURE_SECONDS: Final = 60.0
# Who does not look again any more - another process has the partition now - knows nothing of it.
STALE_SECONDS: Final = 5.0
# So often a batch must be found damaged until it is said: a copy on another broker may be whole.
DAMAGED_TIMES: Final = 3


@dataclass
class _Beyond:
    """`offset` was asked for when the log ended at `end`, first at `since` and last at `seen` on the monotonic clock."""

    offset: int
    end: int
    since: float
    seen: float
    sure: bool = False


@dataclass
class _Damage:
    """How often the reader that goes on at `offset` met what `why` says."""

    offset: int
    why: str
    times: int = 0


class Trouble:
    """The readers of one partition tell it what they meet, and ask it whether to go on."""

    def __init__(self, partition: int, clock: Clock) -> None:
        self._partition = partition
        self._clock = clock
        self._beyond: _Beyond | None = None
        self._damage: _Damage | None = None

    @property
    def replaced(self) -> str | None:
        """Why nothing may be appended; None when it may."""
        if self._beyond is None or (not self._beyond.sure and self._clock.monotonic() - self._beyond.seen > STALE_SECONDS):
            return None
        ends = f"partition {self._partition} ends at {self._beyond.end}" + (" when looked at" if self._beyond.sure else "")
        return f"{ends}, but offset {self._beyond.offset} is waited for: are records lost, is the topic a new one?"

    @property
    def said(self) -> str | None:
        """What readiness names; None when there is nothing."""
        damage = self._damage
        if self._beyond is not None or damage is None or damage.times < DAMAGED_TIMES:
            return self.replaced
        return f"{damage.why}; met {damage.times} times, and nothing of the partition is read from offset {damage.offset} on"

    def looked(self, offset: int, end: int) -> None:
        """The log ends at `end`, and `offset` is asked for."""
        now = self._clock.monotonic()
        if offset <= end:
            self._past(end)
        elif self._beyond is None or (not self._beyond.sure and now - self._beyond.seen > STALE_SECONDS):
            self._beyond = _Beyond(offset, end, now, now)
        else:
            self._beyond.seen = now
            self._beyond.sure |= now - self._beyond.since >= SURE_SECONDS

    def read(self, offset: int) -> None:
        """The record at `offset` was read."""
        self._past(offset)
        if self._damage is not None and offset >= self._damage.offset:
            self._damage = None

    def damaged(self, offset: int, why: str) -> None:
        """What stands from `offset` on cannot be read."""
        if self._damage is None or self._damage.offset != offset:
            self._damage = _Damage(offset, why)
        self._damage.times += 1

    def refuse(self, offset: int) -> None:
        """Raises Failure(LOG_REPLACED) when what stands at `offset` now surely is not what the store means by it."""
        if self._beyond is not None and self._beyond.sure and offset > self._beyond.end:
            raise Failure(Reason.LOG_REPLACED, self.replaced or "")

    def _past(self, offset: int) -> None:
        if self._beyond is not None and not self._beyond.sure and offset >= self._beyond.offset:
            self._beyond = None

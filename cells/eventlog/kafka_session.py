"""One appender as Kafka's idempotent producer: which number each record has, and what each answer means for what was sent.

Theory of operation. A session has an id from the brokers; each record of a partition has the next number of the session. A batch whose
answer is lost is sent again as it is: the leader that has it already says so with the offset that it has, so nothing is stored twice and
nothing is reordered, for there is one batch on its way at a time. When the brokers do not know the session any more, or when nobody
waits for a batch whose fate is unknown, the session is over: its numbers may have a gap, and the next batch begins another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

_NUMBERS: Final = 2**31


class Verdict(Enum):
    """What an answer to a batch means."""

    STORED = auto()
    AGAIN = auto()
    """Not stored, or nobody knows: send the same bytes again."""
    OVER = auto()
    """The session has ended; this batch was not stored by this attempt."""
    TOO_LARGE = auto()
    REFUSED = auto()
    """Not stored, and sending it again as it is does not help now."""


# Kafka's numbers of errors, as its protocol's documentation has them.
_AGAIN: Final = {2, 3, 5, 6, 7, 8, 9, 13, 14, 15, 16, 19, 20, 56, 74, 75, 76, 89}
_OVER: Final = {45, 46, 47, 48, 49, 59, 90}
_TOO_LARGE: Final = {10, 18}
# Answers after which the leader may hold the batch all the same: it is not on enough replicas yet, the disk failed, or nothing is said.
_UNSURE: Final = {-1, 7, 13, 20, 46, 56}


def judge(code: int) -> Verdict:
    """The verdict of an answer's error number, 0 when there is none."""
    if code == 0:
        return Verdict.STORED
    if code in _AGAIN:
        return Verdict.AGAIN
    if code in _OVER:
        return Verdict.OVER
    return Verdict.TOO_LARGE if code in _TOO_LARGE else Verdict.REFUSED


def unsure(code: int) -> bool:
    """Whether the batch may be stored although the answer is an error."""
    return code in _UNSURE


@dataclass
class Session:
    """The appender's id with the brokers, and the number of its next record."""

    producer: int
    epoch: int
    number: int = 0

    def stored(self, records: int) -> None:
        """So many records more have their place; numbers begin again at 0 behind the largest."""
        self.number = (self.number + records) % _NUMBERS

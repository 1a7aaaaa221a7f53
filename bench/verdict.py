"""Was everything that was acknowledged stored, and nothing twice? Pure, and cheap in memory: one bit for each event. What the store
holds comes in parts, each of at most 60 events of one request.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import Final, NamedTuple

WORD: Final = 60  # a mask of so many bits is a positive bigint


class Part(NamedTuple):
    """Rows of one tenant and log partition that belong to `request`, and to its positions from 60 * `word` on.

    `rows` says how many there are, `mask` which positions, `offset` is the last one in the log.
    """

    tenant: int
    request: int
    word: int
    partition: int
    rows: int
    mask: int
    offset: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts of events. `missing` were acknowledged and are not stored, `doubled` are stored more than once, `strange` were never
    sent, or stand with another tenant; `stored` are different ones, `unasked` of them were never acknowledged, as they may be."""

    acknowledged: int
    stored: int
    missing: int
    doubled: int
    strange: int
    unasked: int

    @property
    def holds(self) -> bool:
        """Every event that was acknowledged is stored, and none twice; a run that acknowledged nothing proves nothing."""
        return self.acknowledged > 0 and not self.missing and not self.doubled and not self.strange


class Ledger:
    """Which events of a run are stored: `tenant` is by request."""

    def __init__(self, batch: int, tenant: array[int]) -> None:
        self._batch = batch
        self._words = math.ceil(batch / WORD)
        self._tenant = tenant
        self._seen = array("Q", bytes(8 * self._words * len(tenant)))
        self._doubled = 0
        self._strange = 0

    def add(self, part: Part) -> None:
        """Counts one part of what is stored."""
        if part.request >= len(self._tenant) or part.word >= self._words or part.tenant != self._tenant[part.request]:
            self._strange += part.rows
            return
        at = part.request * self._words + part.word
        fresh = part.mask & ~self._seen[at] & self._whole(part.word)
        self._strange += (part.mask & ~self._whole(part.word)).bit_count()
        self._doubled += part.rows - fresh.bit_count() - (part.mask & ~self._whole(part.word)).bit_count()
        self._seen[at] |= fresh

    def verdict(self, acknowledged: array[float]) -> Verdict:
        """`acknowledged` is by request: a moment, NaN for never."""
        stored = missing = unasked = promised = 0
        for request, moment in enumerate(acknowledged):
            held = sum(self._seen[at].bit_count() for at in range(request * self._words, (request + 1) * self._words))
            stored += held
            if math.isnan(moment):
                unasked += held
            else:
                promised += self._batch
                missing += self._batch - held
        return Verdict(promised, stored, missing, self._doubled, self._strange, unasked)

    def _whole(self, word: int) -> int:
        """The mask of all positions that a request has in the word."""
        return (1 << min(WORD, self._batch - word * WORD)) - 1

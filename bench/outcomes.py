"""What became of each request of a run, and of each of its sendings. Pure."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

# Verdicts on a sending; any other text is the code of a refusal.
ACKNOWLEDGED: Final = ""
NO_ANSWER: Final = "no answer"


@dataclass
class Outcomes:
    """`acknowledged` is by request: the moment, in seconds after the start, at which the first of its sendings was; NaN when none was.
    `refusals` has the last refusal of the others, `sendings` counts answers by verdict, and `sent` is how many sendings left."""

    acknowledged: array[float]
    refusals: dict[int, str] = field(default_factory=dict)
    sendings: Counter[str] = field(default_factory=Counter)
    sent: int = 0

    def note(self, request: int, verdict: str, moment: float) -> None:
        """One sending was answered."""
        self.sendings[verdict] += 1
        if verdict != ACKNOWLEDGED:
            self.refusals[request] = verdict
        elif math.isnan(self.acknowledged[request]):
            self.acknowledged[request] = moment

    def refused(self) -> Counter[str]:
        """Requests that were never acknowledged, by what was said last. Those of which nothing was heard are NO_ANSWER."""
        return Counter(code for request, code in self.refusals.items() if math.isnan(self.acknowledged[request]))

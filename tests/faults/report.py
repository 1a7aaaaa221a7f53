"""What the sessions of a run came to, told at its end."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass
from typing import Final

from chaos.checkers.points import Strike
from tests.faults.run import Outcome

SEED: Final = os.environ.get("FAULT_SEED") or str(random.SystemRandom().randrange(1, 2**31))
POINTS_MAX: Final = 200
POINTS: Final = int(os.environ.get("FAULT_POINTS", POINTS_MAX))
SHARE: Final = POINTS / POINTS_MAX


@dataclass(frozen=True)
class Told:
    """One session's."""

    name: str
    outcome: Outcome
    strikes: tuple[Strike, ...]
    seconds: float

    def lines(self) -> list[str]:
        """For a person: points and kills, then of each kind how many met something of how many, and how disks were filled."""
        outcome, recovery = self.outcome, self.outcome.evidence.history.recoveries[0]
        struck = Counter(strike.kind for strike in self.strikes)
        head = (
            f"faults: {self.name}: {outcome.points} of {struck.total()} faults met something, {outcome.broker_kills} brokers killed;"
            f" {len(outcome.evidence.history.sent)} events; recovered in {recovery.seconds:.1f} s; {self.seconds:.0f} s in all"
        )
        kinds = "; ".join(f"{kind} {outcome.evidence.counted[kind]}/{number}" for kind, number in sorted(struck.items()))
        disks = {strike.target.rpartition(", ")[2] for strike in self.strikes if strike.kind == "disk full"}
        return [head, f"  {kinds}", f"  disks filled by {' and '.join(sorted(disks)) or 'nothing'}"]


TOLD: Final[list[Told]] = []

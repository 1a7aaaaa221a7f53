"""Plays a session: lanes side by side, then quiet, then the verdict; what met nothing is drawn again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults.evidence import Evidence, gathered, recovered
from tests.faults.kinds import KINDS
from tests.faults.plan import BROKER_KILLS, Deck, Fault
from tests.faults.session import Session

_ROUNDS_MAX: Final = 3


@dataclass(frozen=True)
class Outcome:
    """The evidence of a whole session. `seconds` is how long its faults took."""

    evidence: Evidence
    struck: Counter[str]
    seconds: float

    @property
    def points(self) -> int:
        """How many faults met something."""
        return self.evidence.counted.total()

    @property
    def broker_kills(self) -> int:
        """How many brokers were killed by those that did."""
        return sum(BROKER_KILLS.get(kind, 0) * number for kind, number in self.evidence.counted.items())


async def play(session: Session, deck: Deck, points: int) -> Outcome:
    """Every fault of the deck; then those that are missing, until `points` met something and each kind did once, or it is no use."""
    began, wanted = time.monotonic(), deck
    for number in range(_ROUNDS_MAX):
        async with session.traffic.flowing():
            await _strike(session, wanted, f"{session.seed}/{number}")
            healed_at = await recovered(session)
        evidence = await gathered(session, healed_at)
        missing = Counter({kind: count for kind, count in deck.counts.items() if not evidence.counted[kind]})
        if evidence.counted.total() >= points and not missing:
            break
        wanted = deck.only(missing or deck.counts - evidence.counted)
    struck = Counter(strike.kind for strike in session.strikes)
    return Outcome(evidence, struck, time.monotonic() - began)


async def _strike(session: Session, deck: Deck, seed: str) -> None:
    async with asyncio.TaskGroup() as lanes:
        for lane, faults in deck.drawn(seed).items():
            lanes.create_task(_lane(session, faults), name=lane)


async def _lane(session: Session, faults: Sequence[Fault]) -> None:
    for fault in faults:
        await asyncio.sleep(fault.delay)
        began = time.monotonic()
        try:
            await KINDS[fault.kind](session, fault)
        except asyncio.CancelledError as cancelled:
            # A task group takes a lane that was cancelled for one that ended: a library that leaks a cancellation would end it unseen.
            if (task := asyncio.current_task()) is None or not task.cancelling():
                raise AssertionError(f"{fault} was cancelled by nobody") from cancelled
            raise
        except BaseException as error:
            error.add_note(f"in {fault}")
            raise
        session.took(fault.kind, time.monotonic() - began)

"""What will fail in a session, drawn from a seed: three lanes of faults that run side by side, each one fault at a time. Pure.

A deck says how often each kind comes; the seed decides about order, targets, delays and durations. The same seed draws the same faults,
whatever the machine makes of their moments.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

Lane = str
BROKERS, ROLES, STORE = "brokers", "roles", "store and foreign records"


class Fault(NamedTuple):
    """One planned fault. `delay` and `seconds` (how long it lasts) are seconds; `choice` picks among targets and variants."""

    kind: str
    delay: float
    seconds: float
    choice: int


class Card(NamedTuple):
    """How often a kind comes in a whole session, and the range of seconds that it lasts."""

    times: int
    shortest: float = 0.0
    longest: float = 0.0


@dataclass(frozen=True)
class Deck:
    """A session's cards, by lane and kind."""

    lanes: Mapping[Lane, Mapping[str, Card]]

    def scaled(self, share: float) -> Deck:
        """So much of it, but at least one of each kind."""
        return Deck(
            {
                lane: {kind: card._replace(times=max(1, math.ceil(card.times * share))) for kind, card in cards.items()}
                for lane, cards in self.lanes.items()
            }
        )

    def only(self, missing: Mapping[str, int]) -> Deck:
        """As many of each kind as are missing."""
        return Deck(
            {
                lane: {kind: card._replace(times=missing[kind]) for kind, card in cards.items() if missing.get(kind, 0) > 0}
                for lane, cards in self.lanes.items()
            }
        )

    @property
    def counts(self) -> Counter[str]:
        """How often each kind comes."""
        return Counter({kind: card.times for cards in self.lanes.values() for kind, card in cards.items()})

    def drawn(self, seed: str) -> dict[Lane, list[Fault]]:
        """Every lane's faults, in order."""
        return {lane: _dealt(cards, Random(f"{seed}/{lane}")) for lane, cards in self.lanes.items()}


def _dealt(cards: Mapping[str, Card], random: Random) -> list[Fault]:
    faults = []
    for kind, card in sorted(cards.items()):
        # One choice after the other from anywhere on, so that no target or variant is missed while another comes twice.
        first = random.randrange(_CHOICES)
        faults += [
            Fault(kind, random.uniform(*_DELAY_SECONDS), random.uniform(card.shortest, card.longest), first + number)
            for number in range(card.times)
        ]
    random.shuffle(faults)
    return faults


_DELAY_SECONDS: Final = (0.0, 0.4)
_CHOICES: Final = 1 << 16

# The longest pauses are longer than the brokers' session (4 s), so that a paused leader wakes up deposed; and as long as a member's
# session (6 s), so that a paused reader wakes up with its partitions given away.
_ROLES: Final = {
    "ingest killed": Card(6, 0.0, 0.5),
    "ingest paused": Card(6, 0.1, 1.0),
    "processing killed": Card(5, 0.0, 1.0),
    "processing paused": Card(4, 0.1, 1.5),
    "processing paused for long": Card(1, 6.5, 7.5),
    "storage killed": Card(5, 0.0, 0.5),
    "storage paused": Card(5, 0.1, 1.0),
    "member leaves": Card(3, 0.0, 1.0),
    "group reset": Card(1),
}
_STORE: Final = {
    "backend killed": Card(6),
    "backend paused": Card(6, 0.1, 1.0),
    "member joins": Card(3, 0.2, 1.0),
    "foreign record": Card(14),
    "record too large": Card(3),
}
THREE: Final = Deck(
    {
        BROKERS: {
            "broker killed": Card(6, 0.0, 1.0),
            "coordinator killed": Card(2, 0.0, 1.0),
            "majority killed": Card(1, 0.0, 1.0),
            "broker paused": Card(7, 0.2, 1.5),
            "broker paused for long": Card(2, 5.0, 6.5),
            "coordinator paused": Card(2, 1.0, 3.0),
            "disk full": Card(1),
        },
        ROLES: _ROLES,
        STORE: _STORE,
    }
)
ALONE: Final = Deck(
    {
        BROKERS: {
            "broker killed": Card(4, 0.0, 0.5),
            "broker paused": Card(7, 0.2, 1.5),
            "broker paused for long": Card(1, 4.0, 6.0),
            "disk full": Card(1),
        },
        ROLES: {kind: card._replace(times=math.ceil(card.times / 2)) for kind, card in _ROLES.items()},
        STORE: {kind: card._replace(times=math.ceil(card.times / 2)) for kind, card in _STORE.items()},
    }
)
# How many brokers a fault of this kind kills.
BROKER_KILLS: Final = {"broker killed": 1, "coordinator killed": 1, "majority killed": 2}

"""What a site does when others ask it. A witness is nothing else: it votes, and knows how far the zone is, but keeps nothing of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from kernel.clock import Clock
from router.placement.entry import NOWHERE, Ballot, Place
from router.quorum.peers import Ballots
from router.quorum.rules import Append, Appended, Candidacy, Vote, followed, granted

SILENCE_SECONDS: Final = 2.0
"""For how long a site that has heard a leader keeps to it."""


class Voter:
    """See the module's docstring. Who has just begun keeps to a leader that it may have heard before."""

    def __init__(self, name: str, ballots: Ballots, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.heard_at = clock.monotonic()
        self.leader = ""
        self.told = NOWHERE  # the term of the newest word of a leader, and up to where the zone is settled, for a person
        self._ballots = ballots
        self._lock = asyncio.Lock()

    async def standing(self) -> Ballot:
        """Its ballot, with the newest entry that it knows of. Raises Failure(STORE_UNAVAILABLE)."""
        return await self._ballots.ballot()

    async def vote(self, asked: Candidacy) -> Vote:
        """Votes, unless it hears a leader: who was cut off and comes back disturbs nobody. Raises Failure(STORE_UNAVAILABLE)."""
        async with self._lock:
            ballot, standing = await self._ballots.ballot(), await self.standing()
            after = granted(ballot, standing.last, asked)
            if after is None or (self.hears and (self.leader or standing.last > NOWHERE)):
                return Vote(False, ballot.term)
            blank = standing.last == NOWHERE
            await self._ballots.promise(after)
            self.heard_at, self.leader = self.clock.monotonic(), ""  # whoever was voted for has a while to lead
            return Vote(True, after.term, blank)

    async def append(self, append: Append) -> Appended:
        """Hears a leader. Raises Failure(STORE_UNAVAILABLE)."""
        async with self._lock:
            ballot = await self._ballots.ballot()
            after = followed(ballot, append.term)
            if after is None:
                return Appended(False, ballot.term)
            self._hear(append)
            last = max(after.last, append.settled, append.place or NOWHERE)
            if (kept := replace(after, last=last)) != ballot:
                await self._ballots.promise(kept)
            return Appended(True, after.term)

    @property
    def hears(self) -> bool:
        """Whether it has heard a leader lately."""
        return self.clock.monotonic() - self.heard_at < SILENCE_SECONDS

    def _hear(self, append: Append) -> None:
        self.heard_at, self.leader = self.clock.monotonic(), append.site
        self.told = Place(append.term, append.settled.number)


def newest(ballot: Ballot, settled: Place) -> Ballot:
    """The ballot with the newest entry that its site knows of."""
    return replace(ballot, last=max(ballot.last, settled))

"""A site that keeps the zone: it holds what a leader offers, settles what a majority holds, and catches up where it was away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kernel.clock import Clock
from kernel.errors import Failure, Reason
from router.placement.entry import Ballot, Entry, Place, left_of
from router.placement.replica import Replica
from router.quorum.peers import Peer
from router.quorum.rules import Append, Appended, followed
from router.quorum.voter import Voter, newest


class Site(Voter):
    """See the module's docstring. `leads` while it is the leader itself: then it hears one.

    Nothing is settled while `_lock` is held: a leader's own change holds the replica's turn, and asks for the lock then.
    """

    def __init__(self, name: str, replica: Replica, peers: Mapping[str, Peer], clock: Clock) -> None:
        super().__init__(name, replica, clock)
        self.replica = replica
        self.peers = peers
        self.leads = False
        self.apart = ""
        self._settling = asyncio.Lock()
        self._behind = asyncio.Event()

    @property
    def hears(self) -> bool:
        """Whether it has heard a leader lately, or is one."""
        return self.leads or super().hears

    async def standing(self) -> Ballot:
        """See `Voter`."""
        return newest(await self.replica.ballot(), await self.replica.settled())

    async def append(self, append: Append) -> Appended:
        """Holds the entries; False when it lacks one before them. Raises Failure(STORE_UNAVAILABLE)."""
        async with self._lock:
            ballot = await self.replica.ballot()
            after = followed(ballot, append.term)
            if after is None:
                return Appended(False, ballot.term)
            if after != ballot:
                await self.replica.promise(after)
            self._hear(append)
        await self._settle_held(append.settled)
        settled = await self.replica.settled()
        self.told = Place(append.term, settled.number)
        if settled.number < append.settled.number:
            self._behind.set()
        for said in (append.settled, append.place):
            if said is not None and said.number == settled.number and said > settled:
                # What is settled is in every later leader's zone: the same entry, which a newer term has taken up again.
                await self.replica.restate(said)
        if append.place is None or append.place.number <= settled.number:
            return Appended(True, append.term)
        left = left_of(append.entries, settled)
        return Appended(bool(left) and await self.hold(append.place, left), append.term)

    async def hold(self, place: Place, entries: Sequence[Entry]) -> bool:
        """Keeps the entries, not settled; False when the site knows of a newer term. Raises Failure(STORE_UNAVAILABLE)."""
        async with self._lock:
            ballot = await self.replica.ballot()
            if ballot.term != place.term:
                return False
            await self.replica.hold(replace(ballot, last=place), entries)
            return True

    def _hear(self, append: Append) -> None:
        """How far the zone is elsewhere is not how far it is here."""
        before = self.told
        super()._hear(append)
        self.told = Place(append.term, before.number)

    async def catch_up(self) -> None:
        """Runs until it is cancelled: asks the leader for what this site lacks, whenever it has heard that it lacks something."""
        while True:
            await self._behind.wait()
            self._behind.clear()
            try:
                while await self._pull(self.peers[self.leader]):
                    pass
            except (Failure, KeyError):
                await self.clock.sleep(0.2)  # the next word of a leader says again that something is missing

    async def _pull(self, leader: Peer) -> bool:
        """Takes the next entries, or a copy when they are not kept there any more. Whether there may be more."""
        settled = await self.replica.settled()
        found = await leader.entries(settled.number)
        if found is None:
            async with self._settling:
                await self.replica.take_copy(leader.copy())
            return True
        for place, entry in found:
            await self._settle(place, entry)
        return bool(found)

    async def _settle_held(self, place: Place) -> None:
        """A majority holds what this site holds at `place`."""
        held = await self.replica.held()
        if held is not None and held[0] == place:
            await self.settle_all(place.term, held[1])

    async def settle_all(self, term: int, entries: Sequence[Entry]) -> None:
        """In order. Raises Failure(STORE_UNAVAILABLE), also when sites have come apart, which is for `apart` to say."""
        for entry in entries:
            await self._settle(Place(term, entry.number), entry)

    async def _settle(self, place: Place, entry: Entry) -> None:
        async with self._settling:
            try:
                await self.replica.settle(place, entry)
            except ValueError as error:
                self.apart = f"this site has come apart from the others: {error}"
                raise no_majority(self.apart) from error


def no_majority(why: str) -> Failure:
    """What a change ends with that nobody may keep."""
    return Failure(Reason.STORE_UNAVAILABLE, why, retry_after_seconds=2)

"""Who leads a zone's directory: a site stands when it has heard no leader for a while, leads while a majority answers, and stands back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from kernel.errors import Failure, Reason
from kernel.metrics import Meter
from router.placement.entry import NOWHERE, Entry, Place
from router.quorum.leader import Leader, Log
from router.quorum.peers import Peer
from router.quorum.rules import Candidacy, Vote, elected
from router.quorum.site import Site, no_majority
from router.quorum.voter import SILENCE_SECONDS

_LOOK_SECONDS: Final = 0.05
# Sites that wait for unlike times seldom stand at once.
_SILENCE_SPREAD_SECONDS: Final = 1.5
_AGAIN_SECONDS: Final = 0.5


class ComeApart(Exception):
    """This site keeps something else than the others: nobody may hide that."""


@dataclass
class Election:
    """`founder` is the one site that may lead a zone of which nobody has anything yet. `random` gives numbers in [0, 1)."""

    site: Site
    founder: bool
    random: Callable[[], float]
    meter: Meter
    log: Log
    _leader: Leader | None = None
    _term_seen: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def leads(self) -> bool:
        """Whether this site leads."""
        return self._leader is not None

    @contextlib.asynccontextmanager
    async def agreed(self, entries: Sequence[Entry]) -> AsyncIterator[Place]:
        """See `router.placement.entry.Agrees`."""
        if self._leader is None:
            raise no_majority("this site does not lead")
        async with self._leader.agreed(entries) as place:
            yield place

    def give_up(self) -> None:
        """See `router.placement.replica.Agrees`."""
        if self._leader is not None:
            self._leader.over.set()

    async def run(self, lead: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event) -> None:
        """Until `stop`. `lead` runs while this site leads, until its event is set; STORE_UNAVAILABLE ends its term, anything else this."""
        catching_up = asyncio.create_task(self.site.catch_up())
        try:
            while not stop.is_set():
                await self._wait_until_silent(stop)
                if catching_up.done():
                    catching_up.result()  # what it raised is no weather
                if self.site.apart:
                    raise ComeApart(self.site.apart)
                if stop.is_set():
                    return
                term = await self._stand()
                if term is not None:
                    await self._lead(term, lead, stop)
                else:
                    await self.site.clock.sleep(_AGAIN_SECONDS * (0.5 + self.random()))
        finally:
            catching_up.cancel()
            await asyncio.gather(catching_up, return_exceptions=True)

    async def _wait_until_silent(self, stop: asyncio.Event) -> None:
        patience = SILENCE_SECONDS + _SILENCE_SPREAD_SECONDS * self.random()
        blank = await self._blank()
        while not (stop.is_set() or self.site.apart) and self.site.clock.monotonic() - self.site.heard_at < patience:
            if blank and not self.site.leader:
                return
            await self.site.clock.sleep(_LOOK_SECONDS)

    async def _stand(self) -> int | None:
        """Asks for votes; the term in which this site leads."""
        try:
            blank = await self._blank()
            if blank and not self.founder:
                return None
            ballot = await self.site.standing()
        except Failure:
            return None
        asked = Candidacy(self.site.name, max(ballot.term, self._term_seen) + 1, ballot.last)
        votes = [vote for vote in await asyncio.gather(*(_asked(peer, asked) for peer in self.site.peers.values())) if vote is not None]
        self._term_seen = max([self._term_seen, *(vote.term for vote in votes)])
        if not elected(votes, len(self.site.peers), blank):
            return None
        with contextlib.suppress(Failure):
            # Its own vote comes last: one that nobody would vote for raises no term.
            if (await self.site.vote(asked)).granted:
                return asked.term
        return None

    async def _lead(self, term: int, lead: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event) -> None:
        leader = Leader(self.site, term, self.meter, self.log)
        self.site.leads, self.site.leader = True, self.site.name
        self.log.info("leads", term=term)
        running, stopping = asyncio.create_task(leader.run()), asyncio.create_task(_then(stop, leader.over))
        try:
            await leader.finish()
            self._leader = leader  # not before: what was held takes its number first
            await lead(leader.over)
        except Failure as failure:
            if failure.reason is not Reason.STORE_UNAVAILABLE:
                raise
            self.log.info("leads no more", term=term, why=str(failure))
        finally:
            leader.over.set()
            self._leader = None
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
            await running
            self.log.info("stands back", term=term)

    async def _blank(self) -> bool:
        """Whether this site has never had anything of the zone."""
        try:
            return (await self.site.standing()).last == NOWHERE
        except Failure:
            return False


async def _asked(peer: Peer, asked: Candidacy) -> Vote | None:
    try:
        return await peer.vote(asked)
    except Failure:
        return None


async def _then(stop: asyncio.Event, over: asyncio.Event) -> None:
    await stop.wait()
    over.set()

"""One term of a leader: it has every entry held by a majority before it is kept, and says again and again that it leads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from kernel.errors import Failure
from kernel.metrics import Meter
from router import metrics
from router.placement.entry import WITNESS, Entry, Place
from router.quorum.rules import Append, others_needed
from router.quorum.site import Site, no_majority
from router.quorum.voter import SILENCE_SECONDS

BEAT_SECONDS: Final = 0.5
_WATCH_SECONDS: Final = 0.2
# The witness keeps no entry. One that it holds with the leader alone is lost with the leader's disk: others are given time to answer first.
_PREFER_SECONDS: Final = 1.0
_OFFER_SECONDS: Final = 3.0


class Log(Protocol):
    """A structured logger."""

    def info(self, event: str, **values: object) -> None:
        """What happened."""
        ...


@dataclass
class Leader:
    """See the module's docstring. It is `over` as soon as it cannot say whether an entry is kept, has no majority or meets a newer term:
    in one term two entries never have the same number."""

    site: Site
    term: int
    meter: Meter
    log: Log
    over: asyncio.Event = field(default_factory=asyncio.Event)
    _answered: dict[str, float] = field(default_factory=dict)
    _why: dict[str, str] = field(default_factory=dict)
    _news: dict[str, asyncio.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._answered = dict.fromkeys(self.site.peers, self.site.clock.monotonic())
        self._news = {name: asyncio.Event() for name in self.site.peers}

    @contextlib.asynccontextmanager
    async def agreed(self, entries: Sequence[Entry]) -> AsyncIterator[Place]:
        """See `router.placement.entry.Agrees`."""
        place = Place(self.term, entries[-1].number)
        try:
            settled = await self.site.replica.settled()
            if entries[0].number != settled.number + 1:
                raise no_majority("the zone has gone on meanwhile")
            if self.over.is_set() or not await self.site.hold(place, entries):
                raise no_majority("this site does not lead any more")
            if not await self._offer(Append(self.site.name, self.term, settled, place, tuple(entries))):
                raise no_majority("no majority of the zone's sites agrees")
            yield place
        except BaseException:
            self.over.set()
            raise
        self._tell(place)

    async def finish(self) -> None:
        """Brings to its end what a leader before this one began. Raises Failure(STORE_UNAVAILABLE)."""
        held = await self.site.replica.held()
        if held is not None:
            async with self.agreed(held[1]):
                await self.site.settle_all(self.term, held[1])
        self._tell(Place(self.term, (await self.site.replica.settled()).number))

    async def run(self) -> None:
        """Until it is over."""
        tasks = [asyncio.create_task(self._beat(name)) for name in self.site.peers]
        try:
            while not self.over.is_set():
                await self.site.clock.sleep(_WATCH_SECONDS)
                if any(task.done() for task in tasks):
                    break  # none ends by itself: what it raised is raised below
                if len(self._near(self.site.peers)) < others_needed(len(self.site.peers)):
                    self.over.set()
        finally:
            self.site.leads = False  # at once: what the directory still has to end keeps nobody from another leader
            self.site.heard_at, self.site.leader = self.site.clock.monotonic(), ""
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            self.over.set()
            for end in ends:
                if isinstance(end, Exception):
                    raise end

    async def _beat(self, name: str) -> None:
        answers: bool | None = None
        while not self.over.is_set():
            self._news[name].clear()
            with contextlib.suppress(Failure):
                await self._append(name, Append(self.site.name, self.term, await self.site.replica.settled()))
            if answers != (answers := name in self._near([name])):
                self.meter.set(metrics.DIRECTORY_SITE_CONNECTED, float(answers), site=name)
                self.log.info("a site answers" if answers else "a site does not answer", site=name, why=self._why.get(name, ""))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._news[name].wait()

    async def _offer(self, append: Append) -> bool:
        """Whether a majority holds the entries. First those are asked that keep it and are near; the others when these do not suffice."""
        near = [name for name in self._near(self.site.peers) if name != WITNESS]
        needed, accepted = others_needed(len(self.site.peers)), 0
        asked: list[asyncio.Task[bool]] = []
        for names, seconds in ((near, _PREFER_SECONDS), ([name for name in self.site.peers if name not in near], _OFFER_SECONDS)):
            asked += [asyncio.create_task(self._append(name, append)) for name in names]
            until = self.site.clock.monotonic() + seconds
            while asked and accepted < needed and (left := until - self.site.clock.monotonic()) > 0:
                done, _ = await asyncio.wait(asked, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                accepted += sum(task.result() for task in done)
                asked = [task for task in asked if task not in done]
            if accepted >= needed:
                break
        for task in asked:
            task.cancel()
        return accepted >= needed and not self.over.is_set()

    async def _append(self, name: str, append: Append) -> bool:
        try:
            answer = await self.site.peers[name].append(append)
        except Failure as failure:
            self._why[name] = str(failure)
            return False
        if answer.term > self.term:
            self.over.set()
            return False
        self._answered[name] = self.site.clock.monotonic()
        return answer.accepted

    def _near(self, names: Iterable[str]) -> list[str]:
        """Those that have answered lately."""
        now = self.site.clock.monotonic()
        return [name for name in names if now - self._answered[name] < SILENCE_SECONDS]

    def _tell(self, place: Place) -> None:
        self.site.told = place
        for news in self._news.values():
            news.set()

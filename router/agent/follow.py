"""Follows the directory for ever: takes its updates, shows them to Envoy, and comes back after every loss with bounded, jittered waits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from kernel.errors import Failure
from kernel.follow import backoff
from kernel.journal import Signed
from kernel.metrics import Meter
from router import metrics
from router.agent.feed import Feed, FeedLost
from router.agent.keeper import Keeper
from router.xds.snapshot import Snapshot

_FAILURES_AFTER_REFUSAL: Final = 10  # what was refused will be again: wait the longest


class Shows(Protocol):
    """Where snapshots go."""

    def publish(self, snapshot: Snapshot) -> None:
        """Offers a snapshot to Envoy."""
        ...


class Logs(Protocol):
    """The part of a structured logger that is used here."""

    def info(self, event: str, **values: object) -> object:
        """As expected."""
        ...

    def error(self, event: str, **values: object) -> object:
        """Something that pages."""
        ...


@dataclass
class Follower:
    """One per agent. `random` gives numbers in [0, 1)."""

    keeper: Keeper
    feed: Feed
    shows: Shows
    meter: Meter
    log: Logs
    random: Callable[[], float]
    connected: bool = False
    last_refusal: str | None = None
    _failures: int = 0

    def boot(self) -> None:
        """Shows what the disk holds, if anything."""
        booted = self.keeper.boot()
        if booted.refused is not None:
            self._refused(booted.refused)
        self._publish()
        self.log.info("booted from disk", revision=booted.revision)

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when `stop` is set; never because of the directory."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                attempt = asyncio.create_task(self._attempt())
                await asyncio.wait({attempt, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not attempt.done():
                    attempt.cancel()
                    await asyncio.wait({attempt})
                    return
                attempt.result()
                await asyncio.wait({stopping}, timeout=backoff(self._failures, self.random()))
                self._failures += 1
        finally:
            stopping.cancel()
            self._set_connected(False)

    async def _attempt(self) -> None:
        """One connection, until it is lost, an update is refused, or the journal is long: then the next one starts from what is held."""
        try:
            async with contextlib.aclosing(self.feed.watch(self.keeper.resume_after, self._on_connected)) as updates:
                async for signed in updates:
                    self._take(signed)
                    if self.keeper.shelf.long:
                        break
        except FeedLost as lost:
            if self.connected or self._failures == 0:
                self.log.info("directory lost", status=str(lost))
        except Failure as failure:
            self._refused(failure)
            self._failures = _FAILURES_AFTER_REFUSAL
        finally:
            self._set_connected(False)

    def _take(self, signed: Signed) -> None:
        started = time.perf_counter()
        update = self.keeper.take(signed)
        self._publish()
        self.meter.observe(metrics.EDGE_COMPILE_SECONDS, time.perf_counter() - started)
        self.meter.add(metrics.EDGE_UPDATES, kind="whole" if update.whole else "change")
        self.last_refusal = None
        self._failures = 0
        if self.keeper.shelf.trouble is not None:
            self.meter.add(metrics.EDGE_UPDATES_UNKEPT)
            self.log.error("update not kept", revision=update.to_revision, detail=self.keeper.shelf.trouble)

    def _on_connected(self) -> None:
        self._set_connected(True)
        self.log.info("directory found", revision=self.keeper.table.revision)

    def _refused(self, failure: Failure) -> None:
        self.last_refusal = str(failure)
        self.meter.add(metrics.EDGE_UPDATES_REFUSED, reason=failure.reason.name)
        self.log.error("update refused", reason=failure.reason.name, detail=failure.detail)

    def _publish(self) -> None:
        if self.keeper.compiled is not None:
            self.shows.publish(self.keeper.compiled.snapshot)
            self.meter.set(metrics.EDGE_REVISION, self.keeper.table.revision)

    def _set_connected(self, connected: bool) -> None:
        self.connected = connected
        self.meter.set(metrics.EDGE_CONNECTED, 1.0 if connected else 0.0)

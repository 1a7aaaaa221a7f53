"""Follows the zone's directory: boots from the journal alone, then takes signed updates as they come.

Losing the directory changes nothing but the age of the table; losing the disk, nothing but what the next boot begins with. An
update that is forged, older, shrunk or of another zone is refused and counted; the last good table serves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from cells.admission import codec
from cells.admission.metrics import ADMISSION_REFUSED, ADMISSION_REVISION, ADMISSION_UNKEPT
from cells.admission.table import Admission, Update
from kernel.clock import Clock
from kernel.errors import Failure
from kernel.follow import Shelf, backoff
from kernel.ids import TenantId, ZoneName
from kernel.journal import Journal, Signed
from kernel.metrics import Meter


class Directory(Protocol):
    """The directory as a follower sees it."""

    def watch(self, after_revision: int) -> AsyncGenerator[Signed, None]:
        """Everything after a revision, then changes for ever. Raises ConnectionError when the directory is away."""
        ...


class Follower:
    """Owns the current table; `changed` is set with each new one, and cleared by whoever waits for it."""

    def __init__(
        self, zone: ZoneName, journal: Journal, directory: Directory, clock: Clock, meter: Meter, jitter: Callable[[], float]
    ) -> None:
        self.current = Admission(zone)
        self.changed = asyncio.Event()
        self.heard = False  # anything from the directory since this process began
        self._touched: set[TenantId] | None = None  # None: all
        self._shelf = Shelf(journal)
        self._directory = directory
        self._clock = clock
        self._meter = meter
        self._jitter = jitter

    @property
    def on_disk(self) -> bool:
        """Whether the next boot finds the current table."""
        return self._shelf.trouble is None

    def verify(self, signed: Signed) -> bool:
        """Whether the directory signed this."""
        return self._shelf.verify(signed)

    def take_touched(self) -> frozenset[TenantId] | None:
        """The tenants that changed since this was asked last; None when all may have."""
        touched = None if self._touched is None else frozenset(self._touched)
        self._touched = set()
        return touched

    def give_back(self, touched: frozenset[TenantId] | None) -> None:
        """What was taken and could not be used."""
        self._touched = None if touched is None or self._touched is None else self._touched | touched

    def boot(self) -> bool:
        """Loads the journal; whether there was anything in it."""
        for signed in self._shelf.load():
            if self._take(signed) is None:
                self._shelf.spoil()
                break
        return self.current.revision > 0

    async def wait_until_placed(self, stop: asyncio.Event) -> bool:
        """Without a placement a cell admits nobody: waits for its first one. False when it is stopped before."""
        while self.current.revision == 0 and not stop.is_set():
            self.changed.clear()
            waits = [asyncio.ensure_future(event.wait()) for event in (self.changed, stop)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        return self.current.revision > 0

    async def follow(self) -> None:
        """Runs until it is cancelled. Only an update that is taken proves the directory good: until then waits grow."""
        failures = 0
        while True:
            before = self.current
            with contextlib.suppress(ConnectionError):
                await self._attempt()
            failures = failures + 1 if self.current is before else 0
            await self._clock.sleep(backoff(failures, self._jitter()))

    async def _attempt(self) -> None:
        """One watch, until the directory is away, an update is refused, or the journal is so long that a whole map is due."""
        async with contextlib.aclosing(self._directory.watch(self._shelf.resume_after(self.current.revision))) as updates:
            async for signed in updates:
                self.heard = True
                if not self._keep(signed) or self._shelf.long:
                    return

    def _keep(self, signed: Signed) -> bool:
        if not self._shelf.verify(signed):
            self._meter.add(ADMISSION_REFUSED, why="signature")
            return False
        update = self._take(signed)
        if update is None:
            return False
        self._shelf.keep(signed, whole=update.whole)
        if self._shelf.trouble is not None:
            self._meter.add(ADMISSION_UNKEPT)
        return True

    def _take(self, signed: Signed) -> Update | None:
        """The update when the table took it."""
        try:
            update = codec.decode(signed.update)
            table = self.current.apply(update)
        except Failure as failure:
            self._meter.add(ADMISSION_REFUSED, why=failure.reason.name.lower())
            return None
        self.current = table
        self._touched = None if update.whole or self._touched is None else self._touched | {tenant.name for tenant in update.tenants}
        self._meter.set(ADMISSION_REVISION, table.revision)
        self.changed.set()
        return update

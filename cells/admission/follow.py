"""Follows the zone's directory: boots from the journal alone, then takes signed updates as they come.

Losing the directory changes nothing but the age of the table. An update that is forged, older, shrunk or of another zone is
refused and counted; the last good table serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

from cells.admission import codec
from cells.admission.metrics import ADMISSION_REFUSED, ADMISSION_REVISION
from cells.admission.table import Admission
from kernel.clock import Clock
from kernel.errors import Failure
from kernel.ids import ZoneName
from kernel.journal import Journal, Signed
from kernel.metrics import Meter

_CHANGES_PER_WHOLE: Final = 1_000
_BACKOFF_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)


class Directory(Protocol):
    """The directory as a follower sees it."""

    def watch(self, after_revision: int) -> AsyncIterator[Signed]:
        """Everything after a revision, then changes for ever. Raises ConnectionError when the directory is away."""
        ...


class Follower:
    """Owns the current table. `on_change` is told of each new one, before anybody else sees it."""

    def __init__(
        self, zone: ZoneName, journal: Journal, directory: Directory, clock: Clock, meter: Meter, jitter: Callable[[], float]
    ) -> None:
        self.current = Admission(zone)
        self.changed = asyncio.Event()
        self._journal = journal
        self._directory = directory
        self._clock = clock
        self._meter = meter
        self._jitter = jitter
        self._changes = 0

    def boot(self) -> bool:
        """Loads the journal; whether there was anything in it."""
        for signed in self._journal.load():
            if not self._take(signed):
                break
            self._changes += 1
        return self.current.revision > 0

    async def follow(self) -> None:
        """Runs until it is cancelled."""
        failures = 0
        while True:
            try:
                async for signed in self._directory.watch(self._resume_after()):
                    failures = 0
                    if not self._keep(signed):
                        break
            except ConnectionError:
                pass
            await self._clock.sleep(_BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)] * (0.5 + self._jitter()))
            failures += 1

    def _resume_after(self) -> int:
        """A journal of many changes is renewed by asking for the whole."""
        return 0 if self._changes > _CHANGES_PER_WHOLE else self.current.revision

    def _keep(self, signed: Signed) -> bool:
        if not self._journal.verify(signed):
            self._meter.add(ADMISSION_REFUSED, why="signature")
            return False
        if not self._take(signed):
            return False
        if codec.decode(signed.update).whole:
            self._journal.restart(signed)
            self._changes = 0
        else:
            self._journal.append(signed)
            self._changes += 1
        return True

    def _take(self, signed: Signed) -> bool:
        try:
            table = self.current.apply(codec.decode(signed.update))
        except Failure as failure:
            self._meter.add(ADMISSION_REFUSED, why=failure.reason.name.lower())
            return False
        self.current = table
        self._meter.set(ADMISSION_REVISION, table.revision)
        self.changed.set()
        return True

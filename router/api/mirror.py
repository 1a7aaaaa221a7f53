"""The zone's table in the directory's memory, kept up with its store, and the slot in which watchers wait for a newer revision."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Final

from kernel.errors import Failure
from kernel.metrics import Meter
from router import metrics
from router.placement.store import REPLAY_CHANGES_MAX, Change, Store
from router.placement.table import Table, Update, empty

POLL_SECONDS: Final = 0.25


class Mirror:
    """A latest-value slot: who lags finds the newest table and reads the change log from where it stands itself."""

    def __init__(self, store: Store, table: Table, meter: Meter) -> None:
        self._store = store
        self._meter = meter
        self._reading = asyncio.Lock()
        self._moved = asyncio.Event()
        self.table = table
        self._recent: deque[Change] = deque(maxlen=REPLAY_CHANGES_MAX)
        meter.set(metrics.DIRECTORY_REVISION, table.revision)

    async def refresh(self) -> Table:
        """The table with everything that was committed before this call. Raises Failure(STORE_UNAVAILABLE)."""
        async with self._reading:
            before = self.table.revision
            while True:
                changes = await self._store.changes(self.table.revision, REPLAY_CHANGES_MAX)
                if changes is None or any(change.tenant is None for change in changes):
                    self.table = await self._store.table()
                    self._recent.clear()
                    break
                if not changes:
                    break
                steps = [Update(self.table.zone, c.revision - 1, c.revision, (c.tenant,)) for c in changes if c.tenant is not None]
                self.table = self.table.apply_all(steps)
                self._recent += changes
            if self.table.revision != before:
                self._meter.set(metrics.DIRECTORY_REVISION, self.table.revision)
                self._moved.set()
                self._moved = asyncio.Event()
            return self.table

    def changes(self, after: int) -> list[Change] | None:
        """What led from a revision to the table, when this process has seen it; else None."""
        if not self._recent or not self._recent[0].revision <= after + 1 <= self.table.revision:
            return None
        return list(itertools.islice(self._recent, after + 1 - self._recent[0].revision, None))

    async def wait_until_beyond(self, revision: int) -> Table:
        """Returns once the table is not at `revision` (any more)."""
        while self.table.revision == revision:
            await self._moved.wait()
        return self.table

    async def follow(self, stop: asyncio.Event) -> None:
        """Polls until `stop`: another process of the directory may have changed the store. A store that fails is asked again."""
        while not stop.is_set():
            try:
                await self.refresh()
            except Failure:
                self._meter.add(metrics.DIRECTORY_CALLS, method="poll", outcome="STORE_UNAVAILABLE")
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await stop.wait()
            except TimeoutError:
                continue


async def open_mirror(store: Store, meter: Meter) -> Mirror:
    """Reads the whole table once. Raises Failure(STORE_UNAVAILABLE)."""
    table = await store.table()
    return Mirror(store, table if table.revision else empty(table.zone), meter)

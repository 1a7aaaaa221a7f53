"""`audit.AuditTrail` in memory."""

from __future__ import annotations

from collections.abc import Sequence

from cells.storage.audit import Entry
from kernel.chain import BEGINNING, Head
from kernel.errors import Failure, Reason


class MemoryAuditTrail:
    """See the port. `down` makes every call fail; `chains` may be tampered with by tests."""

    def __init__(self) -> None:
        self.down = False
        self.chains: dict[str, list[Entry]] = {}

    async def head(self, chain: str) -> Head:
        """See the port."""
        self._reach()
        entries = self.chains.get(chain)
        return Head(entries[-1].seq, entries[-1].hash) if entries else BEGINNING

    async def append(self, chain: str, entries: Sequence[Entry]) -> bool:
        """See the port."""
        if entries[0].seq != (await self.head(chain)).seq + 1:
            return False
        self.chains.setdefault(chain, []).extend(entries)
        return True

    async def read(self, chain: str, after: int, entries_max: int) -> list[Entry]:
        """See the port."""
        self._reach()
        return [entry for entry in self.chains.get(chain, []) if entry.seq > after][:entries_max]

    def _reach(self) -> None:
        if self.down:
            raise Failure(Reason.STORE_UNAVAILABLE, "down")

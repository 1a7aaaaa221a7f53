"""The store as processing sees it: where it stands, and the one thing it does. Specified in full by cells.storage.store."""

from __future__ import annotations

from typing import Protocol

from kernel.effects import Apply, Outcome


class Applier(Protocol):
    """In one process the store itself; in separate deployments the storage role over gRPC."""

    async def positions(self) -> dict[int, int]:
        """The next offset to apply of each partition; others start at 0."""
        ...

    async def apply(self, apply: Apply, deadline: float) -> Outcome:
        """Applies; raises Failure(STORE_UNAVAILABLE) when it cannot say."""
        ...

"""The port through which the agent hears of its directory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from kernel.journal import Signed


class FeedLost(Exception):
    """The directory cannot be reached, or ended the stream. The text says what the transport knows; it holds no secret."""


class Feed(Protocol):
    """A directory. Each `watch` is a connection of its own; nothing is retried in here."""

    def watch(self, after_revision: int, connected: Callable[[], None]) -> AsyncGenerator[Signed, None]:
        """Signed updates that lead on from `after_revision` (0: a whole one first), until FeedLost is raised.

        Calls `connected` once the directory has answered, update or not.
        """
        ...

"""How a follower of a directory waits, and keeps on disk what it took: one policy for edges and cells. No I/O but the journal's."""

from __future__ import annotations

from typing import Final

from kernel.journal import Journal, Signed

JOURNAL_CHANGES_MAX: Final = 1_000
BACKOFF_SECONDS_BASE: Final = 0.1
BACKOFF_SECONDS_MAX: Final = 2.0


def backoff(failures: int, chance: float) -> float:
    """Seconds to wait after `failures` attempts in a row that brought nothing; `chance` in [0, 1) spreads the followers."""
    ceiling = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_BASE * 2.0 ** min(failures, 10))
    return ceiling * (0.5 + chance / 2)


class Shelf:
    """The journal of a follower that serves from memory: a disk that is full or lost costs the next boot its news, never the service.

    `trouble` says why the disk lacks what memory serves, None when it does not. From then on changes stay off the disk, since an
    entry behind a gap would never be read, until a whole map is stored.
    """

    def __init__(self, journal: Journal) -> None:
        self.trouble: str | None = None
        self._journal = journal
        self._changes = 0

    def load(self) -> list[Signed]:
        """What the disk holds. Say `spoil` when the follower refuses an entry."""
        entries = self._journal.load()
        self._changes = len(entries)
        return entries

    def spoil(self) -> None:
        """An entry of `load` was refused: what stands behind it is not read."""
        self.trouble = "the journal holds an entry that is refused"

    def verify(self, signed: Signed) -> bool:
        """Whether the directory signed this."""
        return self._journal.verify(signed)

    def keep(self, signed: Signed, *, whole: bool) -> None:
        """Stores an update that memory has taken, or sets `trouble`."""
        self._changes = 0 if whole else self._changes + 1
        try:
            if whole:
                self._journal.restart(signed)
                self.trouble = None
            elif self.trouble is None:
                self._journal.append(signed)
        except OSError as error:
            self.trouble = f"the disk does not take it: {error.strerror}"

    @property
    def long(self) -> bool:
        """Whether it is time for a whole map, connected or not: many changes came since the last one."""
        return self._changes >= JOURNAL_CHANGES_MAX

    def resume_after(self, revision: int) -> int:
        """The revision to ask the directory from, when memory serves `revision`; 0 asks for a whole map."""
        return 0 if self.long or self.trouble is not None else revision

"""A journal on a disk that can fill up, for the suites of both followers. No tests in here."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from kernel.journal import Signed
from kernel.process.journal import FileJournal


class FillableJournal(FileJournal):
    """The next `refusals` writes find the disk full."""

    refusals = 0

    def restart(self, whole: Signed) -> None:
        """See the port."""
        self._check()
        super().restart(whole)

    def append(self, change: Signed) -> None:
        """See the port."""
        self._check()
        super().append(change)

    def _check(self) -> None:
        if self.refusals > 0:
            self.refusals -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def room_for(path: Path, more_bytes: int) -> Iterator[None]:
    """The kernel lets `path`, and every other file, grow by so much only: a real write that stops in the middle."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

"""A broker's disk that fills: a small file system of its own where we may mount one, else a bound on how far its files may grow."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.local.kafka import Kafka

_SIZE_BYTES: Final = 192 * 1024 * 1024
_CHUNK: Final = b"\0" * (1024 * 1024)
_PAGE_BYTES: Final = 4_096
# Below what every segment has by now, so that no file grows any more.
_LIMIT_BYTES: Final = 4_096


@dataclass(frozen=True)
class SmallDisk:
    """A tmpfs under a node's data."""

    data: Path

    def nearly_fill(self) -> None:
        """Until little is free. Blocks for a moment."""
        with (self.data / "filler").open("wb", buffering=0) as filler:
            while shutil.disk_usage(self.data).free > 2 * len(_CHUNK):
                filler.write(_CHUNK)

    def fill(self) -> None:
        """The rest, until not a byte is free."""
        with contextlib.suppress(OSError), (self.data / "filler").open("ab", buffering=0) as filler:
            while True:
                filler.write(_CHUNK[:_PAGE_BYTES])

    def make_room(self) -> None:
        """Ends `fill`."""
        (self.data / "filler").unlink()

    def remove(self) -> None:
        """Unmounts it."""
        subprocess.run(["umount", "--lazy", self.data], check=True)


def small_disk(node: Kafka) -> SmallDisk | None:
    """Puts the data of a node that was never started on a file system of its own; None where we may not mount one."""
    node.prepare()
    data, aside = node.folder / "data", node.folder / "data.formatted"
    data.rename(aside)
    data.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE_BYTES},mode=0700", "dataflow-faults", str(data)]
    done = subprocess.run(mount, capture_output=True, check=False) if os.geteuid() == 0 else None
    mounted = done is not None and done.returncode == 0
    shutil.copytree(aside, data, dirs_exist_ok=True)
    shutil.rmtree(aside)
    return SmallDisk(data) if mounted else None


def bound_growth(pid: int) -> None:
    """From now on no file of the process may grow: a write that would is refused by the kernel, as by a full disk."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (_LIMIT_BYTES, hard))

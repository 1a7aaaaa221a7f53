"""What processes take: CPU seconds and memory by kind of process, read from /proc as sparingly as it can be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

Pids = Mapping[str, Sequence[int]]
_LOOK_SECONDS: Final = 30.0
_KIB_PER_MIB: Final = 1024
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_FORGET_PEAK: Final = "5"


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds by kind, children included, living or reaped; `machine` is all that the kernel saw busy. At a monotonic moment."""

    seconds: Mapping[str, float]
    machine: float
    at: float


@dataclass(frozen=True, slots=True)
class Spent:
    """Between two moments: CPU seconds by kind, and which share of the machine was busy, and busy for processes that are not ours."""

    seconds: Mapping[str, float]
    machine_share: float
    others_share: float


def usage(pids: Pids) -> Usage:
    """Now."""
    busy = psutil.cpu_times()
    seconds = {kind: sum(map(_seconds, leaders)) for kind, leaders in pids.items()}
    return Usage(seconds, sum(busy) - busy.idle - busy.iowait - busy.guest, time.monotonic())


def spent(before: Usage, after: Usage) -> Spent:
    """From one to the other."""
    seconds = {kind: max(0.0, after.seconds[kind] - before.seconds[kind]) for kind in before.seconds}
    capacity = (after.at - before.at) * (os.cpu_count() or 1)
    machine = after.machine - before.machine
    return Spent(seconds, machine / capacity, max(0.0, machine - sum(seconds.values())) / capacity)


class Peaks:
    """The most memory that each kind held, in MiB. The kernel keeps the peak of a process; a family, as PostgreSQL is one, has none in
    common, so its proportional sets, which count what its members share once, are added up now and then, and at the end."""

    def __init__(self, pids: Pids) -> None:
        self._pids = pids
        self.mib: dict[str, float] = {}

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """From now on until the block ends."""
        self._forget()
        task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._look(self._pids)

    async def _follow(self) -> None:
        families = {kind: leaders for kind, leaders in self._pids.items() if any(len(_family(leader)) > 1 for leader in leaders)}
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.to_thread(self._look, families)

    def _forget(self) -> None:
        for leader in (leader for leaders in self._pids.values() for leader in leaders):
            Path(f"/proc/{leader}/clear_refs").write_text(_FORGET_PEAK)

    def _look(self, pids: Pids) -> None:
        for kind, leaders in pids.items():
            self.mib[kind] = max(sum(map(_memory_mib, leaders)), self.mib.get(kind, 0.0))


def hardware() -> dict[str, str | int | float]:
    """What the figures were taken on."""
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _family(pid: int) -> list[int]:
    """A process and its children; this one alone, since the whole fleet descends from it."""
    return [pid] if pid == os.getpid() else [pid, *map(int, _read(pid, f"task/{pid}/children").split())]


def _seconds(leader: int) -> float:
    """A reaped child's time is in its parent's account."""
    total = 0
    for pid in _family(leader):
        fields = _read(pid, "stat").rpartition(")")[2].split()
        own, reaped = fields[11:13], fields[13:15] if pid == leader != os.getpid() else ()
        total += sum(map(int, (*own, *reaped)))
    return total / _TICKS


def _memory_mib(leader: int) -> float:
    family = _family(leader)
    if len(family) == 1:
        return _kib("VmHWM", _read(leader, "status")) / _KIB_PER_MIB
    return sum(_kib("Pss", _read(pid, "smaps_rollup")) for pid in family) / _KIB_PER_MIB


def _kib(field: str, text: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _read(pid: int, name: str) -> str:
    """Empty when the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""

"""What processes take: CPU seconds and memory, from /proc. One snapshot before, one after."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds by process name, children included, living or reaped; `machine` is all that the kernel saw busy."""

    seconds: Mapping[str, float]
    machine: float
    at: float


def usage(pids: Mapping[str, int]) -> Usage:
    """Now."""
    busy = psutil.cpu_times()
    return Usage({name: _seconds(pid) for name, pid in pids.items()}, sum(busy) - busy.idle - busy.iowait - busy.guest, time.monotonic())


def memory_mib(pids: Mapping[str, int]) -> dict[str, float]:
    """Proportional set size in MiB: memory that PostgreSQL's backends share counts once."""
    return {name: sum(_pss(process) for process in _family(pid)) / 2**20 for name, pid in pids.items()}


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


def _family(pid: int) -> list[psutil.Process]:
    """A process and its descendants; this one alone, since the whole fleet descends from it."""
    leader = psutil.Process(pid)
    return [leader] if pid == os.getpid() else [leader, *leader.children(recursive=True)]


def _seconds(pid: int) -> float:
    """A reaped child's time is in its parent's account."""
    total = 0.0
    for process in _family(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        if process.pid == pid != os.getpid():
            total += times.children_user + times.children_system
    return total


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0

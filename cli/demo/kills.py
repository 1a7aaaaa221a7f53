"""The two kills. Each counts only if at least 1,000 acknowledged events were not applied at that moment.

A slow store is a fault of its own: a superuser's session locks the table of positions, so applies wait while ingestion goes on
acknowledging. When enough is waiting, the process is killed; the lock dies with its session.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import asyncpg

from cli.demo.evidence import UNAPPLIED_SQL
from cli.errors import Unable
from cli.local.fleet import LocalFleet

WAITING_MIN: Final = 1_000
_STALL_SECONDS_MAX: Final = 60.0
_READY_SECONDS: Final = 60.0
_ACKNOWLEDGED_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Kill:
    """What was killed, how many acknowledged events were not applied then, and how long until all of it was ready again."""

    names: tuple[str, ...]
    waiting: int
    ready_again_seconds: float


async def stall_and_kill(fleet: LocalFleet, cell: str, names: tuple[str, ...], say: Callable[[str], None]) -> Kill:
    """Stalls the store of `cell`, waits for enough acknowledged events to pile up, kills `names` with SIGKILL, waits for readiness."""
    locker = await asyncpg.connect(fleet.dsn(cell))
    try:
        await locker.execute("BEGIN; LOCK TABLE cell.position IN ACCESS EXCLUSIVE MODE")
        say(f"the store of {cell} is stalled; ingestion goes on")
        waiting = await _pile_up(locker)
        # What was in the log at the count is acknowledged a moment later.
        await asyncio.sleep(_ACKNOWLEDGED_SECONDS)
        for name in names:
            fleet.kill(name, signal.SIGKILL)
        killed_at = time.monotonic()
        say(f"killed {' and '.join(names)} with {waiting:,} acknowledged events not applied")
    finally:
        locker.terminate()
    # The supervisor notices a death within moments; only then is readiness news.
    await asyncio.sleep(0.5)
    await fleet.wait_until_ready(_READY_SECONDS)
    return Kill(names, waiting, time.monotonic() - killed_at)


async def _pile_up(locker: asyncpg.Connection) -> int:
    """Counts what the log holds beyond the store's positions, on the one connection that may still read them."""
    deadline, waiting = time.monotonic() + _STALL_SECONDS_MAX, 0
    while time.monotonic() < deadline:
        waiting = int(await locker.fetchval(UNAPPLIED_SQL))
        if waiting >= WAITING_MIN:
            return waiting
        await asyncio.sleep(0.1)
    raise Unable(f"only {waiting} acknowledged events piled up in {_STALL_SECONDS_MAX:.0f} s", "the kill would prove nothing")

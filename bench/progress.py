"""How far a run is: a live line on a terminal, a plain one now and then elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.generator import OpenLoop
from bench.outcomes import ACKNOWLEDGED
from bench.schedule import Schedule

_LIVE_SECONDS = 1.0
_PLAIN_SECONDS = 10.0


class Teller:
    """Says things about runs on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False)

    @contextlib.asynccontextmanager
    async def following(self, loop: OpenLoop, schedule: Schedule, batch: int) -> AsyncIterator[None]:
        """Until the block ends. On a terminal the line is redrawn once a second, and by nothing in between: drawing costs CPU."""
        follow = self._live if self.console.is_terminal else self._plain
        task = asyncio.create_task(follow(loop, schedule, batch))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _live(self, loop: OpenLoop, schedule: Schedule, batch: int) -> None:
        columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=self.console, auto_refresh=False, transient=True) as progress:
            task = progress.add_task("", total=len(schedule.due))
            while True:
                progress.update(task, completed=loop.outcomes.sent, description=state_of(loop, batch), refresh=True)
                await asyncio.sleep(_LIVE_SECONDS)

    async def _plain(self, loop: OpenLoop, schedule: Schedule, batch: int) -> None:
        while True:
            await asyncio.sleep(_PLAIN_SECONDS)
            self.say(f"{time.monotonic() - loop.began:4.0f} of {schedule.due[-1]:.0f} s: {state_of(loop, batch)}")


def state_of(loop: OpenLoop, batch: int) -> str:
    """Counts so far."""
    answers = loop.outcomes.sendings
    refused = answers.total() - answers[ACKNOWLEDGED]
    return (
        f"{loop.outcomes.sent * batch:,} events sent, {answers[ACKNOWLEDGED] * batch:,} acknowledged, {refused * batch:,} refused,"
        f" {loop.in_flight} requests in flight"
    )

"""Start and drain: signals become an event, background tasks have an owner, and a failed one ends the process."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop


class Health:
    """What the probes say. `ready` goes off first when a process drains; reasons for not being ready are named."""

    def __init__(self) -> None:
        self._unready: dict[str, str] = {"start": "starting"}

    def set(self, part: str, problem: str | None) -> None:
        """Records a part's problem, or that it has none."""
        if problem is None:
            self._unready.pop(part, None)
        else:
            self._unready[part] = problem

    @property
    def ready(self) -> bool:
        """Whether every part is fine."""
        return not self._unready

    @property
    def problems(self) -> dict[str, str]:
        """The parts that are not, and why."""
        return dict(self._unready)


def _forgotten(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody awaited has failed. asyncio's own words would quote the exception's message."""
    logging.getLogger("asyncio").error(context["message"], exc_info=context.get("exception"))


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs `main(stop)` on uvloop. SIGTERM and SIGINT set `stop`; main drains and returns."""

    async def supervised() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_forgotten)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await main(stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(supervised())

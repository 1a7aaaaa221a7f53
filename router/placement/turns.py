"""Changes of a zone take place one after the other; those that wait at the same time are made, agreed on and kept together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

What = TypeVar("What")
TOGETHER_MAX: Final = 64
"""Changes that are kept together at most: as many tenants make one message between sites, of a few kilobytes each."""


class Asked(Generic[What]):
    """One change that somebody waits for."""

    def __init__(self, what: What) -> None:
        self.what = what
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def give(self, answer: object) -> None:
        """The answer, or what is to be raised; unless nobody waits any more."""
        if self.answer.done():
            return
        if isinstance(answer, BaseException):
            self.answer.set_exception(answer)
        else:
            self.answer.set_result(answer)

    def end(self, making: asyncio.Future[None]) -> None:
        """Whoever still waits hears what became of all."""
        if not making.done() or making.cancelled():
            self.answer.cancel()
        elif (error := making.exception()) is not None:
            self.give(error)


class Turns(Generic[What]):
    """`make` makes some changes together, gives each its answer, or raises what all of them are to raise.

    Whoever stops waiting stops nothing: others may hold the change already.
    """

    def __init__(self, make: Callable[[Sequence[Asked[What]]], Awaitable[None]]) -> None:
        self._make = make
        self._waiting: deque[Asked[What]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, what: What) -> Any:
        """The answer to one change."""
        asked = Asked(what)
        self._waiting.append(asked)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await asked.answer

    async def abandon(self) -> None:
        """Nothing that waits or is being made goes on. For a process that is killed, in the simulation."""
        waiting, self._waiting = self._waiting, deque()
        for asked in waiting:
            asked.answer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            together = [self._waiting.popleft() for _ in range(min(TOGETHER_MAX, len(self._waiting)))]
            making = asyncio.ensure_future(self._make(together))
            try:
                await asyncio.wait((making,))
            finally:
                making.cancel()
                for asked in together:
                    asked.end(making)

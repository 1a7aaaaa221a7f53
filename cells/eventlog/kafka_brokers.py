"""The brokers as they describe themselves: who they are, who leads which partition, who has all of it.

A view is asked for when an answer says that the last one is wrong, and every few seconds by whoever watches the log's health. Several
brokers are asked at a time, for one that hangs must not hide those that answer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from cells.eventlog.kafka_line import Line, Lost, name_of, refused_login
from cells.eventlog.kafka_login import Address, Login
from cells.eventlog.kafka_wire import Metadata
from kernel.clock import Clock
from kernel.errors import Failure, Reason

ANSWER_SECONDS: Final = 3.0
# Reads are asked again so often, with these pauses before: a leader that has just died has a successor soon after.
_PAUSES_SECONDS: Final = (0.0, 0.05, 0.25, 0.5)
_ASKED_AT_ONCE: Final = 3
_NOT_LOGGED_IN: Final = 34

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Partition:
    """Of one partition: `leader` is a broker's number, -1 when there is none; `replicas` and `in_sync` count copies."""

    leader: int
    replicas: int
    in_sync: int


@dataclass(frozen=True, slots=True)
class View:
    """What the brokers said last. `error` is Kafka's number for what is wrong with the topic; operations are bits of Kafka's ACLs."""

    nodes: dict[int, Address] = field(default_factory=dict)
    controller: int = -1
    partitions: dict[int, Partition] = field(default_factory=dict)
    error: int = 0
    topic_operations: int = 0
    brokers_operations: int = 0

    def leader(self, partition: int) -> Address:
        """Where the partition's records are written and read. Raises Lost when nobody leads it."""
        found = self.partitions.get(partition)
        if found is None or found.leader not in self.nodes:
            raise Lost(f"partition {partition} has no leader" + (f": {name_of(self.error)}" if self.error else ""))
        return self.nodes[found.leader]

    @property
    def is_led(self) -> bool:
        """Whether the topic is there and each of its partitions has a leader."""
        return bool(self.partitions) and all(partition.leader in self.nodes for partition in self.partitions.values())


class Brokers:
    """Asks brokers, and knows which of them to ask."""

    def __init__(self, login: Login, clock: Clock) -> None:
        self.login = login
        self._clock = clock
        self.view = View()
        self._lines: dict[Address, Line] = {}
        self._renewal: asyncio.Task[Lost | None] | None = None
        self._looks: set[asyncio.Task[View | Lost]] = set()

    @property
    def topic(self) -> str:
        """The topic that is the log."""
        return self.login.access.topic

    def line(self) -> Line:
        """A line for whoever may wait long; the asker closes it."""
        return Line(self.login)

    async def ask(self, address: Address, request: Any, seconds: float = ANSWER_SECONDS) -> Any:
        """A short question, on the one line that such questions to this broker share. Raises Lost."""
        return await self._lines.setdefault(address, Line(self.login)).ask(address, request, seconds)

    async def ask_any(self, request: Any) -> Any:
        """A short question that every broker can answer, to one after the other until one does. Raises Lost."""
        addresses = list(self.view.nodes.values())
        random.shuffle(addresses)
        lost = Lost("no broker is known")
        for address in addresses:
            try:
                return await self.ask(address, request)
            except Lost as error:
                lost = error
        raise lost

    async def renew(self, stale: View) -> None:
        """Asks for a newer view than `stale`, once for all who want one at the same time. Raises Lost when no broker answers."""
        if self.view is not stale:
            return
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(), name="kafka-view")
        lost = await asyncio.shield(self._renewal)
        if lost is not None:
            raise Lost(str(lost), lost.advice)

    async def known_to_all(self) -> bool:
        """Whether every broker knows the topic, and a leader of each of its partitions: they hear of a new one at different times."""
        views = await asyncio.gather(*(self._look(address) for address in self.view.nodes.values()))
        return bool(views) and all(isinstance(view, View) and view.is_led for view in views)

    async def patiently(self, act: Callable[[View], Awaitable[Answer]], seconds: float = ANSWER_SECONDS * 2) -> Answer:
        """What `act` answers, tried again with a newer view when it loses its broker. Raises Failure(LOG_UNAVAILABLE)."""
        lost: Exception | None = None
        try:
            async with asyncio.timeout(seconds):
                for pause in _PAUSES_SECONDS:
                    await self._clock.sleep(pause)
                    view = self.view
                    try:
                        return await act(view)
                    except Lost as error:
                        lost = error
                    await self._renew_if_possible(view)
        except TimeoutError as error:
            lost = lost or error
        raise unavailable() from lost

    async def close(self) -> None:
        """Closes every line of its own."""
        tasks = [*self._looks, *([self._renewal] if self._renewal is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(line.end() for line in self._lines.values()))

    async def _renew_if_possible(self, stale: View) -> None:
        try:
            await self.renew(stale)
        except Lost:
            return

    async def _renew(self) -> Lost | None:
        """Why there is no newer view, None when there is."""
        known = list(self.view.nodes.values())
        random.shuffle(known)
        lost = Lost("no broker is known")
        # The first addresses again when nobody answers where brokers were last: they may all have moved meanwhile.
        for candidates in (known, self.login.bootstrap):
            for start in range(0, len(candidates), _ASKED_AT_ONCE):
                found = await self._first(candidates[start : start + _ASKED_AT_ONCE])
                if isinstance(found, View):
                    self.view = found
                    return None
                lost = found
        return lost

    async def _first(self, candidates: list[Address]) -> View | Lost:
        """The first view that one of them has, or why the last of them has none. Slower ones end by themselves."""
        looks = {asyncio.create_task(self._look(one), name="kafka-look") for one in candidates}
        self._looks |= looks
        for look in looks:
            look.add_done_callback(self._looks.discard)
        found: View | Lost = Lost("no broker is known")
        while looks and isinstance(found, Lost):
            done, looks = await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
            found = next((view for task in done if isinstance(view := task.result(), View)), next(iter(done)).result())
        return found

    async def _look(self, address: Address) -> View | Lost:
        try:
            view = _view(await self.ask(address, Metadata(self.topic)), self.topic)
            if view.error == _NOT_LOGGED_IN:
                # A bearer token that is refused is refused in the answer's text, which the library does not read.
                raise refused_login(address, name_of(view.error))
            return view
        except Lost as lost:
            return lost


def unavailable() -> Failure:
    """What callers are told of a lost answer, whose own words name brokers: it may reach a client, who has no business with them."""
    return Failure(Reason.LOG_UNAVAILABLE, retry_after_seconds=1)


def _view(answer: Any, topic: str) -> View:
    nodes = {node: Address(host, port) for node, host, port, _ in answer.brokers}
    error, operations, partitions = 0, 0, {}
    for code, name, _, found, allowed in answer.topics:
        if name == topic:
            error, operations = code, allowed
            partitions = {number: Partition(leader, len(copies), len(synced)) for _, number, leader, _, copies, synced, _ in found}
    return View(nodes, answer.controller, partitions, error, operations, answer.operations)

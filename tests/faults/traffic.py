"""Clients that send through a whole session, over HTTP and gRPC, one request after the other, and write down what they were told.

Each client has users of its own and goes on with the next request when the last one has its last word, so the order of every user's
events is known. What a client cannot tell (no answer, "later") it sends again as it is, as SDKs do; after a while it gives up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

import aiohttp
import grpc
import grpc.aio

from chaos.checkers.history import Answer, Sent
from chaos.checkers.points import Attempt
from dataflow.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from dataflow.types.v1 import event_pb2
from tests.faults.placement import Party
from tests.support.processes import eventually

_CALL_SECONDS: Final = 8.0
_GIVE_UP_SECONDS: Final = 40.0
_EVENTS_MAX: Final = 4
_USERS: Final = 3
# Between two requests of a client, and between two attempts: drawn anew each time.
_THINK_SECONDS: Final = (0.03, 0.12)
_AGAIN_SECONDS: Final = (0.05, 0.2)
_LATER: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
_CHANNEL: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Event(dict[str, object]):
    """One event in Segment's words."""


class Way(Protocol):
    """How a batch travels."""

    async def send(self, party: Party, batch: Sequence[Event]) -> tuple[Answer, str]:
        """The answer, and in words why it was refused; `unknown` when it is to be sent again."""
        ...


@dataclass
class HttpWay:
    """The Segment-compatible API."""

    web: aiohttp.ClientSession
    base: str

    async def send(self, party: Party, batch: Sequence[Event]) -> tuple[Answer, str]:
        """See the protocol."""
        try:
            timeout = aiohttp.ClientTimeout(total=_CALL_SECONDS)
            headers = {"x-api-key": party.write_key}
            async with self.web.post(f"{self.base}/v1/batch", json={"batch": list(batch)}, headers=headers, timeout=timeout) as answer:
                said = await answer.json()
        except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as error:
            return "unknown", repr(error)
        if answer.status == 200 and "rejected" not in said:
            return "acknowledged", ""
        return ("unknown" if answer.status in (429, 503) else "rejected"), str(said.get("code"))


@dataclass
class GrpcWay:
    """IngestService."""

    stub: ingest_pb2_grpc.IngestServiceAsyncStub

    async def send(self, party: Party, batch: Sequence[Event]) -> tuple[Answer, str]:
        """See the protocol."""
        request = ingest_pb2.IngestRequest(events=[_message(event) for event in batch])
        try:
            response = await self.stub.Ingest(request, metadata=(("x-api-key", party.write_key),), timeout=_CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            return ("unknown" if error.code() in _LATER else "rejected"), f"{error.code().name} {error.details()}"
        return ("acknowledged", "") if response.accepted == len(batch) else ("rejected", str(response))


def _message(event: Event) -> event_pb2.Event:
    kind = event_pb2.EVENT_TYPE_TRACK if event["type"] == "track" else event_pb2.EVENT_TYPE_IDENTIFY
    properties = json.dumps(event.get("properties") or event.get("traits") or {}).encode()
    return event_pb2.Event(
        message_id=str(event["messageId"]), type=kind, user_id=str(event["userId"]), name=str(event.get("event", "")), json=properties
    )


@dataclass
class Notes:
    """What the clients know, outside everything that is killed. `refused` are last words that no fault excuses, `told` is what each tenant
    was answered last when it was not an acknowledgement."""

    sent: list[Sent] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    acknowledged_at: dict[tuple[str, str], float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)
    _open: dict[int, frozenset[int]] = field(default_factory=dict)
    _numbers: int = 0
    _heard: asyncio.Event = field(default_factory=asyncio.Event)

    async def attempt(self, way: Way, party: Party, batch: Sequence[Event]) -> tuple[Answer, str]:
        """Sends once, and writes down when."""
        partitions = frozenset(party.partition(str(event["userId"])) for event in batch)
        self._numbers = number = self._numbers + 1
        self._open[number] = partitions
        began = time.time()
        try:
            answer, why = await way.send(party, batch)
        finally:
            ended = time.time()
            self.attempts.append(Attempt(began, ended, partitions))
            del self._open[number]
        if answer == "acknowledged":
            self.acknowledged_at.update({(party.name, str(event["messageId"])): ended for event in batch})
            self._heard.set()
        else:
            self.told[party.name] = f"{answer}: {why}"
        return answer, why

    def in_flight(self, partitions: frozenset[int]) -> bool:
        """Whether a request to one of `partitions`, or to any when it is empty, has no answer yet."""
        return any(not partitions or partitions & open_ for open_ in self._open.values())

    async def wait_until_in_flight(self, partitions: frozenset[int], seconds: float) -> None:
        """Until `in_flight`; what follows without waiting meets the request."""
        await eventually(lambda: self.in_flight(partitions), f"a request to {sorted(partitions)}", seconds)

    async def wait_until_acknowledged(self, seconds: float = 20.0) -> None:
        """Until some client is told that its events are durable: they are not applied yet, most of the time."""
        self._heard.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._heard.wait()


@dataclass
class Client:
    """One sequential client of one tenant."""

    name: str
    party: Party
    way: Way
    notes: Notes
    random: Random
    number: int = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Request after request until it is told to stop; the last one has its last word then."""
        while not stop.is_set():
            await self.deliver(self._batch())
            await asyncio.sleep(self.random.uniform(*_THINK_SECONDS))

    async def deliver(self, batch: Sequence[Event], expected: tuple[str, ...] = (), seconds: float = _GIVE_UP_SECONDS) -> Answer:
        """The last word on a batch, which is sent again for `seconds`. A refusal in other words than `expected` is a finding."""
        deadline = time.monotonic() + seconds
        answer, why = await self.notes.attempt(self.way, self.party, batch)
        while answer == "unknown" and time.monotonic() < deadline:
            await asyncio.sleep(self.random.uniform(*_AGAIN_SECONDS))
            answer, why = await self.notes.attempt(self.way, self.party, batch)
        if answer == "rejected" and not any(word in why for word in expected):
            self.notes.refused.append(f"{self.name}: {why}")
        for event in batch:
            self.number += 1
            self.notes.sent.append(Sent(self.party.name, str(event["userId"]), str(event["messageId"]), self.number, answer))
        return answer

    def _batch(self) -> list[Event]:
        return [self.event(n) for n in range(self.random.randint(1, _EVENTS_MAX))]

    def event(self, n: int, **properties: object) -> Event:
        """Event `n` of the client's next batch. Neighbours belong to different users."""
        number = self.number + n
        words = {"messageId": f"{self.name}-{number}", "userId": f"{self.name}-{number % _USERS}"}
        if number % 16 == 0 and not properties:
            return Event(type="identify", traits={"visits": number}, **words)
        return Event(type="track", event="Order Completed", properties={"number": number, **properties}, **words)


@dataclass
class Traffic:
    """All clients of all tenants: two each."""

    clients: list[Client]
    notes: Notes

    def sender(self, name: str, party: Party) -> Client:
        """One more client of `party`, over HTTP, for whoever sends by hand."""
        way = next(client.way for client in self.clients if isinstance(client.way, HttpWay))
        return Client(name, party, way, self.notes, Random(name))

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """They send until the block ends; then each has its last word."""
        stop = asyncio.Event()
        running = [asyncio.create_task(client.run(stop), name=client.name) for client in self.clients]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*running)


@asynccontextmanager
async def traffic_to(http: str, address: str, parties: Sequence[Party], seed: str) -> AsyncIterator[Traffic]:
    """Clients of each of `parties`, one over HTTP at the URL `http` and one over gRPC at `address`; they do not send yet."""
    notes = Notes()
    async with aiohttp.ClientSession() as web, grpc.aio.insecure_channel(address, options=_CHANNEL) as channel:
        ways: dict[str, Way] = {"http": HttpWay(web, http), "grpc": GrpcWay(ingest_pb2_grpc.IngestServiceStub(channel))}
        clients = [
            Client(name := f"{party.name}-{kind}", party, way, notes, Random(f"{seed}/{name}"))
            for party in parties
            for kind, way in ways.items()
        ]
        yield Traffic(clients, notes)

"""Clients that insist, on real sockets, against a server that refuses, vanishes, and takes everything in the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from bench.insist import Insisting
from bench.region import BATCH, killed_in, load_of
from bench.schedule import Schedule, plan, steady
from bench.workload import Bodies

RUN, KEYS = "0a1b2c3d", [f"key-{number}" for number in range(20)]


@dataclass
class Server:
    """Answers a request with the status that `answer` says to the number of its attempt; 0 closes the connection instead."""

    answer: Callable[[int], int] = lambda _: 200
    bodies: list[bytes] = field(default_factory=list)
    keys: Counter[str] = field(default_factory=Counter)

    async def serve(self, request: web.Request) -> web.Response:
        """One attempt."""
        number = len(self.bodies)
        self.bodies.append(await request.read())
        self.keys[request.headers["x-api-key"]] += 1
        status = self.answer(number)
        if not status:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"code": "BUSY"} if status != 200 else {}, status=status or 500)


@asynccontextmanager
async def insisting(server: Server, schedule: Schedule, batch: int) -> AsyncIterator[Insisting]:
    """Clients of a server that runs."""
    app = web.Application()
    app.router.add_post("/{path:.*}", server.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
            yield Insisting(schedule, Bodies("http", RUN, batch), [session], KEYS)
    finally:
        await runner.cleanup()


async def test_everything_is_acknowledged_once() -> None:
    """Law: one attempt for each request, at its moment or later, with its tenant's key."""
    schedule, server = plan(steady(1_000, 0.3, batch=10)), Server()
    async with insisting(server, schedule, 10) as clients:
        await clients.run()
    assert (clients.sent, len(clients.attempts), clients.failures) == (30, 30, [])
    assert all(due <= begun <= told for due, begun, told in zip(schedule.first_due, clients.begun, clients.acknowledged, strict=True))
    assert server.keys == Counter(KEYS[tenant] for tenant in schedule.tenant)


async def test_what_fails_is_sent_again_with_the_same_bytes() -> None:
    """Law: refused or unanswered, each attempt is counted with its reason, and the request is acknowledged in the end."""
    schedule, server = plan(steady(100, 0.02, batch=2)), Server(lambda number: (503, 0, 200)[number])
    async with insisting(server, schedule, 2) as clients:
        await clients.run()
    assert len(clients.attempts) == 3
    assert [failed.why for failed in clients.failures] == ["BUSY", "ServerDisconnectedError"]
    assert len(set(server.bodies)) == 1
    assert clients.begun[0] == clients.attempts[-1]


async def test_nothing_new_is_sent_once_it_is_stopped() -> None:
    """Law: what was sent is acknowledged, the rest is nobody's."""
    schedule, server = plan(steady(100, 600, batch=1)), Server()
    async with insisting(server, schedule, 1) as clients:
        server.answer = lambda _: clients.stop() or 200  # type: ignore[func-returns-value]  # a stop at the first attempt
        await clients.run()
    assert 1 <= clients.sent < len(schedule.first_due)
    assert sum(not math.isnan(moment) for moment in clients.acknowledged) == clients.sent


def test_a_quarter_of_the_load_is_the_peers_own() -> None:
    """Law: streams tell whose tenant sends, and nothing is repeated but what failed."""
    schedule = plan(load_of(2_000))
    share = sum(schedule.stream) / len(schedule.stream)
    assert share == 0.25
    assert all((tenant >= 6) == bool(stream) for tenant, stream in zip(schedule.tenant, schedule.stream, strict=True))
    assert len(schedule.due) * BATCH == 2_000 * 600


def test_a_region_is_lost_with_or_without_its_edge() -> None:
    """Law: cell and database go always, Envoy, agent and the region's directory in one scenario."""
    assert {name.partition("/")[0] for name in killed_in("edge-alive")} == {"cell", "postgres"}
    assert {name.partition("/")[0] for name in killed_in("edge-lost")} == {"cell", "postgres", "envoy", "agent", "directory"}

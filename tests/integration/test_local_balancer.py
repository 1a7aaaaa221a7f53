"""The zone's endpoint, with real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from cli.local import probe
from cli.local.balancer import Balancer, Edge
from tests.support.processes import eventually, free_port

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def edge(handler: Handler) -> AsyncIterator[int]:
    port = free_port()
    server = await asyncio.start_server(handler, "127.0.0.1", port)
    try:
        yield port
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def balancer(*ports: int, connections_max: int = 100) -> AsyncIterator[tuple[int, Balancer]]:
    made = Balancer([Edge(port, probe.tcp(port)) for port in ports], connections_max)
    port = free_port()
    await made.open(port, free_port())
    try:
        yield port, made
    finally:
        await made.close(drain_seconds=0.1)


def says(name: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.read()  # until the client's half-close
        writer.write(name + b":" + received)
        await writer.drain()
        writer.close()

    return handler


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1000):
        writer.write(piece)
        await writer.drain()
    writer.close()


async def ask(port: int, text: bytes) -> bytes:
    """Sends, half-closes, reads all; empty when reset."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(text)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 5)
    except OSError:
        return b""
    writer.close()
    return answer


async def test_healthy_edges_take_turns_and_half_close_is_kept() -> None:
    """Both edges serve; the end of the request is passed on without ending the answer."""
    async with edge(says(b"one")) as one, edge(says(b"two")) as two, balancer(one, two) as (port, _):
        assert sorted([await ask(port, b"x" * 300_000) for _ in range(2)]) == [b"one:" + b"x" * 300_000, b"two:" + b"x" * 300_000]


async def test_a_dead_edge_is_skipped_and_comes_back() -> None:
    """No request reaches a dead edge, not even the first after its death; a returned edge serves again."""
    async with edge(says(b"one")) as one:
        async with edge(says(b"two")) as two, balancer(one, two) as (port, made):
            await eventually(lambda: made.healthy == [one, two], "both healthy")
        async with balancer(one, two) as (port, made):
            assert {await ask(port, b"") for _ in range(4)} == {b"one:"}
            server = await asyncio.start_server(says(b"back"), "127.0.0.1", two)
            await eventually(lambda: two in made.healthy, "the returned edge is healthy")
            assert {await ask(port, b"") for _ in range(2)} == {b"one:", b"back:"}
            server.close()
            assert {await ask(port, b"") for _ in range(2)} == {b"one:"}


async def test_connections_of_an_edge_that_stops_answering_are_reset() -> None:
    """A client that hangs on a paused edge is let go, so that it can reach another."""
    answer: list[str | None] = [None]

    async def check() -> str | None:
        return answer[0]

    async with edge(echo) as one:
        made = Balancer([Edge(one, check)])
        port = free_port()
        await made.open(port, free_port())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        answer[0] = "paused"
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        assert made.healthy == []
        writer.close()
        await made.close()


async def test_connections_are_bounded() -> None:
    """One connection more than the bound is closed at once; the others go on."""
    async with edge(echo) as one, balancer(one, connections_max=1) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        assert await ask(port, b"b") == b""
        writer.write(b"c")
        assert await reader.readexactly(1) == b"c"
        writer.close()


async def test_without_a_healthy_edge_it_is_not_ready() -> None:
    """The status port tells an operator; clients are closed, not left hanging."""
    made = Balancer([Edge(port := free_port(), probe.tcp(port))])
    await made.open(listen := free_port(), status := free_port())
    assert "503" in (await probe.http(status)() or "")
    assert await ask(listen, b"x") == b""
    await made.close()

"""A zone's endpoint on one machine: a TCP balancer outside the cells, standing for health-checked DNS or an accelerator.

It forwards bytes, TLS or not, to the healthy edges of one zone in turn. An edge is healthy while its check answers 200; connections of
an edge that stops answering are reset, so that clients come again and reach another. `python -m cli.local.balancer LISTEN STATUS EDGE...`
with EDGE = `PORT,CHECK_PORT,CHECK_PATH`; everything is on 127.0.0.1. GET /readyz on the status port: 200 while an edge is healthy.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import uvloop

from cli.local import probe

CONNECTIONS_MAX: Final = 4_096
CONNECT_SECONDS: Final = 1.0
CHECK_SECONDS: Final = 0.25
CHECK_TIMEOUT_SECONDS: Final = 1.0
FAILURES_TO_UNHEALTHY: Final = 2
DRAIN_SECONDS: Final = 3.0
_PIECE_BYTES: Final = 64 * 1024


@dataclass
class Edge:
    """One region's edge. A connect failure makes it unhealthy at once, failed checks after FAILURES_TO_UNHEALTHY."""

    port: int
    check: probe.Probe
    healthy: bool = False
    failures: int = 0
    connections: set[asyncio.Task[None]] = field(default_factory=set)


class Balancer:
    """Serves `port` until `close`. At most `connections_max` connections; more are closed at once."""

    def __init__(self, edges: Sequence[Edge], connections_max: int = CONNECTIONS_MAX) -> None:
        self._edges = list(edges)
        self._turn = itertools.count()
        self._connections_max = connections_max
        self._connections: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._checks: list[asyncio.Task[None]] = []

    async def open(self, port: int, status_port: int) -> None:
        """Checks every edge once, then listens."""
        await asyncio.gather(*(self._check(edge) for edge in self._edges))
        self._checks = [asyncio.create_task(self._keep_checking(edge)) for edge in self._edges]
        self._servers.append(await asyncio.start_server(self._accept, "127.0.0.1", port, limit=_PIECE_BYTES, backlog=1_024))
        self._servers.append(await asyncio.start_server(self._tell, "127.0.0.1", status_port, limit=_PIECE_BYTES))

    async def close(self, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Stops listening, lets connections end for `drain_seconds`, resets the rest."""
        for server in self._servers:
            server.close()
        if self._connections:
            await asyncio.wait(self._connections, timeout=drain_seconds)
        tasks = [*self._connections, *self._checks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def healthy(self) -> list[int]:
        """Ports of the healthy edges."""
        return [edge.port for edge in self._edges if edge.healthy]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # start_server runs this in a task
        if len(self._connections) >= self._connections_max:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            await self._serve(reader, writer, task)
        except asyncio.CancelledError:
            pass  # its edge died or the balancer closes: the client sees a reset
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        reached = await self._connect()
        if reached is None:
            return
        edge, upstream_reader, upstream_writer = reached
        edge.connections.add(task)
        try:
            _tune(writer)
            _tune(upstream_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, upstream_writer))
                both.create_task(_pump(upstream_reader, writer))
        except* OSError:
            pass
        finally:
            edge.connections.discard(task)
            upstream_writer.transport.abort()

    async def _connect(self) -> tuple[Edge, asyncio.StreamReader, asyncio.StreamWriter] | None:
        first = next(self._turn)
        count = len(self._edges)
        for edge in (self._edges[(first + step) % count] for step in range(count)):
            if not edge.healthy:
                continue
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, limit=_PIECE_BYTES)
            except (OSError, TimeoutError):
                edge.healthy = False
                continue
            return edge, reader, writer
        return None

    async def _keep_checking(self, edge: Edge) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self._check(edge)

    async def _check(self, edge: Edge) -> None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                problem = await edge.check()
        except TimeoutError:
            problem = "no answer in time"
        if problem is None:
            edge.failures, edge.healthy = 0, True
            return
        edge.failures += 1
        if edge.failures >= FAILURES_TO_UNHEALTHY:
            edge.healthy = False
            for connection in list(edge.connections):
                connection.cancel()

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await reader.readuntil(b"\r\n\r\n")
            body = f"healthy edges: {self.healthy}\n"
            status = "200 OK" if self.healthy else "503 Service Unavailable"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())
            await writer.drain()
            writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies until the end of one direction, then closes that direction only. Waits while the receiver is slow."""
    while piece := await reader.read(_PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


def _tune(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def edge_of(text: str) -> Edge:
    """`PORT,CHECK_PORT,CHECK_PATH`."""
    port, check_port, path = text.split(",")
    return Edge(int(port), probe.http(int(check_port), path))


async def serve(port: int, status_port: int, edges: Sequence[Edge]) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    balancer = Balancer(edges)
    await balancer.open(port, status_port)
    await stop.wait()
    await balancer.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), int(sys.argv[2]), [edge_of(text) for text in sys.argv[3:]]))

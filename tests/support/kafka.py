"""A real Kafka for tests, of one node or three: `make kafka` has fetched it.

async with brokers(folder, nodes=3) as kafka:
    kafka.kill(2)
    await kafka.start(2)
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.local.kafka import Kafka, Ports
from cli.local.process import Child
from tests.support.processes import free_port

READY_SECONDS = 60.0


@dataclass(frozen=True)
class Brokers:
    """Running nodes, numbered from 1. Processes belong to the event loop that started them; signals may be sent from any."""

    nodes: tuple[Kafka, ...]

    @property
    def bootstrap(self) -> str:
        """`host:port` of every node, comma-separated."""
        return ",".join(f"127.0.0.1:{node.ports.client}" for node in self.nodes)

    @property
    def replication(self) -> tuple[int, int]:
        """(replicas, how many must have a record before it is acknowledged) that topics are made with: 1/1 or 3/2."""
        return self.nodes[0].replication

    def kill(self, node: int) -> None:
        """SIGKILL, as a crash would."""
        self._child(node).send(signal.SIGKILL)

    def pause(self, node: int) -> None:
        """SIGSTOP: it answers nobody, its sockets stay open."""
        self._child(node).send(signal.SIGSTOP)

    def resume(self, node: int) -> None:
        """Ends `pause`."""
        self._child(node).send(signal.SIGCONT)

    async def start(self, node: int) -> None:
        """Starts a node that was killed or stopped, on its old ports and files. `wait_until_ready` follows."""
        await self.nodes[node - 1].launch()

    async def stop(self, node: int) -> None:
        """An orderly end of one node."""
        await self.nodes[node - 1].stop()

    async def wait_until_ready(self, seconds: float = READY_SECONDS) -> None:
        """Until every node that was started accepts records. Raises Unable with the last words of one that does not."""
        await asyncio.gather(*(node.wait_until_ready(seconds) for node in self.nodes))

    async def start_all(self) -> None:
        """All nodes at once, until they are ready."""
        await asyncio.gather(*(node.launch() for node in self.nodes))
        await self.wait_until_ready()

    async def stop_all(self) -> None:
        """SIGKILL to all: what a test leaves behind is thrown away."""
        await asyncio.gather(*(node.kill() for node in self.nodes))

    def _child(self, node: int) -> Child:
        child = self.nodes[node - 1].child
        assert child is not None, f"node {node} was never started"
        return child


def laid_out(folder: Path, nodes: int = 1, settings: Mapping[str, str] | None = None) -> Brokers:
    """Nodes on free ports with their files below `folder`; nothing is started."""
    ports = tuple(Ports(free_port(), free_port()) for _ in range(nodes))
    name = uuid.uuid4().hex
    return Brokers(tuple(Kafka(folder / str(node), name, ports, node, settings or {}) for node in range(1, nodes + 1)))


@asynccontextmanager
async def brokers(folder: Path, nodes: int = 1, settings: Mapping[str, str] | None = None) -> AsyncIterator[Brokers]:
    """A Kafka that is ready, until the block ends; then no process of it is left. `settings` are each node's own, over ours."""
    made = laid_out(folder, nodes, settings)
    try:
        await made.start_all()
        yield made
    finally:
        await made.stop_all()


class SessionBrokers:
    """One node that outlives the event loops of the tests: it is started and stopped on a loop of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._folder = Path(tempfile.mkdtemp(prefix="dataflow-kafka-"))
        self.brokers = laid_out(self._folder)

    def start(self) -> Brokers:
        """Starts it and waits until it is ready. Raises Unable saying "run `make kafka`" when Kafka is not fetched."""
        self._run(self.brokers.start_all)
        return self.brokers

    def stop(self) -> None:
        """Ends it and removes its files."""
        self._run(self.brokers.stop_all)
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, act: Callable[[], Awaitable[None]]) -> None:
        async def acting() -> None:
            await act()

        self._loop.run_until_complete(acting())

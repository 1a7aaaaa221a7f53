"""One node of Apache Kafka: broker and KRaft controller in one process, over the jars that `make kafka` fetched.

A node alone is a whole Kafka; three that are given each other's ports form one, of which any one may die. Only this machine can reach
it. What a topic promises (replicas, how many must have a record before it is acknowledged) is declared when the topic is made; no
setting here may promise less.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from cli.errors import Unable
from cli.local import binaries, probe
from cli.local.postgres import check_disk
from cli.local.process import Child, tail
from gitops.fleet.log import LOG

_NAMES: Final = uuid.UUID("6f0f8f0e-0d0c-4c55-9b7e-5d2f0a9c7a10")
_LOG_CONFIGURATION: Final = Path(__file__).parent / "kafka-log.yaml"
_FORMAT_SECONDS: Final = 60.0
# Serial collector and first compiler alone: on two cores they start faster and take less than half of the memory.
_JVM: Final = (
    "-Xms64m",
    "-Xmx320m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
)
_UNTOUCHABLE: Final = (
    "auto.create.topics",
    "default.replication",
    "eligible.leader",
    "log.flush",
    "min.insync",
    "offsets.topic.replication",
    "transaction.state.log.min",
    "transaction.state.log.replication",
    "unclean.leader",
)
_SETTINGS: Final = {
    "process.roles": "broker,controller",
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "CLIENT",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "unclean.leader.election.enable": "false",
    "broker.heartbeat.interval.ms": "500",
    "replica.lag.time.max.ms": "5000",
    "controller.quorum.fetch.timeout.ms": "2000",
    "controller.quorum.election.timeout.ms": "1000",
    "group.initial.rebalance.delay.ms": "0",
    # A small machine: few threads, no buffers and index files for loads that it will not see.
    "num.network.threads": "2",
    "num.io.threads": "4",
    "num.recovery.threads.per.data.dir": "2",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.index.size.max.bytes": "1048576",
    "log.segment.bytes": "67108864",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
}
# A node that was killed is let in again when the session of its predecessor is over, which nobody else ends for a node alone. And
# nothing but its disk keeps what a node alone has acknowledged, so that it waits for the disk, as PostgreSQL does.
_ALONE: Final = {"broker.session.timeout.ms": "2000", "log.flush.interval.messages": "1"}
# A killed or paused node of several is found out after four seconds; the others have its records.
_TOGETHER: Final = {"broker.session.timeout.ms": "4000"}


class Ports(NamedTuple):
    """Where one node listens on 127.0.0.1: for clients and the other brokers, and for the other controllers."""

    client: int
    controller: int


@dataclass(slots=True)
class Kafka:
    """The node `node` (from 1) of those at `nodes`, whose files lie in `folder`. `name` tells this Kafka from others: a node refuses the
    files of another one. The storage is formatted at the first `prepare`; ports may change between starts, the number of nodes may not.
    """

    folder: Path
    name: str
    nodes: tuple[Ports, ...]
    node: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    child: Child | None = None

    @property
    def log(self) -> Path:
        """What the node says, when this class starts it."""
        return self.folder / "kafka.log"

    @property
    def id(self) -> str:
        """This Kafka's, of 22 base64url characters, made of its name: the same for all its nodes and at every start."""
        return base64.urlsafe_b64encode(uuid.uuid5(_NAMES, self.name).bytes).decode().rstrip("=")

    @property
    def ports(self) -> Ports:
        """This node's own."""
        return self.nodes[self.node - 1]

    @property
    def replication(self) -> tuple[int, int]:
        """(replicas, how many of them must have a record before it is acknowledged): what these nodes can keep of what is declared."""
        shape = LOG.on_one_machine(len(self.nodes))
        return shape.replication, shape.min_in_sync

    def prepare(self) -> None:
        """Writes the configuration, formats the storage when it is not there (about a second). Raises Unable: Java, jars, disk, folder."""
        libs = binaries.kafka_libs()
        self.folder.mkdir(parents=True, exist_ok=True)
        check_disk(self.folder)
        (self.folder / "tmp").mkdir(mode=0o700, exist_ok=True)
        _write(self.folder / "server.properties", self.properties())
        if (self.folder / "data" / "meta.properties").exists():
            self._check_owner(self.folder / "data" / "meta.properties")
        else:
            self._format(libs)

    def properties(self) -> dict[str, str]:
        """The node's configuration, in Kafka's words. Raises Unable for a setting of ours that would promise less than is declared."""
        refused = sorted(name for name in self.settings if name.startswith(_UNTOUCHABLE))
        if refused:
            raise Unable(f"{', '.join(refused)} may not be changed", "an acknowledged event must survive a crash")
        replicas, in_sync = map(str, self.replication)
        client, controller = (f"127.0.0.1:{port}" for port in self.ports)
        return {
            **_SETTINGS,
            **(_ALONE if len(self.nodes) == 1 else _TOGETHER),
            "node.id": str(self.node),
            "log.dirs": str(self.folder / "data"),
            "listeners": f"CLIENT://{client},CONTROLLER://{controller}",
            "advertised.listeners": f"CLIENT://{client}",
            "controller.quorum.voters": ",".join(f"{number}@127.0.0.1:{one.controller}" for number, one in enumerate(self.nodes, 1)),
            "default.replication.factor": replicas,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "share.coordinator.state.topic.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.min.isr": in_sync,
            **self.settings,
        }

    def argv(self) -> list[str]:
        """The node's command line. Raises Unable for a setting that would promise less, and without Java or jars."""
        self.properties()
        return [*self._java(binaries.kafka_libs()), "kafka.Kafka", str(self.folder / "server.properties")]

    def env(self) -> dict[str, str]:
        """The node's environment: nothing of ours."""
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

    async def probe(self) -> str | None:
        """Why the node is not ready, None when the controllers let it take part: it accepts records from then on."""
        return await probe.kafka(self.ports.client, self.id, self.node)()

    async def start(self, seconds: float = 60.0) -> None:
        """Prepares, starts and waits until it is ready. Raises Unable with the node's last words. One of three needs a second one."""
        await self.launch()
        await self.wait_until_ready(seconds)

    async def launch(self) -> None:
        """Prepares and starts; what is left of its predecessor ends first."""
        if self.child is not None:
            await self.child.kill()
        await asyncio.to_thread(self.prepare)
        self.child = Child(self.argv(), self.env(), self.log)

    async def wait_until_ready(self, seconds: float = 60.0) -> None:
        """Until the launched node is ready. Raises Unable with its last words, having killed it."""
        if self.child is None:
            raise Unable(f"Kafka on port {self.ports.client} is not started")
        deadline = asyncio.get_running_loop().time() + seconds
        while (problem := await self.probe()) is not None:
            late = asyncio.get_running_loop().time() > deadline
            if late or self.child.exit_code is not None:
                await self.kill()
                raise Unable(f"Kafka on port {self.ports.client} does not come up: {problem}", f"it said: {tail(self.log, 3)}")
            await asyncio.sleep(0.05)

    async def stop(self, seconds: float = 30.0) -> None:
        """Hands its partitions over and closes its files. Killed when it takes longer."""
        if self.child is not None:
            await self.child.drain(signal.SIGTERM, seconds)

    async def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self.child is not None:
            await self.child.kill()

    def _java(self, libs: Path) -> list[str]:
        flags = [*_JVM, f"-Djava.io.tmpdir={self.folder / 'tmp'}", f"-Dlog4j2.configurationFile={_LOG_CONFIGURATION}"]
        return [str(binaries.java()), *flags, "-cp", f"{libs}/*"]

    def _check_owner(self, meta: Path) -> None:
        """A node serves whatever storage it is given, so it is asked before whose it is."""
        found = dict(line.partition("=")[::2] for line in meta.read_text().splitlines())
        if (found.get("cluster.id"), found.get("node.id")) != (self.id, str(self.node)):
            raise Unable(f"the storage in {meta.parent} is not that of node {self.node} of {self.name}", "name the right folder")

    def _format(self, libs: Path) -> None:
        """Beside its final place, then renamed: an interrupted format is not taken for a storage."""
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        properties = self.folder / "format.properties"
        _write(properties, {**self.properties(), "log.dirs": str(fresh)})
        argv = [*self._java(libs), "kafka.tools.StorageTool", "format", f"--cluster-id={self.id}", f"--config={properties}"]
        try:
            done = subprocess.run(argv, env=self.env(), cwd="/", capture_output=True, text=True, timeout=_FORMAT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise Unable(
                f"the storage in {fresh} is not formatted within {_FORMAT_SECONDS:.0f} s", "try again on a quieter machine"
            ) from error
        finally:
            properties.unlink()
        if done.returncode != 0:
            said = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
            raise Unable(f"the storage in {fresh} cannot be formatted: {said[-1]}", "free the disk or remove the folder, then try again")
        os.rename(fresh, self.folder / "data")


def _write(path: Path, properties: Mapping[str, str]) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    fresh.replace(path)

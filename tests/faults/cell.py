"""A cell in split roles: ingest, two of processing, storage, each a real process that is started again whenever it ends.

Whatever ends a role - a signal of a test, or a start while Kafka or PostgreSQL does not answer - the keeper starts it again after a
moment, as an orchestrator does. Tests only send signals, and say how long a role stays away.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import psutil

from cells.config import ProvisionConfig
from cells.provision import provision
from cli.local.environment import inherit
from cli.local.postgres import Postgres
from cli.local.process import Child, tail
from gitops.fleet import EU
from tests.faults.placement import PARTITIONS, Placement
from tests.support.kafka import Brokers
from tests.support.processes import eventually, free_port

INGEST, STORAGE, PROCESSING = "ingest", "storage", ("processing-1", "processing-2")
ROLES: Final = (STORAGE, INGEST, *PROCESSING)
READY_SECONDS: Final = 60.0
# What a process that ends by itself waits before it is started again, and how often that may happen in a session.
_RESTART_SECONDS: Final = 0.25
_STARTS_MAX: Final = 400
_STOP_SECONDS: Final = 15.0
_DEFECTS_MAX: Final = 5
_AWAY: Final = re.compile(r'"why": "(LOG|STORE)_UNAVAILABLE: .*"event": "cannot go on"')
_TRACEBACKS: Final = re.compile(r"^Traceback .*\n(?:[ \t].*\n)*(\S.*)", re.MULTILINE)
_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass
class Role:
    """One role's process, kept alive by its own task."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    log: Path
    child: Child | None = None
    starts: int = 0
    may_start: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.child is not None and self.child.exit_code is None

    def send(self, number: signal.Signals) -> None:
        """A signal to its process; nothing when there is none."""
        if self.child is not None:
            self.child.send(number)

    async def keep(self) -> None:
        """Starts the process whenever it may run and does not, until cancelled."""
        for self.starts in range(1, _STARTS_MAX + 1):
            await self.may_start.wait()
            self.child = Child(self.argv, self.env, self.log, cwd=_ROOT)
            await self.child.wait()
            await asyncio.sleep(_RESTART_SECONDS)
        raise AssertionError(f"{self.name} ended {_STARTS_MAX} times; it said: {tail(self.log)}")


@dataclass
class Cell:
    """The roles, their store and their log."""

    placement: Placement
    postgres: Postgres
    brokers: Brokers
    topic: str
    apply_dsn: str
    roles: dict[str, Role]
    web: aiohttp.ClientSession
    _keepers: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def http(self) -> str:
        """Where HTTP clients send to."""
        return f"http://{self.roles[INGEST].env['DATAFLOW_HTTP_ADDRESS']}"

    @property
    def grpc(self) -> str:
        """Where gRPC clients send to."""
        return self.roles[INGEST].env["DATAFLOW_GRPC_ADDRESS"]

    @property
    def query(self) -> str:
        """Where questions are answered, over gRPC."""
        return self.roles[STORAGE].env["DATAFLOW_GRPC_ADDRESS"]

    @property
    def group(self) -> str:
        """The consumer group of the processing roles."""
        return f"{self.topic}.processing"

    def start(self) -> None:
        """Begins to keep every role alive."""
        for role in self.roles.values():
            role.may_start.set()
            self._keepers.append(asyncio.create_task(role.keep(), name=role.name))

    async def stop(self) -> None:
        """Ends every role, in whatever state it is, and raises what ended a keeper."""
        for keeper in self._keepers:
            keeper.cancel()
        ends = await asyncio.gather(*self._keepers, return_exceptions=True)
        for role in self.roles.values():
            if role.child is not None:
                role.send(signal.SIGCONT)
                await role.child.drain(signal.SIGTERM, _STOP_SECONDS)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    def take_down(self, role: str, number: signal.Signals) -> None:
        """Signals a role, which stays away until `bring_up`."""
        self.roles[role].may_start.clear()
        self.roles[role].send(number)

    def bring_up(self, role: str) -> None:
        """Lets a role start again."""
        self.roles[role].may_start.set()

    async def wait_until_ready(self, roles: Sequence[str] = ROLES, seconds: float = READY_SECONDS) -> None:
        """Until each says so itself."""
        for role in roles:
            await eventually(lambda name=role: self.is_ready(name), f"{role} is ready: {tail(self.roles[role].log, 3)}", seconds)

    async def is_ready(self, role: str) -> bool:
        """What its probe says."""
        if not self.roles[role].alive:
            return False
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            timeout = aiohttp.ClientTimeout(total=2)
            async with self.web.get(f"http://{self.roles[role].env['DATAFLOW_HTTP_ADDRESS']}/readyz", timeout=timeout) as answer:
                return answer.status == 200
        return False

    def defects(self) -> list[str]:
        """What the roles say of themselves that no fault excuses: errors in their logs, and the ends of tracebacks beside them. One that
        cannot begin while its log or store is away says so, and is started again."""
        found: list[str] = []
        for role in self.roles.values():
            text = role.log.read_text(errors="replace")
            said = [line for line in text.splitlines() if '"level": "error"' in line and not _AWAY.search(line)]
            said += [trace.group(1) for trace in _TRACEBACKS.finditer(text)]
            found += [f"defect: {role.name}: {line}" for line in said[:_DEFECTS_MAX]]
        return found

    def last_words(self) -> str:
        """Of every role, for a failure."""
        return "\n".join(f"{role.name}, start {role.starts}: {tail(role.log, 3)}" for role in self.roles.values())

    def backend_at_work(self) -> psutil.Process | None:
        """A process of PostgreSQL's that is in a transaction of the applying role now, as its title says."""
        child = self.postgres.child
        assert child is not None, "PostgreSQL was never started"
        for process in psutil.Process(child.pid).children():
            with contextlib.suppress(psutil.Error, IndexError):
                title = process.cmdline()[0]
                if "df_apply" in title and not title.endswith(("idle", "authentication", "startup")):
                    return process
        return None


@asynccontextmanager
async def standing(folder: Path, brokers: Brokers, placement: Placement, commands: dict[str, tuple[str, ...]]) -> AsyncIterator[Cell]:
    """A cell over `brokers`, ready, until the block ends. `commands` replaces the program of some roles."""
    postgres = Postgres(folder / "postgres", free_port(), secrets.token_hex(16))
    await postgres.start()
    try:
        topic = f"log.{placement.cell}"
        common = await _provisioned(postgres, brokers, topic)
        roles = _roles(folder, placement, common, commands)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as web:
            cell = Cell(placement, postgres, brokers, topic, common["DATAFLOW_APPLY_DSN"], roles, web)
            cell.start()
            try:
                await cell.wait_until_ready()
                yield cell
            finally:
                await cell.stop()
    finally:
        await postgres.kill()


async def _provisioned(postgres: Postgres, brokers: Brokers, topic: str) -> dict[str, str]:
    """Makes database and topic; what the roles' environments have in common."""
    dsns = {name: postgres.dsn("cell", f"df_{name}", secrets.token_hex(16)) for name in ("owner", "apply", "query", "audit")}
    replicas, in_sync = brokers.replication
    config = ProvisionConfig(
        log_kind="kafka",
        kafka_bootstrap=brokers.bootstrap,
        kafka_topic=topic,
        admin_dsn=postgres.dsn("cell"),
        owner_dsn=dsns["owner"],
        apply_dsn=dsns["apply"],
        query_dsn=dsns["query"],
        audit_dsn=dsns["audit"],
        log_partitions=PARTITIONS,
        log_replication=replicas,
        log_min_in_sync=in_sync,
    )
    await provision(config)
    return {
        **inherit({}),
        "DATAFLOW_LOG_KIND": "kafka",
        "DATAFLOW_KAFKA_BOOTSTRAP": brokers.bootstrap,
        "DATAFLOW_KAFKA_TOPIC": topic,
        **{f"DATAFLOW_{name.upper()}_DSN": dsns[name] for name in ("apply", "query", "audit")},
    }


def _roles(folder: Path, placement: Placement, common: dict[str, str], commands: dict[str, tuple[str, ...]]) -> dict[str, Role]:
    storage = f"127.0.0.1:{free_port()}"
    made = {}
    for name in ROLES:
        kind = name.split("-")[0]
        env = {
            **common,
            "DATAFLOW_CELL": placement.cell,
            "DATAFLOW_ZONE": EU,
            "DATAFLOW_REGION": "eu-west-1",
            "DATAFLOW_JOURNAL_PATH": str(placement.journal(name)),
            "DATAFLOW_PUBLIC_KEY_FILE": str(placement.public_key_file),
            "DATAFLOW_FOLLOWER_TOKEN_FILE": str(placement.token_file),
            "DATAFLOW_DIRECTORY_ADDRESS": f"127.0.0.1:{free_port()}",
            "DATAFLOW_STORAGE_ADDRESS": storage,
            "DATAFLOW_GRPC_ADDRESS": storage if name == STORAGE else f"127.0.0.1:{free_port()}",
            "DATAFLOW_HTTP_ADDRESS": f"127.0.0.1:{free_port()}",
        }
        program = commands.get(name, (sys.executable, "-m", "cells.app"))
        made[name] = Role(name, (*program, "--role", kind), env, folder / f"{name}.log")
    return made

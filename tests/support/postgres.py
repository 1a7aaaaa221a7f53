"""A real PostgreSQL for tests: one server a session, one empty database a test."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from cli.local.postgres import Postgres
from tests.support.processes import free_port

_numbers = itertools.count()


@dataclass
class Databases:
    """Empty databases of one server, owned by its superuser. `admin_dsn` leads to the test's first."""

    server: Postgres
    admin_dsn: str
    _made: list[str] = field(default_factory=list)

    async def create(self) -> str:
        """One more empty database; its superuser's DSN."""
        name = f"t{os.getpid()}_{next(_numbers)}_{uuid.uuid4().hex[:6]}"
        connection = await asyncpg.connect(self.server.dsn())
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()
        self._made.append(name)
        return self.server.dsn(name)

    def role_dsn(self, role: str, password: str) -> str:
        """The DSN of a service's own role in the test's first database."""
        return self.server.dsn(self.admin_dsn.rsplit("/", 1)[1].partition("?")[0], user=role, password=password)

    async def drop(self) -> None:
        """Removes them all, whoever is connected."""
        connection = await asyncpg.connect(self.server.dsn())
        try:
            for name in self._made:
                await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        finally:
            await connection.close()


@asynccontextmanager
async def databases(server: Postgres) -> AsyncIterator[Databases]:
    """The databases of one test."""
    made = Databases(server, "")
    made.admin_dsn = await made.create()
    try:
        yield made
    finally:
        await made.drop()


def temporary_folder() -> Path:
    """A fresh folder that `nobody` may enter, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="dataflow-test-", dir="/tmp"))  # short, for socket paths
    path.chmod(0o711)
    return path


class SessionServer:
    """A server that outlives the event loops of the tests: it is started and stopped on a loop of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._folder = temporary_folder()
        self.server = Postgres(self._folder, free_port(), "test-superuser")

    def start(self) -> Postgres:
        """Starts it and waits until it answers."""
        self._run(self.server.start)
        return self.server

    def stop(self) -> None:
        """Stops it and removes its files."""
        self._run(self.server.stop)
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, act: Callable[[], Awaitable[None]]) -> None:
        async def acting() -> None:
            await act()

        self._loop.run_until_complete(acting())

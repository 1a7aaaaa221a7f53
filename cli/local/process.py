"""One real child process: started so that it dies with this one, waited for without a thread, ended for certain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from cli.errors import Unable

LOG_BYTES_MAX = 16 * 1024 * 1024
_LAUNCH = Path(__file__).with_name("launch.py")


class User(NamedTuple):
    """Whom a child runs as."""

    uid: int
    gid: int


class Child:
    """A started process in a session of its own. Its output goes to `log`, which `trim_log` keeps below two times LOG_BYTES_MAX.

    The kernel sends it `death_signal` when the *thread* that started it ends, so start children from the main thread.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        *,
        user: User | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
        cwd: Path | None = None,
    ) -> None:
        if not os.access(argv[0], os.X_OK):
            raise Unable(f"the program {argv[0]} is missing or not executable", "install again with `make setup`")
        who = user or User(-1, -1)
        launch = [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), str(int(death_signal)), str(who.uid), str(who.gid), "--"]
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*launch, *argv],
                env=dict(env),
                cwd=cwd or "/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._pidfd = os.pidfd_open(self._popen.pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)
        self.log = log
        self.started_at = time.time()

    @property
    def pid(self) -> int:
        """Its process id, which is also its group's and session's."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._popen.returncode

    async def wait(self) -> int:
        """Its exit code, once it ended."""
        await self._ended.wait()
        return self._popen.returncode

    def send(self, number: signal.Signals) -> None:
        """Signals the process alone; nothing when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.exit_code is None:
                self._popen.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL to it and all its descendants (PostgreSQL's backends lead groups of their own), then waits."""
        if self.exit_code is None:
            kin = _descendants(self.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            _kill(kin)
        await self.wait()

    async def drain(self, stop: signal.Signals, seconds: float) -> bool:
        """Asks it to stop, waits at most `seconds`, then kills what is left. Whether it stopped by itself."""
        kin = _descendants(self.pid) if self.exit_code is None else []
        self.send(stop)
        try:
            async with asyncio.timeout(seconds):
                await self.wait()
        except TimeoutError:
            await self.kill()
            return False
        _kill(kin)
        return True

    def _reap(self) -> None:
        if self._popen.poll() is None:
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set()


def trim_log(log: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Moves a log's content to `<log>.1` once it is larger; lines that are written in between may be lost. Writers append, so go on."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > bytes_max:
            log.with_name(log.name + ".1").write_bytes(log.read_bytes()[-bytes_max:])
            os.truncate(log, 0)


def tail(log: Path, lines: int = 5) -> str:
    """The last lines of a log, for a message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4_096))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _kill(processes: list[psutil.Process]) -> None:
    for one in processes:
        with contextlib.suppress(psutil.Error):
            one.kill()

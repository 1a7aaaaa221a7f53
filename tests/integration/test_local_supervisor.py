"""The supervisor, with real tiny processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cli.errors import Unable
from cli.local import probe
from cli.local.order import Spec
from cli.local.ports import check_ports
from cli.local.process import Child, trim_log
from cli.local.state import StateFolder
from cli.local.supervisor import Supervisor
from tests.support.processes import eventually, free_port

SERVER = """
import signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else lambda *_: sys.exit(0))
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen()
print("up", flush=True)
while True:
    s.accept()
"""


def spec(name: str, folder: Path, *more: str, after: tuple[str, ...] = (), prepare: Callable[[], Awaitable[None]] | None = None) -> Spec:
    port = free_port()
    argv = (sys.executable, "-c", SERVER, str(port), *more)
    return Spec(name, argv, {}, folder / f"{name}.log", probe.tcp(port), port, after=after, stop_seconds=1.0, prepare=prepare)


@asynccontextmanager
async def running(*specs: Spec) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(specs)
    supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    """After SIGKILL there is soon a new, ready process; while held there is none."""
    async with running(spec("one", tmp_path)) as supervisor:
        await supervisor.wait_until_ready(10)
        first = supervisor.kill("one")
        await supervisor.wait_until_ready(10)
        assert supervisor.pid("one") != first
        supervisor.hold("one")
        supervisor.kill("one")
        await eventually(lambda: supervisor.statuses["one"].state == "held", "it is held")
        with pytest.raises(Unable, match="does not run"):
            supervisor.pid("one")
        supervisor.release("one")
        await supervisor.wait_until_ready(10)
        assert supervisor.statuses["one"].starts == 3


async def test_a_paused_process_is_replaced(tmp_path: Path) -> None:
    """One that was ready and no longer answers at all is killed and started again; while it is held it is left alone."""

    async def answers() -> str | None:
        running = psutil.Process(supervisor.pid("one")).status() != psutil.STATUS_STOPPED
        return None if running else probe.Silence("no answer in time")

    async with running(replace(spec("one", tmp_path), ready=answers, silence_seconds=0.3)) as supervisor:
        await supervisor.wait_until_ready(10)
        first = supervisor.kill("one", signal.SIGSTOP)
        await eventually(lambda: supervisor.statuses["one"].starts == 2, "it was replaced", 15)
        await supervisor.wait_until_ready(10)
        assert supervisor.pid("one") != first


async def test_processes_start_after_what_they_need_and_stop_before_it(tmp_path: Path) -> None:
    """A process is started only when all that it needs is ready; draining goes the other way round."""
    order: list[str] = []

    def notes(name: str) -> Callable[[], Awaitable[None]]:
        async def note() -> None:
            order.append(name)

        return note

    first = spec("first", tmp_path, prepare=notes("first"))
    last = spec("last", tmp_path, after=("middle",), prepare=notes("last"))
    middle = spec("middle", tmp_path, after=("first",), prepare=notes("middle"))
    async with running(last, first, middle) as supervisor:
        await supervisor.wait_until_ready(10)
        assert order == ["first", "middle", "last"]


async def test_it_gives_up_loudly(tmp_path: Path) -> None:
    """A process that dies at once again and again is given up with its last words; what waits for it is not started."""
    bad = Spec("bad", (sys.executable, "-c", "raise SystemExit('no such luck')"), {}, tmp_path / "bad.log", probe.tcp(1), 1)
    async with running(bad, spec("needs-it", tmp_path, after=("bad",))) as supervisor:
        with pytest.raises(Unable, match=r"bad died 6 times in a row.*no such luck"):
            await supervisor.wait_until_ready(20)
        assert supervisor.statuses["needs-it"].starts == 0


async def test_draining_leaves_no_process(tmp_path: Path) -> None:
    """A polite process, a stubborn one, a paused one and their children are all gone after `stop`."""
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); {SERVER[1:]}"
    port = free_port()
    family = Spec("family", (sys.executable, "-c", parent, str(port)), {}, tmp_path / "family.log", probe.tcp(port), port, stop_seconds=2.0)
    async with running(spec("polite", tmp_path), spec("stubborn", tmp_path, "stubborn"), spec("paused", tmp_path), family) as supervisor:
        await supervisor.wait_until_ready(10)
        pids = [supervisor.pid(name) for name in supervisor.statuses]
        pids += [kin.pid for pid in pids for kin in psutil.Process(pid).children(recursive=True)]
        assert len(pids) == 5
        supervisor.kill("paused", signal.SIGSTOP)
    await eventually(lambda: not any(_runs(pid) for pid in pids), "all are gone")


async def test_children_die_with_their_parent(tmp_path: Path) -> None:
    """When the supervisor itself is killed, the kernel ends its children."""
    code = (
        "import asyncio, sys; from pathlib import Path; from cli.local.process import Child\n"
        "async def main():\n"
        "    child = Child([sys.executable, '-c', 'import time; time.sleep(600)'], {}, Path(sys.argv[1]))\n"
        "    print(child.pid, flush=True); await child.wait()\n"
        "asyncio.run(main())"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path / "log"), stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    await eventually(lambda: b"sleep" in _command(pid), "the child runs its own program")
    parent.kill()
    await parent.wait()
    await eventually(lambda: not _runs(pid), "the child is gone")


async def test_a_missing_program_is_told(tmp_path: Path) -> None:
    """No traceback: the program's path is in the message."""
    missing = Spec("ghost", ("/nowhere/ghost",), {}, tmp_path / "ghost.log", probe.tcp(1), 1)
    async with running(missing) as supervisor:
        with pytest.raises(Unable, match="/nowhere/ghost is missing"):
            await supervisor.wait_until_ready(5)


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """The message tells the port, what it is for and who holds it."""
    child = Child([sys.executable, "-c", SERVER, str(port := free_port())], {}, tmp_path / "log")
    await eventually(lambda: (tmp_path / "log").read_bytes() == b"up\n", "it listens")
    with pytest.raises(Unable, match=rf"port {port} \(zone/eu\) is taken by python.* \(pid {child.pid}\)"):
        await check_ports({"zone/us": free_port(), "zone/eu": port}, patience_seconds=0)
    await child.kill()
    await check_ports({"zone/eu": port})


def test_a_second_supervisor_is_refused(tmp_path: Path) -> None:
    """One state directory has one supervisor; the second is told its pid, and gets in once the first is gone."""
    first, second = StateFolder(tmp_path / "state"), StateFolder(tmp_path / "state")
    assert second.holder() is None
    first.acquire()
    assert second.holder() == os.getpid()
    with pytest.raises(Unable, match=f"already runs in .* \\(pid {os.getpid()}\\)"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_state_keeps_its_kind_of_log(tmp_path: Path) -> None:
    """Events of one kind of log are not looked for in another: the state says what it has, and how to get on. A new state takes any."""
    state = StateFolder(tmp_path)
    state.check_log("kafka", 1)
    state.write_ports({}, (), 7400, log="kafka")
    state.check_log("kafka", 1)
    with pytest.raises(Unable, match=r"keeps its events in kafka, not in postgres.*--log kafka"):
        state.check_log("postgres", 1)
    with pytest.raises(Unable, match=r"not in kafka \(3 brokers a cell\)"):
        state.check_log("kafka", 3)
    assert (state.started().log, state.started().brokers) == ("kafka", 1)


def test_a_state_that_says_nothing_of_logs_has_postgres(tmp_path: Path) -> None:
    """What a fleet without a choice has written is read as PostgreSQL's."""
    (tmp_path / "ports.json").write_text('{"port_base": 7400, "cells": [], "ports": {}}')
    StateFolder(tmp_path).check_log("postgres", 1)
    with pytest.raises(Unable, match="keeps its events in postgres"):
        StateFolder(tmp_path).check_log("kafka", 1)


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    """A secret is the same each time, different from others and readable by its owner alone."""
    state = StateFolder(tmp_path)
    once = state.secret("eu", "operator-token")
    assert state.secret("eu", "operator-token") == once != state.secret("us", "operator-token")
    path = tmp_path / "zones" / "eu" / "secrets" / "operator-token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert len(bytes.fromhex(state.signing_key("eu"))) == 32


def test_logs_are_bounded(tmp_path: Path) -> None:
    """A log above its bound starts anew; its last part is kept beside it."""
    log = tmp_path / "x.log"
    log.write_bytes(b"a" * 100 + b"b" * 100)
    trim_log(log, bytes_max=100)
    assert (log.read_bytes(), (tmp_path / "x.log.1").read_bytes()) == (b"", b"b" * 100)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _command(pid: int) -> bytes:
    """The program's text once the launcher has become it."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b"" if len(words) < 2 or any(word.endswith(b"launch.py") for word in words) else words[-2]

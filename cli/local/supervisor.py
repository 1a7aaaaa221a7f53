"""Starts, watches, restarts and drains the processes of a fleet. One task owns each process; `stop` leaves none behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from cli.errors import Unable
from cli.local.order import Spec, count_death, restart_delay, waves
from cli.local.probe import Silence
from cli.local.process import Child, tail, trim_log

State = Literal["waiting", "starting", "ready", "unready", "down", "held", "failed", "stopped"]

_PROBE_STARTING_SECONDS: Final = 0.1
_PROBE_READY_SECONDS: Final = 5.0
_LETHAL: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT})
_TRIM_SECONDS: Final = 10.0


@dataclass
class Status:
    """What is known about one process. `problem` says why it is not ready."""

    name: str
    port: int
    state: State = "waiting"
    pid: int | None = None
    started_at: float | None = None
    starts: int = 0
    problem: str = ""


@dataclass
class _Watched:
    spec: Spec
    status: Status
    child: Child | None = None
    was_ready: asyncio.Event = field(default_factory=asyncio.Event)
    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    asked_to_die: bool = False


class Supervisor:
    """Owns the processes of `specs`. Make and use it on the main thread's event loop. `changed` is called after every change."""

    def __init__(self, specs: Sequence[Spec], changed: Callable[[Mapping[str, Status]], None] = lambda _: None) -> None:
        self._waves = waves(specs)
        self._watched = {spec.name: _Watched(spec, Status(spec.name, spec.port)) for spec in specs}
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = changed
        self._failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def statuses(self) -> Mapping[str, Status]:
        """All processes by name, in start order."""
        return {spec.name: self._watched[spec.name].status for wave in self._waves for spec in wave}

    def start(self) -> None:
        """Begins; returns at once. `wait_until_ready` tells when all of it stands."""
        for watched in self._watched.values():
            watched.may_start.set()
            task = asyncio.create_task(self._own(watched), name=watched.spec.name)
            task.add_done_callback(self._owner_ended)
            self._tasks.append(task)
        self._tasks.append(asyncio.create_task(self._trim_logs(), name="logs"))

    async def wait_until_ready(self, seconds: float, names: Sequence[str] = ()) -> None:
        """Until every process (or each of `names`) is ready by a fresh probe. Raises Unable: given up, or not in time and why."""
        wanted = [self._find(name) for name in names] or list(self._watched.values())
        deadline = time.monotonic() + seconds
        while True:
            if self._failure.done():
                raise Unable(self._failure.result())
            late = [one for one in wanted if one.status.state != "ready" or await self._problem(one) is not None]
            if not late:
                return
            if time.monotonic() > deadline:
                said = "; ".join(f"{one.spec.name} is {one.status.state}: {one.status.problem}" for one in late[:3])
                raise Unable(f"not ready within {seconds:.0f} s: {said}", f"read {late[0].spec.log}")
            await asyncio.sleep(_PROBE_STARTING_SECONDS)

    async def wait_until_failed(self) -> str:
        """Which process was given up, and why."""
        return await asyncio.shield(self._failure)

    def pid(self, name: str) -> int:
        """The process id. Raises Unable when it does not run."""
        child = self._find(name).child
        if child is None or child.exit_code is not None:
            raise Unable(f"{name} does not run")
        return child.pid

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Signals one process, itself alone, and returns its id. If that ends it, it is restarted unless held.

        It counts as down from now on, so that a `wait_until_ready` that follows waits for its successor.
        """
        pid = self.pid(name)
        one = self._find(name)
        os.kill(pid, number)
        if number in _LETHAL:
            one.asked_to_die = True
            self._tell(one, "down", f"was sent {number.name}")
        return pid

    def hold(self, name: str) -> None:
        """When it ends it stays down until `release`."""
        self._find(name).may_start.clear()

    def release(self, name: str) -> None:
        """Ends `hold`."""
        self._find(name).may_start.set()

    async def stop(self) -> None:
        """Drains everything, the last started first; what does not stop in its time is killed. No process is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for wave in reversed(self._waves):
            await asyncio.gather(*(self._drain(self._watched[spec.name]) for spec in wave))

    async def abort(self) -> None:
        """SIGKILL to everything, for the impatient."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(one.child.kill() for one in self._watched.values() if one.child is not None))

    async def _drain(self, one: _Watched) -> None:
        if one.child is not None and one.child.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.child.pid, signal.SIGCONT)  # a paused process cannot drain
            await one.child.drain(one.spec.stop_signal, one.spec.stop_seconds)
        self._tell(one, "stopped")

    async def _own(self, one: _Watched) -> None:
        for name in one.spec.after:
            await self._watched[name].was_ready.wait()
        quick_deaths = 0
        while True:
            if not one.may_start.is_set():
                self._tell(one, "held")
                await one.may_start.wait()
            one.asked_to_die = False
            try:
                if one.spec.prepare is not None:
                    await one.spec.prepare()
                one.child = Child(one.spec.argv, one.spec.env, one.spec.log, user=one.spec.user, death_signal=one.spec.death_signal)
            except (Unable, OSError) as error:
                self._give_up(one, f"{one.spec.name} cannot start: {error}")
                return
            one.status.starts += 1
            await self._watch(one, one.child)
            lived = time.time() - one.child.started_at
            blameless = any(self._watched[name].status.state != "ready" for name in one.spec.after)
            quick_deaths = count_death(quick_deaths, lived, one.asked_to_die, blameless)
            how = f"it ended with {one.child.exit_code} after {lived:.1f} s"
            delay = restart_delay(quick_deaths)
            if delay is None:
                said = tail(one.spec.log, 1).strip()
                self._give_up(one, f"{one.spec.name} died {quick_deaths} times in a row: {how}; its last words in {one.spec.log}: {said}")
                return
            self._tell(one, "down", f"{how}: {tail(one.spec.log, 1).strip()}")
            await asyncio.sleep(delay)

    async def _watch(self, one: _Watched, child: Child) -> None:
        """Probes until the child ends."""
        self._tell(one, "starting")
        ended = asyncio.create_task(child.wait())
        finished, answered_at = False, time.monotonic()
        try:
            while not ended.done():
                problem = await self._problem(one)
                if problem is None and not finished:
                    problem = await self._finish(one)
                    finished = problem is None
                if ended.done() or one.asked_to_die:
                    await ended
                    break
                if not finished or not isinstance(problem, Silence):
                    answered_at = time.monotonic()
                elif time.monotonic() - answered_at > one.spec.silence_seconds and one.may_start.is_set():
                    await child.kill()
                state: State = "ready" if problem is None else "unready" if finished else "starting"
                if problem is None:
                    one.was_ready.set()
                self._tell(one, state, problem or "")
                await asyncio.wait([ended], timeout=_PROBE_READY_SECONDS if problem is None else _PROBE_STARTING_SECONDS)
        finally:
            ended.cancel()

    async def _problem(self, one: _Watched) -> str | None:
        try:
            return await one.spec.ready()
        except (Unable, OSError) as error:
            return str(error)

    async def _finish(self, one: _Watched) -> str | None:
        try:
            if one.spec.finish is not None:
                await one.spec.finish()
        except (Unable, OSError) as error:
            return str(error)
        return None

    def _owner_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._give_up(self._watched[task.get_name()], f"{task.get_name()}: {type(error).__name__}: {error}")

    def _give_up(self, one: _Watched, why: str) -> None:
        self._tell(one, "failed", why)
        if not self._failure.done():
            self._failure.set_result(why)

    def _tell(self, one: _Watched, state: State, problem: str = "") -> None:
        running = one.child is not None and one.child.exit_code is None
        pid = one.child.pid if one.child is not None and running else None
        started_at = one.child.started_at if one.child is not None and running else None
        before = (one.status.state, one.status.pid, one.status.problem)
        one.status.state, one.status.pid, one.status.started_at, one.status.problem = state, pid, started_at, problem
        if before != (state, pid, problem):
            self._changed(self.statuses)

    def _find(self, name: str) -> _Watched:
        found = self._watched.get(name)
        if found is None:
            raise Unable(f"no process is called {name}", f"there are {', '.join(self._watched)}")
        return found

    async def _trim_logs(self) -> None:
        while True:
            for one in self._watched.values():
                await asyncio.to_thread(trim_log, one.spec.log)
            await asyncio.sleep(_TRIM_SECONDS)

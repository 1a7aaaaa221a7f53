"""`dataflow up` as a user meets it: one cell of the real fleet, with its directory, edge and endpoint."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.postgres import temporary_folder
from tests.support.processes import eventually, free_block

pytestmark = [pytest.mark.fleet, pytest.mark.envoy, pytest.mark.postgres, pytest.mark.timeout(240)]

UP_SECONDS = 90.0


@dataclass
class Machine:
    """A state directory and a block of ports."""

    state: Path
    port_base: int

    async def up(self) -> asyncio.subprocess.Process:
        """A running `dataflow up`, ready."""
        argv = ("up", "--port-base", str(self.port_base), "--cell", "eu-west-1-a")
        process = await self.start(*argv)
        assert process.stdout is not None
        said = ""
        async with asyncio.timeout(UP_SECONDS):
            while "Stop: Ctrl-C" not in said:
                line = await process.stdout.readline()
                said += line.decode()
                assert line, f"up ended: {said}{await process.stderr.read() if process.stderr else b''!r}"
        return process

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """A `dataflow` command."""
        pipe = asyncio.subprocess.PIPE
        environ = {**os.environ, "COLUMNS": "200"}
        argv = (sys.executable, "-m", "cli.main", *arguments, "--state", str(self.state))
        return await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe, env=environ)

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Its exit code and all that it said."""
        process = await self.start(*arguments)
        out, err = await process.communicate()
        return process.returncode or 0, (out + err).decode()

    def pids(self) -> list[int]:
        """The fleet's processes, as the supervisor wrote them."""
        return [row["pid"] for row in json.loads((self.state / "processes.json").read_text()) if row["pid"]]

    def send(self, key: str, message_ids: list[str]) -> dict[str, object]:
        """One batch over HTTP to the zone's endpoint; again while the key is not known yet."""
        ports = json.loads((self.state / "ports.json").read_text())["ports"]
        batch = [{"type": "track", "event": "Bought", "userId": "ada", "messageId": name} for name in message_ids]
        head = {"authorization": f"Basic {base64.b64encode(f'{key}:'.encode()).decode()}", "content-type": "application/json"}
        url = f"http://127.0.0.1:{ports['zone/eu']}/v1/batch"
        request = urllib.request.Request(url, json.dumps({"batch": batch}).encode(), head)
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            decoded: dict[str, object] = json.load(answer)
            return decoded


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine(temporary_folder(), free_block(120))
    yield made
    for process in psutil.process_iter(["cmdline"]):
        if any(str(made.state) in word for word in process.info["cmdline"] or ()):
            process.kill()
    shutil.rmtree(made.state)


async def test_events_come_back_out_and_survive_a_restart_of_the_fleet(machine: Machine) -> None:
    """Paste what `up` prints and the events are there; Ctrl-C leaves no process; the next `up` finds the data."""
    fleet = await machine.up()
    assert "lives in cell eu-west-1-a" in (await machine.run("tenants", "create", "shop", "--zone", "eu"))[1]
    said = (await machine.run("sources", "create", "shop", "web"))[1]
    found = re.search(r"write key \(shown this once\): (\S+)", said)
    assert found, said
    assert await _accepted(machine, found[1], ["m-1", "m-2"]) == {"success": True}

    async def listed() -> bool:
        return "m-2" in (await machine.run("events", "list", "--tenant", "shop"))[1]

    await eventually(listed, "the events are queryable", 20)
    assert "stored, queryable" in (await machine.run("events", "trace", "m-1"))[1]
    assert (await machine.run("status"))[0] == 0
    code, second = await machine.run("up", "--port-base", str(machine.port_base))
    assert (code, "a fleet already runs in" in second) == (2, True)

    pids = machine.pids()
    assert len(pids) == 7
    fleet.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(fleet.wait(), 60) == 0
    assert not [pid for pid in pids if psutil.pid_exists(pid)]

    fleet = await machine.up()
    await eventually(listed, "the events are still there", 20)
    assert (await machine.run("down"))[0] == 0
    assert await asyncio.wait_for(fleet.wait(), 60) == 0
    assert (await machine.run("reset", "--yes"))[0] == 0
    assert not (machine.state / "zones").exists()


async def _accepted(machine: Machine, key: str, message_ids: list[str]) -> dict[str, object]:
    """The answer of the first request that is not refused because the edge has not heard of the key."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return await asyncio.to_thread(machine.send, key, message_ids)
        except urllib.error.HTTPError as error:
            if error.code != 401 or time.monotonic() > deadline:
                raise AssertionError(f"{error.code} {error.read()!r}") from error
        await asyncio.sleep(0.05)

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
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from cli.local.fleet import LocalFleet
from cli.local.ports import free_block
from cli.local.postgres import Postgres
from cli.query import Query
from dataflow.storage.v1 import query_pb2
from tests.support.postgres import temporary_folder
from tests.support.processes import eventually

pytestmark = [pytest.mark.fleet, pytest.mark.envoy, pytest.mark.postgres, pytest.mark.timeout(240)]

UP_SECONDS = 90.0


@dataclass
class Machine:
    """A state directory and a block of ports."""

    state: Path
    port_base: int
    started: list[asyncio.subprocess.Process] = field(default_factory=list)

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
        process = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe, env=environ)
        self.started.append(process)
        return process

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
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  # http://127.0.0.1, made here
            decoded: dict[str, object] = json.load(answer)
            return decoded


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    made = Machine(temporary_folder(), free_block(120))
    yield made
    for process in made.started:
        if process.returncode is None:
            process.kill()  # its children die with it
        await process.communicate()
    shutil.rmtree(made.state, ignore_errors=True)


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
    assert len(pids) == 8
    fleet.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(fleet.wait(), 60) == 0
    assert not [pid for pid in pids if psutil.pid_exists(pid)]

    fleet = await machine.up()
    await eventually(listed, "the events are still there", 20)
    assert (await machine.run("down"))[0] == 0
    assert await asyncio.wait_for(fleet.wait(), 60) == 0
    assert (await machine.run("reset", "--yes"))[0] == 0
    assert not (machine.state / "zones").exists()


async def test_cell_and_edge_serve_without_their_directory(machine: Machine) -> None:
    """With the directory down for good, a restarted cell, agent and Envoy boot from their own disks and take events."""
    async with LocalFleet(machine.state, machine.port_base, cells=["eu-west-1-a"]) as fleet:
        await fleet.wait_until_ready(UP_SECONDS)
        async with fleet.access.directory("eu") as directory:
            assert (await directory.create_tenant("shop")).cell == "eu-west-1-a"
            _, key = await directory.create_source("shop", "web")
        assert await _accepted(machine, key, ["m-1"]) == {"success": True}
        fleet.hold("directory/eu")
        fleet.kill("directory/eu")
        others = ("cell/eu-west-1-a", "agent/eu-west-1", "envoy/eu-west-1")
        before = [fleet.kill(name) for name in others]
        await fleet.wait_until_ready(UP_SECONDS, [*others, "endpoint/eu"])
        assert not set(before) & {fleet.pid(name) for name in others}
        assert await _accepted(machine, key, ["m-2"]) == {"success": True}
        assert fleet.statuses["directory/eu"].state == "held"
        fleet.release("directory/eu")
        await fleet.wait_until_ready(UP_SECONDS)
    assert not fleet.state.holder()


async def test_a_cells_database_is_killed_and_comes_back(machine: Machine) -> None:
    """After SIGKILL of a cell's PostgreSQL the cell takes events again by itself, and those of before and after come back out."""
    async with LocalFleet(machine.state, machine.port_base, cells=["eu-west-1-a"]) as fleet:
        await fleet.wait_until_ready(UP_SECONDS)
        async with fleet.access.directory("eu") as directory:
            await directory.create_tenant("shop")
            _, key = await directory.create_source("shop", "web")
        assert await _accepted(machine, key, ["m-1"]) == {"success": True}
        fleet.kill("postgres/eu-west-1-a")
        await fleet.wait_until_ready(UP_SECONDS)
        assert await _accepted(machine, key, ["m-2"]) == {"success": True}
        async with await fleet.access.query("eu", "shop") as query:

            async def both_are_back() -> bool:
                events = (await query.page(query_pb2.EventFilter())).events
                return sorted(event.message_id for event in events) == ["m-1", "m-2"]

            await eventually(both_are_back, "both events", 20)


async def test_a_foreign_server_may_keep_the_data(machine: Machine, postgres_server: Postgres) -> None:
    """With --postgres-url no PostgreSQL is started; two cells share the server, each with a database of its own, and neither takes
    a partition from the other: events of several tenants, that is of several partitions, come back out."""
    url = postgres_server.dsn().rpartition("/")[0]
    cells = ["eu-west-1-a", "eu-central-1-a"]
    async with LocalFleet(machine.state, machine.port_base, cells=cells, postgres_url=url) as fleet:
        await fleet.wait_until_ready(UP_SECONDS)
        assert not [name for name in fleet.statuses if name.startswith("postgres/")]
        tenants = [f"shop-{number}" for number in range(6)]
        async with fleet.access.directory("eu") as directory:
            for tenant in tenants:
                await directory.create_tenant(tenant)
                _, key = await directory.create_source(tenant, "web")
                assert await _accepted(machine, key, ["m-1"]) == {"success": True}
        for tenant in tenants:
            async with await fleet.access.query("eu", tenant) as query:

                async def is_back(query: Query = query) -> bool:
                    return len((await query.page(query_pb2.EventFilter())).events) == 1

                await eventually(is_back, f"the event of {tenant}", 20)


async def _accepted(machine: Machine, key: str, message_ids: list[str]) -> dict[str, object]:
    """The answer of the first request that is not refused because a key is too new or a database just back."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return await asyncio.to_thread(machine.send, key, message_ids)
        except urllib.error.HTTPError as error:
            if error.code not in (401, 429, 503) or time.monotonic() > deadline:
                raise AssertionError(f"{error.code} {error.read()!r}") from error
        await asyncio.sleep(0.05)

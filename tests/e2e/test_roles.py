"""One cell as three processes - ingest, processing, storage - instead of one: events flow, and each role may be lost for a while."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from cli.local.environment import Ground, environment, inherit
from kernel.limits import BATCH_BYTES_HARD_MAX
from tests.support.fleet import Running, event, running
from tests.support.otlp import Collector, collecting
from tests.support.processes import eventually, free_port

pytestmark = [pytest.mark.fleet, pytest.mark.envoy, pytest.mark.postgres, pytest.mark.timeout(150)]
CELL = "eu-west-1-a"
ROLES = ("storage", "ingest", "processing")
STOP_SECONDS = 20.0


@dataclass
class Split:
    """The cell's three processes. Ingest stands at the cell's own addresses, where the edge looks for it."""

    fleet: Running
    collector: Collector
    env: dict[str, dict[str, str]]
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def start(self, role: str) -> None:
        """Starts one and waits until it is ready."""
        log = self.log(role)
        with log.open("ab") as output:
            self.processes[role] = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "cells.app", "--role", role, env=self.env[role], stdout=output, stderr=output
            )
        await eventually(lambda: self.is_ready(role), f"{role} is ready; see {log}", 30)

    async def is_ready(self, role: str) -> bool:
        """What its probe says."""
        assert self.processes[role].returncode is None, self.log(role).read_text()[-2_000:]
        with contextlib.suppress(aiohttp.ClientError):
            async with self.fleet.web.get(f"http://{self.env[role]['DATAFLOW_HTTP_ADDRESS']}/readyz") as answer:
                return answer.status == 200
        return False

    async def kill(self, role: str) -> None:
        """SIGKILL."""
        self.processes[role].kill()
        await self.processes[role].wait()

    async def stop(self, role: str) -> int:
        """SIGTERM; the exit code."""
        process = self.processes[role]
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_SECONDS):
            return await process.wait()

    def log(self, role: str) -> Path:
        """What it says."""
        return self.fleet.state / f"role-{role}.log"


def environments(fleet: Running, endpoint: str) -> dict[str, dict[str, str]]:
    """The cell's environment, once for each role."""
    layout = fleet.fleet.layout
    place = next(place for place in layout.places() if place.name == f"cell/{CELL}")
    folder = fleet.state / "zones"
    ground = Ground(
        layout,
        dsn=fleet.fleet.dsn,
        secret_file=lambda zone, name: folder / zone / "secrets" / name,
        inherited=inherit({}),
        otlp_endpoint=endpoint,
    )
    whole = environment(place, ground)
    storage = f"127.0.0.1:{free_port()}"
    own = {
        "ingest": {},
        "storage": {"DATAFLOW_GRPC_ADDRESS": storage, "DATAFLOW_HTTP_ADDRESS": f"127.0.0.1:{free_port()}"},
        "processing": {f"DATAFLOW_{kind}_ADDRESS": f"127.0.0.1:{free_port()}" for kind in ("GRPC", "HTTP")},
    }
    journals = {role: {"DATAFLOW_JOURNAL_PATH": str(place.folder / f"{role}.journal"), "DATAFLOW_STORAGE_ADDRESS": storage} for role in own}
    return {role: {**whole, **own[role], **journals[role]} for role in own}


@pytest.fixture
async def split() -> AsyncIterator[Split]:
    async with collecting(free_port()) as collector, running([CELL], collector.endpoint) as fleet:
        await fleet.add("shop", CELL)
        fleet.fleet.hold(f"cell/{CELL}")
        fleet.fleet.kill(f"cell/{CELL}", signal.SIGTERM)
        await eventually(lambda: fleet.fleet.statuses[f"cell/{CELL}"].state == "held", "the whole cell has drained", STOP_SECONDS)
        made = Split(fleet, collector, environments(fleet, collector.endpoint))
        try:
            for role in ROLES:
                await made.start(role)
            yield made
        finally:
            codes = [await made.stop(role) for role in reversed(list(made.processes))]
        assert codes == [0, 0, 0]


async def test_a_cell_of_three_processes(split: Split) -> None:
    """Law: events flow from the edge through ingest, the log, processing and storage into answers; an apply larger than one request
    passes; a processing or storage role that was killed goes on where the store stands; nothing is lost or doubled."""
    fleet, shop = split.fleet, split.fleet.sources["shop"]
    await fleet.send_until_taken(shop, ["first"])
    await fleet.wait_until_stored(shop, ["first"])

    await split.kill("processing")
    large = [f"large-{number}" for number in range(300)]
    for start in range(0, len(large), 15):
        batch = [event(name, properties={"text": "x" * 31_000}) for name in large[start : start + 15]]
        answer = await fleet.ask("POST", shop.zone, "/v1/batch", shop.write_key, {"batch": batch})
        assert answer.status == 200
    assert len(large) * 31_000 > 2 * BATCH_BYTES_HARD_MAX
    assert await fleet.stored(shop) == ["first"]
    await split.start("processing")
    await fleet.wait_until_stored(shop, ["first", *large])

    await split.kill("storage")
    await fleet.send_until_taken(shop, ["while-storage-was-away"])
    await split.start("storage")
    await fleet.wait_until_stored(shop, ["first", *large, "while-storage-was-away"])

    await split.kill("ingest")
    await split.start("ingest")
    await fleet.send_until_taken(shop, ["last"])
    await fleet.wait_until_stored(shop, ["first", *large, "while-storage-was-away", "last"])

    url = f"http://{split.env['storage']['DATAFLOW_HTTP_ADDRESS']}/v1/events/last"
    async with fleet.web.get(url, headers={"x-api-key": shop.read_key}) as read:
        assert (read.status, (await read.json())["messageId"]) == (200, "last")
    await eventually(lambda: crosses(split.collector), "a trace that crosses from processing to storage", 15)


def crosses(collector: Collector) -> bool:
    """Whether an apply of the storage process is a child of one that the processing process called."""
    called = {told.id: told for told in collector.named("storage.apply") if told.service == "cell-processing"}
    return any(told.parent in called for told in collector.named("storage.apply") if told.service == "cell-storage")

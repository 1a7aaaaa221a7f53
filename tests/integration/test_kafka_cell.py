"""A cell's own processes over Kafka: what an operator reads when one does not start, and what clients read while the log is away."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cells.eventlog.access import Access
from cells.eventlog.kafka_provision import provision
from cells.eventlog.topics import Topic
from cells.storage import postgres_provision
from cells.storage.postgres_read import PostgresReader
from dataflow.routing.v1 import routing_pb2
from kernel.ids import TenantId, hash_of
from kernel.process.clock import SystemClock
from kernel.process.journal import FileJournal, Signer
from tests.support.cell import KEY
from tests.support.kafka import Brokers, brokers
from tests.support.postgres import Databases
from tests.support.processes import eventually, free_port
from tests.support.storage_room import everything

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(150)]
CLOCK = SystemClock()
TENANT = TenantId("acme-retail")
SIGNER = Signer(bytes(range(32)))
BASIC = {"authorization": "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()}


def placed(folder: Path) -> dict[str, str]:
    """The settings of a cell that boots from its journal alone: nobody answers where its directory should be."""
    source = routing_pb2.Source(name="web", slug="acme-web", write_keys=[routing_pb2.Credential(hash=hash_of(KEY))])
    tenant = routing_pb2.Tenant(name=TENANT, zone="eu", cell="eu-west-1-a", epoch=1, sources=[source])
    message = routing_pb2.Update(zone="eu", from_revision=0, to_revision=1, tenants=[tenant])
    FileJournal(folder / "journal", SIGNER.public_key).restart(SIGNER.sign(message.SerializeToString()))
    (folder / "public").write_text(SIGNER.public_key.hex())
    (folder / "token").write_text("follower-token-of-tests")
    return {
        "cell": "eu-west-1-a",
        "zone": "eu",
        "region": "eu-west-1",
        "journal_path": str(folder / "journal"),
        "public_key_file": str(folder / "public"),
        "follower_token_file": str(folder / "token"),
        "directory_address": f"127.0.0.1:{free_port()}",
        "grpc_address": f"127.0.0.1:{free_port()}",
        "http_address": f"127.0.0.1:{free_port()}",
        "log_kind": "kafka",
    }


async def started(module: str, settings: Mapping[str, str], *arguments: str) -> asyncio.subprocess.Process:
    """One of the cell's programs."""
    environ = {"PATH": os.environ.get("PATH", ""), **{f"DATAFLOW_{name.upper()}": value for name, value in settings.items()}}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, env=environ, stdout=pipe, stderr=pipe)


async def last_words(module: str, settings: Mapping[str, str], *arguments: str) -> str:
    """What a program says that ends with exit code 1."""
    process = await started(module, settings, *arguments)
    _, said = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 1, said
    return said.decode().strip().splitlines()[-1]


async def test_a_cell_that_cannot_use_its_log_says_why_in_one_line(tmp_path: Path, kafka: Brokers) -> None:
    """Law: a wrong address, a missing topic and a missing file are each one line for an operator, and exit code 1."""
    settings = placed(tmp_path)
    nowhere = f"127.0.0.1:{free_port()}"
    for wrong, said in (
        ({"kafka_bootstrap": nowhere, "kafka_topic": "events"}, f"Kafka does not answer: {nowhere}"),
        ({"kafka_bootstrap": kafka.bootstrap, "kafka_topic": "never-made"}, "there is no topic never-made"),
        ({"kafka_bootstrap": "nonsense:port", "kafka_topic": "events"}, "DATAFLOW_KAFKA_BOOTSTRAP: 'nonsense:port'"),
    ):
        line = await last_words("cells.app", {**settings, **wrong}, "--role", "ingest")
        assert line.startswith("cell: ")
        assert said in line


def stores(postgres: Databases) -> dict[str, str]:
    """URLs of the store's roles."""
    return {f"{role}_dsn": postgres.role_dsn(f"df_{role}", "secret") for role in ("owner", "apply", "query", "audit")}


@pytest.mark.postgres
async def test_provisioning_makes_the_topic_or_says_why_not(kafka: Brokers, postgres: Databases) -> None:
    """Law: the same command makes database and topic, again and again, and says in one line how an existing topic differs."""
    settings = {
        "admin_dsn": postgres.admin_dsn,
        **stores(postgres),
        "log_kind": "kafka",
        "kafka_bootstrap": kafka.bootstrap,
        "kafka_topic": f"events-{uuid.uuid4().hex}",
        "log_replication": "1",
        "log_min_in_sync": "1",
    }
    for _ in range(2):
        process = await started("cells.provision", settings)
        _, said = await asyncio.wait_for(process.communicate(), 40)
        assert process.returncode == 0, said
    line = await last_words("cells.provision", {**settings, "log_partitions": "8"})
    assert line.startswith("provision: ValueError: topic events-")
    assert "it has 4 partitions, not 8" in line
    assert "DATAFLOW_LOG_REPLICATION" in await last_words("cells.provision", {**settings, "kafka_topic": "more", "log_replication": "3"})


@dataclass
class Cell:
    """A running cell, or its ingest alone."""

    web: aiohttp.ClientSession
    url: str

    async def send(self, message_id: str = "") -> tuple[int, str, str | None]:
        """One event: status, code and Retry-After."""
        event = {"type": "track", "event": "x", "userId": "u", "messageId": message_id or uuid.uuid4().hex}
        async with self.web.post(f"{self.url}/v1/batch", json={"batch": [event]}, headers=BASIC) as answer:
            body: Any = json.loads(await answer.read())
            return answer.status, body.get("code", ""), answer.headers.get("retry-after")

    async def probe(self) -> tuple[int, dict[str, Any]]:
        """Status and words of readiness."""
        try:
            async with self.web.get(f"{self.url}/readyz") as answer:
                return answer.status, json.loads(await answer.read())
        except aiohttp.ClientError:
            return 0, {}


@asynccontextmanager
async def cell_over(kafka: Brokers, folder: Path, stores: Mapping[str, str] | None = None) -> AsyncIterator[Cell]:
    """An ingest whose log is a topic of its own; with the stores' URLs a whole cell. It must drain with exit code 0."""
    topic = f"events-{uuid.uuid4().hex}"
    await provision(Access(kafka.bootstrap, topic), Topic(topic, 2, *kafka.replication), CLOCK)
    settings = {**placed(folder), **(stores or {}), "kafka_bootstrap": kafka.bootstrap, "kafka_topic": topic}
    process = await started("cells.app", settings, "--role", "all" if stores else "ingest")
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as web:
            cell = Cell(web, f"http://{settings['http_address']}")

            async def ready() -> bool:
                return (await cell.probe())[0] == 200

            await eventually(ready, "the cell is ready", 30)
            yield cell
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, said


async def test_while_the_broker_is_gone_clients_are_told_to_come_later(tmp_path: Path) -> None:
    """Law: 429 with Retry-After and the log's code, in time; the probe names the log as degraded and stays at 200, so that no edge takes
    the cell for lost; when the broker is back the same process takes events again, and nothing is degraded."""
    async with brokers(tmp_path / "kafka") as kafka, cell_over(kafka, tmp_path) as cell:

        async def well() -> bool:
            return (await cell.send())[0] == 200 and not (await cell.probe())[1]["degraded"]

        # A broker that has just begun may ask for a moment; readiness says so until it looks again.
        await eventually(well, "well", 20)
        kafka.kill(1)
        status, code, retry_after = await cell.send()
        assert (status, code, retry_after is not None) == (429, "LOG_UNAVAILABLE", True)

        async def degraded() -> bool:
            status, said = await cell.probe()
            return status == 200 and said["ready"] and "event log" in said["degraded"]

        await eventually(degraded, "degraded", 20)
        await kafka.start(1)
        await eventually(well, "well again", 60)


async def test_a_cell_drains_although_its_broker_hangs(tmp_path: Path) -> None:
    """Law: SIGTERM ends the process in time with exit code 0 while the broker answers nobody."""
    async with brokers(tmp_path / "kafka") as kafka:
        async with cell_over(kafka, tmp_path) as cell:
            assert (await cell.send())[0] == 200
            kafka.pause(1)
            sending = asyncio.create_task(cell.send())
            assert (await cell.probe())[0] == 200
        kafka.resume(1)
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.postgres
async def test_events_walk_through_a_whole_cell_although_its_broker_dies(tmp_path: Path, postgres: Databases) -> None:
    """Law: every event that was acknowledged is stored, once, with the broker killed twice in the middle of traffic; the cell itself is
    never restarted, and readers of metrics see that nothing is left to apply."""
    await postgres_provision.provision(postgres.admin_dsn, postgres_provision.Passwords(*["secret"] * 4))
    async with brokers(tmp_path / "kafka") as kafka, cell_over(kafka, tmp_path, stores(postgres)) as cell:
        acknowledged: set[str] = set()
        stop = asyncio.Event()

        async def client(who: int) -> None:
            for number in itertools.count():
                name = f"{who}-{number}"
                while not stop.is_set() and (await cell.send(name))[0] != 200:
                    pass  # as an SDK does: the same event again, until it is taken
                if stop.is_set():
                    return
                acknowledged.add(name)

        clients = [asyncio.create_task(client(who)) for who in range(3)]
        for goal in (150, 300):
            await eventually(lambda goal=goal: len(acknowledged) >= goal, "events flow", 60)
            kafka.kill(1)
            await kafka.start(1)
        await eventually(lambda: len(acknowledged) >= 450, "events flow again", 60)
        stop.set()
        await asyncio.gather(*clients)
        reader = PostgresReader(stores(postgres)["query_dsn"])

        async def stored() -> list[str]:
            return [event.envelope.message_id for event in await everything(reader, TENANT)]

        async def whole() -> bool:
            return acknowledged <= set(await stored())

        await eventually(whole, "everything acknowledged is stored", 30)
        found = await stored()
        await reader.close()
        assert len(set(found)) == len(found)

        async def caught_up() -> bool:
            async with cell.web.get(f"{cell.url}/metrics") as answer:
                said = await answer.text()
            lags = [line for line in said.splitlines() if line.startswith("dataflow_processing_lag_records{")]
            return len(lags) == 2 and all(line.endswith(" 0.0") for line in lags)

        await eventually(caught_up, "no lag is left", 20)

"""Both roles as real processes, as a supervisor starts them: from the environment, with PostgreSQL and the real Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import grpc
import pytest

from cli.local import certificates
from dataflow.routing.v1 import routing_pb2 as pb
from dataflow.routing.v1 import routing_pb2_grpc
from kernel.process.journal import Signer
from kernel.process.settings import BadSettings
from router import config
from tests.support.edge_room import http_client
from tests.support.envoy import Envoy
from tests.support.postgres import Databases
from tests.support.processes import eventually, free_port
from tests.support.tiny_cell import TinyCell, tiny_cell

pytestmark = [pytest.mark.envoy, pytest.mark.postgres]
SEED = bytes(range(32))


def files(folder: Path, cells: list[TinyCell]) -> dict[str, str]:
    """The files that both roles read, as settings."""
    described = [{"cell": c.endpoint.cell, "region": "eu-west-1", "grpc_address": c.endpoint.grpc_address} for c in cells]
    for cell, entry in zip(cells, described, strict=True):
        entry["http_address"] = cell.endpoint.http_address
    content = {
        "cells_file": json.dumps(described),
        "zones_file": json.dumps({"eu": "https://eu.test", "us": "https://us.test"}),
        "signing_key_file": SEED.hex(),
        "public_key_file": Signer(SEED).public_key.hex() + "\n",
        "operator_token_file": "operator-token-of-tests\n",
        "follower_token_file": "follower-token-of-tests\n",
    }
    for name, text in content.items():
        (folder / name).write_text(text)
    return {name: str(folder / name) for name in content}


@contextlib.asynccontextmanager
async def role(name: str, settings: Mapping[str, object], log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """One process; it must drain on SIGTERM with exit code 0."""
    environ = {"PATH": os.environ.get("PATH", ""), **{f"DATAFLOW_{key.upper()}": str(value) for key, value in settings.items()}}
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "router.app", "--role", name, env=environ, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0, f"see {log}"


async def ready(port: int, log: Path) -> None:
    """Waits for /readyz."""

    async def answers() -> bool:
        with contextlib.suppress(OSError):
            async with http_client(port) as http:
                return (await http.get("/readyz")).status_code == 200
        return False

    await eventually(answers, f"ready; see {log}", 20)


async def test_both_roles_start_serve_and_drain(tmp_path: Path, postgres: Databases) -> None:
    """Law: from the documented environment alone, a directory, an agent and Envoy serve a new tenant; both drain on SIGTERM."""
    log = tmp_path / "router.log"
    ports = {name: free_port() for name in ("grpc", "directory_http", "agent_http", "xds", "edge", "admin")}
    async with contextlib.AsyncExitStack() as stack:
        cells = [await stack.enter_async_context(tiny_cell("eu-west-1-a"))]
        shared = files(tmp_path, cells) | {"zone": "eu"}
        served = {
            "grpc_address": f"127.0.0.1:{ports['grpc']}",
            "http_address": f"127.0.0.1:{ports['directory_http']}",
            "directory_dsn": postgres.admin_dsn,
        }
        await stack.enter_async_context(role("directory", shared | served, log))
        certificates.certify(tmp_path, "eu", "edge-1", tmp_path)
        certificate, key = certificates.edge_files(tmp_path)
        edge = {
            "edge_name": "edge-1",
            "region": "eu-west-1",
            "directory_address": f"127.0.0.1:{ports['grpc']}",
            "journal_path": tmp_path / "agent" / "placement.journal",
            "xds_address": f"127.0.0.1:{ports['xds']}",
            "http_address": f"127.0.0.1:{ports['agent_http']}",
            "edge_address": f"127.0.0.1:{ports['edge']}",
            "edge_admin_address": f"127.0.0.1:{ports['admin']}",
            "bootstrap_path": tmp_path / "agent" / "envoy.json",
            "edge_transport": "both",
            "edge_cert_file": certificate,
            "edge_key_file": key,
        }
        await stack.enter_async_context(role("agent", shared | edge, log))
        await ready(ports["directory_http"], log)
        await ready(ports["agent_http"], log)
        envoy = Envoy(tmp_path / "agent" / "envoy.json", ports["admin"])
        stack.callback(envoy.stop)
        envoy.start()
        await envoy.serving()
        metadata = (("authorization", "Bearer operator-token-of-tests"),)
        async with grpc.aio.insecure_channel(served["grpc_address"]) as channel, http_client(ports["edge"]) as http:
            stub = routing_pb2_grpc.RouterServiceStub(channel)
            await stub.CreateTenant(pb.CreateTenantRequest(name="acme"), metadata=metadata)
            made = await stub.CreateSource(pb.CreateSourceRequest(tenant="acme", name="web"), metadata=metadata)

            async def live() -> bool:
                return (await http.post("/v1/batch", {"x-api-key": made.write_key})).status_code == 200

            await eventually(live, "the new key is live", 3)
            trusting = ssl.create_default_context(cafile=certificates.authority_file(tmp_path))
            _, writer = await asyncio.open_connection("localhost", ports["edge"], ssl=trusting)
            writer.close()
        async with http_client(ports["agent_http"]) as http:
            status = (await http.get("/status")).json()
            assert (status["revision"], status["connected"], status["refused"]) == (3, True, None)
            assert b"dataflow_edge_revision 3.0" in (await http.get("/metrics")).body
        async with http_client(ports["directory_http"]) as http:
            assert b"dataflow_directory_revision 3.0" in (await http.get("/metrics")).body


async def test_wrong_settings_are_reported_at_once(tmp_path: Path) -> None:
    """Law: every missing setting is named, and the exit code is 2."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router.app", "--role", "agent", env={"PATH": ""}, stderr=asyncio.subprocess.PIPE
    )
    _, told = await process.communicate()
    assert process.returncode == 2
    assert told.count(b"is required") == 12


def _problem(tmp_path: Path, certificate: Path, key: Path) -> str:
    own = config.agent(
        {
            "DATAFLOW_EDGE_CERT_FILE": str(certificate),
            "DATAFLOW_EDGE_KEY_FILE": str(key),
            **{f"DATAFLOW_{name}": "eu" for name in ("EDGE_NAME", "ZONE", "REGION", "DIRECTORY_ADDRESS", "XDS_ADDRESS", "HTTP_ADDRESS")},
            **{f"DATAFLOW_{name}": "eu" for name in ("EDGE_ADDRESS", "EDGE_ADMIN_ADDRESS")},
            **{f"DATAFLOW_{name}": str(tmp_path) for name in ("FOLLOWER_TOKEN_FILE", "PUBLIC_KEY_FILE", "JOURNAL_PATH", "BOOTSTRAP_PATH")},
        }
    )
    try:
        assert own.certificate() == (certificate, key)
    except BadSettings as error:
        return "".join(error.problems)
    return ""


def test_a_certificate_and_its_key_belong_together_and_lie_together(tmp_path: Path) -> None:
    """Law: a pair that Envoy would refuse, or not see renewed, is refused before it starts."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        certificates.certify(tmp_path, "eu", folder.name, folder)
    certificate, key = certificates.edge_files(one)
    assert _problem(tmp_path, certificate, key) == ""
    assert "is not in the folder of" in _problem(tmp_path, certificate, certificates.edge_files(other)[1])
    key.write_bytes(certificates.edge_files(other)[1].read_bytes())
    assert "are no certificate and its key" in _problem(tmp_path, certificate, key)
    certificate.write_text("nonsense")
    assert "are no certificate and its key" in _problem(tmp_path, certificate, key)


@pytest.mark.parametrize("transport", ["tls", "both"])
async def test_an_edge_says_what_certificate_it_lacks(tmp_path: Path, transport: str) -> None:
    """Law: it does not fall back to what is not encrypted; each problem is a line, and the exit code is 2."""
    settings = {
        **files(tmp_path, []),
        "zone": "eu",
        "edge_name": "edge-1",
        "region": "eu-west-1",
        "directory_address": "127.0.0.1:1",
        "journal_path": tmp_path / "journal",
        "bootstrap_path": tmp_path / "envoy.json",
        "edge_transport": transport,
        "edge_key_file": tmp_path / "nowhere.key",
        **{f"{name}_address": "127.0.0.1:1" for name in ("xds", "http", "edge", "edge_admin")},
    }
    env = {"PATH": "", **{f"DATAFLOW_{name.upper()}": str(value) for name, value in settings.items()}}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "router.app", "--role", "agent", env=env, stderr=asyncio.subprocess.PIPE
    )
    _, told = await process.communicate()
    assert process.returncode == 2, told
    assert f"DATAFLOW_EDGE_CERT_FILE is required by DATAFLOW_EDGE_TRANSPORT {transport}" in told.decode()
    assert "DATAFLOW_EDGE_KEY_FILE: there is no file" in told.decode()
    assert not (tmp_path / "envoy.json").exists()

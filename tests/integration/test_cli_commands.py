"""The command line against a real gRPC server that stands for a zone's directory and its cells."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from cli.local.layout import lay_out
from cli.local.ports import free_block
from cli.local.state import StateFolder
from dataflow.routing.v1 import routing_pb2, routing_pb2_grpc
from dataflow.storage.v1 import query_pb2, query_pb2_grpc
from gitops.fleet import FLEET

READ_KEY = "rk_eu_read"


class Directory(routing_pb2_grpc.RouterServiceServicer):
    """Keeps tenants in a dict; refuses a wrong token as the real one does."""

    def __init__(self, zone: str, token: str) -> None:
        self.zone = zone
        self.token = token
        self.tenants: dict[str, routing_pb2.Tenant] = {}
        self.read_keys = 0

    def _authorize(self, context: Any) -> None:
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {self.token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is wrong")

    def CreateTenant(self, request: routing_pb2.CreateTenantRequest, context: Any) -> routing_pb2.Tenant:
        self._authorize(context)
        if request.name in self.tenants:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"tenant {request.name} exists")
        cell = request.pinned_cell or "eu-west-1-a"
        self.tenants[request.name] = routing_pb2.Tenant(name=request.name, zone=self.zone, cell=cell, epoch=1)
        return self.tenants[request.name]

    def ListTenants(self, request: routing_pb2.ListTenantsRequest, context: Any) -> routing_pb2.ListTenantsResponse:
        self._authorize(context)
        return routing_pb2.ListTenantsResponse(tenants=self.tenants.values())

    def CreateSource(self, request: routing_pb2.CreateSourceRequest, context: Any) -> routing_pb2.CreateSourceResponse:
        self._authorize(context)
        source = routing_pb2.Source(name=request.name, slug="abc123")
        return routing_pb2.CreateSourceResponse(source=source, write_key="wk_eu_secret")

    def CreateReadKey(self, request: routing_pb2.CreateReadKeyRequest, context: Any) -> routing_pb2.CreateReadKeyResponse:
        self._authorize(context)
        self.read_keys += 1
        return routing_pb2.CreateReadKeyResponse(read_key=READ_KEY)


class Cell(query_pb2_grpc.QueryServiceServicer):
    """Holds five events, two to a page."""

    def ListEvents(self, request: query_pb2.ListEventsRequest, context: Any) -> query_pb2.ListEventsResponse:
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {READ_KEY}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown key")
        first = int(request.page_token or 0)
        found = [query_pb2.StoredEvent(message_id=f"m-{n}", type="track", name="Bought", cell="eu-west-1-a") for n in range(5)]
        token = str(first + 2) if first + 2 < 5 else ""
        return query_pb2.ListEventsResponse(events=found[first : first + 2], next_page_token=token)

    def TraceEvent(self, request: query_pb2.TraceEventRequest, context: Any) -> query_pb2.TraceEventResponse:
        response = query_pb2.TraceEventResponse
        if request.message_id != "m-1":
            return response(place=response.PLACE_UNKNOWN, why="never acknowledged here")
        return response(place=response.PLACE_LOG, why="the consumer is behind", partition=3, offset=17, ordinal=2)


def directory_of(zone: str, token: str) -> Directory:
    return Directory(zone, token)  # type: ignore[abstract]  # what it lacks answers UNIMPLEMENTED


def cell() -> Cell:
    return Cell()  # type: ignore[abstract]  # likewise


@dataclass
class Running:
    """A state directory whose fleet is the two servers."""

    state: Path
    directory: Directory
    servers: list[grpc.Server] = field(default_factory=list)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The real command."""
        argv = [sys.executable, "-m", "cli.main", *arguments, "--state", str(self.state)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "200"})

    def says(self, *arguments: str) -> str:
        """Its output; it must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("fleet") / "state"
    state = StateFolder(path)
    state.acquire()
    base = free_block(120)
    layout = lay_out(FLEET, path, base)
    state.write_ports(layout.ports, tuple(FLEET.cells), base)
    made = Running(path, directory_of("eu", state.secret("eu", "operator-token")))
    for zone in ("eu", "us"):
        directory = made.directory if zone == "eu" else directory_of("us", state.secret("us", "operator-token"))
        server = grpc.server(futures.ThreadPoolExecutor(2))
        routing_pb2_grpc.add_RouterServiceServicer_to_server(directory, server)
        query_pb2_grpc.add_QueryServiceServicer_to_server(cell(), server)
        for purpose in ("directory-grpc", "zone"):
            server.add_insecure_port(f"127.0.0.1:{layout.ports[f'{purpose}/{zone}']}")
        server.start()
        made.servers.append(server)
    made.says("tenants", "create", "shop", "--zone", "eu")
    yield made
    stopped: list[threading.Event] = [server.stop(0) for server in made.servers]
    for one in stopped:
        one.wait()
    state.release()


def test_a_tenant_is_created_and_listed(running: Running) -> None:
    """What was created is listed with its zone, cell and epoch; a taken name is the directory's own words, in one line."""
    listed = running.says("tenants", "list")
    assert all(word in listed for word in ("shop", "eu-west-1-a", "active"))
    again = running.run("tenants", "create", "shop", "--zone", "eu")
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "tenant shop exists (ALREADY_EXISTS)" in again.stderr


def test_a_write_key_is_shown_once_with_ready_text(running: Running) -> None:
    """The key is on the screen, in the pasted text, and in no file of the state directory."""
    said = running.says("sources", "create", "shop", "web")
    assert "write key (shown this once): wk_eu_secret" in said
    assert 'curl -sS -u "wk_eu_secret:"' in said
    assert not any(b"wk_eu_secret" in path.read_bytes() for path in running.state.rglob("*") if path.is_file())


def test_events_are_read_page_by_page_with_one_private_read_key(running: Running) -> None:
    """All pages come, the limit holds, and the read key is minted once and kept readable by us alone."""
    listed = running.says("events", "list", "--tenant", "shop")
    assert [f"m-{n}" in listed for n in range(5)] == [True] * 5
    assert "m-3" not in running.says("events", "list", "--tenant", "shop", "--limit", "3")
    assert running.directory.read_keys == 1
    kept = running.state / "zones" / "eu" / "secrets" / "read-key-shop"
    assert kept.stat().st_mode & 0o777 == 0o600


def test_an_event_is_traced_without_naming_its_tenant(running: Running) -> None:
    """The answer tells where it is and why; an event that nobody has is one clear line."""
    said = running.says("events", "trace", "m-1")
    assert "in the log, not yet applied" in said
    assert "the consumer is behind" in said
    assert "partition 3, offset 17, index 2" in said
    missing = running.run("events", "trace", "m-404")
    assert (missing.returncode, "no tenant of this fleet has an event m-404" in missing.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tenants", "create", "shop", "--zone", "mars"), "there is no residency zone mars; there are eu, us"),
        (("tenants", "create", "Bad_Name", "--zone", "eu"), "cannot name a tenant"),
        (("events", "list", "--tenant", "nobody"), "there is no tenant nobody"),
        (("up",), "a fleet already runs in"),
        (("reset", "--yes"), "a fleet already runs in"),
    ],
)
def test_mistakes_are_one_line(running: Running, arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2, one line on standard error, no traceback."""
    done = running.run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.strip().count("\n") == 0


def test_without_a_fleet_commands_say_how_to_start_one(tmp_path: Path) -> None:
    """Every command that needs a running fleet names `dataflow up`; `down` is content; `reset` leaves a foreign folder alone."""
    nothing = Running(tmp_path, directory_of("eu", ""))
    for arguments in (("status",), ("tenants", "list"), ("events", "tail", "--tenant", "x")):
        done = nothing.run(*arguments)
        assert (done.returncode, "dataflow up" in done.stderr) == (2, True)
    assert "no fleet runs" in nothing.says("down")
    (tmp_path / "thesis.txt").write_text("precious")
    refused = nothing.run("reset", "--yes")
    assert (refused.returncode, "is not a fleet's state directory" in refused.stderr) == (2, True)
    assert (tmp_path / "thesis.txt").exists()

"""The command line against each zone's real directory, and a server that stands for its cells."""

from __future__ import annotations

import asyncio
import json
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
from dataflow.storage.v1 import query_pb2, query_pb2_grpc
from gitops.fleet import EU, FLEET, US
from kernel import residency
from kernel.ids import ZoneName, parse_key
from kernel.process.journal import Signer
from router.placement.memory import MemoryStore
from router.placement.table import CellEndpoint, Tenant
from tests.support.edge_room import directory
from tests.support.peers import ToldPeers
from tests.support.tiny_cell import TinyCell


class Zone:
    """A zone's real directory, on a store in memory, in a thread with a loop of its own."""

    def __init__(self, zone: str, token: str, port: int) -> None:
        self.store = MemoryStore(ZoneName(zone))
        self.peers = ToldPeers()
        self._stop: asyncio.Event | None = None
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(token, port, ready),), daemon=True)
        self._thread.start()
        assert ready.wait(20)

    async def _serve(self, token: str, port: int, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        cells = [TinyCell(endpoint(cell)) for cell in FLEET.cells_of(self.store.zone)]
        async with directory(cells, Signer(b"d" * 32), self.store, f"127.0.0.1:{port}", token, self.peers):
            ready.set()
            await self._stop.wait()

    def close(self) -> None:
        """Ends it."""
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self._loop.close()

    def tenants(self) -> dict[str, Tenant]:
        """Whom it knows."""
        found = asyncio.run_coroutine_threadsafe(self.store.table(), self._loop).result(10).tenants
        return {str(name): tenant for name, tenant in found.items()}


def endpoint(cell: residency.Cell) -> CellEndpoint:
    """Where nobody listens."""
    return CellEndpoint(cell.name, cell.region, "127.0.0.1:1", "127.0.0.1:1", cell.weight, cell.capacity, cell.peer)


class Cell(query_pb2_grpc.QueryServiceServicer):
    """Holds five events, two to a page."""

    def ListEvents(self, request: query_pb2.ListEventsRequest, context: Any) -> query_pb2.ListEventsResponse:
        if not dict(context.invocation_metadata()).get("authorization", "").startswith("Bearer rk_eu_"):
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


def cell() -> Cell:
    return Cell()  # type: ignore[abstract]  # likewise


@dataclass
class Running:
    """A state directory whose fleet is the two servers."""

    state: Path
    zones: dict[str, Zone] = field(default_factory=dict)
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

    def fails(self, *arguments: str, code: int = 2) -> str:
        """All that it says; it must fail with this code."""
        done = self.run(*arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path = tmp_path_factory.mktemp("fleet") / "state"
    state = StateFolder(path)
    state.acquire()
    base = free_block(120)
    layout = lay_out(FLEET, path, base)
    state.write_ports(layout.ports, tuple(FLEET.cells), base)
    made = Running(path)
    for zone in (EU, US):
        made.zones[zone] = Zone(zone, state.secret(zone, "operator-token"), layout.ports[f"directory-grpc/{zone}"])
        server = grpc.server(futures.ThreadPoolExecutor(2))
        query_pb2_grpc.add_QueryServiceServicer_to_server(cell(), server)
        server.add_insecure_port(f"127.0.0.1:{layout.ports[f'zone/{zone}']}")
        server.start()
        made.servers.append(server)
    made.says("tenants", "create", "shop", "--zone", "eu")
    yield made
    stopped: list[threading.Event] = [server.stop(0) for server in made.servers]
    for one in stopped:
        one.wait()
    for one_zone in made.zones.values():
        one_zone.close()
    state.release()


def test_a_tenant_is_created_and_listed(running: Running) -> None:
    """What was created is listed with its zone, cell and epoch; a taken name is the directory's own words, in one line."""
    listed = running.says("tenants", "list")
    assert all(word in listed for word in ("shop", "eu-west-1-a", "active"))
    again = running.run("tenants", "create", "shop", "--zone", "eu")
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "the name is taken: shop (ALREADY_EXISTS)" in again.stderr
    elsewhere = running.run("tenants", "create", "shop", "--zone", "us")
    assert (elsewhere.returncode, "there is a tenant shop in zone eu" in elsewhere.stderr) == (2, True)


def test_a_write_key_is_shown_once_with_ready_text(running: Running) -> None:
    """The key is on the screen, in the pasted text, and in no file of the state directory."""
    said = running.says("sources", "create", "shop", "web", "--request-id", "r1")
    key = said.partition("write key (shown this once): ")[2].split()[0]
    assert parse_key(key) is not None
    assert f'curl -sS -u "{key}:"' in said
    assert not any(key.encode() in path.read_bytes() for path in running.state.rglob("*") if path.is_file())
    again = running.says("sources", "create", "shop", "web", "--request-id", "r1")
    assert "it is shown once" in again
    assert "wk_" not in again


def test_events_are_read_page_by_page_with_one_private_read_key(running: Running) -> None:
    """All pages come, the limit holds, and the read key is minted once and kept readable by us alone."""
    listed = running.says("events", "list", "--tenant", "shop")
    assert [f"m-{n}" in listed for n in range(5)] == [True] * 5
    assert "m-3" not in running.says("events", "list", "--tenant", "shop", "--limit", "3")
    assert len(running.zones[EU].tenants()["shop"].read_keys) == 1
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


def test_a_tenant_is_changed_and_looked_at(running: Running) -> None:
    """Each command shows the tenant after it; a dry run says so and keeps nothing; JSON is what a program reads."""
    running.says("tenants", "create", "mart", "--zone", "eu", "--demand", "100", "--cell", "eu-west-1-a", "--reason", "its own wish")
    tried = running.says("tenants", "suspend", "mart", "--dry-run")
    assert tried.startswith("dry run, nothing is kept: tenant mart (suspended)")
    assert not running.zones[EU].tenants()["mart"].suspended
    assert "(suspended)" in running.says("tenants", "suspend", "mart")
    assert "(active)" in running.says("tenants", "resume", "mart")
    assert "250 events/s expected" in running.says("tenants", "set-demand", "mart", "250")
    planned = running.says("tenants", "set-plan", "mart", "--events-per-second", "77", "--spread", "2")
    assert "77 events/s" in planned
    assert "spread over 2" in planned
    pinned = running.says("tenants", "pin", "mart", "--cell", "eu-central-1-a", "--reason", "nearer", "--until", "2099-01-01")
    assert "to eu-central-1-a until 2099-01-01 00:00 UTC: nearer; it is still to be moved there" in pinned
    shown = json.loads(running.says("tenants", "show", "mart", "--output", "json"))
    assert (shown["cell"], shown["demand"], shown["plan"]["burst_events"], shown["pin"]["reason"]) == ("eu-west-1-a", 250, 50_000, "nearer")
    assert "pinned" not in running.says("tenants", "unpin", "mart")
    cells = [json.loads(line) for line in running.says("cells", "list", "--output", "json").splitlines()]
    west = next(one for one in cells if one["cell"] == "eu-west-1-a")
    assert west["demand"] == sum(one.demand for one in running.zones[EU].tenants().values() if one.cell == "eu-west-1-a")
    assert "eu-central-1-a" in running.says("cells", "list")
    assert running.run("tenants", "set-demand", "mart", "-1").returncode == 2


def test_keys_are_rotated(running: Running) -> None:
    """Another key is minted, the old one revoked by what `show` prints of it; nobody revokes without saying so."""
    running.says("tenants", "create", "rota", "--zone", "us")
    first = running.says("sources", "create", "rota", "web").partition("write key (shown this once): ")[2].split()[0]
    second = running.says("keys", "create-write", "rota", "web")
    assert "web of rota has 2 keys that work" in second
    known = parse_key(first)
    assert known is not None
    beginning = known.hash[:12]
    assert beginning in running.says("tenants", "show", "rota")
    asked = running.run("keys", "revoke", "rota", beginning)
    assert (asked.returncode, "Aborted" in asked.stderr) == (1, True)
    assert f"key {beginning} is refused from revision" in running.says("keys", "revoke", "rota", first, "--yes")
    assert f"key {beginning} (revoked)" in running.says("tenants", "show", "rota")
    unknown = running.run("keys", "revoke", "rota", "0000", "--yes")
    assert (unknown.returncode, "has no key that this names" in unknown.stderr) == (2, True)


def test_a_move_is_started_looked_at_and_changed(running: Running) -> None:
    """Readable for people, whole for programs; what is dangerous is asked for; a dry run keeps nothing."""
    running.says("tenants", "create", "rover", "--zone", "eu", "--cell", "eu-west-1-a")
    assert "the tenant is pinned" in running.fails("moves", "start", "rover", "--reason", "why")
    running.says("tenants", "unpin", "rover")
    assert "was never moved" in running.says("moves", "show", "rover")
    assert "dry run, nothing is kept" in running.says("moves", "start", "rover", "--reason", "why", "--dry-run")
    assert "was never moved" in running.says("moves", "show", "rover")
    begun = running.says("moves", "start", "rover", "--reason", "a quieter cell", "--keep", "60")
    assert "from eu-west-1-a to eu-central-1-a: a quieter cell" in begun
    assert "registered" in running.says("moves", "list")
    shown = json.loads(running.says("moves", "show", "rover", "--output", "json"))
    assert (shown["move"]["state"], shown["move"]["keep_seconds"]) == ("registered", 60)
    assert "is being moved already" in running.fails("moves", "start", "rover", "--reason", "why")
    assert "registered (paused)" in running.says("moves", "pause", "rover", "--reason", "look first")
    assert "paused" not in running.says("moves", "resume", "rover", "--reason", "looked")
    assert "the move's state does not allow it" in running.fails("moves", "finish", "rover", "--reason", "why", "--yes")
    assert "Is that meant?" in running.fails("moves", "rollback", "rover", "--reason", "why", code=1)
    assert "aborted" in running.says("moves", "abort", "rover", "--reason", "no more")
    assert "rover" not in running.says("moves", "list")
    assert json.loads(running.says("moves", "list", "--ended", "--output", "json").splitlines()[0])["tenant"] == "rover"


def test_a_cell_is_evacuated_by_a_plan(running: Running) -> None:
    """The plan is shown before anybody is asked; a cell that nobody can leave is refused with the reason."""
    running.says("tenants", "create", "lodger", "--zone", "us", "--cell", "us-east-1-a")
    assert "lodger is pinned to us-east-1-a" in running.fails("cells", "evacuate", "us-east-1-a", "--reason", "why", "--yes")
    running.says("tenants", "unpin", "lodger")
    tried = running.says("cells", "evacuate", "us-east-1-a", "--reason", "why", "--dry-run")
    assert "us-west-2-a" in tried
    assert "nothing was changed" in tried
    assert "Is that meant?" in running.fails("cells", "evacuate", "us-east-1-a", "--reason", "why", code=1)
    assert "lodger" not in running.says("moves", "list")
    assert "1 moves were started" in running.says("cells", "evacuate", "us-east-1-a", "--reason", "why", "--yes")
    assert "lodger" in running.says("moves", "list")
    assert "not on its way out already" in running.says("cells", "evacuate", "us-east-1-a", "--reason", "why", "--yes")
    assert "there is no cell nowhere" in running.fails("cells", "evacuate", "nowhere", "--reason", "why")


def test_the_audit_tells_who_did_what(running: Running) -> None:
    """In order and whole; JSON for programs, without a key in it."""
    running.says("tenants", "create", "told", "--zone", "us", "--request-id", "r9")
    done = running.run("audit", "list", "--zone", "us", "--output", "json")
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert [int(one["seq"]) for one in entries] == list(range(1, len(entries) + 1))
    told = [(one["actor"], one["action"], one["request_id"]) for one in entries if one["tenant"] == "told"]
    assert told == [("operator", "CreateTenant", "r9")]
    assert done.stderr.startswith(f"whole up to {len(entries)}:")
    assert "wk_" not in done.stdout
    assert "CreateTenant" in running.says("audit", "list", "--zone", "us")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tenants", "create", "shop", "--zone", "mars"), "there is no residency zone mars; there are eu, us"),
        (("tenants", "create", "Bad_Name", "--zone", "eu"), "cannot name a tenant"),
        (("tenants", "create", "other", "--zone", "eu", "--cell", "us-west-2-a"), "no such cell in this zone: us-west-2-a"),
        (("tenants", "create", "other", "--zone", "eu", "--demand", "1e9"), "no cell has room for 1,000,000,000 events/s more"),
        (("tenants", "show", "nobody"), "there is no tenant nobody"),
        (("audit", "list", "--zone", "mars"), "there is no residency zone mars"),
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
    assert "cannot be reached" not in done.stderr


def test_without_a_fleet_commands_say_how_to_start_one(tmp_path: Path) -> None:
    """Every command that needs a running fleet names `dataflow up`; `down` is content; `reset` leaves a foreign folder alone."""
    nothing = Running(tmp_path)
    for arguments in (("status",), ("tenants", "list"), ("events", "tail", "--tenant", "x")):
        done = nothing.run(*arguments)
        assert (done.returncode, "dataflow up" in done.stderr) == (2, True)
    assert "no fleet runs" in nothing.says("down")
    (tmp_path / "thesis.txt").write_text("precious")
    refused = nothing.run("reset", "--yes")
    assert (refused.returncode, "is not a fleet's state directory" in refused.stderr) == (2, True)
    assert (tmp_path / "thesis.txt").exists()

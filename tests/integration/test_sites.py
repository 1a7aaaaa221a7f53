"""A zone's directory at two regions with a witness, as real processes over PostgreSQL and gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import asyncpg
import grpc
import pytest

from cli.local.postgres import Postgres
from dataflow.routing.v1 import routing_pb2 as pb
from dataflow.routing.v1 import routing_pb2_grpc
from kernel.chain import verify
from kernel.errors import Failure, Reason
from kernel.ids import ZoneName
from kernel.process.journal import Signer
from router.placement.entry import NOWHERE, WITNESS, Ballot, Entry, Place
from router.placement.postgres_replica import open_replica
from router.quorum.api_client import GrpcPeer
from router.quorum.api_grpc import QuorumGrpc, serve
from router.quorum.ballot_file import BallotFile
from router.quorum.rules import Append, Appended, Candidacy, Vote
from router.quorum.voter import Voter
from tests.support.clock import ManualClock
from tests.support.edge_room import http_client
from tests.support.postgres import databases
from tests.support.processes import eventually, free_port
from tests.support.router_words import EU

pytestmark = pytest.mark.postgres
EAST, WEST = "east", "west"
OPERATOR = "operator-token-of-tests"
TOKEN = "quorum-token-of-tests"
_SEED = bytes(range(32))


class Sites:
    """The three processes of one zone, each of which can be started and killed."""

    def __init__(self, folder: Path, dsns: dict[str, str]) -> None:
        self._folder = folder
        self._dsns = dsns
        self._grpc = {name: free_port() for name in dsns}
        self._http = {name: free_port() for name in (*dsns, WITNESS)}
        self._quorum = {name: free_port() for name in (*dsns, WITNESS)}
        self._running: dict[str, asyncio.subprocess.Process] = {}
        cell = {"cell": "a1", "region": "east", "grpc_address": "127.0.0.1:1", "http_address": "127.0.0.1:1"}
        content = {
            "cells_file": json.dumps([cell]),
            "zones_file": json.dumps({"eu": "https://eu.test"}),
            "signing_key_file": _SEED.hex(),
            "public_key_file": Signer(_SEED).public_key.hex(),
            "operator_token_file": OPERATOR,
            "follower_token_file": "follower-token-of-tests",
            "quorum_token_file": TOKEN,
        }
        for name, text in content.items():
            (folder / name).write_text(text)
        self._shared = {name: str(folder / name) for name in content} | {"zone": "eu"}

    async def start(self, *names: str, alone: bool = False) -> None:
        """Starts these sites."""
        for name in names:
            settings = self._shared | {"http_address": f"127.0.0.1:{self._http[name]}"}
            if not alone:
                settings["sites"] = ",".join(f"{site}=127.0.0.1:{port}" for site, port in self._quorum.items())
                settings["quorum_address"] = f"127.0.0.1:{self._quorum[name]}"
            if name == WITNESS:
                addresses = ",".join(f"127.0.0.1:{port}" for port in self._grpc.values())
                settings |= {"directory_address": addresses, "ballot_path": str(self._folder / "witness" / "ballot.json")}
            else:
                settings |= {"grpc_address": f"127.0.0.1:{self._grpc[name]}", "directory_dsn": self._dsns[name], "site": name}
            environ = {"PATH": os.environ.get("PATH", ""), **{f"DATAFLOW_{key.upper()}": value for key, value in settings.items()}}
            with (self._folder / f"{name}.log").open("ab") as log:
                kind = "witness" if name == WITNESS else "directory"
                self._running[name] = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "router.app", "--role", kind, env=environ, stdout=log, stderr=log
                )

    async def end(self, *names: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Signals these sites, and waits for them."""
        for name in names:
            self._running[name].send_signal(how)
        for name in names:
            code = await asyncio.wait_for(self._running.pop(name).wait(), 15)
            assert how is signal.SIGKILL or code == 0, (self._folder / f"{name}.log").read_text()

    async def status(self, name: str) -> dict[str, object]:
        """Its /status page, {} when nobody answers."""
        with contextlib.suppress(OSError):
            async with http_client(self._http[name]) as http:
                return dict((await http.get("/status")).json())
        return {}

    async def leader(self, among: tuple[str, ...] = (EAST, WEST), seconds: float = 20) -> str:
        """Who leads, once one of these does."""
        found = ""

        async def leads() -> bool:
            nonlocal found
            leading = [name for name in among if (await self.status(name)).get("leads")]
            found = leading[0] if leading else ""
            return bool(found)

        await eventually(leads, f"one of {among} leads; see {self._folder}", seconds)
        return found

    async def create(self, tenant: str, at: str) -> None:
        """A tenant, by this site's directory."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._grpc[at]}") as channel:
            metadata = (("authorization", f"Bearer {OPERATOR}"),)
            request = pb.CreateTenantRequest(name=tenant)
            await routing_pb2_grpc.RouterServiceStub(channel).CreateTenant(request, metadata=metadata, timeout=10, wait_for_ready=True)

    async def listens(self, name: str) -> bool:
        """Whether its RouterService does."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._grpc[name])
        except OSError:
            return False
        writer.close()
        return True

    async def kept(self, name: str) -> tuple[list[str], int]:
        """A region's tenants and its settled number, as its database has them."""
        async with open_replica(self._dsns[name], EU) as replica:
            assert verify(await replica.audit()).broken_at is None
            return sorted((await replica.table()).tenants), (await replica.settled()).number

    async def forget_numbers(self, name: str) -> None:
        """As a directory of the version before leaves it."""
        connection = await asyncpg.connect(self._dsns[name])
        try:
            await connection.execute("UPDATE placement.zone SET number = 0, term = 0")
        finally:
            await connection.close()

    async def wait_until_alike(self, tenants: list[str]) -> None:
        """Both regions keep these tenants, and are at one number."""

        async def alike() -> bool:
            one, other = await self.kept(EAST), await self.kept(WEST)
            return one == other and one[0] == sorted(tenants)

        await eventually(alike, f"both regions keep {tenants}", 15)


Opened = Callable[[], AbstractAsyncContextManager[Sites]]


@pytest.fixture
def opened(tmp_path: Path, postgres_server: Postgres) -> Opened:
    """A zone of which nothing runs yet; what runs at the end is killed."""

    @contextlib.asynccontextmanager
    async def zone() -> AsyncIterator[Sites]:
        async with databases(postgres_server) as east, databases(postgres_server) as west:
            made = Sites(tmp_path, {EAST: east.admin_dsn, WEST: west.admin_dsn})
            try:
                yield made
            finally:
                await made.end(*made._running)

    return zone


async def test_a_killed_leader_is_followed_by_the_other_region(opened: Opened) -> None:
    """Law: whatever was acknowledged is kept, the next leader goes on, and who comes back has what it missed. All drain on SIGTERM."""
    async with opened() as zone:
        await zone.start(EAST, WEST, WITNESS)
        first = await zone.leader()
        other = WEST if first == EAST else EAST
        await zone.create("before", first)
        assert not await zone.listens(other)
        await zone.end(first)
        assert await zone.leader() == other
        await zone.create("after", other)
        await zone.start(first)
        await zone.wait_until_alike(["after", "before"])
        assert (await zone.status(other))["leads"], "who comes back disturbs nobody"
        await zone.end(EAST, WEST, WITNESS, how=signal.SIGTERM)


async def test_without_a_majority_nothing_changes(opened: Opened) -> None:
    """Law: a leader that is left alone stands back, and no other one comes up; with the witness, which finds its promises on its disk, it
    leads again and lacks nothing."""
    async with opened() as zone:
        await zone.start(EAST, WEST, WITNESS)
        first = await zone.leader()
        other = WEST if first == EAST else EAST
        await zone.create("before", first)
        await zone.end(other, WITNESS)

        async def stands_back() -> bool:
            return not await zone.listens(first)

        await eventually(stands_back, "the leader stands back", 15)

        async def says_so() -> bool:
            async with http_client(zone._http[first]) as http:
                answer = await http.get("/readyz")
            return answer.status_code == 503 and "leader" in answer.json()["problems"]

        await eventually(says_so, "it says that nobody leads", 10)
        await zone.start(WITNESS)
        assert await zone.leader() == first
        await zone.create("alone with the witness".replace(" ", "-"), first)
        await zone.end(first)
        await zone.start(other)
        with pytest.raises(AssertionError, match="leads"):
            await zone.leader((other,), 6)
        await zone.start(first)
        await zone.leader()
        await zone.wait_until_alike(["alone-with-the-witness", "before"])


@pytest.mark.parametrize("numbered", [True, False], ids=["by this version", "by the one before"])
async def test_a_directory_that_was_one_process_becomes_several_sites(opened: Opened, numbered: bool) -> None:
    """Law: it stands first; the other region, which has nothing, takes a copy and never leads before. The version before counts
    no entry."""
    async with opened() as zone:
        await zone.start(EAST, alone=True)
        await zone.create("old", EAST)
        await zone.end(EAST, how=signal.SIGTERM)
        if not numbered:
            await zone.forget_numbers(EAST)
        await zone.start(WEST, WITNESS)
        with pytest.raises(AssertionError, match="leads"):
            await zone.leader((WEST,), 6)
        await zone.start(EAST)
        assert await zone.leader() == EAST
        await zone.create("new", EAST)
        await zone.wait_until_alike(["new", "old"])


async def test_who_is_of_another_zone_or_has_no_token_has_no_voice(tmp_path: Path) -> None:
    """Law: neither a vote nor a word is taken, and a witness gives nothing out. A witness is told no entry, and needs none."""
    ballots, port = BallotFile(tmp_path / "ballot.json"), free_port()
    server = await serve(QuorumGrpc(EU, TOKEN, Voter(WITNESS, ballots, ManualClock()), None), f"127.0.0.1:{port}")
    address = f"127.0.0.1:{port}"
    asked = Candidacy(EAST, 1, NOWHERE)
    try:
        for zone, token in ((ZoneName("us"), TOKEN), (EU, "another-token-of-tests")):
            stranger = GrpcPeer(zone, WITNESS, address, token)
            for call in (stranger.vote(asked), stranger.append(Append(EAST, 1, NOWHERE)), stranger.entries(0)):
                with pytest.raises(Failure) as refused:
                    await call
                assert refused.value.reason is Reason.STORE_UNAVAILABLE
                assert "PERMISSION_DENIED" in refused.value.message
            await stranger.close()
        assert await ballots.ballot() == Ballot()
        peer = GrpcPeer(EU, WITNESS, address, TOKEN)
        with pytest.raises(Failure, match="keeps nothing"):
            await peer.entries(0)
        with pytest.raises(Failure, match="keeps nothing"):
            _ = [chunk async for chunk in peer.copy()]
        assert await peer.vote(asked) == Vote(True, 1, blank=True)
        assert await peer.vote(Candidacy(WEST, 1, NOWHERE)) == Vote(False, 1)
        place = Place(1, 7)
        assert await peer.append(Append(EAST, 1, NOWHERE, place, (Entry(7, 7),))) == Appended(True, 1)
        assert await BallotFile(tmp_path / "ballot.json").ballot() == Ballot(1, EAST, place)
        assert "tenant" not in (tmp_path / "ballot.json").read_text()
        await peer.close()
    finally:
        await server.stop(0)

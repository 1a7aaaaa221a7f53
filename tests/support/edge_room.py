"""A whole edge: directory, agent with its real ADS server, tiny real cells, and the real Envoy beside it. No tests in here."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import aiohttp
import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from dataflow.routing.v1 import routing_pb2 as pb
from dataflow.routing.v1 import routing_pb2_grpc
from kernel.ids import RegionName, ZoneName
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock
from kernel.process.journal import FileJournal, Signer
from router.agent.follow import Follower
from router.agent.keeper import Keeper
from router.api import server as api
from router.api.client import DirectoryFeed
from router.api.mirror import Mirror, open_mirror
from router.api.service import RouterService
from router.api.tokens import Principal, Role, tokens_of
from router.evacuation.api_cells import GrpcCells
from router.evacuation.cells import Peers
from router.evacuation.failover import Failovers
from router.evacuation.lookout import Lookout
from router.placement.memory import MemoryStore
from router.placement.table import Topology
from router.xds import server as xds
from router.xds.bootstrap import EdgeIdentity, bootstrap
from router.xds.listener import Listen
from tests.support.envoy import Envoy
from tests.support.processes import eventually, free_port
from tests.support.tiny_cell import LoneCell, TinyCell, tiny_cell

EU = ZoneName("eu")
OPERATOR, FOLLOWER = "operator-token-of-tests", "follower-token-of-tests"
VIEWER = Principal("vera", Role.VIEWER, "viewer-token-of-tests")
ZONES = ((EU, "http://eu.test"), (ZoneName("us"), "https://us.test"))
STAMPS = ("x-dataflow-tenant", "x-dataflow-cell", "x-dataflow-epoch")
CLIENT_SECONDS = 15.0  # that a client waits for an answer
Cell = TinyCell | LoneCell
SAY = "/dataflow.ingest.v1.IngestService/Say"  # no such method: the tiny cell echoes what the edge lets through


class QuietLog:
    """A structured logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, **values: object) -> None:
        self.lines.append((event, values))

    def error(self, event: str, **values: object) -> None:
        self.lines.append((event, values))


@dataclass
class Answer:
    """A whole HTTP answer; header names in lower case."""

    status_code: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Http:
    """A client of one host that follows no redirect."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session = session
        self._base = base

    async def ask(self, method: str, path: str, headers: dict[str, str] | None = None, content: bytes | None = None) -> Answer:
        """Raises aiohttp.ClientError when there is no answer."""
        body = io.BytesIO(content) if content else None
        async with self._session.request(method, self._base + path, headers=headers, data=body, allow_redirects=False) as answer:
            return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read())

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        """GET."""
        return await self.ask("GET", path, headers)

    async def post(self, path: str, headers: dict[str, str] | None = None, content: bytes | None = None) -> Answer:
        """POST."""
        return await self.ask("POST", path, headers, content)


@contextlib.asynccontextmanager
async def http_client(port: int) -> AsyncIterator[Http]:
    """A client of 127.0.0.1."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CLIENT_SECONDS)) as session:
        yield Http(session, f"http://127.0.0.1:{port}")


@dataclass
class Directory:
    """A served directory on a memory store, and its client."""

    store: MemoryStore
    signer: Signer
    address: str
    meter: MemoryMeter
    mirror: Mirror
    stub: Any
    token: str = OPERATOR

    async def call(self, method: str, token: str = "", /, **fields: Any) -> Any:
        """One call, as the operator without another token."""
        request = getattr(pb, f"{method}Request")(**fields)
        return await getattr(self.stub, method)(request, metadata=(("authorization", f"Bearer {token or self.token}"),))


@contextlib.asynccontextmanager
async def directory(
    cells: Sequence[Cell],
    signer: Signer,
    store: MemoryStore | None = None,
    bind: str = "127.0.0.1:0",
    operator: str = OPERATOR,
    peers: Peers | None = None,
) -> AsyncIterator[Directory]:
    """A directory over real gRPC. Without `peers` it reaches no cell."""
    held = store or MemoryStore(EU)
    await held.adopt(Topology(tuple(cell.endpoint for cell in cells), ZONES))
    meter = MemoryMeter()
    mirror = await open_mirror(held, meter)
    asked = peers or GrpcCells(lambda _: None, signer, SystemClock())
    failovers = Failovers(held, asked, SystemClock(), lambda: mirror.table, mirror.refresh)
    lookout = Lookout(failovers, SystemClock(), meter, QuietLog(), 0.0)
    service = RouterService(held, mirror, signer, meter, SystemClock(), secrets.token_bytes, lookout)
    server = await api.serve(service, tokens_of(operator, FOLLOWER, (VIEWER,)), meter, bind)
    address = f"127.0.0.1:{server.port}"
    async with grpc.aio.insecure_channel(address) as channel:
        yield Directory(held, signer, address, meter, mirror, routing_pb2_grpc.RouterServiceStub(channel), operator)
    await server.drain(0)


@dataclass
class Agent:
    """A running agent."""

    follower: Follower
    ads: xds.AdsServer
    meter: MemoryMeter
    log: QuietLog
    server: grpc.aio.Server
    xds_address: str

    async def hang_up(self) -> None:
        """Ends all streams and serves again at the same place."""
        await self.server.stop(0)
        self.server = await xds.serve(self.ads, self.xds_address)


@dataclass
class Ports:
    """What the agent and Envoy listen on, kept over restarts."""

    xds: int
    edge: int
    admin: int


@contextlib.asynccontextmanager
async def agent(
    folder: Path, directory_address: str, public_key: bytes, ports: Ports, listen: Listen | None = None
) -> AsyncIterator[Agent]:
    """An agent over the journal in `folder`; also writes Envoy's bootstrap there."""
    meter, log = MemoryMeter(), QuietLog()
    identity = EdgeIdentity("edge-test", EU, RegionName("eu-west-1"))
    (folder / "envoy.json").write_text(json.dumps(bootstrap(identity, "127.0.0.1", ports.xds, ports.admin)))
    ads = xds.AdsServer(meter)
    where = replace(listen or Listen("", 0), host="127.0.0.1", port=ports.edge)
    keeper = Keeper(EU, FileJournal(folder / "placement.journal", public_key), where)
    feed = DirectoryFeed(directory_address, FOLLOWER, identity.name)
    follower = Follower(keeper, feed, ads, meter, log, lambda: 0.0)
    follower.boot()
    stop = asyncio.Event()
    address = f"127.0.0.1:{ports.xds}"
    running = Agent(follower, ads, meter, log, await xds.serve(ads, address), address)
    task = asyncio.create_task(follower.run(stop))
    try:
        yield running
    finally:
        stop.set()
        await task
        await running.server.stop(0)


def envoy(folder: Path, ports: Ports) -> Envoy:
    """The Envoy of that agent."""
    return Envoy(folder / "envoy.json", ports.admin)


@dataclass
class Room:
    """Everything running, two tenants in two cells, a client."""

    cells: Sequence[Cell]
    directory: Directory
    agent: Agent
    envoy: Envoy
    http: Http
    channel: grpc.aio.Channel
    keys: dict[str, str]
    slugs: dict[str, str]
    ports: Ports

    async def live(self) -> None:
        """Waits until Envoy has taken the directory's present revision."""
        await eventually(lambda: self.agent.ads.status.taken_revision == self.directory.mirror.table.revision, "Envoy takes the revision")

    async def say(self, method: str = SAY, **metadata: str) -> dict[str, Any]:
        """One gRPC call through the edge; the cell's echo."""
        call: Any = self.channel.unary_unary(method)
        answer = await call(b"", metadata=tuple((k.replace("_", "-"), v) for k, v in metadata.items()), timeout=CLIENT_SECONDS)
        return dict(json.loads(answer))

    async def refusal(self, method: str = SAY, **metadata: str) -> tuple[grpc.StatusCode, str, grpc.aio.AioRpcError]:
        """The status and the ErrorInfo's reason of a call that the edge refuses."""
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await self.say(method, **metadata)
        status = rpc_status.from_call(cast("Any", raised.value))
        info = error_details_pb2.ErrorInfo()
        assert status is not None
        assert status.details[0].Unpack(info)
        assert info.domain == "dataflow"
        return raised.value.code(), info.reason, raised.value


@contextlib.asynccontextmanager
async def populated(cells: Sequence[Cell], signer: Signer) -> AsyncIterator[tuple[Directory, dict[str, str], dict[str, str]]]:
    """A directory with a tenant of one source in each cell."""
    keys, slugs = {}, {}
    async with directory(cells, signer) as served:
        for tenant, cell in (("acme", cells[0]), ("globex", cells[1])):
            await served.call("CreateTenant", name=tenant, pinned_cell=cell.endpoint.cell)
            made = await served.call("CreateSource", tenant=tenant, name="web")
            keys[tenant], slugs[tenant] = made.write_key, made.source.slug
        yield served, keys, slugs


@contextlib.asynccontextmanager
async def running_edge(folder: Path, signer: Signer, listen: Listen | None = None, cells: Sequence[Cell] = ()) -> AsyncIterator[Room]:
    """One running edge. `listen` says how it listens; its host and port are ours. Without `cells` there are two tiny ones."""
    ports = Ports(free_port(), free_port(), free_port())
    async with contextlib.AsyncExitStack() as stack:
        used = cells or [await stack.enter_async_context(tiny_cell(name)) for name in ("eu-west-1-a", "eu-central-1-a")]
        served, keys, slugs = await stack.enter_async_context(populated(used, signer))
        running = await stack.enter_async_context(agent(folder, served.address, signer.public_key, ports, listen))
        proxy = envoy(folder, ports)
        stack.callback(proxy.stop)
        proxy.start()
        await proxy.serving()
        http = await stack.enter_async_context(http_client(ports.edge))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{ports.edge}"))
        made = Room(used, served, running, proxy, http, channel, keys, slugs, ports)
        await made.live()
        yield made

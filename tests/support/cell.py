"""An ingest that answers on real sockets, over a log in memory: for tests of the wire contract."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from cells.admission.table import Admission, Credential, Tenant, Update
from cells.defects import HttpShell
from cells.eventlog import codec
from cells.eventlog.envelope import Envelope
from cells.eventlog.memory import MemoryLog
from cells.ingest.accept import Acceptor
from cells.ingest.api_grpc import IngestGrpc
from cells.ingest.api_http import IngestHttp
from cells.pace import Pace
from cells.server import GrpcServer, HttpServer
from dataflow.ingest.v1 import ingest_pb2_grpc
from kernel.epoch import Epoch
from kernel.ids import SourceId, TenantId, ZoneName, mint_key
from kernel.limits import INFLIGHT_BYTES_MAX, Plan
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock
from tests.support.records import CELL

EU, US = ZoneName("eu"), ZoneName("us")


def _key(kind: str, number: int, zone: ZoneName = EU) -> str:
    return mint_key("wk" if kind == "wk" else "rk", zone, bytes([number]) * 32).text


KEY, OTHER_KEY, QUOTA_KEY, SUSPENDED_KEY, REVOKED_KEY, READ_KEY, FOREIGN_KEY, UNKNOWN_KEY, MOVED_KEY = (
    _key("wk", 1),
    _key("wk", 2),
    _key("wk", 3),
    _key("wk", 4),
    _key("wk", 5),
    _key("rk", 6),
    _key("wk", 7, US),
    _key("wk", 8),
    _key("wk", 9),
)


def credential(key: str, source: str, revoked: bool = False) -> Credential:
    """The credential of a key in the clear."""
    from kernel.ids import hash_of

    return Credential(hash_of(key), "wk" if key.startswith("wk") else "rk", SourceId(source), revoked)


def fixture_admission() -> Admission:
    """Tenants that stand for the cases of the wire contract."""
    retailer = Tenant(
        TenantId("acme-retail"),
        CELL,
        Epoch(3),
        Plan(),
        credentials=(credential(KEY, "web"), credential(OTHER_KEY, "app"), credential(REVOKED_KEY, "web", True), credential(READ_KEY, "")),
        slugs=(("acme-web", SourceId("web")), ("acme-app", SourceId("app"))),
    )
    quota_bound = Tenant(TenantId("tiny-quota"), CELL, Epoch(1), Plan(1.0, 5.0), credentials=(credential(QUOTA_KEY, "web"),))
    suspended = Tenant(TenantId("gone-quiet"), CELL, Epoch(1), Plan(), True, credentials=(credential(SUSPENDED_KEY, "web"),))
    moved = Tenant(TenantId("moved-away"), type(CELL)("eu-central-1-a"), Epoch(2), Plan(), credentials=(credential(MOVED_KEY, "web"),))
    update = Update(EU, 0, 7, (retailer, quota_bound, suspended, moved), {EU: "https://eu.example", US: "https://us.example"})
    return Admission(EU).apply(update)


@dataclass
class Ingest:
    """A running ingest. `admission` may be replaced while it runs."""

    admission: Admission
    log: MemoryLog
    acceptor: Acceptor
    http: str = ""
    grpc: str = ""
    servicer: IngestGrpc | None = None
    meter: MemoryMeter = field(default_factory=MemoryMeter)

    async def envelopes(self) -> list[Envelope]:
        """Everything in the log."""
        found: list[Envelope] = []
        for partition in range(self.log.partitions):
            for entry in await self.log.fetch(partition, 0, 100_000, 1 << 40, 0.0):
                found.extend(codec.decode(entry.record.body).envelopes)
        return found


@asynccontextmanager
async def running_ingest(
    log: MemoryLog | None = None, inflight_bytes_max: int = INFLIGHT_BYTES_MAX, pace: Pace | None = None
) -> AsyncIterator[Ingest]:
    """Serves on free ports until the block ends. `pace` is that of the applies which it shall have beside it."""
    clock, numbers = SystemClock(), itertools.count()
    log = log or MemoryLog(4, clock)
    meter = MemoryMeter()
    acceptor = Acceptor(CELL, log, clock, meter, lambda: f"assigned-{next(numbers)}", inflight_bytes_max, pace=pace)
    ingest = Ingest(fixture_admission(), log, acceptor, meter=meter)
    http = HttpServer(HttpShell(IngestHttp(acceptor, lambda: ingest.admission, clock).routes()), "127.0.0.1:0")
    grpc_server = GrpcServer("127.0.0.1:0")
    ingest.servicer = IngestGrpc(acceptor, lambda: ingest.admission, clock)
    ingest_pb2_grpc.add_IngestServiceServicer_to_server(ingest.servicer, grpc_server.server)
    ingest.grpc = f"127.0.0.1:{await grpc_server.start(['dataflow.ingest.v1.IngestService'])}"
    await grpc_server.set_ready(True)
    ingest.http = f"http://127.0.0.1:{await http.start()}"
    try:
        yield ingest
    finally:
        await grpc_server.stop(0.5)
        await http.stop()

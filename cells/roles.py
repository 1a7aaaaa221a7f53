"""The roles of a cell: what each adds to the process. `all` is the sum of the three."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from cells.admission.table import standing
from cells.config import Role, kafka_access, peers_of
from cells.eventlog import codec
from cells.eventlog.kafka import open_log as open_kafka
from cells.eventlog.kafka_start import Needs
from cells.eventlog.log import EventLog
from cells.eventlog.postgres import open_log as open_postgres
from cells.eventlog.retention import expire
from cells.ingest.accept import Acceptor
from cells.ingest.api_fence import SERVICE as FENCE_SERVICE
from cells.ingest.api_fence import FenceGrpc
from cells.ingest.api_grpc import IngestGrpc
from cells.ingest.api_http import IngestHttp
from cells.ingest.authenticate import reader_of
from cells.ingest.fence import Fence
from cells.orders import Orders
from cells.process import Process
from cells.processing.consumer import GROUP, consumer, report_lag
from cells.processing.locate import locate
from cells.processing.partition import Wiring
from cells.processing.store import Applier
from cells.replication import replicator
from cells.replication.api_client import GrpcOrigin
from cells.replication.api_grpc import SERVICE as REPLICATION_SERVICE
from cells.replication.api_grpc import ReplicationGrpc
from cells.replication.link import Link
from cells.replication.replicator import Positions, Replicator, group_of
from cells.storage.api_client import GrpcStore
from cells.storage.api_copies import SERVICE as COPY_SERVICE
from cells.storage.api_copies import CopyGrpc
from cells.storage.api_grpc import QueryGrpc, StorageGrpc
from cells.storage.api_http import QueryHttp
from cells.storage.ask import Questions
from cells.storage.auditor import Auditor
from cells.storage.postgres_apply import PostgresStore
from cells.storage.postgres_audit import PostgresAuditTrail
from cells.storage.postgres_copies import PostgresCopies
from cells.storage.postgres_read import PostgresReader
from dataflow.ingest.v1 import ingest_pb2_grpc
from dataflow.moves.v1 import moves_pb2_grpc
from dataflow.replication.v1 import replication_pb2_grpc
from dataflow.storage.v1 import query_pb2_grpc, storage_pb2_grpc
from kernel.effects import Position
from kernel.errors import Failure
from kernel.ids import CellId, TenantId, ZoneName

_LAG_SECONDS = 1.0
_CHECK_SECONDS = 2.0
_HOUSEKEEPING_SECONDS = 600.0


async def open_log(process: Process, role: Role) -> EventLog:
    """The cell's event log, in what the settings name; while it does not answer, the process says so where it says that it is ready."""
    if process.config.log_kind == "kafka":
        return await _open_kafka(process, role)
    log = await open_postgres(process.config.log_dsn, process.clock, process.config.log_bytes_max)
    process.stack.push_async_callback(log.close)
    process.tasks["event log"] = log.supervise
    process.watch("event log", _CHECK_SECONDS, log.bounds)
    return log


async def _open_kafka(process: Process, role: Role) -> EventLog:
    config, reads = process.config, role in ("all", "processing")
    groups = (GROUP, *map(group_of, peers_of(config.peers))) if reads else ()
    needs = Needs(role in ("all", "ingest") or (reads and bool(config.peers)), reads, groups)
    log = await open_kafka(kafka_access(config), needs, f"{config.cell}-{role}", process.clock, config.log_bytes_max)
    process.stack.push_async_callback(log.close)
    process.tasks["event log"] = log.supervise
    process.watch("event log", _CHECK_SECONDS, log.check)
    return log


def add_ingest(process: Process, log: EventLog) -> None:
    """Takes events over HTTP and gRPC."""
    acceptor = Acceptor(
        CellId(process.config.cell),
        log,
        process.clock,
        process.meter,
        lambda: uuid.uuid4().hex,
        process.config.inflight_bytes_max,
        process.spans,
        process.pace,
        codec.encode if process.config.record_format == "columns" else codec.encode_envelopes,
        lambda name: process.follower.current.tenants.get(name),
    )
    process.routes.extend(IngestHttp(acceptor, lambda: process.follower.current, process.clock, process.spans).routes())
    servicer = IngestGrpc(acceptor, lambda: process.follower.current, process.clock, process.spans)
    ingest_pb2_grpc.add_IngestServiceServicer_to_server(servicer, process.grpc.server)
    process.services.append("dataflow.ingest.v1.IngestService")
    follower = process.follower
    fence = Fence(acceptor, log, lambda: follower.current, lambda: follower.on_disk, process.clock)
    moves_pb2_grpc.add_FenceServiceServicer_to_server(FenceGrpc(fence, _orders(process), process.clock), process.grpc.server)
    process.services.append(FENCE_SERVICE)

    async def drain(deadline: float) -> None:
        servicer.drain()
        await acceptor.drain(deadline)

    process.drains.append(drain)


async def open_store(process: Process) -> PostgresStore:
    """The cell's store as the apply role. Ownership follows the directory from here on."""
    store = PostgresStore(process.config.apply_dsn, process.clock, process.meter)
    process.stack.push_async_callback(store.close)
    await own(process, store)

    async def follow() -> None:
        while True:
            process.follower.changed.clear()
            try:
                await own(process, store)
                await process.follower.changed.wait()
            except Failure:
                await process.clock.sleep(1.0)

    process.tasks["own tenants"] = follow
    process.every("store housekeeping", _HOUSEKEEPING_SECONDS, store.maintain)
    return store


async def own(process: Process, store: PostgresStore) -> None:
    """When it returns, the store has heard all that the directory has told this process of ownerships."""
    async with process.owning:
        admission, cell = process.follower.current, CellId(process.config.cell)
        touched = process.follower.take_touched()
        try:
            known = admission.tenants if touched is None else touched
            dedicated = [t.name for t in map(admission.tenants.get, known) if t and t.dedicated and standing(t, cell) != "released"]
            await store.own(admission.ownerships(cell, touched), dedicated)
        except BaseException:
            process.follower.give_back(touched)
            raise


def add_processing(process: Process, log: EventLog, store: Applier, local: PostgresStore | None) -> None:
    """Folds the log into the store. `local` is the store when it lives in this process, whose ownership can then be renewed."""
    cell = CellId(process.config.cell)

    async def renew() -> None:
        if local is not None:
            await own(process, local)

    wiring = Wiring(
        log,
        store,
        lambda: process.follower.current.claim(cell),
        renew,
        process.clock,
        process.meter,
        process.spans,
        process.pace,
        frozenset(peers_of(process.config.peers)),
        lambda name: process.follower.heard and name in process.follower.current.tenants,
    )
    process.tasks["processing"] = consumer(wiring, _member(cell)).run
    process.every("lag", _LAG_SECONDS, lambda: report_lag(log, store, process.meter))

    async def retain() -> None:
        await expire(log, await store.positions(), process.clock.now(), process.config.log_bytes_max)

    process.every("log retention", _HOUSEKEEPING_SECONDS, retain)


def add_replication(process: Process, log: EventLog, store: Positions) -> None:
    """Keeps what this cell's peers accept, and gives them what is accepted here."""
    config, clock, meter = process.config, process.clock, process.meter
    here, zone, token = CellId(config.cell), ZoneName(config.zone), config.follower_token_file.read_text().strip()
    replicators: dict[CellId, Replicator] = {}
    for cell, address in peers_of(config.peers).items():
        origin = GrpcOrigin(Link(zone, cell, here), address, token)
        process.stack.push_async_callback(origin.close)
        wiring = replicator.Wiring(here, cell, origin, log, store, lambda: process.follower.current.tenants, clock, meter)
        replicators[cell] = Replicator(wiring)
        process.tasks[f"replicate {cell}"] = replicators[cell].member(_member(here)).run
        process.every(f"replica of {cell}", _LAG_SECONDS, replicators[cell].report)
    servicer = ReplicationGrpc(
        zone,
        here,
        log,
        replicators,
        _orders(process),
        token,
        clock,
        lambda: process.follower.current.revision if process.follower.on_disk else 0,
    )
    replication_pb2_grpc.add_ReplicationServiceServicer_to_server(servicer, process.grpc.server)
    process.services.append(REPLICATION_SERVICE)


def _member(cell: CellId) -> str:
    return f"{cell}-{uuid.uuid4().hex[:8]}"


def add_query(process: Process, store: PostgresStore, log: EventLog | None) -> None:
    """Answers a tenant's questions. Without the log in this process a trace knows what is stored only."""
    reader = PostgresReader(process.config.query_dsn)
    trail = PostgresAuditTrail(process.config.audit_dsn)
    auditor = Auditor(trail, process.config.cell, process.meter)
    auditor.start()
    process.tasks["audit"] = auditor.supervise
    for close in (reader.close, trail.close, auditor.close):
        process.stack.push_async_callback(close)

    async def in_log(tenant: TenantId, message_id: str) -> Position | None:
        return await locate(log, store, tenant, message_id) if log is not None else None

    def who(headers: Mapping[str, str]) -> tuple[TenantId, str]:
        return reader_of(headers, process.follower.current, CellId(process.config.cell))

    questions = Questions(reader, auditor, in_log, process.clock, process.meter, process.spans)
    process.routes.extend(QueryHttp(questions, who).routes())
    query_pb2_grpc.add_QueryServiceServicer_to_server(QueryGrpc(questions, who), process.grpc.server)
    process.services.append("dataflow.storage.v1.QueryService")


def add_copies(process: Process) -> None:
    """Gives, takes and erases tenants, as the directory orders."""
    copies = PostgresCopies(process.config.apply_dsn, CellId(process.config.cell), process.clock)
    process.stack.push_async_callback(copies.close)
    moves_pb2_grpc.add_CopyServiceServicer_to_server(CopyGrpc(copies, _orders(process)), process.grpc.server)
    process.services.append(COPY_SERVICE)


def _orders(process: Process) -> Orders:
    return Orders(CellId(process.config.cell), process.follower.verify, process.clock)


def add_apply_service(process: Process, store: PostgresStore) -> None:
    """Takes applies from a separate processing role of this cell."""
    storage_pb2_grpc.add_StorageServiceServicer_to_server(StorageGrpc(store, process.clock, process.spans), process.grpc.server)
    process.services.append("dataflow.storage.v1.StorageService")


def remote_store(process: Process) -> GrpcStore:
    """The storage role of this cell, over gRPC."""
    client = GrpcStore(process.config.storage_address, process.clock)
    process.stack.push_async_callback(client.close)
    return client

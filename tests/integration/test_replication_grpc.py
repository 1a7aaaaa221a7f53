"""The one link between cells over real gRPC: records survive it, both ends refuse whom they are not wired to, and reasons come through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.admission.table import Tenant
from cells.eventlog.log import Bounds, Entry, Record
from cells.eventlog.memory import MemoryLog
from cells.orders import Orders
from cells.replication.api_client import GrpcOrigin
from cells.replication.api_grpc import SERVICE, ReplicationGrpc
from cells.replication.codec import entry_of, record_message
from cells.replication.link import Link
from cells.replication.replicator import Replicator, Wiring
from cells.server import GrpcServer
from cells.storage.memory import MemoryStore
from dataflow.replication.v1 import replication_pb2 as pb
from dataflow.replication.v1 import replication_pb2_grpc
from kernel import orders
from kernel.clock import DAY, SECOND, Micros
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import UNREADABLE, CellId, RegionName, SourceId, TenantId, ZoneName
from kernel.limits import FETCH_BYTES_MAX, FETCH_RECORDS_MAX, ORDER_SECONDS, RECORD_BYTES_MAX, Plan
from kernel.metrics import MemoryMeter
from kernel.orders import NOBODY
from kernel.process.clock import SystemClock
from kernel.process.journal import FileJournal, Signer
from router.evacuation.api_cells import GrpcCells
from router.evacuation.cells import Kept
from router.placement.table import CellEndpoint
from tests.integration.test_router_api import reason_of
from tests.support.processes import eventually, free_port
from tests.support.records import TODAY, blob

EU, US = ZoneName("eu"), ZoneName("us")
HERE, THERE, THIRD = CellId("eu-central-1-a"), CellId("eu-west-1-a"), CellId("eu-north-1-a")
LINK, TOKEN = Link(EU, THERE, HERE), "token-of-the-zone"
SIGNER = Signer(b"d" * 32)
ACME = TenantId("acme")
TENANTS = {ACME: Tenant(ACME, THERE, Epoch(1), Plan(), standby=HERE)}


class Trouble(MemoryLog):
    """Fails as it is told."""

    trouble: Exception | None = None

    async def fetch(self, partition: int, offset: int, records_max: int, bytes_max: int, wait_seconds: float) -> list[Entry]:
        self._fail()
        return await super().fetch(partition, offset, records_max, bytes_max, min(wait_seconds, 0.05))

    async def bounds(self) -> dict[int, Bounds]:
        self._fail()
        return await super().bounds()

    def _fail(self) -> None:
        if self.trouble is not None:
            raise self.trouble


@dataclass
class Day(SystemClock):
    """The system's time, on another day."""

    days: int = 0

    def now(self) -> Micros:
        return Micros(super().now() + self.days * DAY)


class Cell:
    """A cell's log, store and link. It keeps what `origin` accepts, whose log is read through `reads`."""

    def __init__(self, cell: CellId, zone: ZoneName, origin: CellId, reads: str, verify: Callable[[Any], bool]) -> None:
        self.clock = Day()
        self.log = Trouble(4, self.clock)
        self.store = MemoryStore(self.clock, MemoryMeter())
        self.origin = GrpcOrigin(Link(zone, origin, cell), reads, TOKEN)
        wiring = Wiring(cell, origin, self.origin, self.log, self.store, lambda: TENANTS, self.clock, MemoryMeter())
        self.replicator = Replicator(wiring)
        check = Orders(cell, verify, self.clock)
        self.servicer = ReplicationGrpc(zone, cell, self.log, {origin: self.replicator}, check, TOKEN, self.clock, lambda: 7)
        self.defects: list[BaseException] = []

    async def serve(self, address: str) -> GrpcServer:
        """On a listener like the real one."""
        server = GrpcServer(address, lambda _, defect: self.defects.append(defect))
        replication_pb2_grpc.add_ReplicationServiceServicer_to_server(self.servicer, server.server)
        await server.start([SERVICE])
        await server.set_ready(True)
        return server

    async def put(self, *records: Record, partition: int = 0) -> None:
        """Accepted here."""
        for record in records:
            await self.log.append(partition, record, self.clock.monotonic() + 5)

    async def all(self, partition: int = 0) -> list[Entry]:
        """What its log has."""
        return await MemoryLog.fetch(self.log, partition, 0, 10_000, 1 << 40, 0.0)


@dataclass
class Pair:
    """`there` is read by `here`, over the loopback."""

    there: Cell
    here: Cell
    address: str
    server: GrpcServer
    cells: GrpcCells

    @property
    def origin(self) -> GrpcOrigin:
        """The log of `there` as `here` sees it."""
        return self.here.origin


@pytest.fixture
async def pair(tmp_path: Any) -> AsyncIterator[Pair]:
    verify = FileJournal(tmp_path, SIGNER.public_key).verify
    address, back = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    there, here = Cell(THERE, EU, HERE, back, verify), Cell(HERE, EU, THERE, address, verify)
    servers = [await there.serve(address), await here.serve(back)]
    addresses = {THERE: address, HERE: back, THIRD: "127.0.0.1:1"}
    cells = GrpcCells(lambda name: CellEndpoint(name, RegionName("eu-west-1"), addresses[name], ""), SIGNER, SystemClock())
    made = Pair(there, here, address, servers[0], cells)
    yield made
    for client in (cells, there.origin, here.origin):
        await client.close()
    for server in (made.server, *servers[1:]):
        await server.stop(0)


async def refused(call: Any) -> Reason:
    """Why a client is refused."""
    with pytest.raises(Failure) as raised:
        await call
    return raised.value.reason


def one(text: str, size: int = 0) -> Record:
    """A record of acme's that was accepted there."""
    return replace(blob(text, size), tenant=ACME, cell=THERE)


texts = st.text(max_size=20)
records = st.builds(
    Record,
    texts.map(TenantId) | st.just(UNREADABLE),
    texts.map(SourceId),
    texts.map(CellId),
    st.integers(0, 2**64 - 1).map(Epoch),
    st.integers(-(2**63), 2**63 - 1).map(Micros),
    st.integers(0, 2**32 - 1),
    texts,
    st.binary(max_size=50),
)
offsets = st.integers(0, 2**64 - 1)


@given(st.builds(Entry, offsets, st.integers(-(2**63), 2**63 - 1).map(Micros), records))
def test_an_entry_is_the_same_behind_the_wire(entry: Entry) -> None:
    """Law: every field of a record, its offset and its time survive, whatever they are."""
    assert entry_of(pb.Record.FromString(record_message(entry).SerializeToString())) == entry


async def test_what_is_fetched_is_what_the_log_has(pair: Pair) -> None:
    """Law: entries come whole, in order and from the offset that was asked for; bounds are the log's; nothing new is an empty answer."""
    plain = Record(ACME, SourceId("web"), THERE, Epoch(7), TODAY, 3, "00-trace-01", b"\x00\xff body")
    several = [plain, replace(plain, tenant=UNREADABLE, source=SourceId("")), replace(plain, cell=THIRD, events=0, trace="", body=b"")]
    await pair.there.put(*several, partition=2)
    wanted = await pair.there.all(2)
    assert [entry.record for entry in wanted] == several
    assert await pair.origin.fetch(2, 0) == wanted
    assert await pair.origin.fetch(2, 1) == wanted[1:]
    assert await pair.origin.fetch(2, 3) == []
    assert await pair.origin.bounds() == await pair.there.log.bounds()


async def test_the_largest_record_passes_behind_others(pair: Pair) -> None:
    """Law: a fetch brings the first record however large, and one more where those before it leave a byte of room; nothing that the log
    takes is too large for the link."""
    nearly, largest = one("nearly", FETCH_BYTES_MAX - 1), one("largest", RECORD_BYTES_MAX)
    await pair.there.put(nearly, largest, one("small"))
    assert [entry.record for entry in await pair.origin.fetch(0, 0)] == [nearly, largest]
    assert [entry.record for entry in await pair.origin.fetch(0, 1)] == [largest]


async def test_as_many_small_records_as_a_fetch_may_bring_pass(pair: Pair) -> None:
    """Law: what surrounds the bodies on the wire has room as well."""
    await pair.there.put(*(one(f"{number:05}", FETCH_BYTES_MAX // FETCH_RECORDS_MAX) for number in range(FETCH_RECORDS_MAX + 1)))
    assert len(await pair.origin.fetch(0, 0)) == FETCH_RECORDS_MAX


STRANGERS: dict[str, tuple[Link, str]] = {
    "another zone": (replace(LINK, zone=US), TOKEN),
    "no zone": (replace(LINK, zone=ZoneName("")), TOKEN),
    "another origin": (replace(LINK, origin=THIRD), TOKEN),
    "the follower itself": (replace(LINK, origin=HERE), TOKEN),
    "an unknown follower": (replace(LINK, follower=THIRD), TOKEN),
    "no follower": (replace(LINK, follower=CellId("")), TOKEN),
    "another token": (LINK, "token-of-another-zone"),
    "a part of the token": (LINK, TOKEN[:-1]),
    "no token": (LINK, ""),
}


@pytest.mark.parametrize(("said", "token"), STRANGERS.values(), ids=STRANGERS)
async def test_a_cell_gives_its_log_to_those_alone_that_it_is_wired_to(pair: Pair, said: Link, token: str) -> None:
    """Law: whoever is of another zone, asks another cell, is nobody's follower or has not the zone's token gets neither records nor bounds,
    whatever the log holds: by that cell itself, not by a client of good will. The control is the right one, over the same wire."""
    await pair.there.put(one("secret"))
    stub: Any = replication_pb2_grpc.ReplicationServiceStub(pair.origin._channel)
    message, metadata = pb.Link(zone=said.zone, origin=said.origin, follower=said.follower), (("authorization", f"Bearer {token}"),)
    for call in (
        stub.Fetch(pb.FetchRequest(link=message), metadata=metadata),
        stub.Bounds(pb.BoundsRequest(link=message), metadata=metadata),
    ):
        assert (await reason_of(call))[1] == "PEER_REFUSED"
    stranger = GrpcOrigin(said, pair.address, token)
    for failing in (stranger.fetch(0, 0), stranger.bounds()):
        assert await refused(failing) is Reason.PEER_REFUSED
    await stranger.close()
    assert len(await pair.origin.fetch(0, 0)) == 1
    assert (await pair.origin.bounds())[0] == Bounds(0, 1)


async def test_without_a_header_nothing_is_given(pair: Pair) -> None:
    """Law: a call that brings no credential at all, or one that is not text, is refused as a wrong one is, and is no defect."""
    message = pb.Link(zone=EU, origin=THERE, follower=HERE)
    stub: Any = replication_pb2_grpc.ReplicationServiceStub(pair.origin._channel)
    for metadata in ((), (("authorization", TOKEN),), (("authorization-bin", b"\xff"),)):
        for call in (stub.Fetch(pb.FetchRequest(link=message), metadata=metadata), stub.Bounds(pb.BoundsRequest(), metadata=metadata)):
            assert (await reason_of(call))[1] == "PEER_REFUSED"
    assert pair.there.defects == []


class Impostor(replication_pb2_grpc.ReplicationServiceServicer):
    """Answers whoever asks, as somebody."""

    def __init__(self) -> None:
        self.link = LINK

    async def Fetch(self, request: pb.FetchRequest, context: Any) -> pb.FetchResponse:
        return pb.FetchResponse(link=self._said(), records=[record_message(Entry(0, TODAY, one("foreign")))])

    async def Bounds(self, request: pb.BoundsRequest, context: Any) -> pb.BoundsResponse:
        return pb.BoundsResponse(link=self._said(), bounds={0: pb.Bound(next=1)})

    async def Standing(self, request: pb.StandingRequest, context: Any) -> pb.StandingResponse:
        return pb.StandingResponse()

    def _said(self) -> pb.Link:
        return pb.Link(zone=self.link.zone, origin=self.link.origin, follower=self.link.follower)


async def test_what_somebody_else_answers_is_not_taken() -> None:
    """Law: an address that leads to a cell of another zone, to another cell, or to one that takes this cell for another gives no records: a
    byte that leaves its zone is the worst that can happen. The right one's answer is taken."""
    impostor, server = Impostor(), GrpcServer("127.0.0.1:0")
    replication_pb2_grpc.add_ReplicationServiceServicer_to_server(impostor, server.server)
    origin = GrpcOrigin(LINK, f"127.0.0.1:{await server.start([SERVICE])}", TOKEN)
    try:
        assert (await origin.fetch(0, 0))[0].record.body == b"foreign"
        assert await origin.bounds() == {0: Bounds(0, 1)}
        for said in (replace(LINK, zone=US), replace(LINK, origin=THIRD), replace(LINK, follower=THIRD), Link(US, THIRD, THERE)):
            impostor.link = said
            assert await refused(origin.fetch(0, 0)) is Reason.PEER_REFUSED
            assert await refused(origin.bounds()) is Reason.PEER_REFUSED
    finally:
        await origin.close()
        await server.stop(0)


def order(deed: str = "Standing", cell: CellId = HERE, tenant: TenantId = NOBODY, age: float = 0.0, signer: Signer = SIGNER) -> bytes:
    """A signed order, as old as `age` seconds."""
    made = orders.order_now(cell, tenant, deed, Micros(SystemClock().now() - int(age * SECOND)))
    return orders.packed(signer.sign(made.text()))


FORGED: Mapping[str, bytes | None] = {
    "none": None,
    "empty": b"",
    "noise": b"x" * 100,
    "for another cell": order(cell=THERE),
    "for a tenant": order(tenant=ACME),
    "for another deed": order("Ends"),
    "of another key": order(signer=Signer(b"e" * 32)),
}


@pytest.mark.parametrize("header", FORGED.values(), ids=FORGED)
async def test_how_much_is_kept_is_told_to_the_directory_alone(pair: Pair, header: bytes | None) -> None:
    """Law: Standing without the directory's order for it is refused, whatever it asks about; the zone's token is no order."""
    stub: Any = replication_pb2_grpc.ReplicationServiceStub(pair.there.origin._channel)
    token = ("authorization", f"Bearer {TOKEN}")
    for origin in (THERE, THIRD):
        for extra in ((), (token,)):
            metadata = extra if header is None else (*extra, (orders.HEADER, header))
            assert (await reason_of(stub.Standing(pb.StandingRequest(origin=origin), metadata=metadata)))[1] == "ORDER_REFUSED"
    old = stub.Standing(pb.StandingRequest(origin=THERE), metadata=((orders.HEADER, order(age=ORDER_SECONDS + 1)),))
    assert (await reason_of(old))[1] == "ORDER_REFUSED"
    assert (await stub.Standing(pb.StandingRequest(origin=THERE), metadata=((orders.HEADER, order()),))).now > 0


async def test_the_directory_hears_the_gap_as_it_is(pair: Pair) -> None:
    """Law: what is kept, where the other log ended, when that was heard and what is applied are told as they are; about a cell that nothing
    is kept of it is PEER_REFUSED; of one that cannot be reached CELL_UNAVAILABLE."""
    before = await pair.cells.gap(HERE, THERE)
    assert (before.cell, before.kept, before.heard_at, before.silent_seconds) == (HERE, (), 0, None)
    await pair.there.put(*(one(text) for text in "abcde"), partition=1)
    await pair.here.put(one("z"), partition=3)
    await pair.here.store.replicate(THERE, 1, 0, 2)
    await pair.here.replicator.report()
    gap = await pair.cells.gap(HERE, THERE)
    assert gap.kept == (Kept(0, 0, 0), Kept(1, 2, 5), Kept(2, 0, 0), Kept(3, 0, 0))
    assert gap.own == (Kept(0, 0, 0), Kept(1, 0, 0), Kept(2, 0, 0), Kept(3, 0, 1))
    assert (gap.records, 0 < gap.heard_at <= gap.asked_at) == (3, True)
    for asked, origin, reason in ((HERE, THIRD, "PEER_REFUSED"), (HERE, HERE, "PEER_REFUSED"), (THIRD, THERE, "CELL_UNAVAILABLE")):
        assert (await refused(pair.cells.gap(asked, origin))).name == reason
    assert await pair.cells.answers(THERE)
    assert not await pair.cells.answers(THIRD)
    await pair.server.set_ready(False)
    assert not await pair.cells.answers(THERE), "who says that it is not ready does not answer"


async def test_the_logs_own_reasons_come_through(pair: Pair) -> None:
    """Law: the follower hears why the other log gives nothing; a defect there is reported there, and is no reason to stop for good here; a
    cell that is gone is CELL_UNAVAILABLE, which comes again."""
    await pair.there.put(one("old"))
    pair.there.clock.days = 3
    await pair.there.put(one("new"))
    await pair.there.log.trim(pair.there.clock.now())
    assert await refused(pair.origin.fetch(0, 0)) is Reason.OFFSET_OUT_OF_RANGE
    assert [entry.offset for entry in await pair.origin.fetch(0, 1)] == [1]
    assert await refused(pair.origin.fetch(4, 0)) is Reason.INVALID_FIELD
    for reason in (Reason.LOG_UNAVAILABLE, Reason.STORE_UNAVAILABLE):
        pair.there.log.trouble = Failure(reason, "as a test wants it")
        for call in (pair.origin.fetch(0, 1), pair.origin.bounds()):
            with pytest.raises(Failure, match="as a test wants it") as raised:
                await call
            assert raised.value.reason is reason
    assert pair.there.defects == []
    defect = RuntimeError("a bug")
    pair.there.log.trouble = defect
    assert await refused(pair.origin.bounds()) in (Reason.CELL_UNAVAILABLE, Reason.INTERNAL)
    assert [str(one) for one in pair.there.defects] == ["a bug"]
    pair.there.log.trouble = None
    assert (await pair.origin.bounds())[0] == Bounds(1, 2)
    await pair.server.stop(0)
    for call in (pair.origin.fetch(0, 1), pair.origin.bounds()):
        assert await refused(call) is Reason.CELL_UNAVAILABLE


async def test_what_is_accepted_there_is_kept_here_although_the_wire_breaks(pair: Pair) -> None:
    """Law: the replicator over the real link keeps every record in its order through restarts of the other cell's listener and failures of
    its log; the control is that it knows to have everything only then."""
    wanted = [f"{number:03}" for number in range(60)]
    task = asyncio.create_task(pair.here.replicator.run(1))

    async def kept() -> list[str]:
        return list(dict.fromkeys([entry.record.body.decode() for entry in await pair.here.all(1)]))

    async def wait_until_kept(count: int) -> None:
        async def holds() -> bool:
            return await kept() == wanted[:count]

        await eventually(holds, f"{count} are kept in order", 30)

    await pair.there.put(*map(one, wanted[:20]), partition=1)
    await wait_until_kept(20)
    await pair.server.stop(0)
    await pair.there.put(*map(one, wanted[20:40]), partition=1)
    pair.server = await pair.there.serve(pair.address)
    await wait_until_kept(40)
    pair.there.log.trouble = Failure(Reason.LOG_UNAVAILABLE)
    await pair.there.put(*map(one, wanted[40:]), partition=1)
    assert len(await kept()) == 40
    pair.there.log.trouble = None
    await wait_until_kept(60)

    async def level() -> bool:
        return (await pair.here.store.replicated(THERE)).get(1) == 60

    await eventually(level, "the position is behind the last record")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

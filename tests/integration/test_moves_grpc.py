"""The directory's client and a cell's services over real gRPC: nothing without the directory's order, and parts larger than a message."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import grpc
import pytest

from cells.admission.table import Admission, Tenant, Update
from cells.eventlog.memory import MemoryLog
from cells.ingest.accept import Acceptor
from cells.ingest.api_fence import FenceGrpc
from cells.ingest.fence import Fence
from cells.orders import Orders
from cells.server import GrpcServer
from cells.storage.api_copies import CopyGrpc
from cells.storage.memory import MemoryStore
from cells.storage.memory_copies import MemoryCopies
from dataflow.moves.v1 import moves_pb2 as pb
from dataflow.moves.v1 import moves_pb2_grpc
from kernel import orders
from kernel.clock import SECOND, Micros
from kernel.effects import Applied, Apply
from kernel.epoch import Claim, Epoch, Ownership, OwnershipState
from kernel.errors import Failure, Reason
from kernel.ids import CellId, RegionName, TenantId, ZoneName
from kernel.journal import Signed
from kernel.limits import COPY_PIECE_BYTES, ORDER_SECONDS, Plan
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock
from kernel.process.journal import FileJournal, Signer
from router.evacuation.api_cells import GrpcCells
from router.placement.table import CellEndpoint
from tests.integration.test_router_api import reason_of
from tests.support.storage_room import ACME, GLOBEX, effects, event

HOME, TARGET = CellId("eu-a-1"), CellId("eu-b-1")
SIGNER = Signer(b"d" * 32)


@dataclass
class Served:
    """A cell's services for moves, over stores in memory."""

    cell: CellId
    store: MemoryStore
    admission: Admission
    address: str = ""
    on_disk: bool = True

    def place(self, home: CellId, epoch: int, fenced: bool = False) -> None:
        """Acme's placement, as the cell has heard it."""
        acme = Tenant(ACME, home, Epoch(epoch), Plan(), fenced=fenced)
        self.admission = Admission(ZoneName("eu")).apply(Update(ZoneName("eu"), 0, epoch + fenced, (acme,)))

    async def own(self, home: CellId, epoch: int) -> None:
        """The ownership row."""
        state: OwnershipState = "owner" if home == self.cell else "released"
        await self.store.own([Ownership(tenant, Epoch(epoch), state) for tenant in (ACME, GLOBEX)], [])


Pair = tuple[Served, Served, GrpcCells]


async def serve(cell: CellId, journal: FileJournal) -> tuple[Served, GrpcServer]:
    """One."""
    clock, meter = SystemClock(), MemoryMeter()
    served = Served(cell, MemoryStore(clock, meter), Admission(ZoneName("eu")))
    log = MemoryLog(4, clock)
    acceptor = Acceptor(cell, log, clock, meter, lambda: "assigned")
    fence = Fence(acceptor, log, lambda: served.admission, lambda: served.on_disk, clock)
    check = Orders(cell, journal.verify, clock)
    server = GrpcServer("127.0.0.1:0")
    moves_pb2_grpc.add_FenceServiceServicer_to_server(FenceGrpc(fence, check, clock), server.server)
    moves_pb2_grpc.add_CopyServiceServicer_to_server(CopyGrpc(MemoryCopies(served.store, cell), check), server.server)
    served.address = f"127.0.0.1:{await server.start([])}"
    served.place(HOME, 1)
    await served.own(HOME, 1)
    return served, server


@pytest.fixture
async def pair(tmp_path: object) -> AsyncIterator[Pair]:
    """Two cells, and the directory's client."""
    journal = FileJournal(tmp_path, SIGNER.public_key)  # type: ignore[arg-type]  # it only verifies
    home, one = await serve(HOME, journal)
    target, other = await serve(TARGET, journal)
    addresses = {HOME: home.address, TARGET: target.address}

    def find(name: CellId) -> CellEndpoint | None:
        return CellEndpoint(name, RegionName("eu-west-1"), addresses[name], "") if name in addresses else None

    client = GrpcCells(find, SIGNER, SystemClock())
    yield home, target, client
    await client.close()
    for server in (one, other):
        await server.stop(0)


async def put(served: Served, *payloads: bytes) -> None:
    """Acme's events, each in a record of its own."""
    for payload in payloads:
        at = (await served.store.positions()).get(0, 0)
        made = effects(event(f"m{at}", offset=at, payload=payload))
        applied = await served.store.apply(Apply(made, Claim(served.cell, {ACME: Epoch(1)}), at, at + 1), 1e12)
        assert isinstance(applied, Applied)


async def test_a_part_larger_than_a_message_arrives_whole(pair: Pair) -> None:
    """Law: what one cell exports, the other holds afterwards, however large; the digests agree over the wire."""
    home, target, cells = pair
    large = b'{"a":"' + random.Random(7).randbytes(2 * COPY_PIECE_BYTES).hex().encode() + b'"}'
    await put(home, b"{}", large)
    copy = await cells.begin(TARGET, ACME, HOME, "m1", b"", False)
    more = True
    while more:
        part = await cells.export(HOME, ACME, Epoch(1), copy.cursor)
        copy = await cells.take(TARGET, ACME, Epoch(1), HOME, "m1", copy.seq, part)
        more = part.more
    assert len(part.chunk) < COPY_PIECE_BYTES, "the last part is the small one"
    stored = await target.store.get_event(ACME, "m1")
    assert stored is not None
    assert stored.envelope.payload == large
    assert await cells.digest(HOME, ACME) == await cells.digest(TARGET, ACME) == copy.added
    assert await cells.digest(HOME, ACME, until=copy.cursor) == copy.added
    assert (await cells.digest(HOME, ACME, copy.cursor, copy.cursor)).events == 0
    assert await cells.digest_profiles(HOME, ACME) == await cells.digest_profiles(TARGET, ACME)
    assert await cells.mark(TARGET, ACME, Epoch(1))


async def test_a_part_of_another_tenant_or_epoch_than_ordered_is_refused(pair: Pair) -> None:
    """Law: what the order and the request name is what is taken; a part that says otherwise changes nothing."""
    home, _, cells = pair
    at = (await home.store.positions()).get(0, 0)
    await home.store.apply(Apply(effects(event("g1", GLOBEX, offset=at)), Claim(HOME, {GLOBEX: Epoch(1)}), at, at + 1), 1e12)
    part = await cells.export(HOME, GLOBEX, Epoch(1), b"")
    await cells.begin(TARGET, ACME, HOME, "m1", b"", False)
    await cells.begin(TARGET, GLOBEX, HOME, "m1", b"", False)
    for tenant, epoch in ((ACME, 1), (GLOBEX, 2)):
        with pytest.raises(Failure) as refused:
            await cells.take(TARGET, tenant, Epoch(epoch), HOME, "m1", 0, part)
        assert refused.value.reason is Reason.INVALID_FIELD
    assert (await cells.begin(TARGET, GLOBEX, HOME, "m1", b"", False)).seq == 0


async def test_a_fence_that_the_cell_has_not_heard_of_is_no_fence(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the log's end is told when the door is shut at that epoch, and a restart would find it shut; never before."""
    monkeypatch.setattr("cells.ingest.api_fence.FENCE_SECONDS_MAX", 0.05)
    home, _, cells = pair
    home.place(HOME, 2, fenced=True)
    assert await cells.fence(HOME, ACME, Epoch(2)) == await cells.ends(HOME, ACME) == {0: 0, 1: 0, 2: 0, 3: 0}
    for epoch, fenced, on_disk in ((2, False, True), (3, True, True), (2, True, False)):
        home.place(HOME, epoch, fenced)
        home.on_disk = on_disk
        with pytest.raises(Failure) as refused:
            await cells.fence(HOME, ACME, Epoch(2))
        assert refused.value.reason is Reason.MOVED


async def test_reasons_come_through(pair: Pair) -> None:
    """Law: a cell's refusal is the directory's; a cell that cannot be reached is CELL_UNAVAILABLE."""
    _, _, cells = pair
    calls = [
        (cells.export(HOME, ACME, Epoch(2), b""), Reason.MOVED),
        (cells.export(HOME, ACME, Epoch(1), b"nonsense"), Reason.INVALID_FIELD),
        (cells.mark(HOME, ACME, Epoch(9)), Reason.MOVED),
        (cells.begin(TARGET, TenantId("stranger"), HOME, "m1", b"", False), Reason.MOVED),
        (cells.ends(CellId("us-1"), ACME), Reason.UNKNOWN_CELL),
    ]
    for call, reason in calls:
        with pytest.raises(Failure) as refused:
            await call
        assert refused.value.reason is reason
    nobody = GrpcCells(lambda name: CellEndpoint(name, RegionName("eu-west-1"), "127.0.0.1:1", ""), SIGNER, SystemClock())
    with pytest.raises(Failure) as refused:
        await nobody.ends(HOME, ACME)
    assert refused.value.reason is Reason.CELL_UNAVAILABLE
    await nobody.close()


def order(deed: str, cell: CellId = HOME, tenant: TenantId = ACME, age: float = 0.0, signer: Signer = SIGNER) -> bytes:
    """A signed order, as old as `age` seconds."""
    made = orders.order_now(cell, tenant, deed, Micros(SystemClock().now() - int(age * SECOND)))
    return orders.packed(signer.sign(made.text()))


FORGED: dict[str, Callable[[str], bytes | None]] = {
    "none": lambda deed: None,
    "empty": lambda deed: b"",
    "noise": lambda deed: b"x" * 100,
    "other-cell": lambda deed: order(deed, cell=TARGET),
    "other-tenant": lambda deed: order(deed, tenant=GLOBEX),
    "other-deed": lambda deed: order("Ends" if deed != "Ends" else "Erase"),
    "old": lambda deed: order(deed, age=ORDER_SECONDS + 1),
    "of-tomorrow": lambda deed: order(deed, age=-2 * ORDER_SECONDS),
    "other-key": lambda deed: order(deed, signer=Signer(b"e" * 32)),
    "other-version": lambda deed: orders.packed(SIGNER.sign(f"dataflow.order.v2\neu-a-1\nacme\n{deed}\n9999999999999999".encode())),
    "no-order": lambda deed: orders.packed(SIGNER.sign(pb.EndsRequest(tenant="acme").SerializeToString())),
    "changed": lambda deed: orders.packed(Signed(order(deed)[64:].replace(b"acme", b"acmf"), order(deed)[:64])),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
async def test_without_the_directorys_order_nothing_is_done(pair: Pair, forge: Callable[[str], bytes | None]) -> None:
    """Law: every method of both services asks for it first, for this cell, this tenant, this deed and this minute."""
    home, _, _ = pair
    async with grpc.aio.insecure_channel(home.address) as channel:
        for service in ("FenceService", "CopyService"):
            for method in pb.DESCRIPTOR.services_by_name[service].methods:
                header = forge(method.name)
                metadata = () if header is None else ((orders.HEADER, header),)
                stub = getattr(moves_pb2_grpc, f"{service}Stub")(channel)
                request = getattr(pb, method.input_type.name)(tenant="acme")
                call = getattr(stub, method.name)(iter([request]) if method.client_streaming else request, metadata=metadata)
                answered = _all(call) if method.server_streaming else call
                assert (await reason_of(answered))[1] == "ORDER_REFUSED", method.name


async def _all(call: object) -> None:
    async for _ in call:  # type: ignore[attr-defined]  # a stream
        continue

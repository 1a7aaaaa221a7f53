"""A whole fleet in one process, under virtual time: directories, edges that lag, cells that crash, moves, clients that retry.

The code is the real one - placement, decide, moves, admission, admit, fence, log port, pipeline, consumer, store and copies - over the
adapters in memory. What a crash keeps is what is durable: logs, stores, journals. The clients' own list of what they sent and were told
is the truth that the oracle compares with.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from cells.admission import codec as admission_codec
from cells.admission.table import Admission, Tenant
from cells.eventlog import codec
from cells.eventlog.memory import MemoryLog
from cells.ingest.accept import Acceptor, Batch
from cells.ingest.authenticate import Credentials, authenticate_sender
from cells.ingest.fence import Fence
from cells.processing.consumer import Consumer
from cells.processing.partition import Wiring
from cells.storage.memory import MemoryStore
from cells.storage.memory_copies import MemoryCopies
from cells.storage.store import Filter
from cells.tracing import OFF
from chaos.checkers.history import Answer, Copy, History, LedgerLine, Sent, Stored
from gitops.fleet import FLEET
from kernel.clock import Micros
from kernel.epoch import Stamp
from kernel.errors import Failure, Reason, Retry
from kernel.ids import CellId, TenantId, ZoneName, mint_key
from kernel.metrics import MemoryMeter
from router.placement import table as placement
from router.placement.decide import Routed, decide
from tests.simulation.cells import SimCells
from tests.simulation.defects import ACCEPTORS, COPIES, LOGS, ForgetfulStore
from tests.simulation.directory import SimDirectory
from tests.simulation.faults import StormyLog, StormyStore, Weather
from tests.simulation.virtual import LoopClock
from tests.support.tenants import CASES

Result = TypeVar("Result")
_ATTEMPTS_MAX = 12
_EVER = Filter(since=Micros(0), until=Micros(2**62))


@dataclass
class SimCell:
    """One cell: what is durable, and a process that can be killed."""

    name: CellId
    zone: ZoneName
    weather: Weather
    clock: LoopClock
    admission: Admission
    log: MemoryLog = field(init=False)
    store: MemoryStore = field(init=False)
    acceptor: Acceptor | None = None
    defect: str = ""
    foreign: MemoryLog | None = None
    directory: SimDirectory | None = None
    copies: MemoryCopies = field(init=False)
    fence: Fence | None = None
    # Ordered: a set of tasks would be cancelled in the order of their addresses, and no seed could replay that.
    requests: dict[asyncio.Task[Any], None] = field(default_factory=dict)
    kills: int = 0
    _consumer: asyncio.Task[None] | None = None
    _follower: asyncio.Task[None] | None = None
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.log = MemoryLog(4, self.clock)
        kind = ForgetfulStore if self.defect == "forgets what it stored" else MemoryStore
        self.store = kind(self.clock, MemoryMeter())
        self.copies = COPIES.get(self.defect, MemoryCopies)(self.store, self.name)

    async def start(self) -> None:
        stormy_log, meter = self._stormy_log(), MemoryMeter()
        numbers = self._numbers
        make = ACCEPTORS.get(self.defect, Acceptor)
        self.acceptor = make(self.name, stormy_log, self.clock, meter, lambda: f"assigned-{next(numbers)}", current=self._current)
        self.fence = Fence(self.acceptor, stormy_log, lambda: self.admission, lambda: True, self.clock)
        wiring = Wiring(
            stormy_log,
            StormyStore(self.store, self.weather),
            lambda: self.admission.claim(self.name),
            self._own,
            self.clock,
            meter,
            OFF,
        )
        await self._own()
        self._consumer = asyncio.create_task(Consumer(wiring, f"{self.name}-{self.kills}").run())
        if self.directory is not None:
            self._follower = asyncio.create_task(self.directory.tell(lambda: self.admission.revision, self._hear))

    async def serve(self, deed: Coroutine[Any, Any, Result]) -> Result:
        """Does something as a task of the process. Raises ConnectionError when that is down, or is killed meanwhile."""
        if self.acceptor is None:
            deed.close()
            raise ConnectionError("the cell is down")
        task = asyncio.create_task(deed)
        ended = asyncio.create_task(_wait(task))
        self.requests[task] = None
        task.add_done_callback(lambda done: self.requests.pop(done, None))
        await ended
        if task.cancelled():
            raise ConnectionError("the cell was killed")
        return await task

    def _current(self, name: TenantId) -> Tenant | None:
        return self.admission.tenants.get(name)

    async def _hear(self, data: bytes) -> None:
        self.admission = self.admission.apply(admission_codec.decode(data))
        await self._own()

    async def kill(self) -> None:
        """SIGKILL: every task of the process ends where it stands; clients never hear of their requests again."""
        self.kills += 1
        self.acceptor = None
        doomed = [task for task in (self._consumer, self._follower, *self.requests) if task is not None]
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        self._consumer = self._follower = None

    def _stormy_log(self) -> StormyLog:
        make = LOGS.get(self.defect)
        return make(self.log, self.weather, self.foreign or self.log) if make else StormyLog(self.log, self.weather)

    async def _own(self) -> None:
        await self.store.own(self.admission.ownerships(self.name), [])


@dataclass
class SimTenant:
    """A tenant as its client knows it."""

    name: TenantId
    zone: ZoneName
    key: str
    canary: str


class World:
    """Everything, made from one seed. `defect` names one of `tests.simulation.defects` that every cell carries."""

    def __init__(self, seed: int, defect: str = "") -> None:
        self.random = Random(seed)
        self._defect = defect
        self.clock = LoopClock()
        self.weather = Weather(self.random)
        self.tenants: list[SimTenant] = []
        self.directories: dict[ZoneName, SimDirectory] = {}
        self.cells: dict[CellId, SimCell] = {}
        self.sent: dict[tuple[str, str], Sent] = {}
        self.stuck: list[str] = []
        self.accepted_by: dict[tuple[str, int], set[CellId]] = defaultdict(set)
        self._stray: set[asyncio.Task[None]] = set()
        for zone in sorted(FLEET.zones):
            self._found(zone)
        for cell in self.cells.values():
            cell.foreign = next(other.log for other in self.cells.values() if other.zone != cell.zone)

    def _found(self, zone: ZoneName) -> None:
        """The zone's cells and its directory, which places the fixture tenants."""
        endpoints = tuple(
            placement.CellEndpoint(cell.name, cell.region, f"{cell.name}:1", f"{cell.name}:2", cell.weight) for cell in FLEET.cells_of(zone)
        )
        zones = tuple((name, z.endpoint) for name, z in sorted(FLEET.zones.items()))
        cells = SimCells(self.cells, self.weather)
        directory = SimDirectory(zone, placement.Topology(endpoints, zones), self.random, self.weather, self.clock, cells)
        self.directories[zone] = directory
        for cell in FLEET.cells_of(zone):
            self.cells[cell.name] = SimCell(
                cell.name, zone, self.weather, self.clock, Admission(zone), defect=self._defect, directory=directory
            )

    async def _settle(self, directory: SimDirectory) -> None:
        """The fixture tenants, and everybody's first map."""
        for case in (case for case in CASES if case.zone == directory.zone):
            key = mint_key("wk", directory.zone, self.random.randbytes(32))
            self.tenants.append(SimTenant(case.name, directory.zone, key.text, f"canary-{case.zone}-{self.random.randbytes(12).hex()}"))
            await directory.create(case.name, case.plan, key.hash, case.dedicated)
        data = await directory.whole()
        directory.hear(data)
        for cell in FLEET.cells_of(directory.zone):
            self.cells[cell.name].admission = Admission(directory.zone).apply(admission_codec.decode(data))

    async def request(self, tenant: SimTenant, edge: ZoneName, items: list[bytes]) -> None:
        """One attempt through an edge of `edge`: raises Failure, or ConnectionError when nobody answers."""
        decision = decide(tenant.name, self.directories[edge].edge)
        if not isinstance(decision, Routed):
            raise Failure(decision.reason)
        cell = self.cells[decision.cell]
        await self.weather.travel()
        stamp = Stamp(tenant.name, decision.cell, decision.epoch)
        await cell.serve(self._accept(cell, tenant, stamp, items))

    async def _accept(self, cell: SimCell, tenant: SimTenant, stamp: Stamp, items: list[bytes]) -> None:
        """As a shell does it: who it is, then a body that takes its time, then the door."""
        sender = authenticate_sender(Credentials(header_key=tenant.key), cell.admission)
        await self.weather.travel()
        if cell.acceptor is not None:
            await cell.acceptor.accept(sender, stamp, Batch(items, None), self.clock.monotonic() + 5)

    async def client(self, tenant: SimTenant, user: str, batches: int) -> None:
        """A sequential client: the next batch goes out when the one before has its last word."""
        sequence = itertools.count()
        for number in range(batches):
            ids = [(f"{user}-{number}-{n}", next(sequence)) for n in range(1 + self.random.randrange(4))]
            items = [_event(message_id, user, tenant.canary if number == 0 else "") for message_id, _ in ids]
            answer = await self._deliver(tenant, items)
            for message_id, place_in_order in ids:
                self.sent[(tenant.name, message_id)] = Sent(tenant.name, user, message_id, place_in_order, answer)
            await asyncio.sleep(self.random.random() * 0.1)

    async def _deliver(self, tenant: SimTenant, items: list[bytes]) -> Answer:
        for _ in range(_ATTEMPTS_MAX):
            attempt = asyncio.create_task(self.request(tenant, tenant.zone, items))
            done, _pending = await asyncio.wait((attempt,), timeout=0.05 + self.random.random())
            if not done:
                # The client gives up on this attempt; the network may still deliver it, after later ones.
                self._stray.add(attempt)
                attempt.add_done_callback(self._forget)
                continue
            error = attempt.exception()
            if error is None:
                return "acknowledged"
            if isinstance(error, Failure) and error.reason.spec.retry is not Retry.LATER:
                return "rejected"
            await asyncio.sleep(0.05 + self.random.random() * 0.5)
        return "unknown"

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._stray.discard(task)
        if not task.cancelled():
            task.exception()

    async def chaos(self, kills: int) -> None:
        """Kills cells at random moments; each is back within two seconds."""
        for _ in range(kills):
            await asyncio.sleep(self.random.random() * 2)
            cell = self.cells[self.random.choice(sorted(self.cells))]
            await cell.kill()
            await asyncio.sleep(self.random.random() * 2)
            await cell.start()

    async def run(self, users: int = 3, batches: int = 25, kills: int = 12, moves: int = 15) -> History:
        """Traffic, moves and faults, then calm, then what is left to see."""
        for directory in self.directories.values():
            await self._settle(directory)
        for cell in self.cells.values():
            await cell.start()
        for directory in self.directories.values():
            directory.start()
        clients = [self.client(tenant, f"user{n}", batches) for tenant in self.tenants for n in range(users)]
        foreign = [self._foreign(tenant) for tenant in self.tenants]
        unrest = [directory.unrest(moves) for directory in self.directories.values()]
        await asyncio.gather(self.chaos(kills), *clients, *foreign, *unrest)
        while self._stray:
            await asyncio.sleep(0.1)
        self.weather.calm()
        for directory in self.directories.values():
            self.stuck += await directory.settle_moves()
        await self._become_quiet()
        history = await self.history()
        for directory in self.directories.values():
            await directory.stop()
        for cell in self.cells.values():
            await cell.kill()
        return history

    async def _foreign(self, tenant: SimTenant) -> None:
        """A client that is pointed at the wrong zone is refused there, before any cell hears of it."""
        other = next(zone for zone in FLEET.zones if zone != tenant.zone)
        try:
            await self.request(tenant, other, [_event("stray", "stray", tenant.canary)])
        except Failure as failure:
            if failure.reason is Reason.UNKNOWN_TENANT or failure.reason is Reason.FOREIGN_ZONE:
                return
            raise
        raise AssertionError("a foreign zone took a tenant's events")

    async def _become_quiet(self) -> None:
        deadline = self.clock.monotonic() + 600
        while self.clock.monotonic() < deadline:
            lags = [
                bounds.next - (await cell.store.positions()).get(partition, 0)
                for cell in self.cells.values()
                for partition, bounds in (await cell.log.bounds()).items()
            ]
            if not any(lags):
                return
            await asyncio.sleep(0.5)
        raise AssertionError(f"the fleet does not become quiet: lags {lags}")

    async def history(self) -> History:
        """Read back what every cell holds."""
        stored: list[Stored] = []
        ledger: list[LedgerLine] = []
        copies: list[Copy] = []
        for cell in self.cells.values():
            rows = await self._rows(cell)
            stored.extend(rows)
            ledger.extend(await self._ledger(cell))
            copies.append(Copy(cell.zone, f"log of {cell.name}", await _log_text(cell), "log"))
            copies.append(Copy(cell.zone, f"store of {cell.name}", await self._store_text(cell), "store"))
        homes = {str(name): str(tenant.cell) for known in self.directories.values() for name, tenant in known.edge.tenants.items()}
        canaries: dict[str, tuple[bytes, ...]] = defaultdict(tuple)
        for tenant in self.tenants:
            if any(s.tenant == tenant.name and s.answer == "acknowledged" and s.sequence == 0 for s in self.sent.values()):
                canaries[tenant.zone] += (tenant.canary.encode(),)
        zones = {str(name): str(cell.zone) for name, cell in self.cells.items()}
        return History(tuple(self.sent.values()), tuple(stored), tuple(ledger), tuple(copies), homes, zones, dict(canaries))

    async def _rows(self, cell: SimCell) -> list[Stored]:
        found = []
        for tenant in self.tenants:
            for event in (await cell.store.list_events(tenant.name, _EVER, 1_000_000, None)).events:
                row = event.row
                # A user's partition is one of all cells: what a later home took comes after what an earlier one took.
                position = (event.record.epoch, row.offset, row.ordinal)
                self.accepted_by[row.tenant, event.record.epoch].add(event.record.cell)
                found.append(Stored(cell.name, row.tenant, row.user_id or "", event.envelope.message_id, position))
        return found

    async def _ledger(self, cell: SimCell) -> list[LedgerLine]:
        """The right side is what each tenant's home tells of this cell, which is the cell itself where the tenant lives."""
        accepted = await _accepted(cell)
        lines = []
        for tenant in self.tenants:
            home = self.cells[self.directories[tenant.zone].edge.tenants[tenant.name].cell]
            told = [line for line in await home.copies.ledger_of(tenant.name) if line.cell == cell.name]
            right = ((line.stored, line.duplicate, line.quarantined, line.held) for line in told)
            counts = [sum(column) for column in zip(*right, strict=True)] or [0, 0, 0, 0]
            lines.append(LedgerLine(cell.name, tenant.name, accepted[tenant.name], *counts))
        return lines

    async def _store_text(self, cell: SimCell) -> bytes:
        """The events as a reader sees them, of every tenant of every zone."""
        found = [(await cell.store.list_events(tenant.name, _EVER, 1_000_000, None)).events for tenant in self.tenants]
        return b"\n".join(one.envelope.payload for events in found for one in events)


async def _wait(task: asyncio.Task[Any]) -> None:
    """Until it has ended, however."""
    await asyncio.wait((task,))


async def _accepted(cell: SimCell) -> dict[str, int]:
    """The left side of the ledger: read from record headers alone, up to the store's positions."""
    positions = await cell.store.positions()
    accepted: dict[str, int] = defaultdict(int)
    for partition in range(cell.log.partitions):
        for entry in await cell.log.fetch(partition, 0, 1_000_000, 1 << 40, 0.0):
            if entry.offset < positions.get(partition, 0):
                accepted[entry.record.tenant] += entry.record.events
    return accepted


async def _log_text(cell: SimCell) -> bytes:
    payloads: list[bytes] = []
    for partition in range(cell.log.partitions):
        for entry in await cell.log.fetch(partition, 0, 1_000_000, 1 << 40, 0.0):
            payloads.extend(envelope.payload for envelope in codec.decode(entry.record.body).envelopes)
    return b"\n".join(payloads)


def _event(message_id: str, user: str, canary: str) -> bytes:
    fields = {"type": "track", "messageId": message_id, "userId": user, "event": "E", "properties": {"canary": canary}}
    return json.dumps(fields).encode()

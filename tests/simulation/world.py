"""A whole fleet in one process, under virtual time: directory, edges' decisions, cells that crash, clients that retry.

The code is the real one - placement, decide, admission, admit, log port, pipeline, consumer, store port - over the adapters in
memory. What a crash keeps is what is durable: the log and the store. The clients' own list of what they sent and were told is the
truth that the oracle compares with.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict
from dataclasses import dataclass, field
from random import Random

from cells.admission import codec as admission_codec
from cells.admission.table import Admission
from cells.eventlog import codec
from cells.eventlog.memory import MemoryLog
from cells.ingest.accept import Acceptor, Batch
from cells.ingest.authenticate import Credentials, authenticate_sender
from cells.processing.consumer import Consumer
from cells.processing.partition import Wiring
from cells.storage.memory import MemoryStore
from cells.storage.store import Filter
from cells.tracing import OFF
from chaos.checkers.history import Answer, Copy, History, LedgerLine, Sent, Stored
from gitops.fleet import FLEET
from kernel.clock import Micros
from kernel.epoch import FIRST_EPOCH, Stamp
from kernel.errors import Failure, Reason, Retry
from kernel.ids import CellId, SourceId, TenantId, ZoneName, mint_key
from kernel.metrics import MemoryMeter
from router.placement import codec as placement_codec
from router.placement import table as placement
from router.placement.decide import Routed, decide
from router.placement.place import place
from tests.simulation.defects import LOGS, ForgetfulStore
from tests.simulation.faults import StormyLog, StormyStore, Weather
from tests.simulation.virtual import LoopClock
from tests.support.tenants import CASES

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
    # Ordered: a set of tasks would be cancelled in the order of their addresses, and no seed could replay that.
    requests: dict[asyncio.Task[None], None] = field(default_factory=dict)
    kills: int = 0
    _consumer: asyncio.Task[None] | None = None
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.log = MemoryLog(4, self.clock)
        kind = ForgetfulStore if self.defect == "forgets what it stored" else MemoryStore
        self.store = kind(self.clock, MemoryMeter())

    async def start(self) -> None:
        stormy_log, meter = self._stormy_log(), MemoryMeter()
        self.acceptor = Acceptor(self.name, stormy_log, self.clock, meter, lambda: f"assigned-{next(self._numbers)}")
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

    async def kill(self) -> None:
        """SIGKILL: every task of the process ends where it stands; clients never hear of their requests again."""
        self.kills += 1
        self.acceptor = None
        doomed = [task for task in (self._consumer, *self.requests) if task is not None]
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        self._consumer = None

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
        self.tables: dict[ZoneName, placement.Table] = {}
        self.cells: dict[CellId, SimCell] = {}
        self.sent: dict[tuple[str, str], Sent] = {}
        self._stray: set[asyncio.Task[None]] = set()
        for zone in sorted(FLEET.zones):
            self._found(zone)
        for cell in self.cells.values():
            cell.foreign = next(other.log for other in self.cells.values() if other.zone != cell.zone)

    def _found(self, zone: ZoneName) -> None:
        """The zone's directory: places the fixture tenants and publishes, over the wire's own encoding."""
        endpoints = tuple(
            placement.CellEndpoint(cell.name, cell.region, f"{cell.name}:1", f"{cell.name}:2", cell.weight) for cell in FLEET.cells_of(zone)
        )
        tenants = []
        for case in (case for case in CASES if case.zone == zone):
            key = mint_key("wk", zone, self.random.randbytes(32))
            self.tenants.append(SimTenant(case.name, zone, key.text, f"canary-{zone}-{self.random.randbytes(12).hex()}"))
            source = placement.Source(SourceId("web"), f"{case.name}-web", (placement.Credential(key.hash),))
            tenants.append(
                placement.Tenant(
                    case.name,
                    zone,
                    place(case.name, endpoints),
                    FIRST_EPOCH,
                    plan=case.plan,
                    dedicated_schema=case.dedicated,
                    sources=(source,),
                )
            )
        zones = tuple((name, z.endpoint) for name, z in sorted(FLEET.zones.items()))
        update = placement.Update(zone, 0, 1, tuple(tenants), placement.Topology(endpoints, zones))
        self.tables[zone] = placement.empty(zone).apply(update)
        admission = Admission(zone).apply(admission_codec.decode(placement_codec.update_bytes(update)))
        for cell in FLEET.cells_of(zone):
            self.cells[cell.name] = SimCell(cell.name, zone, self.weather, self.clock, admission, defect=self._defect)

    async def request(self, tenant: SimTenant, edge: ZoneName, items: list[bytes]) -> None:
        """One attempt through an edge of `edge`: raises Failure, or ConnectionError when nobody answers."""
        decision = decide(tenant.name, self.tables[edge])
        if not isinstance(decision, Routed):
            raise Failure(decision.reason)
        cell = self.cells[decision.cell]
        await self.weather.travel()
        if cell.acceptor is None:
            raise ConnectionError("the cell is down")
        sender = authenticate_sender(Credentials(header_key=tenant.key), cell.admission)
        stamp = Stamp(tenant.name, decision.cell, decision.epoch)
        serving = cell.acceptor.accept(sender, stamp, Batch(items, None), self.clock.monotonic() + 5)
        task: asyncio.Task[None] = asyncio.create_task(_discard(serving))
        cell.requests[task] = None
        task.add_done_callback(lambda ended: cell.requests.pop(ended, None))
        await asyncio.wait((task,))
        if task.cancelled():
            raise ConnectionError("the cell was killed")
        await task

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

    async def run(self, users: int = 3, batches: int = 15, kills: int = 10) -> History:
        """Traffic and faults, then calm, then what is left to see."""
        for cell in self.cells.values():
            await cell.start()
        clients = [self.client(tenant, f"user{n}", batches) for tenant in self.tenants for n in range(users)]
        foreign = [self._foreign(tenant) for tenant in self.tenants]
        await asyncio.gather(self.chaos(kills), *clients, *foreign)
        while self._stray:
            await asyncio.sleep(0.1)
        self.weather.calm()
        await self._become_quiet()
        history = await self.history()
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
            ledger.extend(await _ledger(cell))
            copies.append(Copy(cell.zone, f"log of {cell.name}", await _log_text(cell), "log"))
            copies.append(Copy(cell.zone, f"store of {cell.name}", await self._store_text(cell), "store"))
        homes = {str(name): str(tenant.cell) for table in self.tables.values() for name, tenant in table.tenants.items()}
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
                found.append(
                    Stored(cell.name, row.tenant, row.user_id or "", event.envelope.message_id, (row.partition, row.offset, row.ordinal))
                )
        return found

    async def _store_text(self, cell: SimCell) -> bytes:
        """The events as a reader sees them, of every tenant of every zone."""
        found = [(await cell.store.list_events(tenant.name, _EVER, 1_000_000, None)).events for tenant in self.tenants]
        return b"\n".join(one.envelope.payload for events in found for one in events)


async def _discard(serving: object) -> None:
    await serving  # type: ignore[misc]  # an Acceptor's coroutine; its value is the client's business


async def _ledger(cell: SimCell) -> list[LedgerLine]:
    """The left side is read from record headers alone, up to the store's positions; the right side is the store's."""
    positions = await cell.store.positions()
    accepted: dict[str, int] = defaultdict(int)
    for partition in range(cell.log.partitions):
        for entry in await cell.log.fetch(partition, 0, 1_000_000, 1 << 40, 0.0):
            if entry.offset < positions.get(partition, 0):
                accepted[entry.record.tenant] += entry.record.events
    right: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for row in await cell.store.ledger():
        for column, events in enumerate((row.stored, row.duplicate, row.quarantined, row.held)):
            right[row.tenant][column] += events
    return [LedgerLine(cell.name, tenant, accepted[tenant], *right[tenant]) for tenant in sorted({*accepted, *right})]


async def _log_text(cell: SimCell) -> bytes:
    payloads: list[bytes] = []
    for partition in range(cell.log.partitions):
        for entry in await cell.log.fetch(partition, 0, 1_000_000, 1 << 40, 0.0):
            payloads.extend(envelope.payload for envelope in codec.decode(entry.record.body).envelopes)
    return b"\n".join(payloads)


def _event(message_id: str, user: str, canary: str) -> bytes:
    fields = {"type": "track", "messageId": message_id, "userId": user, "event": "E", "properties": {"canary": canary}}
    return json.dumps(fields).encode()

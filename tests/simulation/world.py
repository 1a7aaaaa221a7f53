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
from dataclasses import dataclass
from random import Random

from cells.admission import codec as admission_codec
from cells.admission.table import Admission
from cells.eventlog import codec
from cells.ingest.accept import Batch
from cells.ingest.authenticate import Credentials, authenticate_sender
from cells.storage.store import Filter
from chaos.checkers.history import Answer, Copy, History, LedgerLine, Sent, Stored
from gitops.fleet import EU, FLEET, US
from kernel.clock import Micros
from kernel.epoch import Epoch, Stamp
from kernel.errors import Failure, Reason, Retry
from kernel.ids import CellId, RegionName, TenantId, ZoneName, mint_key
from kernel.residency import Cell, Fleet
from router.placement import table as placement
from router.placement.decide import Routed, decide
from tests.simulation.cell import SimCell
from tests.simulation.cells import SimCells
from tests.simulation.directory import SimDirectory
from tests.simulation.faults import Weather
from tests.simulation.virtual import LoopClock
from tests.support.tenants import CASES

_ATTEMPTS_MAX = 12
_LOST = 0.4
# Beside each pair a cell that stands by for nobody and has no standby: tenants that go there, and come from there, are copied.
_ALONE = (Cell(CellId("eu-north-1-a"), EU, RegionName("eu-north-1")), Cell(CellId("us-east-2-a"), US, RegionName("us-east-2")))
_FLEET = Fleet(FLEET.zones, {**FLEET.cells, **{cell.name: cell for cell in _ALONE}})
_EVER = Filter(since=Micros(0), until=Micros(2**62))


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
        self.failovers = 0
        self.handed_off = 0
        self._freed: set[tuple[str, str]] = set()
        self._stray: set[asyncio.Task[None]] = set()
        for zone in sorted(_FLEET.zones):
            self._found(zone)
        for cell in self.cells.values():
            peer = _FLEET.cells[cell.name].peer
            cell.peers = {} if peer is None else {peer: self.cells[peer]}
            cell.foreign = next(other.log for other in self.cells.values() if other.zone != cell.zone)

    def _found(self, zone: ZoneName) -> None:
        """The zone's cells and its directory, which places the fixture tenants."""
        endpoints = tuple(
            placement.CellEndpoint(cell.name, cell.region, f"{cell.name}:1", f"{cell.name}:2", cell.weight, peer=cell.peer)
            for cell in _FLEET.cells_of(zone)
        )
        zones = tuple((name, z.endpoint) for name, z in sorted(_FLEET.zones.items()))
        cells = SimCells(self.cells, self.weather)
        directory = SimDirectory(zone, placement.Topology(endpoints, zones), self.random, self.weather, self.clock, cells)
        self.directories[zone] = directory
        for cell in _FLEET.cells_of(zone):
            self.cells[cell.name] = SimCell(
                cell.name, zone, self.weather, self.clock, Admission(zone), defect=self._defect, directory=directory
            )

    async def _settle(self, directory: SimDirectory) -> None:
        """The fixture tenants, and everybody's first map."""
        for number, case in enumerate(case for case in CASES if case.zone == directory.zone):
            key = mint_key("wk", directory.zone, self.random.randbytes(32))
            self.tenants.append(SimTenant(case.name, directory.zone, key.text, f"canary-{case.zone}-{self.random.randbytes(12).hex()}"))
            await directory.create(case.name, case.plan, key.hash, case.dedicated, number % 2 == 0)
        data = await directory.whole()
        directory.hear(data)
        for cell in _FLEET.cells_of(directory.zone):
            self.cells[cell.name].admission = Admission(directory.zone).apply(admission_codec.decode(data))

    async def request(self, tenant: SimTenant, edge: ZoneName, items: list[bytes]) -> None:
        """One attempt through an edge of `edge`: raises Failure, or ConnectionError when nobody answers."""
        decision = decide(tenant.name, self.directories[edge].edge)
        if not isinstance(decision, Routed):
            raise Failure(decision.reason)
        home, peer = self.cells[decision.cell], _FLEET.cells[decision.cell].peer
        await self.weather.travel()
        stamp = Stamp(tenant.name, decision.cell, decision.epoch)
        try:
            await home.serve(self._accept(home, tenant, stamp, items))
        except ConnectionError:
            if peer is None:
                raise
            self._freed |= {(tenant.name, json.loads(item)["messageId"]) for item in items}
            await self.cells[peer].serve(self._accept(self.cells[peer], tenant, stamp, items))
            self.handed_off += len(items)

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
        """Kills cells at random moments; each is back within two seconds, or is failed over and comes back later."""
        for _ in range(kills):
            await asyncio.sleep(self.random.random() * 2)
            cell = self.cells[self.random.choice(sorted(self.cells))]
            await cell.kill()
            await asyncio.sleep(self.random.random() * 2)
            if self.random.random() < _LOST:
                await self._fail_over(cell)
                await asyncio.sleep(self.random.random() * 2)
            await cell.start()

    async def _fail_over(self, lost: SimCell) -> None:
        """The lost cell's disks lie here for all to see: whatever of its log lies before the gap that is told, somebody keeps."""
        outcome = await self.directories[lost.zone].fail_over(lost.name)
        if outcome is None:
            return
        self.failovers += 1
        moved = {tenant.name for tenant in outcome.moved}
        for gap in outcome.gaps:
            until = {one.partition: one.until for one in gap.kept}
            keeper = self.cells[gap.cell]
            kept = {key for _, _, key in await _events_of(keeper)}
            for name in moved:  # what was copied when it joined is in its store alone
                kept |= {(name, one.envelope.message_id) for one in (await keeper.store.list_events(name, _EVER, 1_000_000, None)).events}
            for partition, offset, key in await _events_of(lost):
                if key[0] in moved and offset < until.get(partition, 0) and key not in kept:
                    self.stuck.append(f"gap: {key} lies before the gap of {lost.name} at {gap.cell} and is not kept there")

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
        other = next(zone for zone in _FLEET.zones if zone != tenant.zone)
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
                bounds.next - positions.get(partition, 0)
                for cell in self.cells.values()
                for positions in (await cell.store.positions(), *[await peer.store.replicated(cell.name) for peer in cell.peers.values()])
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
            stored.extend(await self._rows(cell))
            ledger.extend(await self._ledger(cell))
            copies.append(Copy(cell.zone, f"log of {cell.name}", await _log_text(cell), "log"))
            copies.append(Copy(cell.zone, f"store of {cell.name}", await self._store_text(cell), "store"))
        self.stuck += await self._standbys_that_differ()
        homes = {str(name): str(tenant.cell) for known in self.directories.values() for name, tenant in known.edge.tenants.items()}
        canaries: dict[str, tuple[bytes, ...]] = defaultdict(tuple)
        for tenant in self.tenants:
            if any(s.tenant == tenant.name and s.answer == "acknowledged" and s.sequence == 0 for s in self.sent.values()):
                canaries[tenant.zone] += (tenant.canary.encode(),)
        zones = {str(name): str(cell.zone) for name, cell in self.cells.items()}
        return History(self._sent(), tuple(stored), tuple(ledger), tuple(copies), homes, zones, dict(canaries))

    def _sent(self) -> tuple[Sent, ...]:
        """What clients say. The place of what was handed off, or failed over, is free: it was taken in two cells at once."""
        free = self._freed
        return tuple(sent._replace(sequence=None) if (sent.tenant, sent.message_id) in free else sent for sent in self.sent.values())

    async def _rows(self, cell: SimCell) -> list[Stored]:
        """What the cell keeps of tenants, but for those that it stands by for."""
        found = []
        for tenant in self.tenants:
            directory = self.directories[tenant.zone]
            if directory.edge.tenants[tenant.name].standby == cell.name:
                continue
            for event in (await cell.store.list_events(tenant.name, _EVER, 1_000_000, None)).events:
                row, record = event.row, event.record
                # A user's partition is one of all cells: what a later home took comes after what an earlier one took.
                position = (record.epoch, row.offset, row.ordinal)
                placed = directory.placed[row.tenant, Epoch(record.epoch)]
                if record.cell not in {name for pair in placed for name in pair}:
                    self.stuck.append(f"accepted: {record.cell} took an event of {row.tenant} at epoch {record.epoch}: {placed}")
                if row.tenant in directory.kept_twice:
                    self._freed.add((row.tenant, event.envelope.message_id))
                found.append(Stored(cell.name, row.tenant, row.user_id or "", event.envelope.message_id, position))
        return found

    async def _standbys_that_differ(self) -> list[str]:
        """Once it is quiet, who stands by for a tenant keeps what its home keeps."""
        found = []
        for tenant in self.tenants:
            placed = self.directories[tenant.zone].edge.tenants[tenant.name]
            if placed.standby is None:
                continue
            kept = []
            for name in (placed.cell, placed.standby):
                events = (await self.cells[name].store.list_events(tenant.name, _EVER, 1_000_000, None)).events
                people = await self.cells[name].copies.digest_profiles(tenant.name)
                kept.append((sorted((one.envelope.message_id, one.envelope.payload) for one in events), people))
            if kept[0] != kept[1]:
                found.append(f"standby: {placed.standby} keeps {len(kept[1][0])} events of {tenant.name}, its home {len(kept[0][0])}")
        return found

    async def _ledger(self, cell: SimCell) -> list[LedgerLine]:
        """What the cell accepted itself. The right side is what each tenant's home tells of this cell, if it was copied from there; else
        what the cell tells itself."""
        accepted = await _accepted(cell)
        lines = []
        for tenant in self.tenants:
            home = self.cells[self.directories[tenant.zone].edge.tenants[tenant.name].cell]
            told = [line for line in await home.copies.ledger_of(tenant.name) if line.cell == cell.name]
            told = [] if tenant.name in self.directories[tenant.zone].kept_twice else told
            told = told or [line for line in await cell.copies.ledger_of(tenant.name) if line.cell == cell.name]
            right = ((line.stored, line.duplicate, line.quarantined, line.held) for line in told)
            counts = [sum(column) for column in zip(*right, strict=True)] or [0, 0, 0, 0]
            lines.append(LedgerLine(cell.name, tenant.name, accepted[tenant.name], *counts))
        return lines

    async def _store_text(self, cell: SimCell) -> bytes:
        """The events as a reader sees them, of every tenant of every zone."""
        found = [(await cell.store.list_events(tenant.name, _EVER, 1_000_000, None)).events for tenant in self.tenants]
        return b"\n".join(one.envelope.payload for events in found for one in events)


async def _accepted(cell: SimCell) -> dict[str, int]:
    """The left side of the ledger: read from record headers alone, up to the store's positions."""
    positions = await cell.store.positions()
    accepted: dict[str, int] = defaultdict(int)
    for partition in range(cell.log.partitions):
        for entry in await cell.log.fetch(partition, 0, 1_000_000, 1 << 40, 0.0):
            if entry.offset < positions.get(partition, 0) and entry.record.cell == cell.name:
                accepted[entry.record.tenant] += entry.record.events
    return accepted


async def _events_of(cell: SimCell) -> list[tuple[int, int, tuple[str, str]]]:
    """(partition, offset, (tenant, message id)) of everything in a cell's log."""
    return [
        (partition, entry.offset, (entry.record.tenant, envelope.message_id))
        for partition in range(cell.log.partitions)
        for entry in await cell.log.fetch(partition, 0, 1_000_000, 1 << 40, 0.0)
        for envelope in codec.decode(entry.record.body).envelopes
    ]


async def _log_text(cell: SimCell) -> bytes:
    payloads: list[bytes] = []
    for partition in range(cell.log.partitions):
        for entry in await cell.log.fetch(partition, 0, 1_000_000, 1 << 40, 0.0):
            payloads.extend(envelope.payload for envelope in codec.decode(entry.record.body).envelopes)
    return b"\n".join(payloads)


def _event(message_id: str, user: str, canary: str) -> bytes:
    fields = {"type": "track", "messageId": message_id, "userId": user, "event": "E", "properties": {"canary": canary}}
    return json.dumps(fields).encode()

"""The shell of processing over the adapters in memory."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from cells.eventlog.log import Entry
from cells.eventlog.memory import MemoryLog
from cells.eventlog.retention import expire
from cells.pace import Pace
from cells.processing.consumer import report_lag
from cells.processing.fence import Fences
from cells.processing.locate import locate
from cells.processing.partition import PartitionLoop, Wiring
from cells.processing.pipeline import Fold, fold
from cells.storage.memory import MemoryStore
from cells.tracing import OFF
from kernel.clock import DAY, Micros
from kernel.effects import Apply, Outcome, Position, Unkeepable
from kernel.epoch import Claim, Epoch, Ownership
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId, message_keys
from kernel.limits import APPLY_CLAIMS_MAX, APPLY_EVENTS_MAX, FENCE_PATIENCE_SECONDS, HELD_RECHECK_SECONDS, SLICE_EVENTS_MAX
from kernel.metrics import MemoryMeter
from tests.support.clock import ManualClock
from tests.support.processes import eventually
from tests.support.records import CELL, TENANT, envelope, record
from tests.support.storage_room import EVER

OTHER, PEER = TenantId("berlin-mode"), CellId("eu-central-1-a")


class Room:
    """A log, a store that owns both tenants, and a loop over partition 0. `renewed` counts claims renewed."""

    def __init__(self, peers: frozenset[CellId] = frozenset(), sure: bool = True) -> None:
        self.clock = ManualClock()
        self.log, self.meter = MemoryLog(1, self.clock), MemoryMeter()
        self.store = MemoryStore(self.clock, self.meter)
        self.claim = Claim(CELL, {TENANT: Epoch(1), OTHER: Epoch(1)})
        self.renewed = 0
        self.renewal_fails = False
        self.renewal: list[Ownership] = []
        self.pace = Pace(self.clock)
        wiring = Wiring(
            self.log, self.store, lambda: self.claim, self._renew, self.clock, self.meter, OFF, self.pace, peers, lambda _: sure
        )
        self.loop = PartitionLoop(wiring, 0)

    async def own(self, tenant: TenantId, epoch: int) -> None:
        await self.store.own([Ownership(tenant, Epoch(epoch), "owner")], [])

    async def append(self, *message_ids: str, tenant: TenantId = TENANT, cell: CellId = CELL) -> None:
        await self.log.append(0, replace(record(*(envelope(one) for one in message_ids), tenant=tenant), cell=cell), 1e9)

    async def _renew(self) -> None:
        if self.renewal_fails:
            raise Failure(Reason.STORE_UNAVAILABLE)
        self.renewed += 1
        await self.store.own(self.renewal, [])

    async def ledger(self) -> dict[str, tuple[int, int, int, int]]:
        return {row.tenant: (row.stored, row.duplicate, row.quarantined, row.held) for row in await self.store.ledger()}


@pytest.fixture
async def room() -> Room:
    made = Room()
    await made.own(TENANT, 1)
    await made.own(OTHER, 1)
    return made


async def test_a_step_moves_the_position_to_what_was_applied(room: Room) -> None:
    """And the store says the same."""
    await room.append("a", "b")
    await room.append("c")
    assert await room.loop.step(0) == 2
    assert await room.store.positions() == {0: 2}
    assert await room.ledger() == {TENANT: (3, 0, 0, 0)}


async def test_a_zombies_step_adopts_the_stores_position_and_changes_nothing(room: Room) -> None:
    """The store moved on meanwhile."""
    await room.append("a")
    await room.append("b")
    await room.loop.step(0)
    assert await room.loop.step(0) == 2
    assert await room.ledger() == {TENANT: (2, 0, 0, 0)}


async def stepped(room: Room, position: int) -> int:
    """One step, its waits on the clock included."""
    task = asyncio.create_task(room.loop.step(position))
    while not task.done():
        await asyncio.sleep(0)
        room.clock.advance(0.1)
    return await task


async def test_a_tenant_that_the_store_hears_of_late_is_waited_for(room: Room) -> None:
    """The claim is renewed, the range tried again, and nothing is held; ingest is not held back for what no store would take."""
    newcomer = TenantId("new-comer")
    room.claim = Claim(CELL, {**room.claim.epochs, newcomer: Epoch(1)})
    await room.append("a", tenant=newcomer)
    assert await stepped(room, 0) == 0
    assert not room.pace._behind
    room.renewal = [Ownership(newcomer, Epoch(1), "owner")]
    assert await stepped(room, 0) == 0
    assert await stepped(room, 0) == 1
    assert (room.renewed, await room.ledger()) == (2, {newcomer: (1, 0, 0, 0)})


async def test_a_renewal_that_fails_holds_nothing(room: Room) -> None:
    """Only the store's word on a claim as new as can be counts."""
    await room.own(OTHER, 2)
    await room.append("a", tenant=OTHER)
    room.renewal_fails = True
    for _ in range(20):
        with pytest.raises(Failure):
            await stepped(room, 0)
        room.clock.advance(FENCE_PATIENCE_SECONDS)
    room.renewal_fails = False
    room.claim = Claim(CELL, {**room.claim.epochs, OTHER: Epoch(2)})
    assert await stepped(room, 0) == 1
    assert await room.ledger() == {OTHER: (1, 0, 0, 0)}


async def test_a_tenant_that_stays_fenced_is_held_and_blocks_nobody(room: Room) -> None:
    """Its record is kept whole and counted; the other tenant's event is stored. Once it is ours again, its new records pass."""
    await room.own(OTHER, 2)
    await room.append("a", tenant=OTHER)
    await room.append("b")
    position, rounds = 0, 0
    while position < 2:
        position = await stepped(room, position)
        rounds += 1
    assert rounds < 100
    assert await room.ledger() == {OTHER: (0, 0, 0, 1), TENANT: (1, 0, 0, 0)}
    room.claim = Claim(CELL, {**room.claim.epochs, OTHER: Epoch(2)})
    room.clock.advance(HELD_RECHECK_SECONDS)
    await room.append("c", tenant=OTHER)
    assert await stepped(room, 2) == 3
    assert (await room.ledger())[OTHER] == (1, 0, 0, 1)


async def replicas(sure: bool = True) -> Room:
    """A room whose log holds what its peer accepted: of its own tenant, and of one that is nobody's here; and what it took itself."""
    room = Room(frozenset({PEER}), sure)
    await room.own(TENANT, 1)
    await room.append("a", cell=PEER)
    await room.append("b", tenant=OTHER, cell=PEER)
    await room.append("c")
    room.claim = Claim(CELL, {TENANT: Epoch(1)})
    return room


async def test_what_a_peer_accepted_is_folded_and_accounted_for_there() -> None:
    """Law: of tenants that live or stand by here; what concerns nobody here is passed over, neither held nor counted. What the cell took
    itself is in its own ledger."""
    room = await replicas()
    assert await room.loop.step(0) == 3
    assert await room.ledger() == {TENANT: (1, 0, 0, 0)}
    assert len((await room.store.list_events(TENANT, EVER, 9, None)).events) == 2
    assert (await room.store.list_events(OTHER, EVER, 9, None)).events == []


async def test_who_has_heard_nothing_yet_passes_nobodys_records_over() -> None:
    """Law: a process that boots from an old map leaves it to the store who stands by here: what that does not take is kept, not skipped."""
    room = await replicas(sure=False)
    position = 0
    while position < 3:
        position = await stepped(room, position)
    assert (await room.store.trace(OTHER, "b")).place == "held"


async def test_two_tenants_fenced_at_different_times_are_judged_apart(room: Room) -> None:
    """One that is fenced for the first time is waited for, although another has used its patience up."""
    fences = Fences()
    assert not fences.fenced([TENANT], room.claim, 0.0)
    assert not fences.fenced([TENANT, OTHER], room.claim, FENCE_PATIENCE_SECONDS)
    assert fences.held(room.claim, FENCE_PATIENCE_SECONDS) == {TENANT}
    fences.passed([TENANT])
    assert fences.held(room.claim, FENCE_PATIENCE_SECONDS) == frozenset()


async def test_a_tenant_that_comes_back_is_not_held_for_having_been_away(room: Room) -> None:
    """Law: a record is held only while the claim stands at which the store fenced its tenant. One that was released here, and lives or is
    stood by for here again before the hold is looked at anew, is folded from its first record on."""
    await room.own(OTHER, 1)
    await room.store.own([Ownership(OTHER, Epoch(1), "released")], [])
    room.claim = Claim(CELL, {TENANT: Epoch(1)})
    await room.append("late", tenant=OTHER)
    position = 0
    while position < 1:
        position = await stepped(room, position)
    assert (await room.store.trace(OTHER, "late")).place == "held"
    await room.append("later", tenant=OTHER)
    room.claim = Claim(CELL, {TENANT: Epoch(1), OTHER: Epoch(2)})
    await room.own(OTHER, 2)
    await stepped(room, 1)
    assert (await room.store.trace(OTHER, "later")).place == "stored"


async def test_what_the_store_can_never_keep_becomes_a_dead_letter(room: Room) -> None:
    """The record whose name no store keeps is read strictly, then buried whole; the position moves on, and the ledger adds up."""
    await room.log.append(0, record(envelope("a"), envelope("poison", name="a\0b")), 1e9)
    assert await room.loop.step(0) == 1
    assert await room.ledger() == {TENANT: (0, 0, 2, 0)}


async def test_a_payload_that_only_the_strict_look_refuses_is_a_dead_letter_of_its_own(room: Room) -> None:
    """Beside an event that the store refuses, a payload that is no JSON is told from its neighbour, which is stored."""
    await room.log.append(0, record(envelope("poison", name="a\0b", payload=b"rubbish"), envelope("b")), 1e9)
    assert await room.loop.step(0) == 1
    assert await room.ledger() == {TENANT: (1, 0, 1, 0)}


class PoisonedStore(MemoryStore):
    """A store that can never keep a certain event, for a reason that no check of the payload sees."""

    async def apply(self, apply: Apply, deadline: float) -> Outcome:
        poison = message_keys(TENANT, ["poison"])[0]
        if any(row.message_key == poison for row in apply.effects.rows):
            raise Unkeepable("a key too long")
        return await super().apply(apply, deadline)


async def test_a_poisoned_record_is_narrowed_down_and_its_neighbours_pass(room: Room) -> None:
    """Whatever the reason: the record is quarantined, the ones before and behind it are stored, and the loop goes on."""
    store = PoisonedStore(room.clock, room.meter)
    await store.own([Ownership(TENANT, Epoch(1), "owner")], [])
    loop = PartitionLoop(Wiring(room.log, store, lambda: room.claim, room._renew, room.clock, room.meter, OFF), 0)
    for number in range(20):
        await room.append(f"m{number}", *(["poison"] if number == 13 else []))
    position = 0
    for _ in range(40):
        if position == 20:
            break
        position = await loop.step(position)
    assert position == 20
    assert [(row.stored, row.quarantined) for row in await store.ledger()] == [(19, 2)]


async def test_an_apply_is_bounded_in_claims(room: Room) -> None:
    """Few records may hold many traits: an apply takes no more than its share of them, and one record at least."""
    traits = json.dumps({"traits": {f"t{n}": n for n in range(250)}}).encode()
    for number in range(100):
        await room.log.append(0, record(*(envelope(f"{number}-{n}", type="identify", payload=traits) for n in range(4))), 1e9)
    first = await room.loop.step(0)
    assert 0 < first <= APPLY_CLAIMS_MAX // 1_000
    assert await room.loop.step(first) > first


def test_a_fold_lets_others_breathe_within_a_record() -> None:
    """Every few hundred events and traits."""
    traits = json.dumps({"traits": {f"t{n}": n for n in range(250)}}).encode()
    heavy = record(*(envelope(str(n), type="identify", payload=traits) for n in range(40)))
    breaths = sum(1 for _ in Fold(0).steps(Entry(0, heavy.received_at, heavy)))
    assert breaths >= 40 * 250 // (2 * SLICE_EVENTS_MAX)


async def test_an_apply_is_bounded_in_events(room: Room) -> None:
    """Records beyond the bound wait for the next apply; one record is always taken."""
    for number in range(3):
        await room.append(*(f"{number}-{n}" for n in range(APPLY_EVENTS_MAX // 2)))
    assert await room.loop.step(0) == 2
    assert await room.loop.step(2) == 3


async def test_a_failing_store_is_waited_for_and_nothing_is_skipped(room: Room) -> None:
    """Down, then up: the event is there once."""
    room.store.down = True
    await room.append("a")
    running = asyncio.create_task(room.loop.run())
    for _ in range(20):
        await asyncio.sleep(0)
        room.clock.advance(1.0)
    room.store.down = False
    for _ in range(20):
        await asyncio.sleep(0)
        room.clock.advance(1.0)
    running.cancel()
    assert await room.ledger() == {TENANT: (1, 0, 0, 0)}


async def test_lag_is_reported_per_partition(room: Room) -> None:
    """In records."""
    await room.append("a")
    await room.append("b")
    assert await report_lag(room.log, room.store, room.meter) == {0: 2}
    await room.loop.step(0)
    assert await report_lag(room.log, room.store, room.meter) == {0: 0}


async def test_a_message_is_located_until_it_is_applied(room: Room) -> None:
    """`events trace` finds it in the log, for its own tenant only."""
    await room.append("a")
    await room.append("b", "c")
    assert await locate(room.log, room.store, TENANT, "c") == Position(0, 1, 1)
    assert await locate(room.log, room.store, OTHER, "c") is None
    assert await locate(room.log, room.store, TENANT, "nowhere") is None
    await room.loop.step(0)
    assert await locate(room.log, room.store, TENANT, "c") is None


async def test_a_loop_that_ends_holds_nobody_back(room: Room) -> None:
    """A partition that goes to another process: what it was behind is nothing that ingest here waits for."""
    await room.append("a")
    running = asyncio.create_task(room.loop.run())
    await eventually(lambda: bool(room.pace._behind), "it has applied")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not room.pace._behind


async def test_retention_drops_old_days_but_never_what_is_not_applied(room: Room) -> None:
    """However old."""
    await room.append("a")
    room.clock.advance(DAY / 1_000_000)
    await room.append("b")
    room.clock.advance(30 * DAY / 1_000_000)
    assert await expire(room.log, await room.store.positions(), room.clock.now()) == 0
    await room.store.apply(Apply(fold(0, await room.log.fetch(0, 0, 1, 1, 0.0)), room.claim, 0, 1), 1e9)
    assert await expire(room.log, await room.store.positions(), room.clock.now()) == 1
    assert (await room.log.bounds())[0] == (1, 2)


async def test_a_log_that_is_nearly_full_keeps_fewer_days(room: Room) -> None:
    """Law: a day less at each call, oldest first, as long as too much is there; today's records and what is not applied stay."""
    for name in "abcd":
        await room.append(name)
        room.clock.advance(DAY / 1_000_000)
    positions, now = {0: 3}, room.clock.now()
    size = await room.log.size_bytes()
    assert await expire(room.log, positions, now, 10 * size) == 0
    for kept in (3, 2, 1):
        assert await expire(room.log, positions, now, size // 8) == 1
        first, end = (await room.log.bounds())[0]
        assert end - first == kept
    assert await expire(room.log, positions, now, size // 8) == 0, "what is not applied"
    assert await expire(room.log, {0: 4}, Micros(now + DAY), size // 8) == 1


class Hesitant(MemoryLog):
    """A log whose leader shows nothing yet, as one of Kafka's may a moment after its election."""

    async def fetch(self, *_: object) -> list[Entry]:
        """Nothing, though the bounds say otherwise."""
        return []


async def test_retention_drops_nothing_when_what_waits_is_not_shown() -> None:
    """An empty answer before the end is no word that nothing waits: the trim is left to the next time."""
    clock = ManualClock()
    log = Hesitant(1, clock)
    await log.append(0, record(envelope("a")), clock.monotonic() + 5)
    clock.advance(30 * DAY / 1_000_000)
    assert await expire(log, {0: 0}, clock.now()) == 0
    assert (await log.bounds())[0] == (0, 1)


def test_a_tenant_whose_claim_changed_is_waited_for_anew() -> None:
    """Law: how long it was fenced at its former claim says nothing of the present one, of which the store may not have heard yet."""
    fences, away, back = Fences(), Claim(CELL, {}), Claim(CELL, {OTHER: Epoch(2)})
    assert not fences.fenced([OTHER], away, 0.0)
    assert fences.fenced([OTHER], away, FENCE_PATIENCE_SECONDS)
    assert not fences.fenced([OTHER], back, FENCE_PATIENCE_SECONDS + 1)
    assert fences.held(back, FENCE_PATIENCE_SECONDS + 1) == frozenset()
    assert fences.fenced([OTHER], back, 2 * FENCE_PATIENCE_SECONDS + 1)

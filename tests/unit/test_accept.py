"""The one path of a batch into the log: what came first stands first, and nobody is starved while applies are behind."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.admission.table import Tenant
from cells.eventlog import codec
from cells.eventlog.log import Record, partition_of
from cells.eventlog.memory import MemoryLog
from cells.ingest import accept, metrics, quota
from cells.ingest.accept import Acceptor, Batch
from cells.ingest.authenticate import Sender
from cells.pace import Pace
from kernel.epoch import Epoch, Stamp
from kernel.errors import Failure, Reason
from kernel.ids import CellId, SourceId, TenantId
from kernel.limits import HANDOFF_EVENTS_PER_SECOND_MAX, PACE_WINDOW_SECONDS, Plan
from kernel.metrics import MemoryMeter
from tests.support.clock import ManualClock
from tests.support.records import CELL

PARTITIONS = 4


def _event(message_id: str, user: str) -> bytes:
    return json.dumps({"type": "track", "event": "x", "messageId": message_id, "userId": user}).encode()


async def _sent(batches: list[list[str]], spread: int) -> dict[str, list[int]]:
    """For each user the numbers of the batches in the order in which the log has its events. All batches are there at once, as those of a
    stream are that have waited for their turn together; a batch is the users of its events."""
    clock = ManualClock()
    log = MemoryLog(PARTITIONS, clock)
    acceptor = Acceptor(CELL, log, clock, MemoryMeter(), lambda: "assigned")
    sender = Sender(Tenant(TenantId("acme"), CELL, Epoch(1), Plan(spread=spread)), SourceId("web"))
    await asyncio.gather(
        *(
            acceptor.accept(sender, None, Batch([_event(f"{number}-{at}", user) for at, user in enumerate(users)], None), 60.0)
            for number, users in enumerate(batches)
        )
    )
    found: dict[str, list[int]] = defaultdict(list)
    for partition in range(PARTITIONS):
        for entry in await log.fetch(partition, 0, 10_000, 1 << 30, 0.0):
            for envelope in codec.decode(entry.record.body).envelopes:
                found[envelope.user_id or ""].append(int(envelope.message_id.partition("-")[0]))
    return found


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4), min_size=2, max_size=8), st.integers(1, PARTITIONS))
def test_a_users_events_stand_in_the_order_of_their_batches(batches: list[list[str]], spread: int) -> None:
    """Law: however many partitions a batch goes to, the next one does not overtake it."""
    found = asyncio.run(_sent(batches, spread))
    assert sum(map(len, found.values())) == sum(map(len, batches))
    for numbers in found.values():
        assert numbers == sorted(numbers)


@given(st.integers(1, 1_000), st.integers(1, 100), st.floats(10.0, 10_000.0), st.integers(0, 2**32))
def test_in_a_shared_bucket_the_large_get_their_turn_beside_the_small(large: int, small: int, rate: float, seed: int) -> None:
    """Law: who comes again and again is served although small requests, which come as often and in any order, would take all that there
    is; and over time no more than the rate is taken."""
    plan = Plan(events_per_second=rate, burst_events=max(1.0, rate / 20))
    dice, now, taken, served = random.Random(seed), 0.0, 0, 0
    bucket = quota.Bucket(0.0, 0.0)
    for _ in range(400):
        now += small / rate
        for events in dice.sample((small, large), 2):
            bucket, wait = quota.take(bucket, plan, events, now, owing=True)
            taken += events if wait is None else 0
            served += wait is None and events == large
    assert served
    assert taken <= now * rate + max(large, small) + 1


class Halting(MemoryLog):
    """A log whose partition 0 refuses at once while the others wait for a word."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(PARTITIONS, clock)
        self.word = asyncio.Event()
        self.waiting = 0

    async def append(self, partition: int, record: Record, deadline: float) -> int:
        """See the class."""
        if partition == 0:
            raise Failure(Reason.LOG_UNAVAILABLE)
        self.waiting += 1
        await self.word.wait()
        self.waiting -= 1
        return await super().append(partition, record, deadline)


async def test_a_request_fails_only_after_all_its_appends_have_ended() -> None:
    """Law: while one of them may still become durable nobody is told that the request failed, and a drain waits for it."""
    clock = ManualClock()
    log = Halting(clock)
    acceptor = Acceptor(CELL, log, clock, MemoryMeter(), lambda: "assigned")
    sender = Sender(Tenant(TenantId("acme"), CELL, Epoch(1), Plan(spread=PARTITIONS)), SourceId("web"))
    users = [_event(f"m{number}", f"user-{number}") for number in range(40)]
    request = asyncio.create_task(acceptor.accept(sender, None, Batch(users, None), 60.0))
    for _ in range(20):
        await asyncio.sleep(0)
    assert log.waiting == PARTITIONS - 1
    assert not request.done()
    log.word.set()
    with pytest.raises(Failure):
        await request
    assert log.waiting == 0


async def test_the_least_recently_used_bucket_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: with more tenants than buckets the one that was quiet for longest starts afresh; whoever sends now keeps to its quota."""
    monkeypatch.setattr(accept, "_BUCKETS_MAX", 2)
    clock = ManualClock()
    acceptor = Acceptor(CELL, MemoryLog(PARTITIONS, clock), clock, MemoryMeter(), lambda: "assigned")

    async def send(name: str) -> None:
        plan = Plan(events_per_second=0.001, burst_events=1)
        sender = Sender(Tenant(TenantId(name), CELL, Epoch(1), plan), SourceId("web"))
        await acceptor.accept(sender, None, Batch([_event(name, "u")], None), 60.0)

    for name in ("one", "two", "three"):
        await send(name)
    for name in ("two", "three"):
        with pytest.raises(Failure, match="QUOTA_EXCEEDED"):
            await send(name)
    await send("one")


def test_what_cannot_be_borne_is_refused_before_its_body_is_read() -> None:
    """Law: while applies are behind and nothing is left, a request ends where it begins; once something is left, or nothing is behind any
    more, it goes on."""
    clock = ManualClock()
    pace = Pace(clock)
    acceptor = Acceptor(CELL, MemoryLog(PARTITIONS, clock), clock, MemoryMeter(), lambda: "assigned", pace=pace)

    def begun() -> bool:
        try:
            with acceptor.request():
                return True
        except Failure as failure:
            if failure.reason is Reason.OVERLOADED:
                return False
            raise

    assert begun()
    for _ in range(4):
        pace.fetched(0, 60.0)
        pace.accepted(100)
        pace.applied(100)
        clock.advance(PACE_WINDOW_SECONDS)
        pace.events_per_second_max()
    assert begun()
    acceptor._bear(100)
    assert not begun()
    clock.advance(PACE_WINDOW_SECONDS)
    pace.applied(1_000)
    assert begun()
    acceptor._bear(1_000)
    assert not begun()
    pace.idle(0)
    assert begun()


HOME, STANDBY = CELL, CellId("eu-central-1-a")


class Standby:
    """A cell that stands by for acme, whose home is another."""

    def __init__(self) -> None:
        self.clock, self.meter = ManualClock(), MemoryMeter()
        self.log = MemoryLog(PARTITIONS, self.clock)
        self.tenant = Tenant(TenantId("acme"), HOME, Epoch(3), Plan(events_per_second=1e6, burst_events=1e6), standby=STANDBY)
        self.acceptor = Acceptor(STANDBY, self.log, self.clock, self.meter, lambda: "assigned", current=lambda _: self.tenant)

    async def send(self, stamp: Stamp | None, events: int = 1) -> None:
        """A batch."""
        sender = Sender(self.tenant, SourceId("web"))
        await self.acceptor.accept(sender, stamp, Batch([_event(f"m{number}", "u") for number in range(events)], None), 60.0)

    async def refused(self, stamp: Stamp | None, events: int = 1) -> Reason:
        """Why a batch was refused."""
        with pytest.raises(Failure) as refused:
            await self.send(stamp, events)
        return refused.value.reason


async def test_a_standby_takes_what_the_edge_could_not_deliver_at_home() -> None:
    """The record says who took it, at the epoch of the home; it is counted as handoff."""
    room = Standby()
    await room.send(Stamp(TenantId("acme"), HOME, Epoch(3)))
    partition = partition_of(TenantId("acme"), "", 1, PARTITIONS)
    (entry,) = await room.log.fetch(partition, 0, 10, 1 << 20, 0.0)
    assert (entry.record.cell, entry.record.epoch) == (STANDBY, Epoch(3))
    assert room.meter.values[metrics.EVENTS_HANDOFF.name, (("tenant", "acme"),)] == 1


async def test_a_standby_takes_nothing_else() -> None:
    """No client of its own network, no older stamp, nothing of a fenced tenant, and nothing once it does not stand by any more."""
    room = Standby()
    assert await room.refused(None) is Reason.MOVED
    assert await room.refused(Stamp(TenantId("acme"), HOME, Epoch(2))) is Reason.MOVED
    assert await room.refused(Stamp(TenantId("acme"), CellId("eu-north-1-a"), Epoch(3))) is Reason.MOVED
    stamp = Stamp(TenantId("acme"), HOME, Epoch(3))
    room.tenant = replace(room.tenant, fenced=True)
    assert await room.refused(stamp) is Reason.MOVED
    room.tenant = replace(room.tenant, fenced=False, standby=None)
    assert await room.refused(stamp) is Reason.MOVED
    assert await room.log.size_bytes() == 0


async def test_handoff_has_a_quota_of_its_own_and_beyond_it_is_unavailable() -> None:
    """What a cell takes for others never crowds out its own tenants; they do not even notice."""
    room, stamp = Standby(), Stamp(TenantId("acme"), HOME, Epoch(3))
    for _ in range(int(HANDOFF_EVENTS_PER_SECOND_MAX // 2_500)):
        await room.send(stamp, 2_500)
    assert await room.refused(stamp, 2_500) is Reason.CELL_UNAVAILABLE
    room.tenant = replace(room.tenant, cell=STANDBY, standby=HOME, epoch=Epoch(4))
    await room.send(Stamp(TenantId("acme"), STANDBY, Epoch(4)), 2_500)
    await room.send(stamp, 1)

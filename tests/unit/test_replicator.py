"""The replication of another cell's log: what is kept, in which order, and what happens when it fails anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.admission.table import Tenant
from cells.eventlog.log import Bounds, Entry, Record
from cells.eventlog.memory import MemoryLog
from cells.replication import link
from cells.replication.choose import chosen
from cells.replication.link import Link
from cells.replication.replicator import Kept, Replicator, Wiring
from cells.storage.memory import MemoryStore
from kernel.clock import DAY
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import UNREADABLE, CellId, TenantId, ZoneName
from kernel.limits import Plan
from kernel.metrics import MemoryMeter
from tests.support.clock import START, ManualClock
from tests.support.records import blob

HERE, THERE, THIRD = CellId("eu-central-1-a"), CellId("eu-west-1-a"), CellId("eu-north-1-a")
LIVES, STANDS_BY, STRANGER = TenantId("lives-here"), TenantId("stands-by-here"), TenantId("is-elsewhere")
TENANTS = {
    LIVES: Tenant(LIVES, HERE, Epoch(1), Plan()),
    STANDS_BY: Tenant(STANDS_BY, THERE, Epoch(1), Plan(), standby=HERE),
    STRANGER: Tenant(STRANGER, THERE, Epoch(1), Plan(), standby=THIRD),
}


def one(text: str, tenant: TenantId = STANDS_BY, cell: CellId = THERE) -> Record:
    """A record that is told by its text."""
    return replace(blob(text), tenant=tenant, cell=cell)


@dataclass
class LogOf:
    """Another cell's log, which fails when `random` says so: before, or with the answer lost."""

    log: MemoryLog
    random: Random | None = None

    def fails(self) -> None:
        """Now and then."""
        if self.random is not None and self.random.random() < 0.3:
            raise Failure(Reason.CELL_UNAVAILABLE)

    async def fetch(self, partition: int, offset: int) -> list[Entry]:
        self.fails()
        return await self.log.fetch(partition, offset, 3, 1 << 20, 0.0)

    async def bounds(self) -> dict[int, Bounds]:
        self.fails()
        return await self.log.bounds()


class Doubtful(MemoryLog):
    """An append may fail before it is durable, or after."""

    random: Random | None = None

    async def append_all(self, partition: int, records: Sequence[Record], deadline: float) -> int:
        if self.random is None:
            return await super().append_all(partition, records, deadline)
        if self.random.random() < 0.2:
            raise Failure(Reason.LOG_UNAVAILABLE)
        offset = await super().append_all(partition, records, deadline)
        if self.random.random() < 0.2:
            raise Failure(Reason.LOG_UNAVAILABLE, "the answer was lost")
        return offset


@dataclass
class Pair:
    """This cell's replicator, and the other cell's log."""

    seed: int | None = None
    there: MemoryLog = field(init=False)
    here: Doubtful = field(init=False)

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.there, self.here = MemoryLog(4, self.clock), Doubtful(4, self.clock)
        self.store = MemoryStore(self.clock, MemoryMeter())
        self.origin = LogOf(self.there)
        self.calm = True
        if self.seed is not None:
            self.origin.random = self.here.random = Random(self.seed)
        wiring = Wiring(HERE, THERE, self.origin, self.here, self.store, lambda: TENANTS, self.clock, MemoryMeter())
        self.replicator = Replicator(wiring)

    async def put(self, partition: int, *records: Record) -> None:
        """Accepted there."""
        for record in records:
            await self.there.append(partition, record, self.clock.monotonic() + 5)

    async def step(self, partition: int) -> None:
        """One round from where the store says; what fails comes again."""
        await self.replicator.step(partition, (await self.store.replicated(THERE)).get(partition, 0))

    async def kept(self, partition: int) -> list[str]:
        """The texts in this cell's log."""
        return [entry.record.body.decode() for entry in await self.here.fetch(partition, 0, 10_000, 1 << 30, 0.0)]


def test_what_concerns_this_cell_is_kept_once_and_from_where_it_was_accepted() -> None:
    """Its own tenants, and those that it stands by for; nothing that the other cell has from elsewhere, or that nobody can read."""
    records = [
        one("a"),
        one("b", LIVES),
        one("c", STRANGER),
        one("d", STANDS_BY, HERE),
        one("e", STANDS_BY, THIRD),
        one("f", UNREADABLE),
    ]
    entries = [Entry(number, START, record) for number, record in enumerate(records)]
    assert [record.body for record in chosen(entries, THERE, HERE, TENANTS)] == [b"a", b"b"]


def test_a_tenant_that_this_cell_has_not_heard_of_is_not_passed_over() -> None:
    """The other cell heard of it first: its record waits."""
    with pytest.raises(Failure) as refused:
        chosen([Entry(0, START, one("a", TenantId("new")))], THERE, HERE, TENANTS)
    assert refused.value.reason is Reason.UNKNOWN_TENANT


@pytest.mark.parametrize("said", [Link(ZoneName("us"), THERE, HERE), Link(ZoneName("eu"), THIRD, HERE), Link(ZoneName("eu"), THERE, THIRD)])
def test_a_link_that_is_not_ours_is_refused_at_either_end(said: Link) -> None:
    """Another zone, another cell asked, another cell asking."""
    known = Link(ZoneName("eu"), THERE, HERE)
    link.check(known, known)
    with pytest.raises(Failure) as refused:
        link.check(said, known)
    assert refused.value.reason is Reason.PEER_REFUSED


@given(st.integers(0, 2**32), st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_whatever_fails_each_record_is_kept_behind_those_before_it(seed: int, partitions: list[int]) -> None:
    """Law: fetches, appends and their answers fail at random. In the end every record is kept, and the first of each stands in its order:
    what was appended again is behind it."""

    async def run() -> None:
        pair = Pair(seed)
        for number, partition in enumerate(partitions):
            await pair.put(partition, one(str(number)))
        for partition in set(partitions):
            wanted = [str(number) for number, at in enumerate(partitions) if at == partition]
            for _ in range(1_000):
                try:
                    await pair.step(partition)
                except Failure:
                    continue
                if (await pair.store.replicated(THERE)).get(partition, 0) == len(wanted):
                    break
            assert list(dict.fromkeys(await pair.kept(partition))) == wanted

    asyncio.run(run())


async def test_how_much_is_kept_is_told_by_position_and_by_what_was_seen() -> None:
    """Records that were seen and are not kept are known to be missing; nothing is claimed of what was never seen."""
    pair = Pair()
    await pair.put(1, *(one(text) for text in "abcde"))
    await pair.replicator.report()
    await pair.step(1)
    kept, heard_at = await pair.replicator.standing()
    assert kept[1] == Kept(3, 5)
    assert kept[0] == Kept(0, 0)
    assert heard_at == pair.clock.now()


async def test_a_replica_begins_with_what_the_other_log_has_and_never_skips_later() -> None:
    """Before the first record nobody stood by for anybody. What was dropped since is a hole: the replica stands still, loudly."""
    pair = Pair()
    await pair.put(0, one("old"))
    pair.clock.advance(3 * DAY / 1_000_000)
    await pair.put(0, one("new"))
    await pair.there.trim(pair.clock.now())
    assert await pair.replicator._begin(0) == 1
    await pair.step(0)
    assert await pair.kept(0) == ["new"]
    await pair.put(0, one("lost"))
    pair.clock.advance(3 * DAY / 1_000_000)
    await pair.put(0, one("newer"))
    await pair.there.trim(pair.clock.now())
    with pytest.raises(Failure) as refused:
        await pair.step(0)
    assert refused.value.reason is Reason.OFFSET_OUT_OF_RANGE
    assert await pair.kept(0) == ["new"]


async def test_a_log_that_was_replaced_is_not_taken_for_the_one_that_was_kept() -> None:
    """Law: where the other log ends before what was kept of it, nothing of it is kept; that is told, and it is never level."""
    pair = Pair()
    await pair.put(0, *(one(text) for text in "abc"))
    await pair.step(0)
    await pair.replicator.report()
    pair.origin.log = MemoryLog(4, pair.clock)
    await pair.origin.log.append(0, one("d"), pair.clock.monotonic() + 5)
    with pytest.raises(Failure) as refused:
        await pair.replicator.report()
    assert refused.value.reason is Reason.LOG_REPLACED
    kept, _ = await pair.replicator.standing()
    assert kept[0] == Kept(0, 1)
    for text in "efg":
        await pair.origin.log.append(0, one(text), pair.clock.monotonic() + 5)
    for ask in (pair.replicator.report, lambda: pair.step(0)):  # also once the new log has grown past what was kept of the old one
        with pytest.raises(Failure) as refused:
            await ask()
        assert refused.value.reason is Reason.LOG_REPLACED
    assert await pair.kept(0) == ["a", "b", "c"]


async def test_a_log_that_was_made_anew_is_not_taken_for_the_old_one() -> None:
    """Law: while it ends before what is kept of the old one, nothing is passed over: the replica stands still, loudly. It goes on when the
    old log is back, and where a log ends at the position it has everything."""
    pair = Pair()
    await pair.put(0, one("a"), one("b"))
    await pair.step(0)
    assert await pair.replicator._begin(0) == 2
    pair.origin.log = MemoryLog(4, pair.clock)
    await pair.origin.log.append(0, one("anew"), pair.clock.monotonic() + 5)
    with pytest.raises(Failure) as refused:
        await pair.replicator._begin(0)
    assert refused.value.reason is Reason.LOG_REPLACED
    assert await pair.store.replicated(THERE) == {0: 2}
    pair.origin.log = pair.there
    await pair.put(0, one("c"))
    assert await pair.replicator._begin(0) == 2
    await pair.step(0)
    assert await pair.kept(0) == ["a", "b", "c"]

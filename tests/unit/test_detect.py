"""When a cell is lost: by a majority of all sites, without a break, for long enough; and what the directory does then."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.errors import Failure, Reason
from kernel.ids import CellId, RegionName, TenantId, ZoneName
from kernel.limits import FAILOVER_GAP_RECORDS_MAX, VIEW_SECONDS_MAX, Plan
from kernel.metrics import MemoryMeter
from router.evacuation.cells import Gap, Kept
from router.evacuation.detect import Doubts, View, doubted, reached_by
from router.evacuation.failover import Failovers
from router.evacuation.lookout import Lookout
from router.placement.entry import WITNESS
from router.placement.memory import MemoryStore
from router.placement.steps import CreateTenant
from router.placement.store import Intent
from router.placement.table import CellEndpoint, Pin, Topology
from tests.support.clock import START, ManualClock
from tests.support.edge_room import QuietLog

A, B = CellId("eu-west-1-a"), CellId("eu-central-1-a")
SITES = ("eu-west-1", "eu-central-1", WITNESS)
ACME = TenantId("acme")
AFTER = 5.0


@given(st.dictionaries(st.sampled_from(SITES), st.tuples(st.floats(0, 20), st.booleans())), st.floats(0, 20))
def test_a_minority_and_the_silent_decide_nothing(said: dict[str, tuple[float, bool]], now: float) -> None:
    """Law: a cell is doubted exactly when more than half of all sites said lately that they do not reach it, however few spoke."""
    views = {site: View(at, frozenset({A} if unreached else ())) for site, (at, unreached) in said.items()}
    against = sum(unreached and now - at <= VIEW_SECONDS_MAX for at, unreached in said.values())
    assert (A in doubted(Doubts(), (A, B), views, len(SITES), now).since) == (against >= 2)
    assert B not in doubted(Doubts(), (A, B), views, len(SITES), now).since
    assert reached_by(A, views, now)[1] == against


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_one_look_without_a_majority_begins_the_wait_anew(looks: list[bool]) -> None:
    """Law: looked at every second, a cell is lost exactly when the last looks, for AFTER seconds, were all against it."""
    doubts = Doubts()
    for now, against in enumerate(looks):
        views = {site: View(now, frozenset({A} if against else ())) for site in SITES[:2]}
        doubts = doubted(doubts, (A,), views, len(SITES), now)
        last = looks[: now + 1][-int(AFTER + 1) :]
        assert (A in doubts.lost(now, AFTER)) == (len(last) == AFTER + 1 and all(last))


@dataclass
class Cells:
    """`Peers`: what is reached from the directory itself, and how much the standby lacks."""

    answering: set[CellId] = field(default_factory=lambda: {B})
    lacks: int = 0

    async def answers(self, cell: CellId) -> bool:
        return cell in self.answering

    async def gap(self, cell: CellId, origin: CellId) -> Gap:
        if cell not in self.answering:
            raise Failure(Reason.CELL_UNAVAILABLE, cell)
        return Gap(cell, (Kept(0, 10, 10 + self.lacks),), START, START)


class Room:
    """A zone of two cells that stand by for each other, with acme in the first; its lookout, and a clock that is moved by hand."""

    def __init__(self, after_seconds: float = AFTER) -> None:
        self.clock, self.cells, self.store = ManualClock(), Cells(), MemoryStore(ZoneName("eu"))
        failovers = Failovers(self.store, self.cells, self.clock, lambda: self.table, self.store.table)
        self.lookout = Lookout(failovers, self.clock, MemoryMeter(), QuietLog(), after_seconds)

    async def settle(self) -> None:
        """Acme lives in A."""
        endpoints = tuple(
            CellEndpoint(cell, RegionName(region), f"{cell}:1", f"{cell}:2", peer=peer)
            for cell, region, peer in ((A, "eu-west-1", B), (B, "eu-central-1", A))
        )
        await self.store.adopt(Topology(endpoints, ()))
        await self.store.change(CreateTenant(ACME, Plan(), 1.0, Pin(A, "a test")), Intent("test", START))
        self.table = await self.store.table()

    async def pass_seconds(self, seconds: float, *against: str, cell: CellId = A) -> CellId:
        """All sites speak every half second, these against the cell; where acme lives then."""
        for _ in range(int(seconds * 2)):
            for site in SITES:
                self.lookout.hear(site, [cell] if site in against else [], self.table)
            await self.lookout.look(self.table)
            self.table = await self.store.table()
            self.clock.advance(0.5)
        return self.table.tenants[ACME].cell


async def test_a_cell_that_two_of_three_do_not_reach_is_failed_over() -> None:
    """Law: after the time that a doubt must last, not before; home and standby have changed places."""
    room = Room()
    await room.settle()
    assert await room.pass_seconds(AFTER, "eu-central-1", WITNESS) == A
    assert await room.pass_seconds(1, "eu-central-1", WITNESS) == B
    assert room.table.tenants[ACME].standby == A


@pytest.mark.parametrize("against", [("eu-west-1",), (WITNESS,), ("eu-central-1",)])
async def test_an_observer_that_is_cut_off_fails_nobody_over(against: tuple[str, ...]) -> None:
    """Law: one of three sites is none."""
    room = Room()
    await room.settle()
    assert await room.pass_seconds(10 * AFTER, *against) == A


async def test_a_flap_fails_nobody_over() -> None:
    """Law: a cell that is reached again before the time is over is not lost, however often."""
    room = Room()
    await room.settle()
    for _ in range(5):
        assert await room.pass_seconds(AFTER - 1, *SITES) == A
        assert await room.pass_seconds(1) == A


async def test_what_the_directory_itself_reaches_is_not_lost() -> None:
    """Law: nobody is failed over against the directory's own eyes, from a cell whose standby is away, or over a wide gap; once that is
    over, it is tried again."""
    room = Room()
    await room.settle()
    room.cells.answering = {A, B}
    assert await room.pass_seconds(2 * AFTER, *SITES) == A
    room.cells.answering = set()
    assert await room.pass_seconds(2 * AFTER, *SITES) == A
    room.cells.answering, room.cells.lacks = {B}, FAILOVER_GAP_RECORDS_MAX + 1
    assert await room.pass_seconds(2 * AFTER, *SITES) == A
    room.cells.lacks = FAILOVER_GAP_RECORDS_MAX
    assert await room.pass_seconds(2 * AFTER, *SITES) == B


async def test_a_standby_that_is_doubted_takes_nobody() -> None:
    """Law: where a majority reaches neither cell, everybody stays."""
    room = Room()
    await room.settle()
    for site in SITES:
        room.lookout.hear(site, [A, B], room.table)
    for _ in range(40):
        for site in SITES:
            room.lookout.hear(site, [A, B], room.table)
        await room.lookout.look(room.table)
        room.clock.advance(0.5)
    assert (await room.store.table()).tenants[ACME].cell == A


async def test_without_leave_nobody_is_failed_over() -> None:
    """Law: 0 seconds mean a person's word; what the sites see is told all the same."""
    room = Room(after_seconds=0.0)
    await room.settle()
    assert await room.pass_seconds(10 * AFTER, *SITES) == A
    assert room.lookout.reached(A, room.table) == (0, 3, 3)


async def test_a_site_that_the_zone_does_not_have_has_no_voice() -> None:
    """Law: a majority cannot be made up."""
    room = Room()
    await room.settle()
    with pytest.raises(Failure) as refused:
        room.lookout.hear("us-east-1", [A], room.table)
    assert refused.value.reason is Reason.INVALID_FIELD

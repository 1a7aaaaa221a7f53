"""Failing a cell over: the step of one tenant, and the deed for all of a cell, which may be refused, tried, interrupted and repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.clock import Micros
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.limits import Plan
from router.evacuation.failover import Failovers, Outcome
from router.evacuation.states import TURNS, Turn
from router.evacuation.steps import FailOver, JoinStandby, PauseMove, StartMove, TurnMove
from router.placement.capacity import NOTHING
from router.placement.memory import MemoryStore
from router.placement.steps import CreateTenant, PinTenant, View
from router.placement.store import Done, Intent
from router.placement.table import BEFORE_SWITCH, UNDER_WAY, Move, MoveState, Pin, Table, Tenant, Topology
from router.placement.turns import TOGETHER_MAX
from tests.support.clock import ManualClock
from tests.support.peers import ToldPeers, gap_at
from tests.support.router_words import EU, ZONES, cell, tenant

A, B, C = CellId("a1"), CellId("b1"), CellId("c1")
CELLS = (cell("a1", 7_000, peer="b1"), cell("b1", 7_100, peer="a1"), cell("c1", 7_200))
VIEW = View(EU, CELLS, NOTHING)
NOW = Micros(1_795_262_400_000_000)
ACME = TenantId("acme")
_TURNS_MAX = 7
targets = st.sampled_from([B, C])


def home(standby: CellId | None = B) -> Tenant:
    """Acme in `a1`."""
    return replace(tenant("acme"), standby=standby)


def over(held: Tenant, lost: CellId | None = None) -> Tenant:
    """Its home is lost."""
    return FailOver(ACME, lost or held.cell, "a test", NOW).take(held, VIEW)


def start(held: Tenant, target: CellId) -> Tenant:
    """Its move is registered."""
    return StartMove(ACME, "m1", target, "why", NOW, 60).take(held, VIEW)


def turned(held: Tenant, turn: Turn) -> Tenant:
    """The next state."""
    return TurnMove(ACME, "m1", turn, NOW).take(held, VIEW)


def ways(turns: tuple[Turn, ...] = (), state: MoveState = "registered") -> Iterator[tuple[Turn, ...]]:
    """Every way that a move which is to switch can have gone in so many turns."""
    yield turns
    for before, turn in TURNS:
        if before == state and turn != "join" and len(turns) < _TURNS_MAX:
            yield from ways((*turns, turn), TURNS[before, turn])


@pytest.mark.parametrize("target", [B, C])
@pytest.mark.parametrize("paused", [False, True], ids=["", "paused"])
def test_home_and_standby_change_places_whatever_move_is_under_way(target: CellId, paused: bool) -> None:
    """Law: the standby is the home and the lost home the standby, at the next epoch, with writes; nothing else of the tenant changes but a
    move that cannot go on: before its switch it is given up, and one whose source takes over has nobody left to keep up to date."""
    seen = set[MoveState]()
    for way in ways():
        held = start(replace(home(), epoch=Epoch(7)), target)
        for turn in way:
            held = turned(held, turn)
        assert held.move is not None
        if paused and held.move.state in UNDER_WAY and not held.fenced:
            held = PauseMove(ACME, "m1", True).take(held, VIEW)
        if held.standby is None:
            with pytest.raises(Failure) as refused:
                over(held)
            assert refused.value.reason is Reason.NO_STANDBY
            continue
        assert held.move is not None
        seen.add(held.move.state)
        after = over(held)
        assert (after.cell, after.standby, after.epoch, after.fenced) == (held.standby, held.cell, held.epoch + 1, False)
        assert replace(after, cell=held.cell, standby=held.standby, epoch=held.epoch, fenced=held.fenced, move=held.move) == held
        assert after.move is not None
        check_move(held.move, after.move, after.cell)
    assert seen == {"registered", "copying", "fenced", "aborting", "aborted"} | (
        {"switched", "erasing", "settled"} if target == B else set()
    )


def check_move(before: Move, after: Move, home: CellId) -> None:
    """The move of a tenant that was failed over to `home`."""
    assert (after.source, after.target, after.id) == (before.source, before.target, before.id)
    if before.state in BEFORE_SWITCH:
        assert after.state == ("aborted" if before.state == "registered" else "aborting")
    elif before.state == "switched":
        assert (after.state, before.source) == ("erasing", home)
    else:
        assert after == before
        return
    assert (after.paused, "a test" in after.remark, after.changed_at) == (False, True, NOW)


@given(targets, st.lists(st.integers(0, 9), max_size=15))
def test_whatever_turns_and_failovers_come_epochs_tell_homes_apart(target: CellId, chosen: list[int]) -> None:
    """Law: an epoch has one home and never comes back; nobody takes writes at one that was fenced; home and standby are two cells; a fence
    is a move's alone. Asked for a cell that is not the home any more, a failover changes nothing."""
    held = start(home(), target)
    homes, closed = {held.epoch: held.cell}, set[Epoch]()
    for number in chosen:
        before, move = held, held.move
        assert move is not None
        turns = [turn for state, turn in TURNS if state == move.state and turn != "join"]
        if number < len(turns):
            held = turned(held, turns[number])
        elif held.standby is not None:
            held = over(held)
            with pytest.raises(Failure) as refused:
                over(held, before.cell)
            assert refused.value.reason is Reason.NOT_AT_HOME
        if held.fenced:
            closed.add(held.epoch)
        assert held.epoch >= before.epoch
        assert homes.setdefault(held.epoch, held.cell) == held.cell
        assert held.standby != held.cell
        assert held.move is not None
        assert held.fenced == (held.move.state == "fenced")
        assert held.fenced or held.epoch not in closed


def test_a_standby_that_is_not_complete_is_nobodys_home() -> None:
    """Law: from the moment on that it joins it stands by, and takes over when it has joined, not before. Another move goes before a join,
    and lets what that took be erased."""
    held = JoinStandby(ACME, "m1", NOW).take(home(None), VIEW)
    for turn, standby in (("begin", None), ("join", B)):
        with pytest.raises(Failure) as refused:
            over(held, A)
        assert refused.value.reason is Reason.NO_STANDBY
        held = turned(held, turn)  # type: ignore[arg-type]  # a turn
        assert held.standby == standby
    with pytest.raises(Failure) as refused:
        over(held, A)
    assert refused.value.reason is Reason.NO_STANDBY
    assert (over(turned(held, "joined"), A).cell, over(turned(held, "joined"), A).standby) == (B, A)
    moving = StartMove(ACME, "m2", C, "why", NOW, 60).take(held, VIEW)
    assert (moving.standby, moving.move and moving.move.standby) == (None, B)
    given_up = TurnMove(ACME, "m2", "abort", NOW).take(moving, VIEW)
    assert given_up.move is not None
    assert given_up.move.state == "aborting"
    with pytest.raises(Failure) as refused:
        turned(turned(JoinStandby(ACME, "m1", NOW).take(home(None), VIEW), "begin"), "fence")
    assert refused.value.reason is Reason.MOVE_NOT_NOW


def test_what_is_refused_and_why() -> None:
    """Law: nobody is taken from a cell where it does not live, or given to nobody."""
    for held, lost, reason in ((None, A, "UNKNOWN_TENANT"), (home(), B, "NOT_AT_HOME"), (home(None), A, "NO_STANDBY")):
        with pytest.raises(Failure) as refused:
            FailOver(ACME, lost, "why", NOW).take(held, VIEW)
        assert refused.value.reason.name == reason


@dataclass
class Room:
    """A directory whose steps may fail, and what is known of its cells. `a1` and `b1` stand by for each other, nobody for `c1`."""

    directory: MemoryStore = field(default_factory=lambda: MemoryStore(EU))
    peers: ToldPeers = field(default_factory=ToldPeers)
    failing: dict[TenantId, Failure] = field(default_factory=dict)
    dies_after: int = 1_000
    taken: int = 0

    async def fill(self, homes: dict[str, str]) -> Room:
        """Tenants by their homes."""
        await self.directory.adopt(Topology(CELLS, tuple(ZONES.items())))
        for name, where in homes.items():
            for step in (CreateTenant(TenantId(name), Plan(), 1.0, Pin(CellId(where), "")), PinTenant(TenantId(name), None)):
                await self.directory.change(step, Intent("a test", NOW))
        return self

    async def start(self, name: str, target: str, *turns: Turn) -> None:
        """A move of one, taken so far."""
        await self.directory.change(StartMove(TenantId(name), name, CellId(target), "why", NOW, 60), Intent("a test", NOW))
        for turn in turns:
            await self.directory.change(TurnMove(TenantId(name), name, turn, NOW), Intent("a test", NOW))

    async def over(self, lost: CellId = A, *, force: bool = False, dry_run: bool = False, table: Table | None = None) -> Outcome:
        """As the directory does it. The process dies when `dies_after` steps are taken, before it hears of the last one."""

        async def refresh() -> Table:
            return table or await self.directory.table()

        self.taken = 0
        failovers = Failovers(self, self.peers, ManualClock(NOW), self.directory.table, refresh)  # type: ignore[arg-type]  # it takes steps
        return await failovers.run(lost, "a test", "ann", force=force, dry_run=dry_run)

    async def change(self, step: FailOver, intent: Intent) -> Done:
        """The store's, in trouble."""
        if step.subject in self.failing:
            raise self.failing[step.subject]
        if self.taken == self.dies_after:
            raise asyncio.CancelledError
        self.taken += 1
        done = await self.directory.change(step, intent)
        if self.taken == self.dies_after:
            raise asyncio.CancelledError
        return done

    async def refused(self, lost: CellId = A, *, force: bool = False) -> Reason:
        """Why; and nothing was changed."""
        before, told = await self.directory.table(), await self.directory.audit()
        with pytest.raises(Failure) as raised:
            await self.over(lost, force=force)
        assert (await self.directory.table(), await self.directory.audit()) == (before, told)
        return raised.value.reason

    async def homes(self) -> dict[str, tuple[str, str | None, int]]:
        """Home, standby and epoch of each tenant."""
        return {str(t.name): (t.cell, t.standby, t.epoch) for t in (await self.directory.table()).tenants.values()}


async def test_every_tenant_of_the_lost_cell_is_given_to_its_standby() -> None:
    """Law: those of the cell and nobody else, at the next epoch; the gap is told once for each cell that takes over."""
    room = await Room().fill({"one": "a1", "two": "a1", "other": "b1", "third": "c1"})
    outcome = await room.over()
    assert await room.homes() == {"one": (B, A, 2), "two": (B, A, 2), "other": (B, A, 1), "third": (C, None, 1)}
    assert [one.name for one in outcome.moved] == ["one", "two"]
    assert outcome.moved == tuple([await room.directory.tenant(one.name) for one in outcome.moved])
    assert (outcome.left, outcome.gaps, room.peers.asked) == ((), (gap_at(B),), [(B, A)])
    assert (outcome.gaps[0].records, outcome.gaps[0].silent_seconds) == (3, 7.0)
    deeds_told = [entry.fields for entry in await room.directory.audit() if entry.fields.action == "FailOver"]
    assert [(deed.actor, deed.tenant) for deed in deeds_told] == [("ann", "one"), ("ann", "two")]


async def test_a_cell_that_answers_is_failed_over_by_force_alone() -> None:
    """Law: nothing is changed while it answers; by force it is as if it did not."""
    room = await Room().fill({"one": "a1"})
    room.peers.answering = {A, B}
    assert await room.refused() is Reason.CELL_ANSWERS
    assert room.peers.asked == []
    assert [one.cell for one in (await room.over(force=True)).moved] == [B]


@pytest.mark.parametrize("force", [False, True])
async def test_nothing_is_changed_where_it_cannot_be_done(force: bool) -> None:
    """Law: an unknown cell, a cell whose tenants nobody stands by for, and a standby that cannot be reached are refused, by force too,
    before any tenant is touched: nobody is given to a cell that may be lost as well."""
    room = await Room().fill({"one": "a1", "third": "c1"})
    room.peers.away = {B}
    assert await room.refused(CellId("us-1"), force=force) is Reason.UNKNOWN_CELL
    assert await room.refused(C, force=force) is Reason.NO_STANDBY
    assert await room.refused(A, force=force) is Reason.CELL_UNAVAILABLE


async def test_one_of_several_standbys_that_is_away_stops_all() -> None:
    """Law: a cell is failed over when everybody that is to take over can be asked; those who took over earlier stand by elsewhere."""
    room = await Room().fill({"one": "a1", "two": "a1"})
    held = await room.directory.tenant(TenantId("two"))
    room.directory._tenants[held.name] = replace(held, standby=C)
    room.peers.away = {C}
    assert await room.refused() is Reason.CELL_UNAVAILABLE
    room.peers.away = set()
    outcome = await room.over()
    assert [gap.cell for gap in outcome.gaps] == [B, C]
    assert await room.homes() == {"one": (B, A, 2), "two": (C, A, 2)}


async def test_an_empty_cell_is_failed_over_by_doing_nothing() -> None:
    """Law: nobody lives there, so nobody is missing, and no cell is asked what it keeps."""
    room = await Room().fill({"other": "b1"})
    assert await room.over() == Outcome((), (), ())
    assert room.peers.asked == []


async def test_a_dry_run_tells_what_would_be_and_changes_nothing() -> None:
    """Law: the same gap, the same tenants with the same homes and epochs, and those that would be left; then everything is as it was."""
    room = await Room().fill({"one": "a1", "two": "a1", "alone": "a1"})
    await room.start("alone", "c1", "begin", "fence", "switch", "roll back", "fence", "switch")
    before, told = await room.directory.table(), await room.directory.audit()
    tried = await room.over(dry_run=True)
    assert (await room.directory.table(), await room.directory.audit()) == (before, told)
    done = await room.over()
    assert (tried.gaps, tried.left) == (done.gaps, done.left)
    assert [replace(one, since=0) for one in tried.moved] == [replace(one, since=0) for one in done.moved]
    assert [(left.tenant, "stands by" in left.why) for left in done.left] == [("alone", True)]


async def test_a_tenant_whose_step_fails_is_left_with_its_reason_and_the_others_are_not() -> None:
    """Law: whatever refuses one tenant's step, the rest is failed over; asked again, so is what was left."""
    room = await Room().fill({"one": "a1", "two": "a1", "three": "a1"})
    room.failing[TenantId("one")] = Failure(Reason.STORE_UNAVAILABLE, "its row is locked")
    outcome = await room.over()
    assert [moved.name for moved in outcome.moved] == ["three", "two"]
    ((name, why),) = outcome.left
    assert (name, "its row is locked" in why) == ("one", True)
    room.failing.clear()
    assert [moved.name for moved in (await room.over()).moved] == ["one"]
    assert set((await room.homes()).values()) == {(B, A, 2)}


async def test_who_left_meanwhile_stays_where_it_went() -> None:
    """Law: what was looked at may be older than what is: a tenant that switched in between is not taken from its new home."""
    room = await Room().fill({"one": "a1", "two": "a1"})
    await room.start("two", "c1", "begin", "fence")
    seen = await room.directory.table()
    await room.directory.change(TurnMove(TenantId("two"), "two", "switch", NOW), Intent("a test", NOW))
    outcome = await room.over(table=seen)
    assert [left.tenant for left in outcome.left] == ["two"]
    assert (await room.homes())["two"] == (C, None, 2)


async def test_who_drained_for_a_switch_cannot_switch_behind_a_failover() -> None:
    """Law: the maker of a move that was given up is refused, whatever it had made ready."""
    room = await Room().fill({"one": "a1"})
    await room.start("one", "c1", "begin", "fence")
    await room.over()
    for epoch, reason in ((Epoch(1), "MOVE_NOT_NOW"), (Epoch(2), "MOVE_NOT_NOW")):
        with pytest.raises(Failure) as refused:
            await room.directory.change(TurnMove(TenantId("one"), "one", "switch", NOW, epoch), Intent("a test", NOW))
        assert refused.value.reason.name == reason
    assert (await room.homes())["one"] == (B, A, 2)


@given(st.lists(st.sampled_from(["a1", "b1", "c1"]), min_size=1, max_size=6), st.lists(st.integers(0, 4), max_size=4))
def test_whoever_dies_in_the_middle_the_rest_is_failed_over_by_asking_again(homes: list[str], deaths: list[int]) -> None:
    """Law: killed at any point, any number of times, before or after a step is taken: in the end each tenant of the cell was given to its
    standby by exactly one step, and nobody else was touched."""

    async def run() -> None:
        named = {f"tenant-{number}": where for number, where in enumerate(homes)}
        room = await Room().fill(named)
        before = await room.homes()
        for dies_after in deaths:
            room.dies_after = dies_after
            try:
                await room.over()
            except asyncio.CancelledError:
                continue
        room.dies_after = 1_000
        await room.over()
        wanted = {name: (B, A, 2) if where == "a1" else before[name] for name, where in named.items()}
        assert await room.homes() == wanted
        assert [entry.fields.action for entry in await room.directory.audit()].count("FailOver") == homes.count("a1")
        again = await room.over()
        assert (again.moved, again.left) == ((), ())

    asyncio.run(run())


async def test_more_tenants_than_are_taken_together_are_all_failed_over_and_told() -> None:
    """Law: each of them once, in name order, however many they are."""
    room = await Room().fill({f"tenant-{number:03}": "a1" for number in range(2 * TOGETHER_MAX + 3)})
    outcome = await room.over()
    assert [one.name for one in outcome.moved] == sorted(await room.homes())
    assert set((await room.homes()).values()) == {(B, A, 2)}

"""Moves as pure steps: the table of states, what is refused and why, plans that empty a cell."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.clock import Micros
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from router.evacuation import check
from router.evacuation.cells import Totals
from router.evacuation.plan import evacuate
from router.evacuation.states import TURNS, Turn
from router.evacuation.steps import PauseMove, StartMove, TurnMove
from router.placement.capacity import NOTHING, Loads, loads_of, room
from router.placement.steps import Step, View
from router.placement.table import UNDER_WAY, Pin, Table, Tenant
from tests.support.router_words import EU, cell, table, tables, tenant

CELLS = (cell("a1"), cell("b1"), cell("c1"))
VIEW = View(EU, CELLS, NOTHING)
NOW = Micros(1_795_262_400_000_000)
ACME = TenantId("acme")
ALL_TURNS: tuple[Turn, ...] = ("begin", "fence", "unfence", "switch", "roll back", "finish", "abort", "erased")


def start(target: str | None = "b1", move: str = "m1") -> StartMove:
    """Acme's."""
    return StartMove(ACME, move, None if target is None else CellId(target), "why", NOW, 60)


def reason_of(step: Step, held: Tenant | None) -> Reason:
    """Why a step is refused."""
    with pytest.raises(Failure) as refused:
        step.take(held, VIEW)
    return refused.value.reason


@given(st.lists(st.sampled_from(ALL_TURNS), max_size=30))
def test_whatever_turns_are_tried_a_tenant_has_one_home_and_epochs_tell_them_apart(turns: list[Turn]) -> None:
    """Law: a turn that the table does not have is refused and changes nothing. Epochs never fall; whoever may take writes after a fence has
    an epoch that no one before the fence had; the home is the source until the switch and the target from then on."""
    held = start().take(tenant("acme"), VIEW)
    closed: set[int] = set()
    for turn in turns:
        assert held.move is not None
        before = held
        step = TurnMove(ACME, "m1", turn, NOW)
        if (held.move.state, turn) not in TURNS:
            assert reason_of(step, held) is Reason.MOVE_NOT_NOW
            continue
        held = step.take(held, VIEW)
        assert held.move is not None
        assert held.epoch >= before.epoch
        if held.fenced:
            closed.add(held.epoch)
        assert held.fenced == (held.move.state == "fenced")
        assert held.fenced or held.epoch not in closed, "writes are taken at an epoch that was fenced"
        gone = held.move.state in ("switched", "erasing", "settled")
        assert held.cell == (held.move.target if gone else held.move.source)


def test_every_state_leads_to_an_end() -> None:
    """Law: from each state a move can end (I6), and an ended one goes nowhere."""
    for state in UNDER_WAY:
        seen, front = set[str](), {state}
        while front:
            seen |= front
            front = {after for (before, _), after in TURNS.items() if before in front} - seen
        assert seen & {"settled", "aborted"}, state
    assert {before for before, _ in TURNS} == UNDER_WAY


def test_what_is_refused_and_why() -> None:
    """Law: an impossible move is refused before anything is done."""
    home = tenant("acme")
    pinned = replace(home, pinned=Pin(CellId("a1"), "by contract"))
    assert reason_of(start(), None) is Reason.UNKNOWN_TENANT
    assert reason_of(start("a1"), home) is Reason.INVALID_FIELD
    assert reason_of(start("us-1"), home) is Reason.UNKNOWN_CELL
    assert reason_of(start(), pinned) is Reason.TENANT_PINNED
    assert reason_of(start(), tenant("acme", demand=1e9)) is Reason.CELL_FULL
    assert reason_of(start(None), tenant("acme", demand=1e9)) is Reason.ZONE_EXHAUSTED
    with pytest.raises(Failure) as refused:
        start(None).take(home, View(EU, CELLS[:1], NOTHING))
    assert refused.value.reason is Reason.ZONE_EXHAUSTED
    moving = start().take(home, VIEW)
    assert reason_of(start("c1", "m2"), moving) is Reason.TENANT_MOVING
    assert reason_of(TurnMove(ACME, "m2", "begin", NOW), moving) is Reason.NOT_MOVING
    assert reason_of(TurnMove(ACME, "m1", "begin", NOW), home) is Reason.NOT_MOVING
    assert reason_of(TurnMove(ACME, "m1", "switch", NOW), moving) is Reason.MOVE_NOT_NOW
    assert reason_of(TurnMove(ACME, "m1", "begin", NOW, Epoch(9)), moving) is Reason.STALE_REVISION
    assert reason_of(TurnMove(ACME, "m1", "begin", NOW), None) is Reason.UNKNOWN_TENANT
    switched = moving
    for turn in ("begin", "fence", "switch"):
        switched = TurnMove(ACME, "m1", turn, NOW).take(switched, VIEW)
    assert reason_of(TurnMove(ACME, "m1", "abort", NOW), switched) is Reason.MOVE_NOT_NOW
    towards = replace(home, pinned=Pin(CellId("b1"), "it shall live there"))
    assert start().take(towards, VIEW).move is not None


def test_a_pause_never_keeps_a_tenant_fenced() -> None:
    """Law: a move stands still where its tenant can be written to."""
    moving = TurnMove(ACME, "m1", "begin", NOW).take(start().take(tenant("acme"), VIEW), VIEW)
    assert PauseMove(ACME, "m1", True).take(moving, VIEW).move != moving.move
    fenced = TurnMove(ACME, "m1", "fence", NOW).take(moving, VIEW)
    assert reason_of(PauseMove(ACME, "m1", True), fenced) is Reason.MOVE_NOT_NOW
    ended = TurnMove(ACME, "m1", "erased", NOW).take(TurnMove(ACME, "m1", "abort", NOW).take(moving, VIEW), VIEW)
    assert reason_of(PauseMove(ACME, "m1", True), ended) is Reason.MOVE_NOT_NOW


@given(tables(), st.integers(0, 3))
def test_a_plan_empties_the_cell_and_overfills_none(placed: Table, number: int) -> None:
    """Law: every tenant of the cell has a target, which is another cell; when all have moved, no cell has less room than none."""
    names = sorted(placed.cells)
    gone = names[number % len(names)]
    if len(names) == 1:
        with pytest.raises(Failure) as refused:
            evacuate(placed, gone, NOW)
        assert refused.value.reason is Reason.ZONE_EXHAUSTED
        return
    plan = evacuate(placed, gone, NOW)
    assert sorted(move.tenant for move in plan.moves) == sorted(t.name for t in placed.tenants.values() if t.cell == gone)
    targets = {move.tenant: move.target for move in plan.moves}
    assert gone not in targets.values()
    after = [replace(t, cell=targets.get(t.name, t.cell)) for t in placed.tenants.values()]
    cells = tuple(placed.cells.values())
    assert all(room(one, cells, loads_of(after)) >= 0 for one in cells if one.cell in targets.values())


def test_a_plan_is_whole_or_not_at_all() -> None:
    """Law: a tenant that cannot leave, or one that is coming, stops the plan; those on their way out are left to their moves."""
    coming = start("a1").take(tenant("acme", "b1"), VIEW)
    pinned = replace(tenant("globex"), pinned=Pin(CellId("a1"), "by contract"))
    leaving = start("b1").take(tenant("acme"), VIEW)
    big = tenant("big", demand=1e9)
    here = coming
    for turn in ("begin", "fence", "switch"):
        here = TurnMove(ACME, "m1", turn, NOW).take(here, VIEW)
    back = TurnMove(ACME, "m1", "abort", NOW).take(TurnMove(ACME, "m1", "begin", NOW).take(leaving, VIEW), VIEW)
    for tenants, reason in (
        ((coming,), "TENANT_MOVING"),
        ((here,), "TENANT_MOVING"),
        ((back,), "TENANT_MOVING"),
        ((pinned,), "TENANT_PINNED"),
        ((big,), "ZONE_EXHAUSTED"),
    ):
        with pytest.raises(Failure) as refused:
            evacuate(table(1, tenants, CELLS), CellId("a1"), NOW)
        assert refused.value.reason.name == reason
    with pytest.raises(Failure):
        evacuate(table(1, (), CELLS), CellId("us-1"), NOW)
    assert evacuate(table(1, (leaving, tenant("other")), CELLS), CellId("a1"), NOW).moves[0].tenant == "other"


def test_a_pin_whose_time_is_over_binds_nobody() -> None:
    """Law: neither a move nor a plan heeds it."""
    pinned = replace(tenant("acme"), pinned=Pin(CellId("a1"), "for a while", Micros(NOW - 1)))
    assert start().take(pinned, VIEW).move is not None
    assert len(evacuate(table(1, (pinned,), CELLS), CellId("a1"), NOW).moves) == 1


def test_a_target_that_stands_by_for_the_home_counts_that() -> None:
    """Law: chosen or named, a target has the same room: the cell that is left goes on needing its standby for those that stay."""
    cells = (replace(CELLS[0], capacity=100.0, peer=CellId("b1")), replace(CELLS[1], capacity=100.0))
    view, moving = View(EU, cells, Loads({CellId("a1"): 80.0})), tenant("acme", demand=30.0)
    for target in ("b1", None):
        with pytest.raises(Failure):
            start(target).take(moving, view)


def test_a_paused_move_is_taken_on_by_people_alone() -> None:
    """Law: whoever makes moves by itself does nothing to one that somebody has paused, whatever it had begun to do before."""
    moving = PauseMove(ACME, "m1", True).take(TurnMove(ACME, "m1", "begin", NOW).take(start().take(tenant("acme"), VIEW), VIEW), VIEW)
    assert reason_of(TurnMove(ACME, "m1", "fence", NOW, asked=False), moving) is Reason.MOVE_NOT_NOW
    assert TurnMove(ACME, "m1", "abort", NOW).take(moving, VIEW).move is not None


def test_a_comparison_tells_counts_and_what_counts_do_not_show() -> None:
    """Law: anything that differs is a finding."""
    one = Totals(3, 30, 2, 20, 1, 10)
    check.same("events", one, Totals(3, 30, 2, 20, 1, 10))
    for name in ("events", "events_sum", "records", "records_sum", "others", "others_sum"):
        with pytest.raises(Failure) as refused:
            check.same("events", one, replace(one, **{name: 99}))
        assert refused.value.reason is Reason.COPY_DIFFERS
        assert ("some differ" in str(refused.value)) == name.endswith("_sum")


@given(st.dictionaries(st.integers(0, 3), st.integers(0, 9)), st.dictionaries(st.integers(0, 3), st.integers(0, 9)))
def test_a_copy_that_covers_the_ends_has_no_lag(given_: dict[int, int], ends: dict[int, int]) -> None:
    """Law: nothing lies between exactly when everything is covered; a partition that nobody gave anything of is at its beginning."""
    assert check.covers(given_, ends) == (check.lag_records(given_, ends) == 0)

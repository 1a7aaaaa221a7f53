"""Moves of a tenant to the cell that stands by for it, and to others from a home that has one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kernel import limits
from kernel.errors import Failure, Reason
from kernel.ids import CellId
from kernel.process.clock import SystemClock
from router.evacuation import make, standby
from router.evacuation.cells import Gap, Kept
from router.evacuation.states import Turn
from router.evacuation.steps import JoinStandby, PauseMove, StartMove, TurnMove
from tests.support.processes import eventually
from tests.support.standby_room import ACME, OTHER, A, B, C, Room

SEEDS = range(10)


@pytest.mark.parametrize("seed", SEEDS)
async def test_home_and_standby_change_places_and_nothing_is_copied_or_erased(seed: int) -> None:
    """Law: when the tenant is switched, both keep everything that either had accepted until then, what came at the fence too; no part is
    exported; afterwards the old home stands by, folds what the new one accepts, and keeps what it has."""
    room = Room(seed)

    async def late() -> None:
        await room.a.put("at the fence", partition=1)
        await room.b.put("handed over at the fence")

    async def switched() -> None:
        assert (room.a.events(), room.b.events()) == (6, 6)

    room.hooks = {"fenced": late, "switched": switched}
    await room.begin()
    assert await room.drive() == "switched"
    assert "switched" not in room.hooks
    assert await room.where() == (B, A, 2, False)
    await room.b.put("at the new home")
    assert await room.drive_to_the_end() == "settled"
    assert await room.where() == (B, A, 2, False)
    assert await room.wait_until_quiet() == {A: 7, B: 7, C: 0}
    assert (set(room.cells.asked), room.cells.erasing) == ({"gap"}, set())


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_standby_that_stays_behind_is_not_fenced(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: while it does not come near, nobody's writes are refused, for however long; when it does, the move goes on."""
    monkeypatch.setattr(limits, "MOVE_FENCED_SECONDS_MAX", 0.03)
    monkeypatch.setattr(limits, "MOVE_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(limits, "COPY_ROUNDS_MAX", 2)
    room = await Room(seed).begin()
    room.b.stuck = True
    fenced = asyncio.Event()

    async def note() -> None:
        fenced.set()

    room.hooks["fenced"] = note
    assert await room.drive() == "copying"
    assert (fenced.is_set(), await room.where()) == (False, (A, B, 1, False))
    assert "stays behind" in room.executor.making.of(ACME).doing
    monkeypatch.undo()
    room.b.stuck = False
    assert await room.drive() == "switched"
    assert fenced.is_set()


async def test_who_waits_in_vain_asks_no_more() -> None:
    """Law: when one of the two cells cannot be asked, nothing goes on asking the other: a move that tries again leaves nothing behind."""
    room = await Room().begin()
    for number in range(20):
        await room.b.put(f"handed-over-{number}")
    room.cells.away = {A}
    tasks = asyncio.all_tasks()
    with pytest.raises(Failure) as refused:
        await standby.wait_until_level(room.cells, SystemClock(), A, B, {})
    assert refused.value.reason is Reason.CELL_UNAVAILABLE
    assert asyncio.all_tasks() == tasks


async def test_a_standby_that_comes_near_slowly_is_not_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what took longer than a pause may last is no reason to begin one, although the standby is level then."""
    monkeypatch.setattr(limits, "MOVE_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(limits, "COPY_ROUNDS_MAX", 2)
    room = await Room().begin()
    assert await room.drive() == "copying"
    assert await room.where() == (A, B, 1, False)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_standby_that_stops_behind_the_fence_gives_the_writes_back(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: nothing is switched to a cell that has not got everything; the tenant can be written to at an epoch that was not fenced, and the
    move goes on once the standby does."""
    monkeypatch.setattr(limits, "MOVE_FENCED_SECONDS_MAX", 0.05)
    room = Room(seed)

    async def stop() -> None:
        await room.a.put("in the log before the fence was heard of")
        room.b.stuck = True
        room.hooks["copying"] = opened

    async def opened() -> None:
        _, move = await room.acme()
        assert await room.where() == (A, B, 2, False)
        assert "was not drained" in move.remark
        monkeypatch.undo()
        room.b.stuck = False
        await room.a.put("written between the fences")
        room.hooks["switched"] = switched

    async def switched() -> None:
        assert (room.a.events(), room.b.events()) == (6, 6)

    room.hooks["fenced"] = stop
    await room.begin()
    assert await room.drive() == "switched"
    assert (room.hooks, await room.where()) == ({}, (B, A, 3, False))


async def test_people_that_differ_stop_the_move_before_the_switch() -> None:
    """Law: who and what people are is compared behind the fence; what differs gives the writes back and waits for a person, once."""
    room = await Room().begin()
    await room.wait_until_quiet()
    room.b.store.kept(ACME).nodes["u:nobody"] = "u:somebody-else"
    assert await room.drive() == "copying"
    _, move = await room.acme()
    assert (await room.where(), move.paused) == ((A, B, 2, False), True)
    assert "profiles" in move.remark
    del room.b.store.kept(ACME).nodes["u:nobody"]
    await room.change(PauseMove(ACME, "m1", False))
    assert await room.drive() == "switched"
    assert (await room.where(), room.cells.erasing) == ((B, A, 3, False), set())


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_move_to_the_standby_is_rolled_back_without_a_copy(seed: int) -> None:
    """Law: the way back is the same way: what the new home accepted meanwhile is at the old one when it is the home again."""
    room = await Room(seed).begin(B, 1_000)
    assert await room.drive_to_the_end() == "switched", "it can be rolled back for as long as was asked"
    await room.b.put("at the new home", partition=1)

    async def switched() -> None:
        assert (room.a.events(), room.b.events()) == (5, 5)

    room.hooks["switched"] = switched
    await room.turn("roll back")
    assert await room.drive() == "switched"
    assert (room.hooks, await room.where()) == ({}, (A, B, 3, False))
    await room.turn("finish")
    assert await room.drive() == "settled"
    assert await room.wait_until_quiet() == {A: 5, B: 5, C: 0}
    assert (set(room.cells.asked), room.cells.erasing) == ({"gap"}, set())


@pytest.mark.parametrize("turns", [(), ("begin",), ("begin", "fence")], ids=["registered", "copying", "fenced"])
async def test_giving_a_move_to_the_standby_up_erases_nothing(turns: tuple[Turn, ...]) -> None:
    """Law: whatever it had come to, the home has its writes, and its standby has and goes on with what it keeps: it is no copy."""
    room = await Room().begin(B, 0, *turns)
    await room.wait_until_quiet()
    await room.turn("abort")
    assert await room.drive() == "aborted"
    assert await room.where() == (A, B, 2 if "fence" in turns else 1, False)
    await room.a.put("later")
    assert await room.wait_until_quiet() == {A: 5, B: 5, C: 0}
    assert room.cells.erasing == set()


async def test_a_move_elsewhere_forgets_the_former_standby_and_nothing_else() -> None:
    """Law: until it is over, the standby of the old home keeps what it has; then nothing of the tenant is left but at its new home, and
    other tenants' rows are where they were."""
    room = await Room().begin(C, 1_000)
    await room.wait_until_quiet()
    assert await room.drive() == "switched"
    assert await room.where() == (C, None, 2, False)
    assert (await room.wait_until_quiet(), room.cells.erasing) == ({A: 4, B: 4, C: 4}, set())
    await room.turn("finish")
    assert await room.drive() == "settled"
    assert await room.wait_until_quiet() == {A: 0, B: 0, C: 4}
    assert {key for key, rows in room.cells.erased.items() if rows} == {(A, ACME), (B, ACME)}
    assert (room.a.events(OTHER), room.b.events(OTHER)) == (3, 3)


async def test_nobody_goes_elsewhere_without_what_the_standby_took() -> None:
    """Law: a write that the standby took, and that its home has not read yet, is nowhere else: the tenant stays until it has come home."""
    room = await Room().begin(C, 1_000)
    room.a.stuck = True
    assert await room.drive() == "copying"
    assert await room.where() == (A, B, 1, False)
    room.a.stuck = False
    assert await room.drive() == "switched"
    assert (await room.wait_until_quiet())[C] == 4


async def test_a_standby_that_takes_something_at_the_fence_is_waited_for() -> None:
    """Law: also what it took between the rehearsal and the fence comes along."""

    async def late() -> None:
        await room.b.put("late", partition=1)

    room = await Room(hooks={"fenced": late}).begin(C, 1_000)
    assert await room.drive() == "switched"
    assert (await room.wait_until_quiet())[C] == 5


async def test_a_standby_that_does_not_hear_of_its_part_keeps_nobody_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a join whose target's map does not come on gives its place to others, and ends when a person says so."""
    room = await Room().begin(C, 0)
    await room.turn("abort")
    await room.executor.drive(ACME)
    tenant, _ = await room.acme()
    room.directory._tenants[ACME] = replace(tenant, standby=None)
    await room.change(JoinStandby(ACME, "join", SystemClock().now()))

    async def deaf(cell: CellId, origin: CellId) -> Gap:
        return replace(await heard(cell, origin), revision=0)

    async def become_deaf() -> None:
        monkeypatch.setattr(room.cells, "gap", deaf)

    heard = room.cells.gap
    room.hooks["joining"] = become_deaf
    assert await room.drive() == "joining"
    await room.change(TurnMove(ACME, "join", "abort", SystemClock().now()))
    monkeypatch.undo()
    assert await room.drive() == "aborted"
    assert (await room.where())[:2] == (A, None)


async def test_who_goes_elsewhere_and_back_has_no_standby_and_leaves_nothing_there() -> None:
    """Law: what the standby missed meanwhile is a hole: it does not stand by again, and what it keeps is erased when the move is over; so
    is the copy. The home keeps everything."""
    room = await Room().begin(C, 1_000)
    await room.drive()
    await room.wait_until_quiet()
    await room.turn("roll back")
    assert await room.drive() == "switched"
    assert await room.where() == (A, None, 3, False)
    await room.turn("finish")
    assert await room.drive() == "settled"
    assert await room.wait_until_quiet() == {A: 4, B: 0, C: 0}
    assert (room.a.events(OTHER), room.b.events(OTHER)) == (3, 3)


async def test_a_former_standby_that_stands_by_again_is_not_forgotten() -> None:
    """Law: who is the tenant's home or standby when the move is over keeps what it has, whatever it was before."""
    room = await Room().begin(C, 1_000)
    await room.drive()
    await room.wait_until_quiet()
    tenant, _ = await room.acme()
    room.directory._tenants[ACME] = replace(tenant, standby=B)
    await room.turn("finish")
    assert await room.drive() == "settled"
    assert await room.wait_until_quiet() == {A: 0, B: 4, C: 4}


@pytest.mark.parametrize("turns", [("begin",), ("begin", "fence")], ids=["copying", "fenced"])
async def test_giving_a_move_elsewhere_up_erases_the_copy_alone(turns: tuple[Turn, ...]) -> None:
    """Law: the home and its standby are as they were, and the standby goes on."""
    room = await Room().begin(C, 0, "begin")
    await room.wait_until_quiet()
    tenant, move = await room.acme()
    await room.executor.making._catch_up(tenant, move, await room.executor.making._begin(tenant, move), await room.a.ends())
    assert room.c.events() == 4
    if "fence" in turns:
        await room.turn("fence")
    await room.turn("abort")
    assert await room.drive() == "aborted"
    await room.a.put("later")
    assert await room.wait_until_quiet() == {A: 5, B: 5, C: 0}
    assert {key for key, rows in room.cells.erased.items() if rows} == {(C, ACME)}


@pytest.mark.parametrize("target", [B, C])
@pytest.mark.parametrize("turns", [(), ("begin",), ("begin", "fence")], ids=["registered", "copying", "fenced"])
async def test_a_failover_in_the_middle_of_a_move_ends_it_and_both_keep_what_they_have(target: CellId, turns: tuple[Turn, ...]) -> None:
    """Law: the move that is given up erases nothing of the new home, nor of the lost one, which stands by from now on."""
    room = await Room().begin(target, 0, *turns)
    await room.wait_until_quiet()
    await room.fail_over()
    assert await room.drive() == "aborted"
    assert await room.where() == (B, A, 2, False)
    await room.b.put("at the new home")
    assert await room.wait_until_quiet() == {A: 5, B: 5, C: 0}
    assert room.cells.erasing <= {C}


async def test_a_failover_behind_a_switch_ends_the_move_and_lets_the_tenant_be_moved_again() -> None:
    """Law: a tenant that went to its standby and lost that home within the time that its move could be rolled back lives in the old home
    again. Nobody keeps that one up to date or erases it, the move comes to its end by itself, and the next one can be started."""
    room = await Room().begin(B, 1_000)
    assert await room.drive() == "switched"
    await room.wait_until_quiet()
    await room.fail_over()
    stop = asyncio.Event()
    running = asyncio.create_task(room.executor.run(stop))

    async def over() -> bool:
        return (await room.acme())[1].state == "settled"

    await eventually(over, "the move is over", 10)
    stop.set()
    await running
    assert await room.where() == (A, B, 3, False)
    await room.a.put("at home again")
    assert await room.wait_until_quiet() == {A: 5, B: 5, C: 0}
    assert room.cells.erasing == set()
    await room.change(StartMove(ACME, "m2", B, "home", SystemClock().now(), 0))


async def test_a_target_that_was_cleared_for_in_vain_is_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: while its home has not read what the target took for it before, nothing is copied, however often that is tried."""
    monkeypatch.setattr(make, "_CLEAR_SECONDS_MAX", 0.05)
    room = await Room().begin(C, 1_000)
    await room.turn("abort")
    await room.executor.drive(ACME)
    tenant, _ = await room.acme()
    room.directory._tenants[ACME] = replace(tenant, standby=None)
    await room.change(StartMove(ACME, "m2", B, "why", SystemClock().now(), 1_000))
    room.a.stuck = True
    for _ in range(2):
        room.cells.asked.clear()
        assert await room.drive() == "copying"
        assert room.cells.asked["begin"] == 0
    room.a.stuck = False
    monkeypatch.undo()
    assert await room.drive() == "switched"


async def test_a_former_standby_is_not_done_with_before_it_has_folded_what_it_took() -> None:
    """Law: nor before it hears that it stands by no more, nor before the home has read that: else it would fold it behind an erasure."""
    revision, read, folded = 4, 0, 0

    class Told:
        async def gap(self, cell: CellId, origin: CellId) -> Gap:
            now = SystemClock().now()
            if cell == A:
                return Gap(A, (Kept(0, read, 7),), now, now)
            return Gap(B, (), now, now, (Kept(0, folded, 7),), revision)

    waiting = asyncio.create_task(standby.wait_until_clear(Told(), SystemClock(), A, B, 5))  # type: ignore[arg-type]  # it asks no more
    for step in range(3):
        await asyncio.sleep(0.05)
        assert not waiting.done()
        revision, read, folded = 5, 7 * (step >= 1), 7 * (step == 2)
    await asyncio.wait_for(waiting, 1)

"""The whole fleet from one seed: whatever crashes and whatever is delayed, the oracle finds nothing - and finds what is planted."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

import pytest

from chaos.checkers.history import Copy, History
from chaos.checkers.verdicts import judge
from router.evacuation.states import TURNS
from tests.simulation.defects import EXPECTED
from tests.simulation.virtual import run
from tests.simulation.world import World

SEED = int(os.environ["SEED"])
_SEEDS_MAX = 20
RUNS = int(os.environ.get("SIM_RUNS", "3"))


def simulate(seed: int) -> tuple[World, History]:
    """One run."""
    world = World(seed)
    return world, run(world.run())


@pytest.mark.parametrize("seed", [SEED + number for number in range(RUNS)])
def test_whatever_crashes_nothing_acknowledged_is_lost_and_nothing_leaks(seed: int) -> None:
    """All checkers, over a run with kills, refused calls and lost answers. A failure prints the command that replays it."""
    print(f"replay: make sim SEED={seed}")
    world, history = simulate(seed)
    assert sum(cell.kills for cell in world.cells.values()) > len(world.cells), "no cell was killed: the run is void"
    assert world.weather.hits > 10, "the faults hit nothing: the run is void"
    assert world.stuck + judge(history) == [], f"replay: make sim SEED={seed}"
    print(f"turns of moves: { {zone: dict(directory.turns) for zone, directory in world.directories.items()} }")


def test_a_seed_determines_the_run() -> None:
    """Two runs of one seed leave the same history: what fails can be replayed."""
    assert simulate(SEED)[1] == simulate(SEED)[1]


def test_every_turn_of_a_move_is_taken() -> None:
    """The (state, turn) edges of the table that runs visit, with faults in them; the counts are printed. None is left out."""
    turns: Counter[tuple[str, str]] = Counter()
    twins = 0
    for seed in range(SEED, SEED + _SEEDS_MAX):
        world, _ = simulate(seed)
        turns += sum((directory.turns for directory in world.directories.values()), Counter[tuple[str, str]]())
        assert sum(directory.kills for directory in world.directories.values()), "who makes moves was never killed: the run is void"
        twins += sum(directory.twins for directory in world.directories.values())
        if turns.keys() == TURNS.keys() and twins:
            break
    print(f"turns: {dict(turns)}")
    assert turns.keys() == TURNS.keys()
    assert twins, "never did two processes make moves at once: the runs are void"


@pytest.mark.parametrize("defect", EXPECTED)
def test_the_oracle_finds_what_a_defect_does_to_a_run(defect: str) -> None:
    """Negative controls: a fleet whose every cell carries one plausible bug. The oracle names what the bug does, in one of a few runs."""
    for seed in range(SEED, SEED + _SEEDS_MAX):
        world = World(seed, defect)
        history = run(world.run())
        found = {finding.split(":")[0] for finding in world.stuck + judge(history)}
        if found & EXPECTED[defect]:
            return
    raise AssertionError(f"{defect}: nothing was found; replay: make sim SEED={SEED}")


def test_the_oracle_finds_what_is_planted_in_a_real_run() -> None:
    """Negative controls on the simulation's own history: a lost row, a skipped record, a leaked token."""
    _, history = simulate(SEED)
    acknowledged = {(s.tenant, s.message_id) for s in history.sent if s.answer == "acknowledged"}
    victim = next(row for row in history.stored if (row.tenant, row.message_id) in acknowledged)
    lost = replace(history, stored=tuple(row for row in history.stored if row != victim))
    assert any(finding.startswith("lost") for finding in judge(lost))
    line = history.ledger[0]
    skipped = replace(history, ledger=(line._replace(stored=line.stored - 1), *history.ledger[1:]))
    assert any(finding.startswith("ledger") for finding in judge(skipped))
    leaked = replace(history, copies=(*history.copies, Copy("us", "us WAL", history.canaries["eu"][0])))
    assert any(finding.startswith("leak") for finding in judge(leaked))

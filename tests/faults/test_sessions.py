"""A cell on real brokers under three lanes of faults: whatever is killed, paused, filled, moved or forged, the oracle finds nothing.

200 faults count in a whole run (FAULT_POINTS), each only if it met an operation under way; docs/decisions/0014-fault-suite.md says more.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import pytest

from chaos.checkers.verdicts import judge
from tests.faults.controls import planted
from tests.faults.plan import ALONE, THREE, Deck
from tests.faults.report import POINTS, SEED, SHARE, TOLD, Told
from tests.faults.run import play
from tests.faults.session import session

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(420), pytest.mark.xdist_group("fleet")]


@dataclass(frozen=True)
class Shape:
    """A session: its brokers and faults, and of how many points and killed brokers of a whole run it is asked."""

    nodes: int
    deck: Deck
    points: int
    broker_kills: int


SHAPES = {
    "three brokers": Shape(3, THREE, 77, 9),
    "three brokers again": Shape(3, THREE, 77, 9),
    "one broker": Shape(1, ALONE, 46, 3),
}


def test_a_whole_run_counts_two_hundred_points_and_twenty_killed_brokers() -> None:
    """Law: what the sessions are asked for is what the run is asked for, and no session is asked for more than its faults can give."""
    assert sum(shape.points for shape in SHAPES.values()) >= 200
    assert sum(shape.broker_kills for shape in SHAPES.values()) >= 20
    assert all(shape.deck.counts.total() > shape.points for shape in SHAPES.values())


@pytest.mark.parametrize("name", SHAPES)
async def test_whatever_fails_nothing_acknowledged_is_lost_and_the_cell_recovers(name: str) -> None:
    """Law: every acknowledged event is stored, once, in its client's order; nothing is invented; the ledger balances with an auditor's
    own reading of the log; poison is dead, not in the way; the cell recovers by itself in time; no process has a defect; and each
    verdict finds what is planted in this very history."""
    shape, began = SHAPES[name], time.monotonic()
    async with session(f"{SEED}/{name}", shape.nodes) as made:
        try:
            outcome = await play(made, shape.deck.scaled(SHARE), math.ceil(shape.points * SHARE))
        except BaseException as error:
            error.add_note(f"replay: FAULT_SEED={SEED} FAULT_POINTS={POINTS} pytest tests/faults -k '{name}'\n{made.cell.last_words()}")
            raise
        told = Told(name, outcome, tuple(made.strikes), time.monotonic() - began)
        TOLD.append(told)
        history, said = outcome.evidence.history, "\n".join([f"replay: FAULT_SEED={SEED} FAULT_POINTS={POINTS}", *told.lines()])
        findings = [*judge(history), *made.cell.defects(), *made.traffic.notes.refused]
        assert not findings, "\n".join([said, *findings])
    assert outcome.points >= math.ceil(shape.points * SHARE), f"too few faults met anything: the run is void\n{said}"
    assert outcome.broker_kills >= math.ceil(shape.broker_kills * SHARE), f"too few brokers were killed: the run is void\n{said}"
    for violation in planted(history):
        assert violation.word in {finding.split(":")[0] for finding in judge(violation.history)}

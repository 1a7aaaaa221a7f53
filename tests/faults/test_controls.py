"""A live control: a cell with a defect that loses acknowledged events only when something fails, which the oracle must find."""

from __future__ import annotations

import signal
import sys

import pytest

from chaos.checkers.verdicts import judge
from tests.faults.cell import INGEST
from tests.faults.evidence import gathered, recovered
from tests.faults.report import SEED
from tests.faults.session import Session, session
from tests.support.processes import eventually

pytestmark = [pytest.mark.kafka, pytest.mark.postgres, pytest.mark.timeout(180), pytest.mark.xdist_group("fleet")]
HASTY = (sys.executable, "-m", "tests.faults.hasty")


async def test_an_acknowledgement_before_the_log_has_the_record_is_found() -> None:
    """Law: an ingest that answers before its append is durable passes for a good one until it is killed while the broker hangs; then
    the oracle names the events that are gone."""
    async with session(f"{SEED}/hasty", 1, {INGEST: HASTY}) as made:
        async with made.traffic.flowing():
            await eventually(lambda: _acknowledged(made) >= 50, "events are acknowledged", 20)
            made.brokers.pause(1)
            before = _acknowledged(made)
            await eventually(lambda: _acknowledged(made) >= before + 50, "events are acknowledged although no broker answers", 20)
            made.cell.take_down(INGEST, signal.SIGKILL)
            made.brokers.resume(1)
            made.cell.bring_up(INGEST)
            made.healed()
            healed_at = await recovered(made)
        evidence = await gathered(made, healed_at)
    assert "lost" in {finding.split(":")[0] for finding in judge(evidence.history)}


def _acknowledged(made: Session) -> int:
    return len(made.traffic.notes.acknowledged_at)

"""Prints the seed of the faults before they strike, and what they came to behind everything else."""

from __future__ import annotations

import logging

import pytest

from tests.faults.report import POINTS, SEED, TOLD


@pytest.fixture(autouse=True)
def quiet_library(caplog: pytest.LogCaptureFixture) -> None:
    """What the plain Kafka client says of every broker that dies is no news here."""
    caplog.set_level(logging.CRITICAL, logger="aiokafka")


def pytest_report_header() -> str:
    """What replays the run."""
    return f"fault seed {SEED}, {POINTS} points: replay with FAULT_SEED={SEED} FAULT_POINTS={POINTS} pytest tests/faults"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The sessions' points, by kind."""
    for told in TOLD:
        for line in told.lines():
            terminalreporter.write_line(line)
    if TOLD:
        points, kills = (sum(getattr(told.outcome, name) for told in TOLD) for name in ("points", "broker_kills"))
        terminalreporter.write_line(f"faults: {points} points, {kills} brokers killed, seed {SEED}")

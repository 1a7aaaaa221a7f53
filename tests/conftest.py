"""What every suite may use: a real PostgreSQL and a real Kafka, and how many examples a property gets."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Iterator

import hypothesis
import pytest

from cli.local.postgres import Postgres
from tests.support.kafka import Brokers, SessionBrokers
from tests.support.postgres import Databases, SessionServer, databases

hypothesis.settings.register_profile("ci", max_examples=50, derandomize=False, print_blob=True, deadline=None)
hypothesis.settings.register_profile("fast", max_examples=10, derandomize=False, print_blob=True, deadline=None)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
hypothesis.settings.load_profile(PROFILE)


def pytest_configure() -> None:
    """One fresh seed for the simulations of a run; workers inherit it."""
    if not os.environ.get("SEED"):
        os.environ["SEED"] = str(random.SystemRandom().randrange(1, 2**31))


def pytest_report_header() -> list[str]:
    """The seed policy: fresh seeds each run; a failure prints what replays it."""
    return [
        f"hypothesis profile {PROFILE}: replay a failure with its @reproduce_failure blob or --hypothesis-seed=N",
        f"simulation seed {os.environ['SEED']}: replay with make sim SEED={os.environ['SEED']}",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole fleets run one after the other: two at a time would take each other's ports and cores."""
    for item in items:
        if item.path.parent.name == "e2e":
            item.add_marker(pytest.mark.xdist_group("fleet"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One server for the session (for each worker of pytest-xdist), on a free port."""
    session = SessionServer()
    try:
        yield session.start()
    finally:
        session.stop()


@pytest.fixture
async def postgres(postgres_server: Postgres) -> AsyncIterator[Databases]:
    """An empty database of the test's own; `create()` makes more."""
    async with databases(postgres_server) as made:
        yield made


@pytest.fixture(scope="session")
def kafka() -> Iterator[Brokers]:
    """One node for the session (for each worker of pytest-xdist): each test names its own topics, and ends nothing of it."""
    session = SessionBrokers()
    try:
        yield session.start()
    finally:
        session.stop()

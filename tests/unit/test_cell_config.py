"""A cell's settings: each role is told all that it lacks, and nothing is taken from anywhere else."""

from __future__ import annotations

import pytest

from cells.config import ROLES, Role, load
from kernel.process.settings import BadSettings

BASE = {
    "CELL": "eu-west-1-a",
    "ZONE": "eu",
    "REGION": "eu-west-1",
    "JOURNAL_PATH": "journal",
    "PUBLIC_KEY_FILE": "key",
    "DIRECTORY_ADDRESS": "127.0.0.1:1",
    "FOLLOWER_TOKEN_FILE": "token",
}
URL = "postgresql://role:password@127.0.0.1:5432/cell"
STORE = {"APPLY_DSN": URL, "QUERY_DSN": URL, "AUDIT_DSN": URL}
LOG = {"LOG_DSN": URL}
KAFKA = {"LOG_KIND": "kafka", "KAFKA_BOOTSTRAP": "127.0.0.1:9092", "KAFKA_TOPIC": "events"}
NEEDS: dict[Role, dict[str, str]] = {
    "all": {**STORE, **LOG},
    "ingest": LOG,
    "processing": {**LOG, "STORAGE_ADDRESS": "127.0.0.1:2"},
    "storage": STORE,
}


def variables(*parts: dict[str, str]) -> dict[str, str]:
    """As an environment."""
    return {f"DATAFLOW_{name}": value for part in parts for name, value in part.items()}


def problems(environ: dict[str, str], role: Role = "all") -> list[str]:
    """What is wrong with it."""
    with pytest.raises(BadSettings) as caught:
        load(environ, role)
    return caught.value.problems


@pytest.mark.parametrize("role", ROLES)
def test_each_role_needs_what_it_opens_and_nothing_else(role: Role) -> None:
    """Law: with all of it the role starts; without any one of it the variable is named; Kafka's stand in for the log's URL."""
    assert load(variables(BASE, NEEDS[role]), role).cell == "eu-west-1-a"
    for name in NEEDS[role]:
        rest = {key: value for key, value in NEEDS[role].items() if key != name}
        (problem,) = problems(variables(BASE, rest), role)
        assert problem.startswith(f"DATAFLOW_{name} is required by")
    without = {key: value for key, value in NEEDS[role].items() if key != "LOG_DSN"}
    if role != "storage":
        assert load(variables(BASE, without, KAFKA), role).log_kind == "kafka"


def test_every_problem_is_told_at_once() -> None:
    """Law: what is missing, what is not understood and what a role needs besides stand in one list."""
    found = "\n".join(problems(variables({"HTTP_ADDRESS": "garbage", "LOG_BYTES_MAX": "many", "LOG_KIND": "kafka", "ZONE": "eu"})))
    for name in ("CELL ", "APPLY_DSN ", "QUERY_DSN ", "AUDIT_DSN ", "HTTP_ADDRESS: 'garbage' is not host:port", "LOG_BYTES_MAX"):
        assert f"DATAFLOW_{name}" in found
    kafka = "\n".join(problems(variables(BASE, STORE, {"LOG_KIND": "kafka"})))
    assert "DATAFLOW_KAFKA_BOOTSTRAP is required by log_kind kafka" in kafka
    assert "DATAFLOW_KAFKA_TOPIC is required by log_kind kafka" in kafka


@pytest.mark.parametrize(
    "url", ["postgresql://", "postgresql:///cell", "postgresql://host/cell", "host=a dbname=b", "postgresql://me@host"]
)
def test_a_url_names_server_database_and_role(url: str) -> None:
    """Law: the driver would take what a URL leaves out from variables of the machine's, and reach another cell's database."""
    assert problems(variables(BASE, STORE, {"LOG_DSN": url})) == [
        "DATAFLOW_LOG_DSN: it is not postgresql://role:password@host:port/database"
    ]

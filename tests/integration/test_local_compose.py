"""The compose file, which no test can run here: it is what compose reads, and says what the fleet declares."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes with schemathesis, without types

from cli.local.kafka import Kafka, Ports
from gitops.fleet.log import LOG
from tests.house.tree import ROOT

COMPOSE = ROOT / "cli" / "local" / "compose.yaml"
# Settings that say where a broker is, not what it promises.
PLACES = re.compile(r"listener|^node\.id|^log\.dirs|^controller")
POM = ROOT / "cli" / "local" / "kafka-pom.xml"


def services() -> dict[str, Any]:
    """The services with their anchors resolved."""
    read: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())
    return read["services"]


def checked(path: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_compose_can_read_it(tmp_path: Path) -> None:
    """Law: the file keeps compose's schema; one that does not is found."""
    assert checked(COMPOSE).returncode == 0, checked(COMPOSE).stdout
    (tmp_path / "planted.yaml").write_text(COMPOSE.read_text().replace("mem_limit:", "memory:"))
    assert checked(tmp_path / "planted.yaml").returncode != 0


def test_it_promises_what_is_declared(tmp_path: Path) -> None:
    """Law: its brokers keep as many copies as the fleet's, of the version that is tested, and nothing is reached from outside."""
    brokers = {name: one for name, one in services().items() if name.startswith("kafka-")}
    assert len(brokers) == LOG.replication
    ours = Kafka(tmp_path, "x", (Ports(1, 2), Ports(3, 4), Ports(5, 6))).properties()
    version = re.search(r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>([\d.]+)</version>", POM.read_text())
    assert version is not None
    for number, one in enumerate(brokers.values(), 1):
        theirs = {name.removeprefix("KAFKA_").lower().replace("_", "."): value for name, value in one["environment"].items()}
        promises = {name for name in ours if name in theirs and not PLACES.search(name)}
        assert {name: theirs[name] for name in promises} == {name: ours[name] for name in promises}
        assert {"min.insync.replicas", "default.replication.factor", "unclean.leader.election.enable"} <= promises
        assert one["image"] == f"apache/kafka:{version[1]}"
        assert theirs["node.id"] == str(number)
    published = [port for one in services().values() for port in one["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in published)

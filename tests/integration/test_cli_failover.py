"""`dataflow cells failover` against a real directory: the gap is shown, people are asked, and a cell that answers is left alone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from gitops.fleet import EU, US
from kernel.ids import CellId
from tests.integration.test_cli_commands import Running, running
from tests.support.peers import SILENT_SECONDS, ToldPeers

__all__ = ["running"]
LOST, PEER = "us-west-2-a", "us-east-1-a"
COMMAND = ("cells", "failover", LOST, "--reason", "the region is dark")
GAP = f"the gap at {PEER}: 3 records are missing that it has heard of; it was heard of last {SILENT_SECONDS}.0 s ago"


@pytest.fixture
def peers(running: Running) -> Iterator[ToldPeers]:
    """What is known of the cells of zone us; nobody answers."""
    told = running.zones[US].peers
    told.answering, told.away = set(), set()
    yield told
    told.answering, told.away = set(), set()


def lodgers(running: Running, *names: str) -> dict[str, str]:
    """Tenants in the cell that is lost, by name: where they live now."""
    for name in names:
        running.says("tenants", "create", name, "--zone", "us", "--cell", LOST)
    return homes(running, *names)


def homes(running: Running, *names: str) -> dict[str, str]:
    """Where they live."""
    return {name: running.zones[US].tenants()[name].cell for name in names}


def test_a_dry_run_shows_the_gap_and_changes_nothing(running: Running, peers: ToldPeers) -> None:
    """Law: what would be missing, and who would live where, is told; nobody is asked and nobody is moved."""
    before = lodgers(running, "anna")
    tried = running.says(*COMMAND, "--dry-run")
    assert tried.startswith("nothing was changed; this is what would be:")
    assert GAP in tried
    assert "in its log (partition from offset): 0 from 40, 1 from 7" in tried
    assert f"tenant anna lives in cell {PEER} (epoch 2)" in tried
    assert "started again" not in tried
    assert (homes(running, "anna"), before) == (before, {"anna": LOST})


def test_nobody_is_moved_who_was_not_meant(running: Running, peers: ToldPeers) -> None:
    """Law: the gap is shown before it is asked for, in JSON too, and without a yes nothing is changed; nor without a reason."""
    before = lodgers(running, "bert")
    for output in ("table", "json"):
        asked = running.fails(*COMMAND, "--output", output, code=1)
        assert GAP in asked
        assert f"tenants leave {LOST} for the cells that stand by for them. Is that meant?" in asked
    assert "--reason" in running.fails("cells", "failover", LOST, "--yes")
    assert homes(running, "bert") == before


def test_a_cell_that_answers_is_left_alone_unless_it_is_forced(running: Running, peers: ToldPeers) -> None:
    """Law: without --force one line says why, whatever else is said, and nothing is changed; with it the tenants live at the standby."""
    before = lodgers(running, "carl")
    peers.answering = {CellId(LOST)}
    for more in (("--yes",), ("--dry-run",), ()):
        assert "the cell is not lost" in running.fails(*COMMAND, *more)
    assert homes(running, "carl") == before
    done = running.says(*COMMAND, "--force", "--yes")
    assert f"tenant carl lives in cell {PEER} (epoch 2)" in done
    assert f"comes back by itself when {LOST} is started again" in done
    assert homes(running, "carl") == {"carl": PEER}


def test_what_was_done_is_read_by_programs_and_done_once(running: Running, peers: ToldPeers) -> None:
    """Law: the gap, the tenants and who is left stand in the JSON; asked again there is nothing to do, and that is said; the audit names
    who did it."""
    lodgers(running, "dora", "emil")
    done = json.loads(running.says(*COMMAND, "--yes", "--output", "json"))
    assert {"dora", "emil"} <= {tenant["name"] for tenant in done["tenants"]}
    assert {(tenant["cell"], tenant["standby"]) for tenant in done["tenants"]} == {(PEER, LOST)}
    ((gap, kept),) = ((gap, gap["kept"]) for gap in done["gaps"])
    assert (gap["cell"], int(gap["asked_at"]) - int(gap["heard_at"])) == (PEER, SILENT_SECONDS * 1_000_000)
    assert [(one.get("partition", 0), int(one["until"]), int(one["end"])) for one in kept] == [(0, 40, 40), (1, 7, 10)]
    assert done["left"] == []
    assert f"no tenant lives in {LOST}" in running.says(*COMMAND, "--yes")
    audit = [json.loads(line) for line in running.says("audit", "list", "--zone", "us", "--output", "json").splitlines()]
    told = [(one["actor"], one["tenant"]) for one in audit if one["action"] == "FailOver"]
    assert [told.count(("operator", name)) for name in ("dora", "emil")] == [1, 1]


def test_what_cannot_be_done_is_one_line(running: Running, peers: ToldPeers) -> None:
    """Law: exit code 2, the reason, and nothing is changed: a standby that is lost as well takes nobody over, by force neither."""
    before = lodgers(running, "finn")
    peers.away = {CellId(PEER)}
    for arguments, words in (
        ((*COMMAND, "--yes", "--force"), "cannot be reached"),
        (("cells", "failover", "nowhere", "--reason", "why", "--yes"), "there is no cell nowhere"),
    ):
        done = running.run(*arguments)
        assert (done.returncode, done.stderr.strip().count("\n")) == (2, 0), done.stderr
        assert words in done.stderr
    assert homes(running, "finn") == before
    assert all(tenant.epoch == 1 for tenant in running.zones[EU].tenants().values())

"""A region's loss, as it is told: what failed, what was silent, what was missing and where, and the way into docs/validation.md."""

from __future__ import annotations

import io
import math
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bench import failover, report
from bench.insist import Failed
from bench.latency import Samples
from bench.loss import FIGURES, OF_LOST, SCENARIOS, Gap, Loss, Marks, longest_gap, percentile, rows_of
from bench.rows import Row
from bench.verdict import Verdict
from docs import generate

BATCH, SECONDS, PER_SECOND = 20, 60, 10
MARKS = Marks(killed=20.0, commanded=25.0, told=25.1, answering=25.5, returned=40.0, ready=42.0, ended=60.0)
REQUESTS = SECONDS * PER_SECOND
LAST_BEFORE_THE_KILL = 20 * PER_SECOND - 2  # of the lost cell's tenants: they have the even numbers
Moment = Callable[[float], float]


def loss_of(
    acknowledged: Moment = lambda due: due + 0.01, there: Moment = lambda due: due + 0.05, here: Moment = lambda due: due + 3
) -> Loss:
    """One request every tenth of a second, of either stream in turn. Moments are told by when a request was due."""
    due = array("d", [number / PER_SECOND for number in range(REQUESTS)])
    moments = [array("d", map(of, due)) for of in (acknowledged, there, here)]
    samples = Samples(BATCH, due, moments[0], moments[1], array("B", [number % 2 for number in range(REQUESTS)]))
    verdict = Verdict(BATCH * REQUESTS, BATCH * REQUESTS, 0, 0, 0, 0)
    gap = Gap(0, 0.1, frozenset())
    return Loss("edge-alive", MARKS, samples, moments[2], due, REQUESTS, REQUESTS, [], gap, {"a": verdict, "b": verdict}, 0.0)


def figure(loss: Loss, name: str) -> float:
    """One figure of a loss."""
    return FIGURES[name][0](loss)


def row(rows: list[Row], name: str) -> Row:
    """The row of a figure's label."""
    return next(one for one in rows if one.label.endswith(f", {FIGURES[name][1]}"))


def test_a_loss_that_nobody_notices_reaches_every_promise() -> None:
    """Law: nothing failed, nothing was missing, and all that was promised is reached."""
    rows = rows_of([loss_of()])
    assert {one.id for one in rows} == {"P6"}
    assert len(rows) == len(FIGURES)
    assert all(one.reached is not False for one in rows)
    assert loss_of().holds


def test_silence_is_of_the_lost_cells_tenants() -> None:
    """Law: whoever else is served does not shorten it, and it begins where the last acknowledgement was."""
    silent = loss_of(lambda due: 22.0 if 20 <= due < 22 and round(due * PER_SECOND) % 2 == OF_LOST else due + 0.01)
    assert silent.silence_seconds == pytest.approx(22 - 19.81)
    assert silent.taken_seconds == pytest.approx(2)
    assert silent.longest_wait_seconds == pytest.approx(2)
    assert row(rows_of([silent]), "silence_seconds").reached is False
    assert loss_of().silence_seconds == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("moments", "expected"), [([], 10), ([12], 8), ([9, 10.5, 19], 8.5), ([4, 30], 16), ([1, 9.5, 11, 12, 21], 8)], ids=str
)
def test_the_longest_gap(moments: list[float], expected: float) -> None:
    """Law: it may begin before the stretch that is looked at, and ends with it."""
    assert longest_gap(moments, 10, 20) == expected


def test_failures_are_of_all_attempts_and_requests_of_all_requests() -> None:
    """Law: an attempt that is made good counts as a failed attempt alone; a request that nobody acknowledged counts as both."""
    some = replace(loss_of(), attempts=REQUESTS + 3, failures=[Failed(20.1, 20.2, 200, "CELL_UNAVAILABLE")] * 3)
    assert some.failed_percent == pytest.approx(100 * 3 / (REQUESTS + 3))
    assert some.given_up_percent == 0
    never = loss_of(lambda due: math.nan if due == 21 else due + 0.01)
    assert never.given_up_percent == pytest.approx(100 / REQUESTS)


def test_what_the_peer_had_not_when_the_disks_returned_was_missing() -> None:
    """Law: a request counts once it was acknowledged, and as explained when it lies behind the gap that was told."""
    kept = {LAST_BEFORE_THE_KILL, LAST_BEFORE_THE_KILL - 2}
    lacking = loss_of(there=lambda due: 41.5 if round(due * PER_SECOND) in kept else due + 0.05)
    assert lacking.missing == kept
    assert lacking.missing_events == 2 * BATCH
    assert lacking.unexplained_events == 2 * BATCH
    assert not lacking.holds
    told = replace(lacking, gap=Gap(2, 0.1, frozenset(kept)))
    assert told.unexplained_events == 0
    assert told.holds
    assert told.queryable_seconds == pytest.approx(MARKS.answering - MARKS.commanded)
    never = loss_of(there=lambda due: math.nan if round(due * PER_SECOND) in kept else due + 0.05)
    assert never.missing == kept
    assert math.isnan(never.merged_seconds)


def test_what_is_under_way_when_the_disks_return_is_not_missing() -> None:
    """Law: whatever was acknowledged a moment before may still be on its way into the peer's store."""
    assert not loss_of(there=lambda due: due + 1.0).missing


def test_queries_may_be_answered_before_the_last_event_is_there() -> None:
    """Law: the later of the two counts."""
    late = loss_of(there=lambda due: 29.0 if 24 <= due < 25 else due + 0.05)
    assert late.answering_seconds == pytest.approx(0.5)
    assert late.queryable_seconds == pytest.approx(4)


def test_merged_is_when_both_cells_have_all() -> None:
    """Law: the later cell counts, and only for what was acknowledged before the return."""
    assert loss_of(here=lambda due: 43.0 if due < 40 else due + 9).merged_seconds == pytest.approx(3)
    assert loss_of(here=lambda due: 40.5, there=lambda due: 44.0 if due == 19 else due).merged_seconds == pytest.approx(4)


def test_the_peer_is_behind_by_what_it_sees_later_than_the_client() -> None:
    """Law: of what was acknowledged before the kill, once the beginning is over."""
    assert percentile(loss_of().behind_ms, 0.99) == pytest.approx(40)
    assert len(loss_of().behind_ms) == 85
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2
    assert math.isnan(percentile([], 0.5))


def test_figures_of_several_losses_are_medians_but_counts_of_what_must_not_be() -> None:
    """Law: one loss among many that lost something is seen."""
    bad = {"a": Verdict(100, 99, 1, 0, 0, 0), "b": Verdict(100, 100, 0, 0, 0, 0)}
    losses = [loss_of(), replace(loss_of(lambda due: due + 0.03), verdicts=bad), loss_of(lambda due: due + 0.02)]
    rows = rows_of(losses)
    assert (row(rows, "wrong_events").figure, row(rows, "wrong_events").reached) == (1, False)
    middle = row(rows, "p99_during_ms")
    assert middle.figure == pytest.approx(20, rel=0.01)
    assert middle.spread is not None
    assert list(middle.spread) == pytest.approx([10, 30], rel=0.01)
    assert not losses[1].holds


def test_what_was_found_stands_in_the_page_of_promises(tmp_path: Path) -> None:
    """Law: the document is one of figures, its rows are those of P6, and a void scenario is said to be so."""
    losses = [loss_of(), replace(loss_of(lambda due: math.nan if due == 3 else due), scenario="edge-lost", others_share=0.5)]
    losses[1] = replace(losses[1], verdicts={"a": Verdict(100, 98, 2, 0, 0, 0)})
    report.write(tmp_path / "failover.json", failover.document(losses, rows_of(losses), "python -m bench.failover", [], "abc"))
    written = msgspec.json.decode((tmp_path / "failover.json").read_bytes())
    assert [one["scenario"] for one in written["runs"]] == list(SCENARIOS)
    page = generate.validation(tmp_path)
    assert "edge alive, longest time without an acknowledgement: 0.2 s |" in page
    assert "edge lost, lost or doubled in the end: 2 events; VOID: events differ" in page


def test_a_picture_is_the_same_for_the_same_losses(tmp_path: Path) -> None:
    """Law: it holds the first loss of each scenario, and nothing of the moment at which it is drawn."""
    losses = [loss_of(), replace(loss_of(), scenario="edge-lost"), loss_of(lambda due: due + 5)]
    for name in ("one.svg", "two.svg"):
        failover.draw(tmp_path / name, losses)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_a_loss_is_shown_with_what_makes_it_void() -> None:
    """Law: whoever reads the terminal cannot miss it."""
    console = Console(file=io.StringIO(), width=140)
    failover.show(console, replace(loss_of(), verdicts={"a": Verdict(100, 98, 2, 0, 0, 0)}))
    assert isinstance(console.file, io.StringIO)
    assert "VOID: 2 events lost" in console.file.getvalue()

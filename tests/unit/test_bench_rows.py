"""What runs show: rows that are reached or missed for the right reason, and the way into docs/validation.md."""

from __future__ import annotations

import io
import math
import os
import tempfile
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]  # the package has no types
from rich.console import Console

from bench import picture, report
from bench.cell import altered
from bench.latency import Samples, percentiles
from bench.outcomes import NO_ANSWER, Outcomes
from bench.report import Played
from bench.resources import Spent, Usage, spent
from bench.rows import Row, merged, recovery_seconds, rows_of
from bench.run import Run
from bench.scenarios import SCENARIOS, Scenario, Take
from bench.schedule import plan
from bench.stored import Sizes
from bench.verdict import Verdict
from docs import generate

CPU = {"cell": 2.0, "postgres": 3.0, "envoy": 0.5, "endpoint": 0.0, "control": 9.0, "generator": 1.0}
Latency = Callable[[float], float]


def steadily(seconds: float) -> Latency:
    """The same latency for everything."""
    return lambda _: seconds


QUICK = steadily(0.02)


def run_of(take: Take, latency: Latency = QUICK, refused: Callable[[float], bool] = lambda _: False, code: str = "OVERLOADED") -> Run:
    """A run whose events were queryable so many seconds after they were due at a second, and acknowledged in a tenth of that."""
    schedule = plan(take.load)
    due, batch = schedule.first_due, take.load.batch
    acknowledged = array("d", [math.nan if refused(at) else at + latency(at) / 10 for at in due])
    queryable = array("d", [math.nan if refused(at) else at + latency(at) for at in due])
    outcomes = Outcomes(acknowledged, {number: code for number, at in enumerate(due) if refused(at)}, sent=len(schedule.due))
    events = batch * sum(not refused(at) for at in due)
    samples = Samples(batch, due, acknowledged, queryable, schedule.stream)
    cost = Spent({kind: seconds * events / 1e6 for kind, seconds in CPU.items()}, 0.6, 0.01)
    verdict = Verdict(events, events, 0, 0, 0, 0)
    return Run(take, "http", "postgres", len(due), outcomes, samples, verdict, cost, {"cell": 90.0}, Sizes(100 * events, 0, 0))


def played(
    name: str, *changes: Callable[[Run], Run], seconds: float = 20, rate: float | None = None, batch: int | None = None
) -> list[Row]:
    """The rows of a scenario whose runs are changed in turn."""
    scenario = altered(SCENARIOS[name], rate, batch, seconds)
    runs = [run_of(take) for take in scenario.takes()]
    for number, change in enumerate(changes):
        runs[number] = change(runs[number])
    return rows_of(scenario, runs)


def row(rows: list[Row], label: str) -> Row:
    """The one whose label holds these words."""
    return next(row for row in rows if label in row.label)


def with_latency(latency: Latency) -> Callable[[Run], Run]:
    """The same take with other latencies."""
    return lambda run: run_of(run.take, latency)


def test_throughput_is_what_was_queryable_in_time() -> None:
    """Law: the promised rate is reached when it was offered and queryable at once, missed when the last events came late."""
    reached, unserved = played("throughput")
    assert (unserved.label, unserved.figure, unserved.reached) == ("not acknowledged", 0, None)
    assert (reached.id, reached.reached) == ("P1", True)
    assert reached.figure == pytest.approx(25_250, rel=0.01)
    missed, _ = played("throughput", with_latency(lambda due: due * 0.2))
    assert missed.figure == pytest.approx(25_250 / 1.2, rel=0.01)
    assert missed.reached is False
    assert played("throughput", rate=10_000)[0].reached is False


@pytest.mark.parametrize("name", ["half", "climb"])
def test_latency_is_to_queryable(name: str) -> None:
    """Law: the median and p99 are of the time from due to queryable."""
    rows = played(name, rate=1_000)
    assert [(one.id, one.reached) for one in rows] == [("P2", True)] * 3
    assert row(rows, "p99").figure == pytest.approx(20, rel=0.01)
    slow = played(name, with_latency(lambda due: 0.9 if due > 19 else 0.02), rate=1_000)
    assert (row(slow, "p50").reached, row(slow, "p99").reached) == (True, False)


def test_single_requests_are_counted_when_acknowledged() -> None:
    """Law: the rate and p99 of single requests are those of acknowledgements."""
    rows = played("single", seconds=4)
    assert [one.reached for one in rows] == [True, True, None]
    assert row(rows, "p99").figure == pytest.approx(2, rel=0.01)
    assert row(played("single", with_latency(steadily(1.5)), seconds=4), "p99").reached is False


def test_growth_compares_what_an_event_costs() -> None:
    """Law: the rise is of CPU per event on its path, from the lowest rate to each higher one; the generator's and the control plane's
    do not count."""
    assert played("growth", seconds=4)[0].figure == pytest.approx(0, abs=0.01)

    def dearer(kind: str) -> Callable[[Run], Run]:
        def change(run: Run) -> Run:
            more = {**run.spent.seconds, kind: run.spent.seconds[kind] * 1.5}
            return replace(run, spent=replace(run.spent, seconds=more))

        return change

    def keep(run: Run) -> Run:
        return run

    rises = {kind: played("growth", keep, keep, dearer(kind), seconds=4)[1] for kind in CPU}
    assert [one.figure for one in played("growth", keep, dearer("envoy"), dearer("cell"), seconds=4)[:2]] == pytest.approx(
        [0.25 / 5.5 * 100, 1 / 5.5 * 100]
    ), "against the lowest rate, not against the one before"
    in_the_middle = played("growth", keep, dearer("cell"), keep, seconds=4)
    assert [one.reached for one in in_the_middle[:2]] == [False, True]
    assert rises["postgres"].figure == pytest.approx(1.5 / 5.5 * 100)
    assert [kind for kind in CPU if rises[kind].reached is False] == ["cell", "postgres"]
    assert rises["generator"].figure == rises["control"].figure == pytest.approx(0, abs=0.01)


def test_a_neighbour_is_felt_or_not() -> None:
    """Law: the figure is the median over pairs of how much p99 rose beside the neighbour, whichever came first in a pair."""
    scenario = altered(SCENARIOS["noisy"], None, None, 4)
    takes = list(scenario.takes())
    assert [take.label for take in takes[:4]] == ["alone", "beside", "beside", "alone"]
    factors = iter((1.1, 1.3, 1.0, 1.15, 9.0))
    runs = [run_of(take, steadily(0.02 * (next(factors) if take.label == "beside" else 1.0))) for take in takes]
    found, victims = rows_of(scenario, runs)
    assert (victims.figure, victims.reached) == (0, True)
    assert found.figure == pytest.approx(15, abs=0.5)
    assert found.spread == pytest.approx((0, 800), abs=5)
    assert found.reached is True


@pytest.mark.parametrize("name", ["throughput", "half", "climb", "single", "growth", "noisy", "catchup"])
def test_what_is_not_served_is_said(name: str) -> None:
    """Law: a latency is of what was acknowledged alone, so each scenario says besides what was not; of a neighbour nobody asks."""
    scenario = altered(SCENARIOS[name], 1_000, 10, 4)
    takes = list(scenario.takes())
    runs = [run_of(take) for take in takes]
    assert row(rows_of(scenario, runs), "not acknowledged").figure == 0
    half = run_of(takes[-1], refused=lambda due: int(due * 1e6) % 2 == 0)
    found = row(rows_of(scenario, [*runs[:-1], half]), "not acknowledged")
    assert found.figure == pytest.approx(50, abs=8)
    assert found.reached is (None if name in ("throughput", "single") else False)
    ours = [stream == 0 for stream in runs[-1].samples.stream]
    others = array("d", [at if mine else math.nan for at, mine in zip(runs[-1].samples.acknowledged, ours, strict=True)])
    spared = replace(runs[-1], samples=replace(runs[-1].samples, acknowledged=others))
    assert row(rows_of(scenario, [*runs[:-1], spared]), "not acknowledged").figure == 0


def test_times_are_merged_into_medians() -> None:
    """Law: of several times the median with the lowest and the highest; reached when every one of them was."""
    times = [played("half", with_latency(steadily(seconds)), rate=1_000, seconds=8) for seconds in (0.1, 0.7, 0.2)]
    found = row(merged(times), "p99")
    assert found.figure == pytest.approx(200, rel=0.02)
    assert found.spread == pytest.approx((100, 700), rel=0.02)
    assert found.reached is False
    assert merged(times[:1]) == times[0]


def overloaded(late: Latency, refused: Callable[[float], bool]) -> list[Row]:
    """Twice the rate from second 5 to 15 of 20."""
    return played("overload", lambda run: run_of(run.take, late, refused), rate=2_000, batch=10)


def test_overload_sheds_and_recovers() -> None:
    """Law: what is accepted stays quick, what is refused is a share, and normal is when neither refusals nor lateness are left."""
    rows = overloaded(steadily(0.2), lambda due: 5 <= due < 17 and int(due * 1_000) % 2 == 0)
    assert row(rows, "p99 to queryable").reached is True
    assert row(rows, "back to normal").figure == 2
    assert 20 < row(rows, "refused").figure < 60
    assert row(rows, "not with 429").reached is True
    dead = played("overload", lambda run: run_of(run.take, refused=lambda due: 6 <= due < 7, code="CELL_UNAVAILABLE"), rate=1_000)
    assert row(dead, "not with 429").figure == row(dead, "refused").figure > 0
    assert row(dead, "not with 429").reached is False
    few = overloaded(lambda due: 1.5 if 5 <= due < 15 and int(due * 1_000) % 80 == 0 else 0.05, lambda _: False)
    assert row(few, "p99 to queryable").reached is False, "the calm before and after does not thin it out"
    elsewhere = overloaded(lambda due: 0.05 if 5 <= due < 15 else 1.5, lambda _: False)
    assert row(elsewhere, "p99 to queryable").figure == pytest.approx(50, rel=0.02)
    late = overloaded(lambda due: 1.5 if 5 <= due < 15 else 0.8 if due < 17.5 else 0.1, lambda _: False)
    assert row(late, "p99 to queryable").reached is False
    assert row(late, "back to normal").figure == 3
    never = overloaded(lambda due: 0.1 if due < 15 else 0.8, lambda _: False)
    assert row(never, "back to normal").reached is False
    assert recovery_seconds(run_of(next(altered(SCENARIOS["half"], 1_000, None, 4).takes())), 0) == 0


def test_a_backlog_is_caught_up() -> None:
    """Law: between the end of the hold and the first second that is as quick as promised, more is processed than arrives."""

    def held(times: float) -> Latency:
        """Ten times the live rate comes until second 9 and is held back; from then on so many times the live rate is processed."""

        def latency(due: float) -> float:
            before = 10 * due if due < 9 else 90 + due - 9
            return max(0.02, 9 + before / times - due)

        return latency

    rows = played("catchup", with_latency(held(30)), rate=1_000)
    assert row(rows, "behind").figure == pytest.approx(90, rel=0.02)
    assert row(rows, "caught up after").figure == pytest.approx(3.1, abs=1)
    assert row(rows, "processed").figure == pytest.approx(30, rel=0.3)
    assert row(rows, "processed").reached is True
    assert row(played("catchup", with_latency(held(300)), rate=1_000), "caught up after").figure == pytest.approx(0.3, abs=0.05)
    assert row(played("catchup", with_latency(held(6)), rate=1_000), "processed").reached is False


def test_a_catch_up_is_measured_while_it_lasts() -> None:
    """Law: p99 meanwhile is of what came until the backlog was gone, afterwards of the rest; a second of which nothing is queryable is
    none in which all is well again."""

    def late_after(due: float) -> float:
        return 9 + due / 3 - due if due < 9 else max(0.02, 12.1 - due) if due < 12.1 else 4.0 if due > 14 else 0.02

    rows = played("catchup", with_latency(late_after), rate=1_000)
    assert row(rows, "meanwhile").figure < row(rows, "afterwards").figure
    assert row(rows, "acknowledged meanwhile").figure == pytest.approx(310, rel=0.1)
    refused = played("catchup", lambda run: run_of(run.take, QUICK, lambda due: 9 <= due < 13), rate=1_000)
    assert row(refused, "caught up after").figure >= 4


def test_a_run_that_lost_something_is_void() -> None:
    """Law: the page says so, and names a machine that others used, and a run that was shorter than promised."""
    scenario = altered(SCENARIOS["half"], 1_000, None, 4)
    good = [run_of(take) for take in scenario.takes()]
    bad = [replace(run, verdict=replace(run.verdict, missing=1), spent=replace(run.spent, others_share=0.5)) for run in good]
    assert "VOID" not in said(scenario, good)
    assert "VOID: events differ; disturbed machine; short run" in said(scenario, bad)


def said(scenario: Scenario, runs: list[Run]) -> str:
    """The figures of P2 in docs/validation.md, when the runs are written where benches write."""
    one = Played(scenario, runs, rows_of(scenario, runs), "python -m bench.cell --scenario half", short=True)
    with tempfile.TemporaryDirectory() as folder:
        report.write(Path(folder) / "half.json", report.document([one]))
        page = generate.validation(Path(folder))
    return "\n".join(line for line in page.splitlines() if line.startswith("| P2 "))


def test_the_page_names_what_was_measured() -> None:
    """Law: each row of a document is a row of its promise, with protocol, target and command."""
    scenario = altered(SCENARIOS["half"], 1_000, None, 4)
    page = said(scenario, [run_of(take) for take in scenario.takes()])
    assert "| http, p50: 20 ms; short run | `python -m bench.cell --scenario half` |" in page
    assert "| http, p99: 20 ms; short run |" in page


def test_what_was_measured_nowhere_is_said() -> None:
    """Law: a figure of a run in which nothing happened is missing, not zero, and its target is missed."""
    scenario = altered(SCENARIOS["half"], 1_000, None, 4)
    runs = [run_of(take, refused=lambda _: True) for take in scenario.takes()]
    assert "http, p99: none; VOID: events differ; missed" in said(scenario, runs)


def test_a_run_tells_what_became_of_everything() -> None:
    """Law: events are counted once each: acknowledged, rejected by code, failed; and what is read again is what was written."""
    take = next(SCENARIOS["half"].takes())
    run = run_of(take, refused=lambda due: due < 1)
    run.outcomes.refusals[0] = NO_ANSWER
    told = run.json()
    requests = sum(due < 1 for due in run.samples.due)
    assert (told["failed"], told["rejected"]) == (100, {"OVERLOADED": (requests - 1) * 100})
    assert told["sent"] == requests * 100 + int(str(told["acknowledged"]))
    assert told["repeats"] == round(0.02 * run.sent) * 100
    assert told["cpu_seconds_per_million"] == CPU
    histogram = HdrHistogram.decode(told["queryable_histogram_us"])
    assert percentiles(histogram) == told["queryable_ms"]


def test_strangers_are_what_is_left_of_a_busy_machine() -> None:
    """Law: CPU that the kernel saw busy and that is not ours was others'."""
    cores = os.cpu_count() or 1
    found = spent(Usage({"cell": 1.0}, 10.0, 0.0), Usage({"cell": 3.0}, 10.0 + 5.0 * cores, 10.0))
    assert found.seconds == {"cell": 2.0}
    assert found.machine_share == pytest.approx(0.5)
    assert found.others_share == pytest.approx((5.0 * cores - 2.0) / (10.0 * cores))


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    """Law: the same runs make the same SVG, in which each run and each kind of process is named; runs without a sample do no harm."""
    scenario = altered(SCENARIOS["growth"], None, None, 4)
    runs = [run_of(take) for take in scenario.takes()]
    runs[0] = run_of(runs[0].take, refused=lambda _: True)
    for name in ("one", "two"):
        picture.draw(tmp_path / f"{name}.svg", "growth, http", runs)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert all(word in text for word in ("25,000/s, queryable p99", "latency by percentile", "envoy", "generator"))


def test_tables_are_shown() -> None:
    """Law: a run and its rows are told on a terminal, the void one in words that nobody overlooks."""
    scenario = altered(SCENARIOS["half"], 1_000, None, 4)
    run = run_of(next(scenario.takes()))
    bad = replace(run, verdict=replace(run.verdict, doubled=1))
    console = Console(width=140, record=True, file=io.StringIO())
    report.show_run(console, run)
    assert "VOID" not in console.export_text(clear=False)
    report.show_run(console, bad)
    report.show_rows(console, [Played(scenario, [bad], rows_of(scenario, [bad]), "", short=True)])
    assert console.export_text().count("VOID") == 4

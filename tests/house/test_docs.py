"""The pages say what is so: links, files, tests, commands, settings, metrics and errors exist, and generated pages are fresh."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from docs import generate
from docs.keys import MEANINGS
from docs.promises import MISSION, NUMBERS, PROMISES
from tests.house import pages, words
from tests.house.tree import ROOT

PAGES: Final = [*sorted((ROOT / "docs").rglob("*.md")), *(page for page in (ROOT / "README.md",) if page.exists())]
DECISION_PARTS: Final = ("Tension:", "**Context.**", "**Decision.**", "**Consequences.**", "**Rejected.**")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_claims_nothing_false(page: Path) -> None:
    """Law: what a page names exists."""
    assert pages.claims(page, page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_uses_our_words(page: Path) -> None:
    """Law: prose keeps to the glossary."""
    assert words.prose_findings(page.name, page.read_text()) == []


@pytest.mark.parametrize(
    ("check", "planted", "clean"),
    [
        (pages.missing_paths, "see `cells/ingest/nothing.py`", "see `cells/ingest/admit.py` and `cells/`"),
        (pages.missing_paths, "`tests/unit/test_admit.py::test_no_such`", "`tests/e2e/test_local_fleet.py`"),
        (pages.wrong_targets, "run `make nothing`", "run `make demo`"),
        (pages.wrong_commands, "```\ndataflow tenants destroy x\n```", "```\ndataflow tenants create x --zone eu\n```"),
        (pages.wrong_commands, "`dataflow up --fast`", "`dataflow up --port-base 7600`"),
        (pages.wrong_modules, "`python -m cells.nothing`", "`python -m cells.app --role all`"),
        (pages.wrong_settings, "set DATAFLOW_SPEED", "set DATAFLOW_ZONE"),
        (pages.wrong_metrics, "see dataflow_ingest_nothing_total", "see dataflow_edge_connected"),
        (pages.wrong_errors, "API-4999", "API-4001"),
    ],
)
def test_a_false_claim_is_found(check: Callable[[str], list[str]], planted: str, clean: str) -> None:
    """Law: each check can fail."""
    assert check(planted)
    assert not check(clean)


def test_a_broken_link_and_a_wrong_word_are_found() -> None:
    """Law: these two can fail as well."""
    page = ROOT / "docs" / "style.md"
    assert pages.broken_links(page, "[a](nothing.md)") == ["nothing.md"]
    assert pages.broken_links(page, "[a](glossary.md#words) [b](https://example.org)") == []
    assert words.prose_findings("x.md", "stored exactly once")
    assert not words.prose_findings("x.md", "stored effectively once, never ~~exactly once~~")


def test_generated_pages_are_fresh() -> None:
    """Law: `python -m docs.generate` would change nothing."""
    assert generate.stale() == []


def test_a_stale_page_is_found(tmp_path: Path) -> None:
    """Law: one changed letter and one missing page are found."""
    for name in generate.PAGES:
        (tmp_path / name).write_text((ROOT / "docs" / name).read_text())
    (tmp_path / "errors.md").write_text((tmp_path / "errors.md").read_text().replace("API-4001", "API-4002", 1))
    (tmp_path / "metrics.md").unlink()
    assert sorted(generate.stale(tmp_path)) == ["errors.md", "metrics.md"]


def test_every_setting_has_a_meaning() -> None:
    """Law: no field without a meaning, no meaning without a field."""
    fields = {field.name for cls in generate.settings_classes() for field in dataclasses.fields(cls)}
    assert fields == set(MEANINGS)


def test_every_promise_has_a_row() -> None:
    """Law: the list of promises is whole (the mission's fourteen, P1 to P10), its names differ, and each has a row."""
    page = (ROOT / "docs" / "validation.md").read_text()
    assert len(MISSION) == 14
    assert [promise.id for promise in NUMBERS] == [f"P{number}" for number in range(1, 11)]
    assert len({promise.id for promise in PROMISES}) == len(PROMISES)
    assert [promise.id for promise in PROMISES if f"\n| {promise.id} | " not in page] == []


def test_proofs_of_promises_exist() -> None:
    """Law: a test that a promise leans on is there."""
    for promise in PROMISES:
        for proof in promise.proof:
            assert pages.missing_paths(f"`{proof}`") == [], promise.id


def test_figures_are_read_and_strangers_refused(tmp_path: Path) -> None:
    """Law: a figure replaces "not yet measured" in its promise's row; a file that is none is named."""
    row = {"id": "single-http", "figure": 1234.5, "unit": "requests/s", "command": "python -m bench.cell", "protocol": "http"}
    row |= {"spread": [1200.0, 1300.0], "reached": False, "disturbed": True}
    (tmp_path / "one.json").write_text(json.dumps({"hardware": "2 cores", "date": "2026-11-21T10:00:00", "rows": [row]}))
    said = next(line for line in generate.validation(tmp_path).splitlines() if line.startswith("| S3 "))
    assert "http: 1,234 requests/s (1,200 to 1,300); missed; disturbed machine | `python -m bench.cell` | 2 cores | 2026-11-21 |" in said
    (tmp_path / "two.json").write_text("{}")
    with pytest.raises(ValueError, match=r"two\.json"):
        generate.validation(tmp_path)


def test_figures_name_promises() -> None:
    """Law: a figure that no promise asked for is a typo."""
    asked = {name for promise in PROMISES for name in (promise.id, *promise.measured_as)}
    assert set(generate.figures(ROOT / "docs" / "figures")) <= asked


def test_decisions_settle_a_tension() -> None:
    """Law: a decision record is one page, numbered without a gap, and names a tension of the mission and what was rejected."""
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [record.name[:4] for record in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
    for record in records:
        text = record.read_text()
        assert [part for part in DECISION_PARTS if part not in text] == [], record.name
        assert len(text.splitlines()) <= 60, record.name
        named = re.findall(r"speed|safety|cost|simplicity|flexibility|compliance|velocity|scale|performance", text.partition("\n\n**")[0])
        assert len(set(named[-2:])) == 2, record.name


def test_runbooks_have_the_same_shape() -> None:
    """Law: a runbook says what is seen, what to look at or to do, and when it is over; it names a command."""
    for page in (ROOT / "docs" / "runbooks").glob("*.md"):
        text = page.read_text()
        assert "dataflow " in text, page.name
        assert page.name == "reset.md" or "**You see.**" in text, page.name


def test_the_glossary_lists_every_banned_word() -> None:
    """Law: who meets a banned word finds the right one in the glossary."""
    page = (ROOT / "docs" / "glossary.md").read_text().lower()
    for entry in words.BANNED[:-1]:
        assert any(word in page for word in entry.words), entry.words
        assert entry.instead.split(" or ")[0].split(",")[0] in page, entry.instead


def test_every_house_test_is_on_the_style_page() -> None:
    """Law: the style page names each file of tests/house that holds rules."""
    page = (ROOT / "docs" / "style.md").read_text()
    names = {path.name for path in (ROOT / "tests" / "house").glob("test_*.py")} - {"test_style.py"}
    assert [name for name in sorted(names) if name not in page] == []


def test_every_page_is_reached_from_a_page() -> None:
    """Law: no page lies where nobody finds it."""
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if "://" not in target
    }
    lost = [
        page.relative_to(ROOT).as_posix() for page in PAGES if page.resolve() not in linked and page.name not in ("README.md", "index.md")
    ]
    assert lost == []

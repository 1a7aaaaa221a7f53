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
from tests.house.tree import ROOT, SHIPPED, files

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


def unexplained(fields: set[str]) -> set[str]:
    """Fields without a meaning, and meanings without a field."""
    return fields ^ set(MEANINGS)


def test_every_setting_has_a_meaning() -> None:
    """Law: no field without a meaning, no meaning without a field."""
    fields = {field.name for cls in generate.settings_classes() for field in dataclasses.fields(cls)}
    assert unexplained(fields) == set()
    assert unexplained(fields - {"zone"} | {"speed"}) == {"zone", "speed"}


def without_row(page: str) -> list[str]:
    """Promises that the page does not speak of."""
    return [promise.id for promise in PROMISES if f"\n| {promise.id} | " not in page]


def test_every_promise_has_a_row() -> None:
    """Law: the list of promises is whole (the mission's fourteen, P1 to P10), its names differ, and each has a row."""
    page = (ROOT / "docs" / "validation.md").read_text()
    assert len(MISSION) == 14
    assert [promise.id for promise in NUMBERS] == [f"P{number}" for number in range(1, 11)]
    assert len({promise.id for promise in PROMISES}) == len(PROMISES)
    assert without_row(page) == []
    assert without_row(page.replace("\n| P7 | ", "\n| ")) == ["P7"]


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


def wrong_decision(text: str) -> list[str]:
    """What a decision record lacks."""
    found = [part for part in DECISION_PARTS if part not in text]
    named = re.findall(r"speed|safety|cost|simplicity|flexibility|compliance|velocity|scale|performance", _tension(text))
    return found + ([] if len(set(named)) == 2 else ["two things in tension"]) + ([] if text.count("\n") <= 60 else ["one page"])


def _tension(text: str) -> str:
    return next((line for line in text.splitlines() if line.startswith("Tension:")), "")


def test_decisions_settle_a_tension() -> None:
    """Law: a decision record is one page, numbered without a gap, and names a tension of the mission and what was rejected."""
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [record.name[:4] for record in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
    assert {record.name: wrong for record in records if (wrong := wrong_decision(record.read_text()))} == {}
    text = records[0].read_text()
    assert wrong_decision(text.replace("**Rejected.**", "")) == ["**Rejected.**"]
    assert wrong_decision(text.replace("against safety", "and so on")) == ["two things in tension"]
    assert wrong_decision(text + "\n" * 60) == ["one page"]


def wrong_runbook(text: str) -> list[str]:
    """What a runbook lacks."""
    parts = {
        "what is seen": r"\*\*You see\.\*\*",
        "what to do": r"\*\*(Do|Look|What it is)\.|\| do \|",
        "a command": r"`dataflow |^dataflow ",
    }
    return [part for part, pattern in parts.items() if not re.search(pattern, text, re.MULTILINE)]


def test_runbooks_have_the_same_shape() -> None:
    """Law: a runbook says what is seen and what to look at or to do, and names a command."""
    runbooks = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
    assert {page.name: wrong for page in runbooks if (wrong := wrong_runbook(page.read_text()))} == {}
    assert wrong_runbook("Be careful.") == ["what is seen", "what to do", "a command"]


def unlisted_words(glossary: str) -> list[str]:
    """Banned words of names that the glossary does not lead anywhere."""
    page = glossary.lower()
    return [entry.words[0] for entry in words.BANNED[:-1] if not any(w in page for w in entry.words) or not _named(entry.instead, page)]


def _named(instead: str, page: str) -> bool:
    return any(word.strip() in page for word in re.split(r" or |,", instead))


def test_the_glossary_lists_every_banned_word() -> None:
    """Law: who meets a banned word finds the right one in the glossary."""
    page = (ROOT / "docs" / "glossary.md").read_text()
    assert unlisted_words(page) == []
    assert unlisted_words(page.replace("dlq", "").replace("dead-letter queue", "")) == ["dlq"]


def unnamed_tests(style: str) -> list[str]:
    """Files of tests/house that the style page does not name."""
    names = {path.name for path in (ROOT / "tests" / "house").glob("test_*.py")} - {"test_style.py"}
    return [name for name in sorted(names) if name not in style]


def test_every_house_test_is_on_the_style_page() -> None:
    """Law: the style page names each file of tests/house that holds rules."""
    page = (ROOT / "docs" / "style.md").read_text()
    assert unnamed_tests(page) == []
    assert unnamed_tests(page.replace("test_locks.py", "")) == ["test_locks.py"]


def lost_pages(texts: dict[Path, str]) -> list[str]:
    """Pages to which no page leads."""
    targets = {
        (page.parent / target.partition("#")[0]).resolve()
        for page, text in texts.items()
        for target in re.findall(r"\]\(([^)\s]+)\)", text)
        if "://" not in target
    }
    first = (ROOT / "README.md", ROOT / "docs" / "index.md")
    return [page.relative_to(ROOT).as_posix() for page in texts if page not in first and page.resolve() not in targets]


def test_every_page_is_reached_from_a_page() -> None:
    """Law: no page lies where nobody finds it."""
    texts = {page: page.read_text() for page in PAGES}
    assert lost_pages(texts) == []
    assert lost_pages({**texts, ROOT / "docs" / "planted.md": ""}) == ["docs/planted.md"]


def missing_pages(text: str) -> list[str]:
    """Pages of docs/ that a text names and that are not there."""
    return [name for name in re.findall(r"\bdocs/[\w/-]+\.md\b", text) if not (ROOT / name).exists()]


def test_code_names_pages_that_exist() -> None:
    """Law: a page that code, a contract or the Makefile leads to is there."""
    named = {
        path: found for path in files(*SHIPPED, "proto", "locks") if (found := missing_pages((ROOT / path).read_text(errors="replace")))
    }
    assert named == {}
    assert missing_pages((ROOT / "Makefile").read_text()) == []
    assert missing_pages("see docs/nothing.md and docs/errors.md") == ["docs/nothing.md"]

"""What no file of the repository may hold: paths of some machine, places of packages, switches against durability, secrets."""

from __future__ import annotations

import configparser
import re
import tomllib
from functools import cache
from typing import Any, Final

import pytest

from tests.house.exceptions import EXCUSED_TEXTS
from tests.house.tree import ROOMS, ROOT, SHIPPED, files

_TOP: Final = ("README.md", "Makefile", "pyproject.toml", "buf.yaml", ".importlinter", ".gitignore", ".gitattributes")
_TEXT: Final = (".py", ".md", ".sql", ".lua", ".yaml", ".yml", ".json", ".txt", ".in", ".proto", ".toml", ".pyi", ".sh", "Makefile", "run")
# Rule -> what it looks for, and a text that it must find. Written in pieces, so that this file does not find itself.
TEXTS: Final[dict[str, tuple[re.Pattern[str], str]]] = {
    "machine-path": (re.compile(r"(?<![\w.~>}\"'])/(?:work|root|opt|home|Users|mnt)/\w+"), "see /" + "work/main"),
    "registry": (re.compile(r"(?:index-url|registry-url|trusted-host)[ =]+\S*[:.]", re.IGNORECASE), "--index-url" + " http://10.0.0.1"),
    "private-registry": (re.compile(r"https?://[\w.:-]+/(?:root/pypi|simple|pypi/simple|repository)\b"), "http:/" + "/10.1.2.3/simple"),
    "unlogged": (re.compile(r"\bUNLOGGED" + r"\s+TABLE\b", re.IGNORECASE), "CREATE UNLOGGED" + " TABLE x"),
    "undurable": (re.compile(r"\b(?:fsync|synchronous_commit|full_page_writes)" + r"\s*=\s*'?(?:off|false)", re.I), "fsync" + " = off"),
    "private-key": (re.compile("-----BEGIN " + r"[A-Z ]*PRIVATE KEY"), "-----BEGIN " + "PRIVATE KEY-----"),
    "write-key": (re.compile(r"\b[wr]k_[a-z]{2}_[A-Za-z0-9_-]{43}_[0-9a-f]{6}\b"), "wk_eu_" + "A" * 43 + "_" + "0" * 6),
    "session-tool": (re.compile(r"\bfarm-" + r"\w+|\bissues " + r"(?:show|list|close)\b"), "`issues" + " show 2`"),
    "conflict-mark": (re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE), "<" * 7 + " HEAD"),
}


@cache
def _texts() -> dict[str, str]:
    """Every text file of the repository by its path."""
    found = [*files(*ROOMS, "proto", "locks", ".ci"), *(name for name in _TOP if (ROOT / name).exists())]
    return {path: (ROOT / path).read_text(errors="replace") for path in found if path.endswith(_TEXT) or path in _TOP}


@pytest.mark.parametrize("name", TEXTS)
def test_no_file_holds_it(name: str) -> None:
    """Law: the repository can be cloned anywhere, by anybody, and tells no secret."""
    pattern, _ = TEXTS[name]
    found = {path: hit[0] for path, text in _texts().items() if (hit := pattern.search(text)) and path != "tests/house/test_texts.py"}
    excused = EXCUSED_TEXTS.get(name, {})
    assert {path: hit for path, hit in found.items() if path not in excused} == {}
    assert set(excused) <= set(found), "an excuse for what is not there any more"


@pytest.mark.parametrize("name", TEXTS)
def test_a_planted_one_is_found(name: str) -> None:
    """Law: each search can fail."""
    pattern, planted = TEXTS[name]
    assert pattern.search(planted)
    assert not pattern.search("a harmless line about /v1/track and https://eu.ingest.dataflow.example")


def unknown_rooms(project: dict[str, Any], linted: set[str]) -> set[str]:
    """Rooms that ship and are missing in a list of pyproject.toml or in .importlinter."""
    tools = project["tool"]
    packaged = {name.removesuffix("*") for name in tools["setuptools"]["packages"]["find"]["include"]}
    lists = (packaged, set(tools["mypy"]["packages"]), set(tools["coverage"]["run"]["source"]), linted)
    return {room for room in SHIPPED if not all(room in known for known in lists)}


def test_every_room_is_typed_shipped_and_known() -> None:
    """Law: a room that ships is in the package list, in mypy's, in coverage and in import-linter's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / ".importlinter")
    linted = set(parsed["importlinter"]["root_packages"].split())
    assert unknown_rooms(project, linted) == set()
    assert unknown_rooms(project, linted - {"chaos"}) == {"chaos"}
    project["tool"]["coverage"]["run"]["source"].remove("slo")
    assert unknown_rooms(project, linted) == {"slo"}


def strange_rooms(folders: set[str], page: str) -> set[str]:
    """Folders at the top that are no room of the plan, and rooms that the page does not speak of."""
    known = {*ROOMS, "proto", "locks"}
    built = {name for name in folders if name.endswith(".egg-info")} | {"build", "__pycache__", "dist"}
    return (folders - built - known) | {room for room in known if f"`{room}/`" not in page}


def test_top_level_holds_the_rooms_of_the_plan() -> None:
    """Law: no new room without a reason written down in docs/architecture.md."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert strange_rooms(folders, page) == set()
    assert strange_rooms({*folders, "misc"}, page.replace("`slo/`", "")) == {"misc", "slo"}


def not_by_make(script: str) -> list[str]:
    """Steps of the CI script that run something else than a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text()
    steps = re.findall(r"^step \S+ (.+)$", script, re.MULTILINE)
    return [step for step in steps if not (step.startswith("make ") and re.search(rf"^{step.split()[1]}:", makefile, re.MULTILINE))]


def test_ci_runs_what_a_person_runs() -> None:
    """Law: every step of CI is a target of the Makefile, so that a red step is repeated by typing it."""
    script = (ROOT / ".ci" / "run").read_text()
    assert "\nstep " in script
    assert not_by_make(script) == []
    assert not_by_make("step a pytest tests\nstep b make nothing\nstep c make demo\n") == ["pytest tests", "make nothing"]

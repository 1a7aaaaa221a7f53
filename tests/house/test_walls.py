"""The walls between rooms: every contract of .importlinter holds, and every one falls when its violation is planted."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from tests.house.drivers import DRIVERS, WIRE
from tests.house.places import JUDGED, PLACES, place_of
from tests.house.tree import ROOT, SHIPPED, files, imports_of, modules

# Contract -> the file that breaks it, and what that file says.
PLANTED: Final = {
    "kernel-is-the-ground": ("kernel/planted.py", "import cli.errors"),
    "router-and-cells": ("router/planted.py", "import cells.answers"),
    "services": ("cells/ingest/planted.py", "import cells.storage.store"),
    "cell-floors": ("cells/eventlog/planted.py", "import cells.server"),
    "router-floors": ("router/placement/planted.py", "import router.xds.ir"),
    "impure-shelf": ("cells/storage/planted.py", "import kernel.process.logs"),
    "nobody-imports-tests": ("cli/planted.py", "import tests.support.clock"),
    "over-the-wire": ("chaos/planted.py", "import cells.answers"),
    "declarations": ("gitops/planted.py", "import cli.errors"),
}


def _contracts() -> dict[str, str]:
    """Name in words by the contract's id."""
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / ".importlinter")
    prefix = "importlinter:contract:"
    return {section.removeprefix(prefix): parsed[section]["name"] for section in parsed.sections() if section.startswith(prefix)}


def _lint(folder: Path) -> str:
    """What import-linter says of the tree in `folder`."""
    environ = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200", "NO_COLOR": "1"}
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program, "--no-cache"], cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_every_wall_stands() -> None:
    """Law: house.md's walls, as .importlinter says them."""
    said = _lint(ROOT)
    for name in _contracts().values():
        assert f"{name} KEPT" in said, said


def test_every_wall_can_fall(tmp_path: Path) -> None:
    """Law: each contract is broken by its planted import, in a copy of the tree; a contract without one is not trusted."""
    contracts = _contracts()
    assert set(contracts) == set(PLANTED)
    for path in files(*SHIPPED, "docs", "tests"):
        if path.endswith(".py"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, tmp_path / path)
    shutil.copy(ROOT / ".importlinter", tmp_path)
    for path, text in PLANTED.values():
        (tmp_path / path).write_text(text + "\n")
    said = _lint(tmp_path)
    for name in contracts.values():
        assert f"{name} BROKEN" in said, said


def bare_folders(paths: Sequence[str]) -> set[str]:
    """Folders of code without an `__init__.py`."""
    folders = {path.rpartition("/")[0] for path in paths if path.endswith(".py")}
    return {folder for folder in folders if f"{folder}/__init__.py" not in paths}


def test_every_package_is_a_package() -> None:
    """Law: a folder of code without `__init__.py` is invisible to the walls."""
    paths = files(*SHIPPED, "tests")
    assert bare_folders(paths) == set()
    assert bare_folders([*paths, "cells/planted/x.py"]) == {"cells/planted"}


def unneeded(patterns: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Patterns that fit no path."""
    there = list(paths)
    return [pattern for pattern in patterns if not any(fnmatch(path, pattern) for path in there)]


def test_every_exception_from_being_a_core_is_used() -> None:
    """Law: a pattern that makes files more than a core fits at least one file; what no pattern fits is a core."""
    paths = [module.path for module in modules(*JUDGED)]
    assert unneeded((pattern for pattern, _ in PLACES), paths) == []
    assert unneeded(("cells/app.py", "cells/nothing.py"), paths) == ["cells/nothing.py"]
    assert place_of("cells/ingest/admit.py") == place_of("router/placement/decide.py") == "core"
    assert place_of("cells/ingest/a_new_file.py") == "core"
    assert place_of("cells/ingest/accept.py") == "shell"


def test_every_place_of_a_driver_is_used() -> None:
    """Law: a permission to import a driver or a wire type is needed by a file that stands, but for the drivers that come later."""
    roots = {module.path: {name.split(".")[0] for _, name in imports_of(module)} for module in modules(*SHIPPED)}
    for library, places in DRIVERS.items():
        users = [path for path, found in roots.items() if library in found]
        assert library == "aiokafka" or unneeded(places, users) == [], library
    assert unneeded(WIRE, [path for path, found in roots.items() if {"dataflow", "google"} & found]) == []

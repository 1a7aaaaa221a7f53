"""The walls between rooms: every contract of .importlinter holds, and every one falls when its violation is planted."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
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


def test_every_package_is_a_package() -> None:
    """Law: a folder of code without `__init__.py` is invisible to the walls."""
    folders = {path.rpartition("/")[0] for path in files(*SHIPPED, "tests") if path.endswith(".py")}
    missing = {folder for folder in folders if not (ROOT / folder / "__init__.py").exists()}
    assert not missing


def test_every_exception_from_being_a_core_is_used() -> None:
    """Law: a pattern that makes files more than a core fits at least one file, and no file is made more by two lists."""
    paths = [module.path for module in modules(*JUDGED)]
    unused = [pattern for pattern, _ in PLACES if not any(fnmatch(path, pattern) for path in paths)]
    assert not unused
    assert place_of("cells/ingest/admit.py") == place_of("router/placement/decide.py") == "core"
    assert place_of("cells/ingest/a_new_file.py") == "core"
    assert place_of("cells/ingest/accept.py") == "shell"


def test_every_place_of_a_driver_is_used() -> None:
    """Law: a permission to import a driver or a wire type is needed by a file that stands, but for the drivers that come later."""
    shipped = [(module.path, {name.split(".")[0] for _, name in imports_of(module)}) for module in modules(*SHIPPED)]
    for library, places in DRIVERS.items():
        if library == "aiokafka":
            continue
        for pattern in places:
            assert any(library in roots and fnmatch(path, pattern) for path, roots in shipped), f"{library} in {pattern}"
    for pattern in WIRE:
        assert any({"dataflow", "google"} & roots and fnmatch(path, pattern) for path, roots in shipped), pattern

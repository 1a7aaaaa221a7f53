"""The previous version's code."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

# The last version whose store kept each event's text in a row of its own, and whose records know no columns.
PREVIOUS = "c3e14c9"
# The last version that knows of no standby.
BEFORE_STANDBYS = "929939e"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="package")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous version's code, out of the history."""
    return _code_of(PREVIOUS, tmp_path_factory.mktemp("previous"))


@pytest.fixture(scope="package")
def before_standbys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of before there were standbys."""
    return _code_of(BEFORE_STANDBYS, tmp_path_factory.mktemp("before-standbys"))


def _code_of(commit: str, folder: Path) -> Path:
    found = subprocess.run(["git", "archive", commit, "cells", "kernel", "router", "proto/gen"], cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        pytest.fail(f"the history has no commit {commit}, so no upgrade from it can be tested: fetch all of it ({found.stderr.decode()})")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder

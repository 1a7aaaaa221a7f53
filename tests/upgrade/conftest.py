"""The previous version's code."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

# The last version whose store kept each event's text in a row of its own, and whose records know no columns.
PREVIOUS = "c3e14c9"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="package")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The previous version's code, out of the history."""
    folder = tmp_path_factory.mktemp("previous")
    found = subprocess.run(
        ["git", "archive", PREVIOUS, "cells", "kernel", "router", "proto/gen"], cwd=ROOT, capture_output=True, check=False
    )
    if found.returncode:
        pytest.fail(f"the history has no commit {PREVIOUS}, so no upgrade from it can be tested: fetch all of it ({found.stderr.decode()})")
    with tarfile.open(fileobj=io.BytesIO(found.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder

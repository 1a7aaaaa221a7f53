"""The contracts in proto/: generated code is what the .proto files say, they are well formed, and no client is broken.

`proto/image.binpb` is the contract that landed last. A change that adds is free. To renew the image after one has landed:
`cd` to the root, `.venv/bin/buf build -o proto/image.binpb`, and commit it with the change. A change that breaks is refused for
12 months (promise API compatibility): add a new package version instead.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.house.tree import ROOT

BIN: Final = Path(sys.executable).parent
IMAGE: Final = ROOT / "proto" / "image.binpb"
SOURCES: Final = tuple(sorted(path.relative_to(ROOT / "proto").as_posix() for path in (ROOT / "proto" / "dataflow").rglob("*.proto")))


def _generate(proto: Path, out: Path) -> None:
    """As `make generate` does it."""
    plugins = [f"--plugin=protoc-gen-{name}={BIN / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    outs = [f"--python_out={out}", f"--grpc_python_out={out}", f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet:{out}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *plugins, *outs, *SOURCES], cwd=proto, check=True, timeout=60)
    for folder in {path.parent for path in out.rglob("*.py")}:
        while folder != out:
            (folder / "__init__.py").touch()
            folder = folder.parent


def _differences(one: Path, other: Path) -> Iterator[str]:
    found = filecmp.dircmp(one, other, ignore=["__pycache__"])
    yield from (str(one / name) for name in (*found.left_only, *found.right_only))
    for name in found.common_files:
        if (one / name).read_bytes() != (other / name).read_bytes():
            yield str(one / name)
    for name in found.common_dirs:
        yield from _differences(one / name, other / name)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated anew."""
    out = tmp_path_factory.mktemp("gen")
    _generate(ROOT / "proto", out)
    return out


def test_generated_code_is_what_the_contracts_say(fresh: Path) -> None:
    """Law: `make generate` would change nothing."""
    assert list(_differences(fresh, ROOT / "proto" / "gen")) == []


def test_a_hand_edit_of_generated_code_is_found(fresh: Path, tmp_path: Path) -> None:
    """Law: one changed, one missing and one invented file are three differences."""
    edited = tmp_path / "gen"
    shutil.copytree(fresh, edited)
    (edited / "dataflow" / "ingest" / "v1" / "ingest_pb2.py").write_text("# edited\n")
    (edited / "dataflow" / "types" / "v1" / "event_pb2.pyi").unlink()
    (edited / "dataflow" / "invented_pb2.py").touch()
    assert len(list(_differences(fresh, edited))) == 3


def test_gen_holds_no_hand_written_file() -> None:
    """Law: below proto/gen there is generated code and empty `__init__.py` files."""
    kept = [path for path in (ROOT / "proto" / "gen").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert all("_pb2" in path.name or (path.name == "__init__.py" and not path.read_text()) for path in kept)


def _buf(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / "buf", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The contracts, to be changed."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "proto" / "dataflow", tmp_path / "proto" / "dataflow")
    return tmp_path


def test_contracts_are_documented_and_well_formed() -> None:
    """Law: `buf lint`: every message, field, call and value has a comment, and names follow one style."""
    done = _buf("lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_undocumented_field_is_found(copy: Path) -> None:
    """Law: the lint can fail."""
    path = copy / "proto" / "dataflow" / "types" / "v1" / "event.proto"
    path.write_text(path.read_text() + "\nmessage Planted {\n  string BadName = 1;\n}\n")
    said = _buf("lint", folder=copy).stdout
    assert "Planted" in said
    assert "BadName" in said


def test_no_client_is_broken() -> None:
    """Law: the contracts only add to what landed last. The module's docstring says how the image is renewed."""
    done = _buf("breaking", "--against", str(IMAGE))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_removed_field_is_found(copy: Path) -> None:
    """Law: the comparison can fail: a field that is gone breaks clients."""
    path = copy / "proto" / "dataflow" / "types" / "v1" / "event.proto"
    lines = path.read_text().splitlines()
    victim = next(number for number, line in enumerate(lines) if line.strip().endswith("= 1;"))
    path.write_text("\n".join(lines[:victim] + lines[victim + 1 :]))
    assert _buf("breaking", "--against", str(IMAGE), folder=copy).returncode != 0

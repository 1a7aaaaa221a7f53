"""The state directory of one fleet: who runs it, its port map, what its processes do, and its secrets."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.errors import Unable
from cli.local.layout import Log
from cli.local.supervisor import Status


def default_folder() -> Path:
    """`/var/lib/dataflow` for root, else `~/.local/state/dataflow`."""
    return Path("/var/lib/dataflow") if os.geteuid() == 0 else Path.home() / ".local" / "state" / "dataflow"


@dataclass(frozen=True)
class Started:
    """What was last started in a state directory. `postgres_url` is "" with PostgreSQL servers of our own."""

    port_base: int
    cells: tuple[str, ...]
    postgres_url: str
    log: Log
    brokers: int
    sites: bool


class StateFolder:
    """One fleet's files. `lock`'s holder is the only one who writes, secrets of the command line apart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def acquire(self) -> None:
        """Makes the folder and takes its lock until `release` or death. Raises Unable when a fleet runs here, with its pid."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if os.geteuid() == 0:
                self.path.chmod(0o711)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Unable(f"the state directory {self.path} cannot be used: {error.strerror}", "choose another with --state") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise Unable(
                f"a fleet already runs in {self.path} (pid {self.holder() or 'unknown'})",
                f"stop it with `dataflow down --state {self.path}`, or start another with --state and --port-base",
            ) from error
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        self._lock = lock

    def release(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None

    def holder(self) -> int | None:
        """The pid of the supervisor that runs here, None when nobody does."""
        try:
            lock = os.open(self.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(lock, 32).decode()
            return int(text) if text.isdigit() else None
        finally:
            os.close(lock)
        return None

    def write_ports(
        self,
        ports: Mapping[str, int],
        cells: tuple[str, ...],
        port_base: int,
        postgres_url: str = "",
        log: Log = "postgres",
        brokers: int = 1,
        sites: bool = False,
    ) -> None:
        """`ports.json`: the port map, and what was started."""
        if postgres_url:
            path = self.path / "postgres-url"
            path.touch(mode=0o600)
            path.write_text(postgres_url)
        else:
            (self.path / "postgres-url").unlink(missing_ok=True)
        shape = {"port_base": port_base, "cells": cells, "log": log, "brokers": brokers, "sites": sites}
        self._write("ports.json", {**shape, "ports": dict(ports)})

    def started(self) -> Started:
        """The fleet last started here. Raises Unable when there was none."""
        found = self._read("ports.json")
        url = self.path / "postgres-url"
        return Started(
            int(found["port_base"]),
            tuple(found["cells"]),
            url.read_text() if url.exists() else "",
            found.get("log", "postgres"),
            int(found.get("brokers", 1)),
            bool(found.get("sites", False)),
        )

    def check_sites(self, sites: bool) -> None:
        """Raises Unable when the fleet here keeps its directories elsewhere: they would not be found."""
        if (self.path / "ports.json").exists() and self.started().sites != sites:
            there, wanted = ("at several sites", "in one process") if self.started().sites else ("in one process", "at several sites")
            raise Unable(
                f"the fleet in {self.path} keeps its directories {there}, not {wanted}",
                "start it as it was, choose another --state, or remove its data with `dataflow reset`",
            )

    def check_log(self, log: Log, brokers: int) -> None:
        """Raises Unable when the fleet here keeps its events in another kind of log: they would not be found."""
        if not (self.path / "ports.json").exists():
            return
        had = self.started()
        if (had.log, had.brokers) != (log, brokers):
            there, wanted = (
                f"{kind}{f' ({count} brokers a cell)' if count > 1 else ''}" for kind, count in ((had.log, had.brokers), (log, brokers))
            )
            raise Unable(
                f"the fleet in {self.path} keeps its events in {there}, not in {wanted}",
                f"start it with `--log {had.log}`, choose another --state, or remove its data with `dataflow reset`",
            )

    def write_processes(self, statuses: Mapping[str, Status]) -> None:
        """`processes.json`, after every change."""
        self._write("processes.json", [asdict(status) for status in statuses.values()])

    def processes(self) -> list[Status]:
        """What the supervisor last wrote. Raises Unable when there was none."""
        return [Status(**row) for row in self._read("processes.json")]

    def secret(self, zone: str, name: str) -> str:
        """A random secret of a zone, 43 base64url characters, made when first asked for; its file is readable by us alone."""
        return self.keep(zone, name, lambda: secrets.token_urlsafe(32))

    def signing_key(self, zone: str) -> str:
        """The zone's Ed25519 private key, 64 hex digits."""
        return self.keep(zone, "signing-key", lambda: Ed25519PrivateKey.generate().private_bytes_raw().hex())

    def has(self, zone: str, name: str) -> bool:
        """Whether the secret exists."""
        return (self.path / "zones" / zone / "secrets" / name).exists()

    def keep(self, zone: str, name: str, make: Callable[[], str]) -> str:
        """The secret `name`; `make()` is called and its answer stored when there is none. Two callers at once get one value."""
        folder = self.path / "zones" / zone / "secrets"
        path = folder / name
        if not path.exists():
            self._folder_for_secrets(folder)
            fresh = folder / f".{name}.{os.getpid()}.{secrets.token_hex(4)}"
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(make())
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return path.read_text()

    def _folder_for_secrets(self, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)

    def _write(self, name: str, content: object) -> None:
        fresh = self.path / f".{name}.new"
        fresh.write_text(json.dumps(content, indent=1))
        fresh.replace(self.path / name)

    def _read(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError as error:
            raise Unable(f"no fleet was ever started in {self.path}", "start one with `dataflow up`") from error

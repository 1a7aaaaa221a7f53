"""The state directory of one fleet: who runs it, its port map, what its processes do, and its secrets."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cli.errors import Unable
from cli.local.supervisor import Status

_PORT_PATIENCE_SECONDS: Final = 3.0


def default_folder() -> Path:
    """`/var/lib/dataflow` for root, else `~/.local/state/dataflow`."""
    return Path("/var/lib/dataflow") if os.geteuid() == 0 else Path.home() / ".local" / "state" / "dataflow"


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
                "stop it with `dataflow down`, or start another with --state and --port-base",
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

    def write_ports(self, ports: Mapping[str, int], cells: tuple[str, ...], port_base: int, postgres_url: str = "") -> None:
        """`ports.json`: the port map, and what was started."""
        if postgres_url:
            path = self.path / "postgres-url"
            path.touch(mode=0o600)
            path.write_text(postgres_url)
        else:
            (self.path / "postgres-url").unlink(missing_ok=True)
        self._write("ports.json", {"port_base": port_base, "cells": cells, "ports": dict(ports)})

    def started(self) -> tuple[int, tuple[str, ...], str]:
        """(port base, cell names, URL of a foreign PostgreSQL or "") of the fleet last started here. Raises Unable when there was none."""
        found = self._read("ports.json")
        url = self.path / "postgres-url"
        return int(found["port_base"]), tuple(found["cells"]), url.read_text() if url.exists() else ""

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


async def check_ports(ports: Mapping[str, int], patience_seconds: float = _PORT_PATIENCE_SECONDS) -> None:
    """Raises Unable naming the first taken port, its purpose and who holds it. Waits a little: a fleet may be just going down."""
    deadline = time.monotonic() + patience_seconds
    while True:
        taken = next(((name, port) for name, port in ports.items() if not _is_free(port)), None)
        if taken is None:
            return
        if time.monotonic() > deadline:
            raise Unable(f"port {taken[1]} ({taken[0]}) is taken{_by_whom(taken[1])}", "stop that, or choose others with --port-base")
        await asyncio.sleep(0.1)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise Unable(f"port {port} cannot be used: {error.strerror}", "choose others with --port-base") from error
        return True


def _by_whom(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""

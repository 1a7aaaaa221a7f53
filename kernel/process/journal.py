"""`kernel.journal.Journal` as a file: length-prefixed entries, fsynced, each verified with Ed25519 when it is read."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kernel.journal import Signed

_HEAD = struct.Struct(">II")
_ENTRY_BYTES_MAX = 256 * 1024 * 1024


class Signer:
    """The directory's side: signs updates with the zone's private key."""

    def __init__(self, private_key: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(private_key)

    def sign(self, update: bytes) -> Signed:
        """The update with its signature."""
        return Signed(update, self._key.sign(update))

    @property
    def public_key(self) -> bytes:
        """32 bytes that followers verify with."""
        return self._key.public_key().public_bytes_raw()


class FileJournal:
    """One file per follower. A torn last entry (a crash or a full disk in mid-append) is cut off; so is everything after a forged one."""

    def __init__(self, path: Path, public_key: bytes) -> None:
        self._path = path
        self._key = Ed25519PublicKey.from_public_bytes(public_key)
        self._end: int | None = None  # of the last good entry, once the file was read or written

    def verify(self, signed: Signed) -> bool:
        """Whether the zone's directory signed this."""
        try:
            self._key.verify(signed.signature, signed.update)
        except InvalidSignature:
            return False
        return True

    def load(self) -> list[Signed]:
        """The valid prefix of the file. What follows it is cut off by the next append, so that it is reachable."""
        entries: list[Signed] = []
        self._end = 0
        for signed, stop in _entries(self._path.read_bytes() if self._path.exists() else b""):
            if not self.verify(signed):
                break
            entries.append(signed)
            self._end = stop
        return entries

    def restart(self, whole: Signed) -> None:
        """Written beside the file, synced, then renamed over it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        try:
            with fresh.open("wb", buffering=0) as file:
                end = _write(file, whole)
            fresh.replace(self._path)
        except OSError:
            fresh.unlink(missing_ok=True)  # a full disk needs the room
            raise
        self._end = end
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def append(self, change: Signed) -> None:
        """Synced before it returns; what does not fit is taken back."""
        if self._end is None:
            self.load()
        with self._path.open("ab", buffering=0) as file:
            file.truncate(self._end)
            try:
                self._end = _write(file, change)
            except OSError:
                file.truncate(self._end)
                raise


def _write(file: FileIO, signed: Signed) -> int:
    """Where the file ends then. Unbuffered: what failed must not be written once more when the file is closed."""
    left = memoryview(_HEAD.pack(len(signed.signature), len(signed.update)) + signed.signature + signed.update)
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())
    return file.tell()


def _entries(data: bytes) -> Iterator[tuple[Signed, int]]:
    at = 0
    while at + _HEAD.size <= len(data):
        signature_size, update_size = _HEAD.unpack_from(data, at)
        start = at + _HEAD.size
        stop = start + signature_size + update_size
        if update_size > _ENTRY_BYTES_MAX or stop > len(data):
            return
        yield Signed(data[start + signature_size : stop], data[start : start + signature_size]), stop
        at = stop

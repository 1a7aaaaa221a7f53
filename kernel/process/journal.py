"""`kernel.journal.Journal` as a file: length-prefixed entries, fsynced, each verified with Ed25519 when it is read."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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
    """One file per follower. A torn last entry (a crash in mid-append) is cut off; so is everything after a forged one."""

    def __init__(self, path: Path, public_key: bytes) -> None:
        self._path = path
        self._key = Ed25519PublicKey.from_public_bytes(public_key)

    def verify(self, signed: Signed) -> bool:
        """Whether the zone's directory signed this."""
        try:
            self._key.verify(signed.signature, signed.update)
        except InvalidSignature:
            return False
        return True

    def load(self) -> list[Signed]:
        """The valid prefix of the file. What follows it is cut off, so that later appends are reachable."""
        if not self._path.exists():
            return []
        data = self._path.read_bytes()
        entries: list[Signed] = []
        end = 0
        for signed, stop in _entries(data):
            if not self.verify(signed):
                break
            entries.append(signed)
            end = stop
        if end < len(data):
            os.truncate(self._path, end)
        return entries

    def restart(self, whole: Signed) -> None:
        """Written beside the file, synced, then renamed over it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        with fresh.open("wb") as file:
            _write(file, whole)
        fresh.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def append(self, change: Signed) -> None:
        """Synced before it returns."""
        with self._path.open("ab") as file:
            _write(file, change)


def _write(file: BinaryIO, signed: Signed) -> None:
    file.write(_HEAD.pack(len(signed.signature), len(signed.update)) + signed.signature + signed.update)
    file.flush()
    os.fsync(file.fileno())


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

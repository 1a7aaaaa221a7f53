"""`peers.Ballots` in a file: the whole disk of a witness."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from kernel.errors import Failure, Reason
from router.placement.entry import Ballot


class BallotFile:
    """Written anew each time, beside the old one, and on the disk before it takes its name. Raises Failure(STORE_UNAVAILABLE) for a file
    that cannot be read: who does not know what it has promised promises nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = self._read()
        self._writing: asyncio.Future[None] | None = None

    async def ballot(self) -> Ballot:
        """See the port."""
        await self._wait_until_written()
        return self._kept

    async def promise(self, ballot: Ballot) -> None:
        """See the port. It goes on when it is not waited for any more."""
        await self._wait_until_written()
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._write, ballot))
        try:
            await asyncio.shield(self._writing)
        except OSError as error:
            raise Failure(Reason.STORE_UNAVAILABLE, f"{self._path}: {error.strerror}") from error

    async def _wait_until_written(self) -> None:
        if self._writing is not None and not self._writing.done():
            await asyncio.wait((self._writing,))

    def _read(self) -> Ballot:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Ballot)
        except FileNotFoundError:
            return Ballot()
        except (OSError, msgspec.MsgspecError) as error:
            raise Failure(Reason.STORE_UNAVAILABLE, f"{self._path}: {error}") from error

    def _write(self, ballot: Ballot) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode(ballot))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._kept = ballot

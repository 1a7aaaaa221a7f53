"""Writes the audit chain of one process: readings queue up, one writer commits them in groups, callers wait for their own.

A process that starts continues from the last entry that is durable. When an append's answer is lost, or another process wrote
the same chain, the writer reads the head again and links anew, so an entry may stand twice but never be missing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from cells.storage import metrics
from cells.storage.audit import AuditTrail, Reading
from kernel.chain import BEGINNING, Head, Verdict, link, verify
from kernel.errors import Failure, Reason
from kernel.limits import AUDIT_QUEUE_MAX
from kernel.metrics import Meter

_GROUP_MAX: Final = 256
_RACES_MAX: Final = 10
_VERIFY_PAGE: Final = 1_000


@dataclass(slots=True)
class _Waiting:
    reading: Reading
    done: asyncio.Future[None]


class Auditor:
    """See the module's docstring. Call `start` once, `close` at the end. `chain` names the process, e.g. its cell."""

    def __init__(self, trail: AuditTrail, chain: str, meter: Meter) -> None:
        self.head: Head | None = None
        self._trail = trail
        self._chain = chain
        self._meter = meter
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(AUDIT_QUEUE_MAX)
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the writer; it needs no database yet."""
        self._writer = asyncio.create_task(self._write(), name="audit")

    async def supervise(self) -> None:
        """Runs as long as the writer does; raises what ended it, which is a defect."""
        if self._writer is not None:
            await asyncio.wait((self._writer,))
            self._writer.result()

    async def close(self) -> None:
        """Ends the writer; readings that still wait fail. Idempotent."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
            self._writer = None
        while not self._queue.empty():
            _fail([self._queue.get_nowait()], Failure(Reason.DRAINING))

    async def record(self, reading: Reading) -> None:
        """Returns when the reading is durable in the chain. Raises Failure: OVERLOADED, STORE_UNAVAILABLE or DRAINING."""
        if self._writer is None or self._writer.done():
            raise Failure(Reason.DRAINING)
        waiting = _Waiting(reading, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise Failure(Reason.OVERLOADED, "the audit log is behind") from None
        await waiting.done

    async def _write(self) -> None:
        while True:
            group = [await self._queue.get()]
            while len(group) < _GROUP_MAX and not self._queue.empty():
                group.append(self._queue.get_nowait())
            try:
                await self._commit([waiting.reading for waiting in group])
            except Failure as failure:
                self.head = None
                _fail(group, failure)
            except asyncio.CancelledError:
                _fail(group, Failure(Reason.DRAINING))
                raise
            else:
                self._meter.add(metrics.AUDIT_ENTRIES, len(group))
                for waiting in group:
                    if not waiting.done.done():
                        waiting.done.set_result(None)

    async def _commit(self, readings: list[Reading]) -> None:
        for _ in range(_RACES_MAX):
            if self.head is None:
                self.head = await self._trail.head(self._chain)
            entries = link(self.head, readings)
            if await self._trail.append(self._chain, entries):
                self.head = Head(entries[-1].seq, entries[-1].hash)
                return
            self.head = None
        raise Failure(Reason.STORE_UNAVAILABLE, "too many writers of one audit chain")


def _fail(group: list[_Waiting], failure: Failure) -> None:
    for waiting in group:
        if not waiting.done.done():
            waiting.done.set_exception(failure)


async def verify_chain(trail: AuditTrail, chain: str, printed: tuple[Head, ...] = ()) -> Verdict:
    """Checks a whole chain, a page at a time, against its own hashes and the heads printed earlier."""
    verdict = Verdict(BEGINNING)
    while entries := await trail.read(chain, verdict.head.seq, _VERIFY_PAGE):
        here = tuple(head for head in printed if head.seq <= entries[-1].seq)
        verdict = verify(entries, verdict.head, here)
        if verdict.broken_at is not None:
            return verdict
    return verify((), verdict.head, printed)

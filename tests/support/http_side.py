"""The whole HTTP side of a cell on a real socket, in a thread of its own: log and store in memory, events folded as they come."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.routing import Route

from cells import ops
from cells.defects import HttpShell
from cells.eventlog.memory import MemoryLog
from cells.ingest.accept import Acceptor
from cells.ingest.api_http import IngestHttp
from cells.ingest.authenticate import reader_of
from cells.processing.consumer import consumer
from cells.processing.locate import locate
from cells.processing.partition import Wiring
from cells.server import HttpServer
from cells.storage.api_http import QueryHttp
from cells.storage.ask import Questions
from cells.storage.auditor import Auditor
from cells.storage.memory import MemoryStore
from cells.storage.memory_audit import MemoryAuditTrail
from kernel.effects import Position
from kernel.ids import TenantId
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock
from tests.support.cell import fixture_admission
from tests.support.records import CELL


@dataclass
class HttpSide:
    """`url` while it serves; `defects` are what it answered INTERNAL for."""

    url: str = ""
    defects: list[tuple[str, BaseException]] = field(default_factory=list)

    def report(self, where: str, defect: BaseException) -> None:
        """Keeps a defect."""
        self.defects.append((where, defect))


@dataclass
class Room:
    """The parts, made inside their event loop."""

    side: HttpSide
    clock: SystemClock = field(default_factory=SystemClock)
    meter: MemoryMeter = field(default_factory=MemoryMeter)

    def __post_init__(self) -> None:
        self.admission = fixture_admission()
        self.log = MemoryLog(4, self.clock)
        self.store = MemoryStore(self.clock, self.meter)
        self.auditor = Auditor(MemoryAuditTrail(), CELL, self.meter)

    def routes(self) -> list[Route]:
        """Everything that a cell serves."""
        numbers = itertools.count()
        acceptor = Acceptor(CELL, self.log, self.clock, self.meter, lambda: f"assigned-{next(numbers)}")

        async def in_log(tenant: TenantId, message_id: str) -> Position | None:
            return await locate(self.log, self.store, tenant, message_id)

        def who(headers: Mapping[str, str]) -> tuple[TenantId, str]:
            return reader_of(headers, self.admission, CELL)

        questions = Questions(self.store, self.auditor, in_log, self.clock, self.meter)
        ingest = IngestHttp(acceptor, lambda: self.admission, self.clock)
        return [*ingest.routes(), *QueryHttp(questions, who).routes(), *ops.routes(dict, lambda: b"")]

    async def serve(self, stop: asyncio.Event, ready: threading.Event) -> None:
        """Until `stop`."""
        await self.store.own(self.admission.ownerships(CELL), [])
        self.auditor.start()

        async def nothing() -> None:
            return None

        wiring = Wiring(self.log, self.store, lambda: self.admission.claim(CELL), nothing, self.clock, self.meter)
        consuming = asyncio.create_task(consumer(wiring, "one").run())
        server = HttpServer(HttpShell(self.routes(), self.side.report), "127.0.0.1:0")
        self.side.url = f"http://127.0.0.1:{await server.start()}"
        ready.set()
        await stop.wait()
        await server.stop()
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        await self.auditor.close()


@contextmanager
def http_side() -> Iterator[HttpSide]:
    """Serves meanwhile."""
    side, ready = HttpSide(), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def main() -> None:
        await Room(side).serve(stop, ready)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(10)
        yield side
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(15)
        loop.close()

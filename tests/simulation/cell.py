"""One cell of the simulation: the real code of ingest, processing, replication and storage over the adapters in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cells.admission import codec as admission_codec
from cells.admission.table import Admission, Tenant
from cells.eventlog.memory import MemoryLog
from cells.ingest.accept import Acceptor
from cells.ingest.fence import Fence
from cells.processing.consumer import consumer
from cells.processing.partition import Wiring
from cells.replication import replicator
from cells.replication.replicator import Replicator
from cells.storage.memory import MemoryStore
from cells.storage.memory_copies import MemoryCopies
from cells.tracing import OFF
from kernel.ids import CellId, TenantId, ZoneName
from kernel.metrics import MemoryMeter
from tests.simulation.cells import SimOrigin
from tests.simulation.defects import ACCEPTORS, COPIES, LOGS, REPLICAS, ForgetfulStore
from tests.simulation.directory import SimDirectory
from tests.simulation.faults import StormyLog, StormyStore, Weather
from tests.simulation.virtual import LoopClock

Result = TypeVar("Result")


@dataclass
class SimCell:
    """One cell: what is durable, and a process that can be killed."""

    name: CellId
    zone: ZoneName
    weather: Weather
    clock: LoopClock
    admission: Admission
    log: MemoryLog = field(init=False)
    store: MemoryStore = field(init=False)
    acceptor: Acceptor | None = None
    defect: str = ""
    foreign: MemoryLog | None = None
    directory: SimDirectory | None = None
    copies: MemoryCopies = field(init=False)
    fence: Fence | None = None
    peers: dict[CellId, SimCell] = field(default_factory=dict)
    replicators: dict[CellId, Replicator] = field(default_factory=dict)
    # Ordered: a set of tasks would be cancelled in the order of their addresses, and no seed could replay that.
    requests: dict[asyncio.Task[Any], None] = field(default_factory=dict)
    kills: int = 0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.log = MemoryLog(4, self.clock)
        kind = ForgetfulStore if self.defect == "forgets what it stored" else MemoryStore
        self.store = kind(self.clock, MemoryMeter())
        self.copies = COPIES.get(self.defect, MemoryCopies)(self.store, self.name)

    async def start(self) -> None:
        stormy_log, meter = self._stormy_log(), MemoryMeter()
        numbers = self._numbers
        make = ACCEPTORS.get(self.defect, Acceptor)
        self.acceptor = make(self.name, stormy_log, self.clock, meter, lambda: f"assigned-{next(numbers)}", current=self._current)
        self.fence = Fence(self.acceptor, stormy_log, lambda: self.admission, lambda: True, self.clock)
        store, member = StormyStore(self.store, self.weather), f"{self.name}-{self.kills}"
        wiring = Wiring(
            stormy_log,
            store,
            lambda: self.admission.claim(self.name),
            self._own,
            self.clock,
            meter,
            OFF,
            peers=frozenset(self.peers),
        )
        await self._own()
        self._tasks = [asyncio.create_task(consumer(wiring, member).run())]
        for name, peer in self.peers.items():
            origin = REPLICAS.get(self.defect, SimOrigin)(peer, self.weather)
            known = replicator.Wiring(self.name, name, origin, stormy_log, store, lambda: self.admission.tenants, self.clock, meter)
            self.replicators[name] = Replicator(known)
            self._tasks.append(asyncio.create_task(self.replicators[name].member(member).run()))
        if self.directory is not None:
            self._tasks.append(asyncio.create_task(self.directory.tell(lambda: self.admission.revision, self._hear)))

    async def serve(self, deed: Coroutine[Any, Any, Result]) -> Result:
        """Does something as a task of the process. Raises ConnectionError when that is down, or is killed meanwhile."""
        if self.acceptor is None:
            deed.close()
            raise ConnectionError("the cell is down")
        task = asyncio.create_task(deed)
        ended = asyncio.create_task(_wait(task))
        self.requests[task] = None
        task.add_done_callback(self._ended)
        await ended
        if task.cancelled():
            raise ConnectionError("the cell was killed")
        return await task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Whoever asked may be gone: then nobody hears what became of it."""
        self.requests.pop(task, None)
        if not task.cancelled():
            task.exception()

    def _current(self, name: TenantId) -> Tenant | None:
        return self.admission.tenants.get(name)

    async def _hear(self, data: bytes) -> None:
        self.admission = self.admission.apply(admission_codec.decode(data))
        await self._own()

    async def kill(self) -> None:
        """SIGKILL: every task of the process ends where it stands; clients never hear of their requests again."""
        self.kills += 1
        self.acceptor = None
        doomed = [*self._tasks, *self.requests]
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        self._tasks = []

    def _stormy_log(self) -> StormyLog:
        make = LOGS.get(self.defect)
        return make(self.log, self.weather, self.foreign or self.log) if make else StormyLog(self.log, self.weather)

    async def _own(self) -> None:
        await self.store.own(self.admission.ownerships(self.name), [])


async def _wait(task: asyncio.Task[Any]) -> None:
    """Until it has ended, however."""
    await asyncio.wait((task,))

"""The fence of ingest beside the door: where the log ends, told when no write of the tenant that is acknowledged can lie beyond."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

import pytest

from cells.admission.table import Admission, Tenant, Update
from cells.eventlog.log import Record
from cells.eventlog.memory import MemoryLog
from cells.ingest.accept import Acceptor, Batch
from cells.ingest.authenticate import Sender
from cells.ingest.fence import Fence
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, SourceId, TenantId, ZoneName
from kernel.limits import SLICE_EVENTS_MAX, Plan
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock

CELL, ACME = CellId("eu-west-1-a"), TenantId("acme")


def table(fenced: bool) -> Admission:
    """Acme at home, or fenced there."""
    tenant = Tenant(ACME, CELL, Epoch(1), Plan(), fenced=fenced)
    return Admission(ZoneName("eu")).apply(Update(ZoneName("eu"), 0, 1 + fenced, (tenant,)))


class SlowLog(MemoryLog):
    """An append takes some turns of the loop until it is durable."""

    async def append(self, partition: int, record: Record, deadline: float) -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        return await super().append(partition, record, deadline)


@dataclass
class Door:
    """An acceptor and its fence, over a placement that changes under them."""

    admission: Admission = field(default_factory=lambda: table(fenced=False))

    def __post_init__(self) -> None:
        clock = SystemClock()
        self.log = SlowLog(4, clock)
        self.acceptor = Acceptor(CELL, self.log, clock, MemoryMeter(), lambda: "assigned", current=self._current)
        self.fence = Fence(self.acceptor, self.log, lambda: self.admission, lambda: True, clock)
        self.sender = Sender(self.admission.tenants[ACME], SourceId("web"))

    def _current(self, name: TenantId) -> Tenant | None:
        return self.admission.tenants.get(name)

    def send(self, events: int) -> asyncio.Task[object]:
        """A batch that is worked on in slices."""
        items = [json.dumps({"type": "track", "event": "x", "userId": "u", "messageId": f"m{n}"}).encode() for n in range(events)]
        deadline = SystemClock().monotonic() + 10
        return asyncio.create_task(self.acceptor.accept(self.sender, None, Batch(items, None), deadline))


@pytest.mark.parametrize("turns", range(20))
async def test_whenever_the_fence_comes_what_is_acknowledged_lies_before_the_end(turns: int) -> None:
    """Law: a request that is on its way when the door is shut is refused, or the fence waits for it; none is taken behind it."""
    door = Door()
    sent = door.send(4 * SLICE_EVENTS_MAX)
    for _ in range(turns):
        await asyncio.sleep(0)
    door.admission = table(fenced=True)
    ends = await door.fence.ends_behind(ACME, Epoch(1), SystemClock().monotonic() + 5)
    late = door.send(1)
    outcomes = await asyncio.gather(sent, late, return_exceptions=True)
    assert ends == {partition: bounds.next for partition, bounds in (await door.log.bounds()).items()}
    assert sum(ends.values()) == (0 if isinstance(outcomes[0], Failure) else 1)
    assert isinstance(outcomes[1], Failure)
    assert outcomes[1].reason is Reason.MOVED


@pytest.mark.parametrize("shut", [False, True])
async def test_a_fence_waits_no_longer_than_it_may(shut: bool) -> None:
    """Law: at its deadline it says what it waited for, and promises nothing."""
    door = Door()
    sent = door.send(1)
    await asyncio.sleep(0)
    door.admission = table(fenced=shut)
    with pytest.raises(Failure) as refused:
        await door.fence.ends_behind(ACME, Epoch(1), SystemClock().monotonic())
    assert refused.value.reason is Reason.MOVED
    await sent

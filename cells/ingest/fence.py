"""The door of ingest, shut for one tenant: when it is shut, and where the log ends behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cells.admission.table import Admission
from cells.eventlog.log import EventLog
from cells.ingest.accept import Acceptor
from kernel.clock import Clock
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import TenantId

_LOOK_SECONDS: Final = 0.005


class Fence:
    """`admission` is the newest table, `on_disk` says whether a restart would find it."""

    def __init__(
        self, acceptor: Acceptor, log: EventLog, admission: Callable[[], Admission], on_disk: Callable[[], bool], clock: Clock
    ) -> None:
        self._acceptor = acceptor
        self._log = log
        self._admission = admission
        self._on_disk = on_disk
        self._clock = clock

    async def ends(self) -> dict[int, int]:
        """The next offset of each partition."""
        return {partition: bounds.next for partition, bounds in (await self._log.bounds()).items()}

    async def ends_behind(self, tenant: TenantId, epoch: Epoch, deadline: float) -> dict[int, int]:
        """The same, once no write of the tenant that is or will be acknowledged can lie beyond, until the tenant's epoch is greater than
        this one. Raises Failure(MOVED) at `deadline`: the fence was not heard of, or is not on disk, or writes are still on their way."""
        while not self._shut(tenant, epoch):
            if self._clock.monotonic() >= deadline:
                raise Failure(Reason.MOVED, "the cell knows of no such fence, or not on its disk", retry_after_seconds=1)
            await self._clock.sleep(_LOOK_SECONDS)
        await self._acceptor.wait_until_quiet(tenant, deadline)
        return await self.ends()

    def _shut(self, tenant: TenantId, epoch: Epoch) -> bool:
        known = self._admission().tenants.get(tenant)
        return known is not None and known.fenced and known.epoch == epoch and self._on_disk()

"""A move to the cell that stands by for the tenant: nothing is copied, the two change places.

The standby folds what the home accepts, all the time. So a move waits until it is level, fences, waits until it is level with the fence,
and switches; the old home stands by from then on, which is also the way back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kernel.clock import Clock
from kernel.ids import CellId, TenantId
from router.evacuation import check
from router.evacuation.cells import Cells, Gap, Offsets

_LOOK_SECONDS = 0.01


async def wait_until_level(cells: Cells, clock: Clock, home: CellId, standby: CellId, ends: Offsets) -> None:
    """Returns once `standby` has applied everything that lies before `ends` in the log of `home`, and both have applied whatever either has
    taken for the other until then. Runs until it is cancelled otherwise; raises Failure when a cell cannot be asked."""
    there = await _until(clock, lambda: cells.gap(standby, home), lambda gap: check.keeps(gap, ends))
    ends_there = {one.partition: one.end for one in there.own}
    here = await _until(clock, lambda: cells.gap(home, standby), lambda gap: check.keeps(gap, ends_there))
    await _until(clock, lambda: cells.gap(standby, home), lambda gap: check.applies(gap, ends_there))
    ends_here = {one.partition: one.end for one in here.own}
    await _until(clock, lambda: cells.gap(home, standby), lambda gap: check.applies(gap, ends_here))


async def wait_until_read(cells: Cells, clock: Clock, home: CellId, standby: CellId, taken: Offsets) -> None:
    """Returns once everything that lies before `taken` in the log of `standby` is in the log of `home` as far as it concerns that. What a
    standby took for a home is nowhere else until then: whoever moves the tenant elsewhere waits for it."""
    await _until(clock, lambda: cells.gap(home, standby), lambda gap: check.keeps(gap, taken))


async def wait_until_clear(cells: Cells, clock: Clock, home: CellId, peer: CellId, since: int) -> None:
    """Returns once `peer`, which does not stand by any more since revision `since`, takes nothing for `home`, and what it took before is in
    the log of `home`, and folded or held where it was taken: that may be erased, and nothing comes after it."""
    found = await _until(clock, lambda: cells.gap(peer, home), lambda gap: gap.revision >= since)
    taken = {one.partition: one.end for one in found.own}
    await wait_until_read(cells, clock, home, peer, taken)
    await _until(clock, lambda: cells.gap(peer, home), lambda gap: check.applies(gap, taken))


async def compare_people(cells: Cells, home: CellId, standby: CellId, tenant: TenantId) -> None:
    """Raises Failure(COPY_DIFFERS). Where which event lies is each cell's own; who and what people are is the same in both."""
    one, other = await asyncio.gather(cells.digest_profiles(home, tenant), cells.digest_profiles(standby, tenant))
    check.same("profiles", one, other)


async def _until(clock: Clock, ask: Callable[[], Awaitable[Gap]], enough: Callable[[Gap], bool]) -> Gap:
    while not enough(found := await ask()):
        await clock.sleep(_LOOK_SECONDS)
    return found

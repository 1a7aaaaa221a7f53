"""The shell of processing: for each assigned partition fetch, fold, apply - and start again from the store's own position.

Nothing is kept between two rounds but the position, and that is the store's: after any failure the loop asks for it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from opentelemetry.trace import SpanKind

from cells.eventlog.log import Entry, EventLog, Membership
from cells.processing import metrics
from cells.processing.pipeline import Fold
from cells.processing.store import Applier
from cells.tracing import OFF, Spans
from kernel import limits
from kernel.clock import SECOND, Clock
from kernel.effects import Applied, Apply, Duplicate, Fenced, Outcome
from kernel.epoch import Claim
from kernel.errors import Failure
from kernel.ids import TenantId
from kernel.metrics import Meter

GROUP: Final = "processing"
_REBALANCE_SECONDS: Final = 2.0
_WAIT_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Wiring:
    """What a consumer works with. `claim` reads the newest one; `renew_claim` makes the store hear of it first."""

    log: EventLog
    store: Applier
    claim: Callable[[], Claim]
    renew_claim: Callable[[], Awaitable[None]]
    clock: Clock
    meter: Meter
    spans: Spans = OFF


class Consumer:
    """One member of the processing group."""

    def __init__(self, wiring: Wiring, member: str) -> None:
        self._wiring = wiring
        self._member = member
        self._loops: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follows the assignment until it is cancelled; then stops the partitions' loops between two applies."""
        membership: Membership | None = None
        try:
            while True:
                try:
                    if membership is None:
                        membership = await self._wiring.log.join(GROUP, self._member)
                    await self._follow(await membership.assignment())
                except Failure as failure:
                    self._wiring.meter.add(metrics.APPLY_FAILURES, reason=failure.reason.name)
                await self._wiring.clock.sleep(_REBALANCE_SECONDS)
        finally:
            await self._follow(frozenset())
            if membership is not None:
                await membership.leave()

    async def _follow(self, assigned: frozenset[int]) -> None:
        for partition in set(self._loops) - assigned:
            task = self._loops.pop(partition)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for partition in assigned - set(self._loops):
            loop = PartitionLoop(self._wiring, partition)
            self._loops[partition] = asyncio.create_task(loop.run(), name=f"partition-{partition}")
        for task in self._loops.values():
            if task.done():
                task.result()


class PartitionLoop:
    """One partition's fetch, fold, apply."""

    def __init__(self, wiring: Wiring, partition: int) -> None:
        self._w = wiring
        self._partition = partition
        self._fenced: frozenset[TenantId] = frozenset()
        self._held: frozenset[TenantId] = frozenset()

    async def run(self) -> None:
        """Until it is cancelled. Failures are waited out with a growing pause; only a success resets it."""
        failures = 0
        while True:
            try:
                position = (await self._w.store.positions()).get(self._partition, 0)
                while True:
                    position = await self.step(position)
                    failures = 0
            except Failure as failure:
                self._w.meter.add(metrics.APPLY_FAILURES, reason=failure.reason.name)
                await self._w.clock.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1

    async def step(self, position: int) -> int:
        """One round; the position after it."""
        entries = await self._w.log.fetch(self._partition, position, limits.FETCH_RECORDS_MAX, limits.FETCH_BYTES_MAX, _WAIT_SECONDS)
        if not entries:
            self._report_lag(None)
            return position
        self._report_lag(entries[0])
        entries = _bounded(entries)
        with self._w.spans.start("process", links=(entry.record.trace for entry in entries), kind=SpanKind.CONSUMER) as span:
            span.note("partition", self._partition)
            span.note("records", len(entries))
            outcome = await self._apply_or_sift(entries, position)
        if isinstance(outcome, Duplicate):
            return outcome.position
        if isinstance(outcome, Fenced):
            await self._answer_fence(outcome.tenants)
            return position
        self._count(outcome)
        self._fenced = self._held = frozenset()
        return entries[-1].offset + 1

    async def _apply_or_sift(self, entries: list[Entry], position: int) -> Outcome:
        """A batch that the store can never keep is folded again strictly: what is wrong in it becomes dead letters."""
        try:
            return await self._apply(entries, position, strict=False)
        except ValueError:
            self._w.meter.add(metrics.APPLY_FAILURES, reason="UNPROCESSABLE_EVENT")
            return await self._apply(entries, position, strict=True)

    async def _apply(self, entries: list[Entry], position: int, strict: bool) -> Outcome:
        work = Fold(self._partition, self._held, strict)
        since_breath = 0
        for entry in entries:
            work.add(entry)
            since_breath += entry.record.events
            if since_breath >= limits.SLICE_EVENTS_MAX:
                since_breath = 0
                await asyncio.sleep(0)
        started = self._w.clock.monotonic()
        apply = Apply(work.effects(), self._w.claim(), position, entries[-1].offset + 1)
        with self._w.spans.start("storage.apply", kind=SpanKind.CLIENT):
            outcome = await self._w.store.apply(apply, started + limits.APPLY_SECONDS_MAX)
        self._w.meter.observe(metrics.APPLY_SECONDS, self._w.clock.monotonic() - started)
        return outcome

    async def _answer_fence(self, tenants: frozenset[TenantId]) -> None:
        """The first time the claim is renewed; tenants that are fenced again have their records held."""
        again = tenants & self._fenced
        self._held |= again
        self._fenced |= tenants
        if not again:
            await self._w.renew_claim()

    def _count(self, applied: Applied) -> None:
        for metric, events in (
            (metrics.EVENTS_STORED, applied.stored),
            (metrics.EVENTS_DUPLICATE, applied.duplicate),
            (metrics.EVENTS_QUARANTINED, applied.quarantined),
            (metrics.EVENTS_HELD, applied.held),
            (metrics.CONFLICTS, applied.conflicts),
        ):
            if events:
                self._w.meter.add(metric, events)

    def _report_lag(self, oldest: Entry | None) -> None:
        age = (self._w.clock.now() - oldest.appended_at) / SECOND if oldest else 0.0
        self._w.meter.set(metrics.LAG_SECONDS, max(0.0, age), partition=str(self._partition))


async def report_lag(log: EventLog, store: Applier, meter: Meter) -> dict[int, int]:
    """Records behind, per partition, also as a metric."""
    bounds, positions = await log.bounds(), await store.positions()
    lags = {partition: bound.next - positions.get(partition, 0) for partition, bound in bounds.items()}
    for partition, lag in lags.items():
        meter.set(metrics.LAG_RECORDS, lag, partition=str(partition))
    return lags


def _bounded(entries: list[Entry]) -> list[Entry]:
    """As many of the first entries as one apply may hold; always one at least."""
    events = 0
    for number, entry in enumerate(entries):
        events += entry.record.events
        if number and events > limits.APPLY_EVENTS_MAX:
            return entries[:number]
    return entries

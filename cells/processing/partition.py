"""The shell of processing: for one partition fetch, fold, apply - and start again from the store's own position.

Nothing is kept between two rounds but the position, which is the store's, and what was fetched beyond it: after any failure the loop
asks for both again. No data ends the loop: what the store can never keep is narrowed down and becomes dead letters, everything else
is waited out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from opentelemetry.trace import SpanKind

from cells.eventlog.log import Entry, EventLog
from cells.pace import Pace
from cells.processing import metrics
from cells.processing.fence import Fences
from cells.processing.pipeline import Care, Fold
from cells.processing.store import Applier
from cells.tracing import OFF, Spans
from kernel import limits
from kernel.clock import SECOND, Clock
from kernel.effects import Applied, Apply, Duplicate, Fenced, Outcome, Unkeepable
from kernel.epoch import Claim
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.metrics import Meter

# An apply costs much the same for ten events as for a hundred: under load it waits until there are some. One that comes after a
# pause is not kept waiting.
_GATHER_SECONDS: Final = 0.05
_FENCED_SECONDS: Final = 0.2
_RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Wiring:
    """What a consumer works with. `claim` reads the newest one; `renew_claim` makes the store hear of it first. `pace` is told
    how applies go, for the ingest of the same process. `peers` are the cells whose logs this one's holds records of;
    `knows` says whether the claim is no older than this process, as far as a tenant goes."""

    log: EventLog
    store: Applier
    claim: Callable[[], Claim]
    renew_claim: Callable[[], Awaitable[None]]
    clock: Clock
    meter: Meter
    spans: Spans = OFF
    pace: Pace | None = None
    peers: frozenset[CellId] = frozenset()
    knows: Callable[[TenantId], bool] = lambda _: True


class PartitionLoop:
    """One partition's fetch, fold, apply."""

    def __init__(self, wiring: Wiring, partition: int) -> None:
        self._w = wiring
        self._partition = partition
        self._fences = Fences()
        self._ahead: list[Entry] = []

    def _idle(self) -> None:
        if self._w.pace is not None:
            self._w.pace.idle(self._partition)

    async def run(self) -> None:
        """Until it is cancelled. Failures are waited out with a growing pause; only a success resets it."""
        try:
            await self._run()
        finally:
            self._idle()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                position = (await self._w.store.positions()).get(self._partition, 0)
                while True:
                    position = await self._round(position)
                    failures = 0
            except Failure as failure:
                self._w.meter.add(metrics.APPLY_FAILURES, reason=failure.reason.name)
                self._idle()
                await self._w.clock.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
                failures += 1

    async def _round(self, position: int) -> int:
        """A step, and under load a pause after it."""
        began = self._w.clock.monotonic()
        following = await self.step(position)
        if following > position and not self._ahead:
            await self._w.clock.sleep(max(0.0, began + _GATHER_SECONDS - self._w.clock.monotonic()))
        return following

    async def step(self, position: int) -> int:
        """One round; the position after it. Raises Failure."""
        entries = await self._entries(position)
        if not entries:
            self._report_lag(None)
            self._idle()
            return position
        behind = self._report_lag(entries[0])
        if self._w.pace is not None:
            self._w.pace.fetched(self._partition, behind)
        with self._w.spans.start("process", links=(entry.record.trace for entry in entries), kind=SpanKind.CONSUMER) as span:
            span.note("partition", self._partition)
            span.note("records", len(entries))
            outcome, following = await self._apply(_bounded(entries), position)
        match outcome:
            case Duplicate(at):
                return at
            case Fenced(tenants):
                self._idle()
                await self._answer_fence(tenants)
                return position
            case Applied():
                self._count(outcome)
                if self._w.pace is not None:
                    events = sum(entry.record.events for entry in entries if entry.offset < following)
                    self._w.pace.applied(events)
                self._ahead = [entry for entry in entries if entry.offset >= following]
                return following

    async def _entries(self, position: int) -> list[Entry]:
        """What the last fetch brought and no apply took yet, or else a new fetch."""
        ahead, self._ahead = self._ahead, []
        if ahead and ahead[0].offset == position:
            return ahead
        return await self._w.log.fetch(
            self._partition, position, limits.FETCH_RECORDS_MAX, limits.FETCH_BYTES_MAX, limits.FETCH_WAIT_SECONDS
        )

    async def _apply(self, entries: Sequence[Entry], position: int) -> tuple[Outcome, int]:
        """The outcome, and the offset after what was applied. What the store can never keep is narrowed down first."""
        for care, part in _narrowing(entries):
            try:
                return await self._attempt(part, position, care)
            except Unkeepable:
                self._w.meter.add(metrics.APPLY_FAILURES, reason=Reason.UNPROCESSABLE_EVENT.name)
        raise Failure(Reason.UNPROCESSABLE_EVENT, "the store refuses a dead letter")

    async def _attempt(self, entries: Sequence[Entry], position: int, care: Care) -> tuple[Outcome, int]:
        claim, following = self._w.claim(), position
        work = Fold(self._partition, self._fences.held(claim, self._w.clock.monotonic()), care, self._w.peers)
        for entry in entries:
            following = entry.offset + 1
            if not self._concerns(entry, claim):
                continue
            for _ in work.steps(entry):
                await asyncio.sleep(0)
            if work.full:
                break
        effects = work.effects()
        started = self._w.clock.monotonic()
        with self._w.spans.start("storage.apply", kind=SpanKind.CLIENT):
            outcome = await self._w.store.apply(Apply(effects, claim, position, following), started + limits.APPLY_SECONDS_MAX)
        self._w.meter.observe(metrics.APPLY_SECONDS, self._w.clock.monotonic() - started)
        if isinstance(outcome, Applied):
            self._fences.passed(effects.tenants)
        return outcome, following

    async def _answer_fence(self, tenants: frozenset[TenantId]) -> None:
        """The claim is made as new as it can be before the store's word counts."""
        await self._w.renew_claim()
        if not self._fences.fenced(tenants, self._w.claim(), self._w.clock.monotonic()):
            await self._w.clock.sleep(_FENCED_SECONDS)

    def _concerns(self, entry: Entry, claim: Claim) -> bool:
        """Whether a record is this cell's to fold or to hold. One that a peer accepted was replicated for a tenant that lived or stood by
        here; once it does neither, its home has the record, and what it left here is erased. Who is not sure leaves it to the store."""
        record = entry.record
        return record.cell not in self._w.peers or record.tenant in claim.epochs or not self._w.knows(record.tenant)

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

    def _report_lag(self, oldest: Entry | None) -> float:
        age = max(0.0, (self._w.clock.now() - oldest.appended_at) / SECOND) if oldest else 0.0
        self._w.meter.set(metrics.LAG_SECONDS, age, partition=str(self._partition))
        return age


def _bounded(entries: list[Entry]) -> list[Entry]:
    """As many of the first entries as one apply may hold by their headers; always one at least."""
    events = 0
    for number, entry in enumerate(entries):
        events += entry.record.events
        if number and events > limits.APPLY_EVENTS_MAX:
            return entries[:number]
    return entries


def _narrowing(entries: Sequence[Entry]) -> Iterator[tuple[Care, Sequence[Entry]]]:
    """What to try in turn when the store says that it can never keep a range: all of it, all of it with every payload checked,
    ever smaller first parts, and at last the first record alone with each of its events a dead letter."""
    yield Care.QUICK, entries
    yield Care.STRICT, entries
    part = entries
    while len(part) > 1:
        part = part[: len(part) // 2]
        yield Care.STRICT, part
    yield Care.BURY, part

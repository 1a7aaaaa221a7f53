"""Accepts batches: the one path from an authenticated request to a durable append, shared by HTTP and gRPC.

A retriable condition fails the whole request (SDKs ignore the body of a 200); parts that were appended already are harmless by
message id. Verdicts are for permanent rejections only.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cells.admission.table import Tenant
from cells.eventlog import codec
from cells.eventlog.envelope import Body, Envelope
from cells.eventlog.log import EventLog, Record, partition_of
from cells.ingest import metrics, quota
from cells.ingest.admit import admit
from cells.ingest.authenticate import Sender
from cells.ingest.inflight import Held, Inflight
from cells.ingest.turns import Turns
from cells.ingest.verdict import Admitted, Rejected, Repeated
from cells.pace import Pace
from cells.tracing import OFF, Spans
from kernel import limits
from kernel.clock import Clock, Micros
from kernel.epoch import Stamp, door_one
from kernel.errors import Failure, Reason
from kernel.ids import CellId, TenantId
from kernel.metrics import Meter

_BUCKETS_MAX: Final = 50_000
_QUIET_SECONDS: Final = 0.002
_HANDOFF: Final = limits.Plan(events_per_second=limits.HANDOFF_EVENTS_PER_SECOND_MAX, burst_events=limits.HANDOFF_EVENTS_PER_SECOND_MAX)


@dataclass(frozen=True, slots=True)
class Batch:
    """One request: the events' texts, when the client sent it by its clock, and the W3C traceparent it came with."""

    items: Sequence[bytes]
    sent_at: Micros | None
    trace: str = ""


class Acceptor:
    """Shared by the shells of one process. `pace` is that of its own applies; without one it bears anything. `current` is what the cell
    knows of a tenant now, which may be newer than what a sender was authenticated by: a body takes its time. Without it the sender's
    word stands."""

    def __init__(
        self,
        cell: CellId,
        log: EventLog,
        clock: Clock,
        meter: Meter,
        new_message_id: Callable[[], str],
        inflight_bytes_max: int = limits.INFLIGHT_BYTES_MAX,
        spans: Spans = OFF,
        pace: Pace | None = None,
        encode: Callable[[Body], bytes] = codec.encode,
        current: Callable[[TenantId], Tenant | None] = lambda _: None,
    ) -> None:
        self._cell = cell
        self._log = log
        self._clock = clock
        self._meter = meter
        self._new_message_id = new_message_id
        self._inflight = Inflight(inflight_bytes_max, lambda total: meter.set(metrics.INFLIGHT_BYTES, total))
        self._spans = spans
        self._turns = Turns(clock)
        self._pace = pace or Pace(clock)
        self._encode = encode
        self._current = current
        self._bearable: quota.Bucket | None = None
        self._handoff: quota.Bucket | None = None
        self._buckets: OrderedDict[TenantId, quota.Bucket] = OrderedDict()
        self._busy: Counter[TenantId] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    @contextmanager
    def request(self) -> Iterator[Held]:
        """Around one request, from its first byte on: what it holds in memory is bounded, and a refusal is counted. One that could not be
        borne, however small, is refused before its body is read: under overload refusing must cost little."""
        try:
            self._turns.check()
            self._bear(0)
            with self._inflight.holding() as held:
                yield held
        except Failure as failure:
            self._meter.add(metrics.REQUESTS_REFUSED, reason=failure.reason.name)
            raise

    async def accept(self, sender: Sender, stamp: Stamp | None, batch: Batch, deadline: float) -> Admitted:
        """Durable when it returns. Raises Failure for the whole request."""
        if self.draining:
            raise Failure(Reason.DRAINING, retry_after_seconds=1)
        tenant = self._at_the_door(sender, stamp)
        sender = Sender(tenant, sender.source)
        handoff = tenant.cell != self._cell
        if len(batch.items) > tenant.plan.batch_events_max:
            raise Failure(Reason.TOO_MANY_EVENTS, f"{len(batch.items)} events, at most {tenant.plan.batch_events_max}")
        with self._working(tenant.name):
            self._take(sender, len(batch.items), handoff)
            admitted = await self._admit(batch.items)
            if admitted.accepted:
                self._pace.accepted(len(admitted.accepted))
                await self._append(sender, admitted, batch, min(deadline, self._clock.monotonic() + limits.APPEND_SECONDS_MAX))
        self._count(tenant.name, admitted, handoff)
        return admitted

    async def turn(self, body_bytes: int) -> None:
        """Returns when it is the turn of a request with so large a body: before anything is made of the body."""
        await self._turns.take(body_bytes)

    async def drain(self, deadline: float) -> None:
        """Refuses new requests and waits for those in flight, until `deadline` at the latest."""
        self.draining = True
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                await self._idle.wait()
        except TimeoutError:
            return

    async def wait_until_quiet(self, tenant: TenantId, deadline: float) -> None:
        """Returns once no request of the tenant is between the door and the end of its append. Raises Failure(MOVED) at `deadline`."""
        while self._busy[tenant]:
            if self._clock.monotonic() >= deadline:
                raise Failure(Reason.MOVED, "writes from before the fence are still on their way to the log", retry_after_seconds=1)
            await self._clock.sleep(_QUIET_SECONDS)

    def _at_the_door(self, sender: Sender, stamp: Stamp | None) -> Tenant:
        """Door 1; the tenant as it is now, which may live in a cell that this one stands by for. Without a stamp (a client inside the
        cell's own network) the cell's own word stands. From here to the count of who is busy nothing is awaited: a fence that this did
        not see waits for the request."""
        tenant = self._current(sender.tenant.name) or sender.tenant
        if tenant.fenced:
            raise Failure(Reason.MOVED, f"it is about to, from epoch {tenant.epoch} on", retry_after_seconds=1)
        said = stamp or Stamp(tenant.name, tenant.cell, tenant.epoch)
        if said.tenant != tenant.name or (stamp is None and tenant.cell != self._cell):
            raise Failure(Reason.MOVED, f"epoch {tenant.epoch}", retry_after_seconds=1)
        if door_one(said, self._cell, tenant.cell, tenant.standby, tenant.epoch) == "moved":
            raise Failure(Reason.MOVED, f"epoch {tenant.epoch}", retry_after_seconds=1)
        return tenant

    def _take(self, sender: Sender, events: int, handoff: bool) -> None:
        """Of the tenant's quota, of handoff's where it is one, and of what this process's applies can bear while they are behind: of all
        or of none."""
        tenant, now = sender.tenant, self._clock.monotonic()
        bucket, wait = quota.take(self._buckets.get(tenant.name), tenant.plan, events, now)
        if wait is not None:
            self._keep(tenant.name, bucket)
            raise Failure(Reason.QUOTA_EXCEEDED, retry_after_seconds=wait)
        room = self._handoff
        if handoff:
            room, wait = quota.take(room, _HANDOFF, events, now)
            if wait is not None:
                raise Failure(Reason.CELL_UNAVAILABLE, "its peer takes no more for it", retry_after_seconds=wait)
        self._bear(events)
        self._handoff = room
        self._keep(tenant.name, bucket)

    def _bear(self, events: int) -> None:
        """Takes of what this process's applies can bear while they are behind; for no events it only looks whether anything is left."""
        rate = self._pace.events_per_second_max()
        if rate is None:
            self._bearable = None
            return
        plan = limits.Plan(events_per_second=rate, burst_events=max(1.0, rate * limits.PACE_BURST_SECONDS))
        self._bearable, wait = quota.take(self._bearable, plan, events, self._clock.monotonic(), owing=True)
        if wait is not None:
            self._pace.refused()
            raise Failure(Reason.OVERLOADED, retry_after_seconds=wait)

    def _keep(self, tenant: TenantId, bucket: quota.Bucket) -> None:
        self._buckets[tenant] = bucket
        self._buckets.move_to_end(tenant)
        while len(self._buckets) > _BUCKETS_MAX:
            self._buckets.popitem(last=False)

    async def _admit(self, items: Sequence[bytes]) -> Admitted:
        """In slices, so that no batch holds the loop for longer than a few milliseconds."""
        seen: set[str] = set()
        accepted: list[tuple[int, Envelope]] = []
        rejected: list[Rejected] = []
        repeated: list[Repeated] = []
        for start, end in slices([len(item) for item in items]):
            if start:
                await asyncio.sleep(0)
            part = admit(items[start:end], self._new_message_id, seen, start)
            accepted.extend(part.accepted)
            rejected.extend(part.rejected)
            repeated.extend(part.repeated)
        return Admitted(tuple(accepted), tuple(rejected), tuple(repeated))

    async def _append(self, sender: Sender, admitted: Admitted, batch: Batch, deadline: float) -> None:
        tenant, spread = sender.tenant, sender.tenant.plan.spread
        groups: dict[int, list[Envelope]] = defaultdict(list)
        if spread == 1:
            groups[partition_of(tenant.name, "", spread, self._log.partitions)] = [envelope for _, envelope in admitted.accepted]
        else:
            for _, envelope in admitted.accepted:
                user = envelope.user_id or envelope.anonymous_id or ""
                groups[partition_of(tenant.name, user, spread, self._log.partitions)].append(envelope)
        started, now = self._clock.monotonic(), self._clock.now()
        records = [(partition, self._record(sender, now, batch, envelopes)) for partition, envelopes in groups.items()]
        with self._spans.start("log.append") as span:
            span.note("records", len(records))
            if spread == 1:
                await self._log.append(*records[0], deadline)
            else:
                await self._log_all(records, deadline)
        self._meter.observe(metrics.APPEND_SECONDS, self._clock.monotonic() - started)

    async def _log_all(self, records: Sequence[tuple[int, Record]], deadline: float) -> None:
        """All of them end before one failure is raised. All of a tenant's requests come this way or none does: a lone record that took
        fewer steps of the loop would overtake those of the request before it."""
        appends = (self._log.append(partition, record, deadline) for partition, record in records)
        for outcome in await asyncio.gather(*appends, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def _record(self, sender: Sender, now: Micros, batch: Batch, envelopes: list[Envelope]) -> Record:
        return Record(
            tenant=sender.tenant.name,
            source=sender.source,
            cell=self._cell,
            epoch=sender.tenant.epoch,
            received_at=now,
            events=len(envelopes),
            trace=batch.trace,
            body=self._encode(Body(batch.sent_at, envelopes)),
        )

    def _count(self, tenant: TenantId, admitted: Admitted, handoff: bool) -> None:
        self._meter.add(metrics.EVENTS_ACCEPTED, len(admitted.accepted), tenant=tenant)
        if handoff:
            self._meter.add(metrics.EVENTS_HANDOFF, len(admitted.accepted), tenant=tenant)
        for rejected in admitted.rejected:
            self._meter.add(metrics.EVENTS_REJECTED, tenant=tenant, reason=rejected.reason.name)

    @contextmanager
    def _working(self, tenant: TenantId) -> Iterator[None]:
        self._busy[tenant] += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._busy[tenant] -= 1
            if not self._busy[tenant]:
                del self._busy[tenant]
            if not self._busy:
                self._idle.set()


def slices(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, end) of the stretches of a batch that are worked on at a time: bounded in events and, but for one event, in bytes."""
    start = held = 0
    for at, size in enumerate(sizes):
        if at > start and (at - start >= limits.SLICE_EVENTS_MAX or held + size > limits.SLICE_BYTES_MAX):
            yield start, at
            start, held = at, 0
        held += size
    yield start, len(sizes)

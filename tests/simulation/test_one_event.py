"""The executable tour: one event, from a client's hand to a query's answer. Read it with docs/architecture.md beside it.

Every step calls the real code; only the log and the store are the ones in memory.
"""

from __future__ import annotations

import json

from cells.admission import codec as admission_codec
from cells.admission.table import Admission
from cells.eventlog import codec
from cells.eventlog.memory import MemoryLog
from cells.ingest.accept import Acceptor, Batch
from cells.ingest.authenticate import Credentials, authenticate_sender, key_of_headers
from cells.ingest.split import split_batch
from cells.processing.pipeline import fold
from cells.storage.memory import MemoryStore
from cells.storage.store import Filter
from gitops.fleet import EU, FLEET
from kernel.clock import Micros, parse_iso
from kernel.effects import Applied, Apply, Duplicate
from kernel.epoch import FIRST_EPOCH, Stamp
from kernel.ids import CellId, SourceId, TenantId, message_keys, mint_key
from kernel.metrics import MemoryMeter
from router.placement import codec as placement_codec
from router.placement import table as placement
from router.placement.decide import Routed, decide
from router.placement.place import place
from tests.support.clock import ManualClock

BODY = b"""{"sentAt": "2026-11-21T12:00:05Z", "batch": [{"type": "track", "messageId": "m-1", "userId": "ada",
  "event": "Order Completed", "timestamp": "2026-11-21T12:00:00Z", "properties": {"total": 42.10}}]}"""


async def test_one_event() -> None:
    """What a client sends to its zone comes back out of its home cell, once, with every byte as it was."""
    clock, tenant = ManualClock(), TenantId("berlin-mode")

    # The zone's directory places the tenant in one of the zone's cells and knows its key by a hash alone.
    key = mint_key("wk", EU, bytes(32))
    endpoints = tuple(placement.CellEndpoint(c.name, c.region, f"{c.name}:1", f"{c.name}:2", c.weight) for c in FLEET.cells_of(EU))
    source = placement.Source(SourceId("web"), "berlin-web", (placement.Credential(key.hash),))
    home: CellId = place(tenant, endpoints)
    update = placement.Update(
        EU,
        from_revision=0,
        to_revision=1,
        tenants=(placement.Tenant(tenant, EU, home, FIRST_EPOCH, sources=(source,)),),
        topology=placement.Topology(endpoints, ((EU, "https://eu.example"),)),
    )

    # The router decides from identity alone.
    table = placement.empty(EU).apply(update)
    routed = decide(tenant, table)
    assert routed == Routed(home, FIRST_EPOCH, revision=1)
    stamp = Stamp(tenant, routed.cell, routed.epoch)

    # The cell holds the same placement, from its own copy on disk, and authenticates the key again.
    admission = Admission(EU).apply(admission_codec.decode(placement_codec.update_bytes(update)))
    header_key = key_of_headers(authorization=f"Bearer {key.text}", api_key=None)
    sender = authenticate_sender(Credentials(header_key), admission)

    # The cell admits each event for itself and appends one record. When this returns, the client is acknowledged.
    log = MemoryLog(partitions=4, clock=clock)
    acceptor = Acceptor(home, log, clock, MemoryMeter(), new_message_id=lambda: "never needed")
    split = split_batch(BODY)
    admitted = await acceptor.accept(sender, stamp, Batch(split.items, split.sent_at), deadline=clock.monotonic() + 5)
    assert [envelope.message_id for _, envelope in admitted.accepted] == ["m-1"]

    # The log remembers: a compressed batch of envelopes of one tenant.
    partition, bounds = next((p, b) for p, b in (await log.bounds()).items() if b.next)
    entries = await log.fetch(partition, bounds.first, records_max=10, bytes_max=1_000_000, wait_seconds=0)
    assert codec.decode(entries[0].record.body).envelopes[0].payload == split.items[0]

    # Processing folds the record into effects; nothing has happened yet.
    effects = fold(partition, entries)
    assert [row.message_key for row in effects.rows] == message_keys(tenant, ["m-1"])

    # Storage keeps them in one transaction, under a claim that its ownership row accepts; a second time it is a duplicate.
    store = MemoryStore(clock, MemoryMeter())
    await store.own(admission.ownerships(home), dedicated=[])
    apply = Apply(effects, admission.claim(home), expected=0, next=1)
    assert await store.apply(apply, clock.monotonic() + 5) == Applied(stored=1, duplicate=0, quarantined=0, held=0, conflicts=0)
    assert await store.apply(apply, clock.monotonic() + 5) == Duplicate(position=1)

    # A query sees it, with the client's clock corrected: it happened five seconds before it was received.
    (seen,) = (await store.list_events(tenant, Filter(since=Micros(0), until=Micros(2**62)), page_size=10, after=None)).events
    happened, sent = parse_iso("2026-11-21T12:00:00Z"), parse_iso("2026-11-21T12:00:05Z")
    assert happened is not None
    assert sent is not None
    assert seen.row.event_at == seen.record.received_at - (sent - happened)
    assert json.loads(seen.envelope.payload)["properties"] == {"total": 42.10}

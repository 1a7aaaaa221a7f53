"""Records, envelopes and events for tests, made from little."""

from __future__ import annotations

import json
import time

from cells.eventlog import codec
from cells.eventlog.envelope import Body, Envelope
from cells.eventlog.log import Record
from kernel.clock import DAY, Micros
from kernel.epoch import Epoch
from kernel.ids import CellId, SourceId, TenantId
from tests.support.clock import START

TODAY = Micros(time.time_ns() // 1_000 // DAY * DAY)

CELL = CellId("eu-west-1-a")
TENANT = TenantId("acme-retail")


def envelope(message_id: str, user_id: str | None = "u1", **fields: object) -> Envelope:
    """A track event unless `fields` says otherwise."""
    values: dict[str, object] = {
        "type": "track",
        "payload": json.dumps({"type": "track", "messageId": message_id, "userId": user_id}).encode(),
        "content_hash": 1,
        "name": "Order Completed",
        **fields,
    }
    return Envelope(message_id=message_id, user_id=user_id, **values)  # type: ignore[arg-type]  # the fields of an envelope by name


def record(*envelopes: Envelope, tenant: TenantId = TENANT, received_at: Micros = START, sent_at: Micros | None = None) -> Record:
    """A record of these envelopes; one empty-looking record when there are none."""
    return Record(tenant, SourceId("web"), CELL, Epoch(1), received_at, len(envelopes), "", codec.encode(Body(sent_at, list(envelopes))))


def blob(text: str, size: int = 0) -> Record:
    """A record whose body is told from others by `text`; at least `size` bytes. It was received today: a log on real brokers refuses what
    is too old to be ours."""
    return Record(TENANT, SourceId("web"), CELL, Epoch(1), TODAY, 1, "", text.encode().ljust(size, b"."))

"""A process that stores events with whatever version of the code is on its path: one command a line in, one answer a line out, as JSON.

Run as a script, so that the path decides. It uses what both versions have: their own fold and their own store.
"""

from __future__ import annotations

import asyncio
import json
import sys

from cells.eventlog import codec
from cells.eventlog.envelope import Body, Envelope
from cells.eventlog.log import Entry, Record
from cells.processing.pipeline import fold
from cells.storage.postgres_apply import PostgresStore
from cells.storage.postgres_provision import Passwords, provision
from kernel.clock import Micros
from kernel.effects import Applied, Apply, EventRow
from kernel.epoch import Claim, Epoch, Ownership
from kernel.ids import CellId, SourceId, TenantId
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock

CELL = CellId("eu-a-1")
_APPLY_SECONDS = 20.0


def payload_of(tenant: str, message_id: str) -> bytes:
    """What an event holds: text that no JSON writer would give back as it is."""
    return f'{{ "of":"{tenant}/{message_id}",  "n": 1.50, "n": 15e-1, "e": "\\u0000\\ud83d\\ude00 é" }}'.encode()


def entry_of(tenant: str, offset: int, at: int, ids: list[str]) -> Entry:
    """A record of these events."""
    envelopes = [Envelope(one, "track", payload_of(tenant, one), 7, "ann", f"device-{one}", "Order Completed") for one in ids]
    body = codec.encode(Body(None, envelopes))
    return Entry(offset, Micros(at), Record(TenantId(tenant), SourceId("web"), CELL, Epoch(1), Micros(at), len(ids), "", body))


async def apply_record(store: PostgresStore, partition: int, tenant: str, offset: int, at: int, ids: list[str]) -> tuple[int, int]:
    """How many were stored, and how many were duplicates."""
    effects = fold(partition, [entry_of(tenant, offset, at, ids)])
    claim = Claim(CELL, {TenantId(tenant): Epoch(1)})
    outcome = await store.apply(Apply(effects, claim, offset, offset + 1), SystemClock().monotonic() + _APPLY_SECONDS)
    if not isinstance(outcome, Applied):
        raise TypeError(repr(outcome))
    return outcome.stored, outcome.duplicate


async def main() -> None:
    """Until the input ends."""
    store: PostgresStore | None = None
    print(json.dumps({"fields": EventRow._fields}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        if "provision" in command:
            dsns = await provision(command["provision"], Passwords(*command["passwords"]))
            store = PostgresStore(dsns.apply, SystemClock(), MemoryMeter())
            answer: object = None
        elif store is None:
            raise ValueError("the first command is to provision")
        elif "own" in command:
            owned = [Ownership(TenantId(one), Epoch(1), "owner") for one in command["own"]]
            await store.own(owned, [TenantId(one) for one in command["dedicated"]])
            answer = None
        else:
            answer = await apply_record(store, **command)
        print(json.dumps(answer), flush=True)
    if store is not None:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())

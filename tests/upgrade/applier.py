"""A process that stores events with whatever version of the code is on its path: one command a line in, one answer a line out, as JSON.

Run as a script, so that the path decides. It uses what both versions have: their own fold and their own store.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import get_args

from cells.eventlog import codec
from cells.eventlog.envelope import Body, Envelope
from cells.eventlog.log import Entry, Record
from cells.processing.pipeline import fold
from cells.storage.postgres_apply import PostgresStore
from cells.storage.postgres_provision import Passwords, provision
from kernel.clock import Micros
from kernel.effects import Applied, Apply, EventRow, Outcome
from kernel.epoch import Claim, Epoch, Ownership, OwnershipState
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


async def outcome_of(store: PostgresStore, partition: int, tenant: str, offset: int, at: int, ids: list[str], epoch: int = 1) -> Outcome:
    """What the store says of a record, when the applier believes in this epoch."""
    effects = fold(partition, [entry_of(tenant, offset, at, ids)])
    claim = Claim(CELL, {TenantId(tenant): Epoch(epoch)})
    return await store.apply(Apply(effects, claim, offset, offset + 1), SystemClock().monotonic() + _APPLY_SECONDS)


async def apply_record(store: PostgresStore, partition: int, tenant: str, offset: int, at: int, ids: list[str]) -> tuple[int, int]:
    """How many were stored, and how many were duplicates."""
    outcome = await outcome_of(store, partition, tenant, offset, at, ids)
    if not isinstance(outcome, Applied):
        raise TypeError(repr(outcome))
    return outcome.stored, outcome.duplicate


async def main() -> None:
    """Until the input ends."""
    store: PostgresStore | None = None
    print(json.dumps({"fields": EventRow._fields, "states": get_args(OwnershipState)}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        if "provision" in command:
            dsns = await provision(command["provision"], Passwords(*command["passwords"]))
            store = PostgresStore(dsns.apply, SystemClock(), MemoryMeter())
            answer: object = None
        elif store is None:
            raise ValueError("the first command is to provision")
        elif "own" in command:
            epoch, state = Epoch(command.get("epoch", 1)), command.get("state", "owner")
            owned = [Ownership(TenantId(one), epoch, state) for one in command["own"]]
            await store.own(owned, [TenantId(one) for one in command.get("dedicated", ())])
            answer = None
        elif "attempt" in command:
            answer = type(await outcome_of(store, **command["attempt"])).__name__
        else:
            answer = await apply_record(store, **command)
        print(json.dumps(answer), flush=True)
    if store is not None:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())

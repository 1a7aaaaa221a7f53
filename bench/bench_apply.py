"""What a fold and its apply cost: microseconds per event, client and server together, on a PostgreSQL of the wheel.

    python -m bench.bench_apply [events in all]

One consumer, applies of 100 to 4,000 events of ~600 bytes in records of 100, 20 tenants, an identity claim per event, two traits per
twentieth, 2 % repeats. Prints medians; compare figures of one run only.
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.workload import message_id
from cells.eventlog import codec
from cells.eventlog.envelope import Body, Envelope
from cells.eventlog.log import Entry, Record
from cells.processing.pipeline import fold
from cells.storage.postgres_apply import PostgresStore
from cells.storage.postgres_provision import Passwords, provision
from cli.local.postgres import Postgres
from kernel.clock import DAY, Micros
from kernel.effects import Applied, Apply
from kernel.epoch import Claim, Epoch, Ownership
from kernel.ids import CellId, SourceId, TenantId
from kernel.metrics import MemoryMeter
from kernel.process.clock import SystemClock

CELL = CellId("bench-cell")
RECORD_EVENTS = 100
TENANTS = [TenantId(f"tenant-{number}") for number in range(20)]
EPOCHS = dict.fromkeys(TENANTS, Epoch(1))


def make(number: int, events: int, partition: int, now: Micros) -> list[Entry]:
    """The records of one fetch, at offsets from `number` * `events` on."""
    entries = []
    for first in range(number * events, (number + 1) * events, RECORD_EVENTS):
        body = codec.encode(Body(None, [_envelope(index, partition) for index in range(first, first + RECORD_EVENTS)]))
        tenant = TENANTS[first // RECORD_EVENTS % len(TENANTS)]
        entries.append(Entry(first, now, Record(tenant, SourceId("web"), CELL, Epoch(1), now, RECORD_EVENTS, "", body)))
    return entries


def _envelope(index: int, partition: int) -> Envelope:
    unique = index - 37 if index % 50 == 49 else index
    id_ = message_id(f"{partition:x}", unique, 0)
    payload = b'{"messageId":"%s","traits":{"plan":"x","city":"y"},"properties":{"order":"%032x","total":%d.5,"items":[%s]}}' % (
        id_.encode(),
        unique,
        unique,
        b",".join(b'{"sku":"%06d","q":1}' % n for n in range(18)),
    )
    user = f"user-{unique % 50_000}"
    kind = "identify" if index % 20 == 0 else "track"
    return Envelope(id_, kind, payload, unique, user, f"anon-{user}", "Order Completed", None, None, Micros(index * 40))


def server_seconds(server: Postgres) -> float:
    """CPU seconds of the server's processes that live now, its backends included."""
    assert server.child is not None
    leader = psutil.Process(server.child.pid)
    return sum(sum(process.cpu_times()[:2]) for process in (leader, *leader.children(recursive=True)))


async def measure(store: PostgresStore, clock: SystemClock, server: Postgres, events: int, total: int, partition: int) -> None:
    """Prints one line."""
    server_began = server_seconds(server)
    took: list[float] = []
    made = 0
    for number in range(total // events):
        entries = make(number, events, partition, Micros(clock.now() - clock.now() % DAY))
        cpu, began = time.process_time(), time.perf_counter()
        effects = fold(partition, entries)
        outcome = await store.apply(Apply(effects, Claim(CELL, EPOCHS), number, number + 1), clock.monotonic() + 30)
        took.append(time.perf_counter() - began)
        made += int((time.process_time() - cpu) * 1e6)
        assert isinstance(outcome, Applied)
    server_took = server_seconds(server) - server_began
    median = statistics.median(took) / events * 1e6
    print(
        f"{events:>5} events per apply: {median:6.1f} us/event median, {sum(took) / len(took) / events * 1e6:6.1f} mean,"
        f" CPU {made / total:5.1f} Python + {server_took / total * 1e6:5.1f} server; {len(took)} applies"
    )


async def main(total: int) -> None:
    """On a fresh server in a temporary folder."""
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o711)  # noqa: S103  # PostgreSQL may run as another user
        server = Postgres(Path(folder), 27_911, "bench", {})
        await server.start()
        try:
            dsns = await provision(server.dsn("bench"), Passwords("a", "b", "c", "d"))
            clock = SystemClock()
            store = PostgresStore(dsns.apply, clock, MemoryMeter())
            await store.own([Ownership(tenant, Epoch(1), "owner") for tenant in TENANTS], [])
            await store.maintain()
            for partition, events in enumerate((1_000, 100, 1_000, 4_000)):
                await measure(store, clock, server, events, total, partition)
            await store.close()
        finally:
            await server.stop()
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 60_000))

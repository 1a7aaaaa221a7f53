"""A running fleet of one cell, with tenants that may send at any rate, and one that may not."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from bench.generator import OpenLoop
from bench.lanes import HttpLane, http_heads
from bench.lanes_grpc import GrpcLane, grpc_heads
from bench.resources import Pids
from bench.scenarios import NEIGHBOUR, NEIGHBOUR_QUOTA
from bench.schedule import TENANTS, Schedule, at_once
from bench.workload import Bodies, Protocol
from cli.local.fleet import LocalFleet
from cli.local.layout import PORTS_TOTAL, Log
from cli.local.ports import free_block
from dataflow.routing.v1 import routing_pb2
from kernel.limits import BATCH_BYTES_HARD_MAX

Route = Literal["edge", "zone"]
CELL: Final = "us-east-1-a"
_REGION, _ZONE = "us-east-1", "us"
_READY_SECONDS: Final = 120.0
_LIVE_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 0.1
_RATE_FREE: Final = 1e6
# Kinds of processes on an event's path; all others of the fleet are `control`.
_PATH: Final = (f"cell/{CELL}", f"postgres/{CELL}", f"kafka/{CELL}", f"envoy/{_REGION}", f"endpoint/{_ZONE}")


@dataclass(frozen=True)
class Bench:
    """A running fleet of one cell. `tenants` are names, `keys` write keys, by index."""

    fleet: LocalFleet
    log: Log
    tenants: tuple[str, ...]
    keys: tuple[str, ...]

    def address(self, route: Route) -> str:
        """Where requests go: the region's edge, or the zone's endpoint before it."""
        return f"127.0.0.1:{self.fleet.layout.ports[f'edge/{_REGION}' if route == 'edge' else f'zone/{_ZONE}']}"

    def loop(self, schedule: Schedule, bodies: Bodies, protocol: Protocol, route: Route = "edge") -> OpenLoop:
        """What plays the schedule against the cell."""
        address = self.address(route)
        if protocol == "http":
            return OpenLoop(schedule, bodies, address, partial(HttpLane, heads=http_heads(address, self.keys)))
        return OpenLoop(schedule, bodies, address, partial(GrpcLane, heads=grpc_heads(address, self.keys)))

    def pids(self) -> Pids:
        """All processes of the fleet and this one, by kind."""
        found: dict[str, list[int]] = {}
        for name, status in self.fleet.statuses.items():
            if status.pid is not None:
                found.setdefault(name.partition("/")[0] if name.startswith(_PATH) else "control", []).append(status.pid)
        return found | {"generator": [os.getpid()]}

    def log_bytes(self) -> int:
        """What the log's broker holds on disk; 0 when the log is in PostgreSQL, which is asked itself."""
        folders = (place.folder for place in self.fleet.layout.places() if place.name.startswith(f"kafka/{CELL}"))
        return sum(file.stat().st_blocks * 512 for folder in folders for file in folder.rglob("*") if file.is_file())


@contextlib.asynccontextmanager
async def one_cell(say: Callable[[str], None], log: Log = "postgres") -> AsyncIterator[Bench]:
    """A fresh fleet in a temporary folder, erased afterwards. Raises Unable when it cannot start."""
    state = tempfile.mkdtemp(prefix="dataflow-bench-", dir="/tmp")  # short, for socket paths
    os.chmod(state, 0o711)  # noqa: S103  # PostgreSQL may run as another user
    try:
        say(f"starting one cell, its PostgreSQL, its edge; the log is in {log}")
        async with LocalFleet(Path(state), free_block(PORTS_TOTAL), cells=(CELL,), log=log) as fleet:
            await fleet.wait_until_ready(_READY_SECONDS)
            tenants = tuple(f"bench-{number:02}" for number in range(TENANTS + 1))
            bench = Bench(fleet, log, tenants, tuple([await _make_tenant(fleet, number, name) for number, name in enumerate(tenants)]))
            await _wait_until_live(bench)
            yield bench
    finally:
        shutil.rmtree(state, ignore_errors=True)


async def _make_tenant(fleet: LocalFleet, number: int, name: str) -> str:
    """Its write key."""
    rate = NEIGHBOUR_QUOTA if number == NEIGHBOUR else _RATE_FREE
    plan_of_it = routing_pb2.Plan(
        events_per_second=rate, burst_events=rate, batch_bytes_max=BATCH_BYTES_HARD_MAX, requests_per_second=_RATE_FREE
    )
    async with fleet.access.directory(_ZONE) as directory:
        await directory.create_tenant(name, plan=plan_of_it)
        return (await directory.create_source(name, "web"))[1]


async def _wait_until_live(bench: Bench) -> None:
    """Until the edge and the cell know every key, over both protocols. Raises RuntimeError after _LIVE_SECONDS."""
    deadline = time.monotonic() + _LIVE_SECONDS
    protocols: tuple[Protocol, ...] = ("http", "grpc")
    for protocol in protocols:
        waiting = list(range(len(bench.keys)))
        while waiting and time.monotonic() < deadline:
            loop = bench.loop(at_once(waiting), Bodies(protocol, "probe", 1), protocol)
            await loop.run()
            waiting = [tenant for tenant, moment in zip(waiting, loop.outcomes.acknowledged, strict=True) if math.isnan(moment)]
            await asyncio.sleep(_LOOK_SECONDS if waiting else 0)
        if waiting:
            raise RuntimeError(f"the edge does not know the keys of {len(waiting)} tenants over {protocol}: {loop.outcomes.sendings}")

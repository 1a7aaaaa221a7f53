"""A zone of many tenants: two regions with real edges, one real directory, an Envoy in the place of the cells, and one without a map.

Tenants come by COPY into the directory's database, as from a backup, and the directory is started anew: by its API it would take an hour.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from bench.line import Line, request
from cli.local import binaries
from cli.local.fleet import LocalFleet
from cli.local.layout import PORTS_TOTAL
from cli.local.ports import free_block
from kernel.ids import ZoneName, hash_of, mint_key
from kernel.limits import Plan

ZONE: Final = ZoneName("us")
CELLS: Final = ("us-east-1-a", "us-west-2-a")
REGIONS: Final = ("us-east-1", "us-west-2")
_MORE_PORTS: Final = 2
_UPSTREAM: Final = "upstream"
_ANSWERS: Final[dict[str, object]] = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "{}"}}}
_FORWARDS: Final[dict[str, object]] = {"match": {"prefix": "/"}, "route": {"cluster": _UPSTREAM}}
_REQUESTS_PER_SECOND: Final = 1e6
_READY_SECONDS: Final = 120.0
_LIVE_SECONDS: Final = 240.0
_LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Crowd:
    """A running zone. `plain` is the port of an Envoy that forwards everything to the same upstream as the edges do."""

    fleet: LocalFleet
    plain: int
    envoys: Mapping[str, int]

    def edge(self, region: str) -> int:
        """The port of a region's edge."""
        return self.fleet.layout.ports[f"edge/{region}"]

    async def grow(self, held: int, tenants: int) -> float:
        """From so many tenants to so many. Seconds from the directory's restart until the last tenant is served at every edge."""
        connection = await asyncpg.connect(self.fleet.access.admin_dsn(ZONE))
        try:
            await _copy(connection, range(held, tenants))
        finally:
            await connection.close()
        started = time.monotonic()
        self.fleet.kill(f"directory/{ZONE}")
        for region in REGIONS:
            await self._until_served(region, key_of(tenants - 1))
        return time.monotonic() - started

    async def _until_served(self, region: str, key: str) -> None:
        async with Line(self.edge(region)) as line:
            deadline = time.monotonic() + _LIVE_SECONDS
            while await line.ask(request(key)) != 200:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{region} does not know the last tenant after {_LIVE_SECONDS:.0f} s")
                await asyncio.sleep(_LOOK_SECONDS)

    def mib(self) -> dict[str, float]:
        """Resident memory of the first edge's Envoy and agent, the directory and the first cell."""
        names = {
            "envoy": f"envoy/{REGIONS[0]}",
            "agent": f"agent/{REGIONS[0]}",
            "directory": f"directory/{ZONE}",
            "cell": f"cell/{CELLS[0]}",
        }
        return {kind: _resident_mib(self.fleet.pid(name)) for kind, name in names.items()}


@contextlib.asynccontextmanager
async def crowd() -> AsyncIterator[Crowd]:
    """A zone without tenants, in a temporary folder that is erased afterwards."""
    state = Path(tempfile.mkdtemp(prefix="dataflow-bench-", dir="/tmp"))  # short, for socket paths
    os.chmod(state, 0o711)  # noqa: S103  # PostgreSQL may run as another user
    try:
        base = free_block(PORTS_TOTAL + _MORE_PORTS)
        upstream, plain = base + PORTS_TOTAL, base + PORTS_TOTAL + 1
        async with LocalFleet(state, base, cells=CELLS) as fleet:
            await fleet.wait_until_ready(_READY_SECONDS)
            with _envoy(state, upstream, _ANSWERS), _envoy(state, plain, _FORWARDS, upstream) as other:
                _lead_to(upstream, state)
                pids = {region: fleet.pid(f"envoy/{region}") for region in REGIONS}
                yield Crowd(fleet, plain, {**pids, "plain": other})
    finally:
        shutil.rmtree(state, ignore_errors=True)


def _lead_to(upstream: int, state: Path) -> None:
    """From its next start on the directory names this port instead of the cells' own."""
    cells = state / "zones" / ZONE / "directory" / "cells.json"
    rows = json.loads(cells.read_text())
    cells.write_text(json.dumps([{**row, "http_address": f"127.0.0.1:{upstream}"} for row in rows]))


def key_of(tenant: int) -> str:
    """The write key of a tenant, by its number."""
    return mint_key("wk", ZONE, tenant.to_bytes(32, "big")).text


def name_of(tenant: int) -> str:
    """Its name."""
    return f"tenant-{tenant:06}"


async def _copy(connection: Any, tenants: range) -> None:
    plan = msgspec.json.encode(Plan(requests_per_second=_REQUESTS_PER_SECOND)).decode()
    async with connection.transaction():
        revision = await connection.fetchval("SELECT revision FROM placement.zone WHERE name = $1 FOR UPDATE", ZONE) + 1
        await connection.copy_records_to_table(
            "tenant",
            schema_name="placement",
            columns=("zone", "name", "cell", "epoch", "plan", "revision"),
            records=((ZONE, name_of(n), CELLS[n % 2], 1, plan, revision) for n in tenants),
        )
        await connection.copy_records_to_table(
            "source",
            schema_name="placement",
            columns=("zone", "tenant", "name", "slug"),
            records=((ZONE, name_of(n), "web", f"{ZONE}-web{n}") for n in tenants),
        )
        await connection.copy_records_to_table(
            "credential",
            schema_name="placement",
            columns=("hash", "zone", "tenant", "source"),
            records=((hash_of(key_of(n)), ZONE, name_of(n), "web") for n in tenants),
        )
        await connection.execute("UPDATE placement.zone SET revision = $2 WHERE name = $1", ZONE, revision)
        # What led to this revision is not told one by one: followers take the whole table.
        await connection.execute("DELETE FROM placement.change WHERE zone = $1", ZONE)


@contextlib.contextmanager
def _envoy(folder: Path, port: int, route: dict[str, object], forwards_to: int = 0) -> Iterator[int]:
    """An Envoy without a map, one listener, one route. Its process id."""
    path = folder / f"envoy-{port}.json"
    endpoint = {"endpoint": {"address": _address(forwards_to)}}
    assignment = {"cluster_name": _UPSTREAM, "endpoints": [{"lb_endpoints": [endpoint]}]}
    upstream = {"name": _UPSTREAM, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment}
    path.write_text(
        json.dumps({"static_resources": {"listeners": [_listener(port, route)], "clusters": [upstream] if forwards_to else []}})
    )
    argv: list[str | Path] = [binaries.envoy(), "-c", path, "--log-level", "error", "--concurrency", "1", "--disable-hot-restart"]
    with (
        path.with_suffix(".log").open("ab") as log,
        subprocess.Popen(argv, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]}) as made,
    ):
        try:
            yield made.pid
        finally:
            made.kill()


def _listener(port: int, route: dict[str, object]) -> dict[str, object]:
    router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    return {"name": "plain", "address": _address(port), "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

"""A small real fleet in e2e tests: tenants with keys, requests through the zone's endpoint, what is stored in the end."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import psutil

from cells.eventlog import codec
from cli.local.fleet import LocalFleet
from cli.local.layout import PORTS_TOTAL
from cli.local.ports import free_block
from gitops.fleet import FLEET
from kernel.residency import Fleet
from tests.support.postgres import temporary_folder
from tests.support.processes import eventually

_STORED_SQL = (
    "SELECT e.ordinal, r.body FROM tenants.event_row e JOIN tenants.record r USING (partition, log_offset, received_day)"
    " WHERE e.tenant = $1"
)
UP_SECONDS = 90.0
_PROBES = 8


@dataclass(frozen=True)
class Source:
    """A tenant's way in (write key, slug) and out (read key)."""

    tenant: str
    cell: str
    zone: str
    write_key: str
    read_key: str
    slug: str


@dataclass(frozen=True)
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Running:
    """A fleet that is up, and one HTTP client."""

    fleet: LocalFleet
    web: aiohttp.ClientSession
    sources: dict[str, Source] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.fleet.layout.state

    def endpoint(self, zone: str) -> str:
        """The zone's URL."""
        return self.fleet.access.zone_endpoint(zone)

    async def add(self, tenant: str, cell: str) -> Source:
        """A tenant of this cell whose keys work at the edge and in the cell."""
        zone = str(self.fleet.layout.fleet.cells[cell].zone)  # type: ignore[index]  # a cell's name
        async with self.fleet.access.directory(zone) as directory:
            await directory.create_tenant(tenant, pinned_cell=cell)
            source, key = await directory.create_source(tenant, "web")
            read_key = await directory.create_read_key(tenant)
        made = Source(tenant, cell, zone, key, read_key, source.slug)

        async def known() -> bool:
            # So many at once take connections of their own, and connections take the edges in turn.
            hello = event(f"hello-{tenant}")
            sent = await asyncio.gather(*(self.ask("POST", zone, "/v1/track", made.write_key, hello) for _ in range(_PROBES)))
            read = await asyncio.gather(*(self.ask("GET", zone, "/v1/events", made.read_key) for _ in range(_PROBES)))
            return {answer.status for answer in (*sent, *read)} == {200}

        await eventually(known, f"the keys of {tenant} work", 20)
        self.sources[tenant] = made
        return made

    async def ask(
        self, method: str, zone: str, path: str, key: str = "", body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request through the zone's endpoint; `body` is JSON unless it is bytes. Redirects are not followed."""
        sent = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        began = time.monotonic()
        async with self.web.request(method, self.endpoint(zone) + path, data=data, headers=sent, allow_redirects=False) as answer:
            content = await answer.read()
        return Answer(answer.status, {k.lower(): v for k, v in answer.headers.items()}, content, time.monotonic() - began)

    async def send(self, source: Source, message_ids: Sequence[str], **fields: object) -> Answer:
        """One batch of track events."""
        batch = [event(message_id, **fields) for message_id in message_ids]
        return await self.ask("POST", source.zone, "/v1/batch", source.write_key, {"batch": batch})

    async def send_until_taken(self, source: Source, message_ids: Sequence[str], seconds: float = 30.0) -> None:
        """As a client does: the same batch again after 429, 503 or a broken connection, until it is acknowledged."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = await self.send(source, message_ids)
                if answer.status == 200:
                    return
                said = f"{answer.status} {answer.body[:200]!r}"
                assert answer.status in (429, 503), said
            except (aiohttp.ClientError, TimeoutError) as error:
                said = repr(error)
            assert time.monotonic() < deadline, f"not taken within {seconds} s: {said}"
            await asyncio.sleep(0.05)

    async def stored(self, source: Source) -> list[str]:
        """The message ids in the tenant's cell, as its superuser counts them, in order."""
        connection = await asyncpg.connect(self.fleet.dsn(source.cell))
        try:
            rows = await connection.fetch(_STORED_SQL, source.tenant)
        finally:
            await connection.close()
        bodies = {row["body"]: [envelope.message_id for envelope in codec.decode(row["body"]).envelopes] for row in rows}
        ids = [bodies[row["body"]][row["ordinal"]] for row in rows]
        return sorted(message_id for message_id in ids if not message_id.startswith("hello-"))

    async def wait_until_stored_some(self, source: Source, message_id: str) -> None:
        """Waits until this event is there, among others."""

        async def there() -> bool:
            return message_id in await self.stored(source)

        await eventually(there, f"{message_id} is stored", 20)

    async def wait_until_stored(self, source: Source, message_ids: Sequence[str], seconds: float = 30.0) -> None:
        """Waits until all are there, then demands that nothing is there twice and nothing else."""
        wanted = sorted(message_ids)

        async def there() -> bool:
            return set(wanted) <= set(await self.stored(source))

        await eventually(there, f"{len(wanted)} events of {source.tenant} are stored", seconds)
        assert await self.stored(source) == wanted

    def pause(self, name: str) -> None:
        """SIGSTOP to a process and all its descendants: it neither works nor dies, its sockets stay open. It is held meanwhile."""
        self.fleet.hold(name)
        for one in self._family(name):
            one.suspend()

    def resume(self, name: str) -> None:
        """Ends `pause`."""
        for one in reversed(self._family(name)):
            one.resume()
        self.fleet.release(name)

    def _family(self, name: str) -> list[psutil.Process]:
        parent = psutil.Process(self.fleet.pid(name))
        return [parent, *parent.children(recursive=True)]

    def logs(self) -> dict[str, bytes]:
        """What every process has said, by file."""
        return {str(path.relative_to(self.state)): path.read_bytes() for path in self.state.rglob("*.log")}


def event(message_id: str, **fields: object) -> dict[str, object]:
    """A track event."""
    return {"type": "track", "event": "Order Completed", "userId": "ada", "messageId": message_id, **fields}


@asynccontextmanager
async def running(
    cells: Sequence[str], otlp_endpoint: str = "", settings: Mapping[str, str] | None = None, *, peers: bool = True, sites: bool = False
) -> AsyncIterator[Running]:
    """These cells with their directories, edges and endpoints, until the block ends; then nothing of it is left. Without `peers` no cell
    stands by for another; with `sites` both regions of a zone keep its directory."""
    state = temporary_folder()
    declared = FLEET if peers else Fleet(FLEET.zones, {name: replace(cell, peer=None) for name, cell in FLEET.cells.items()})
    fleet = LocalFleet(
        state, free_block(PORTS_TOTAL), fleet=declared, cells=cells, otlp_endpoint=otlp_endpoint, settings=settings, sites=sites
    )
    try:
        async with fleet, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as web:
            await fleet.wait_until_ready(UP_SECONDS)
            yield Running(fleet, web)
    finally:
        shutil.rmtree(state, ignore_errors=True)

"""Steady requests through an edge, over both protocols, and what became of each. No tests in here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import aiohttp
import grpc

from tests.support.edge_room import Room


@dataclass(frozen=True)
class Said:
    """One answer: which cell gave it, with which stamp, after how long. `failure` is why there was none."""

    protocol: str
    seconds: float
    cell: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""


@dataclass
class Traffic:
    """What was answered so far, in order."""

    said: list[Said] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        """Why requests failed."""
        return [one.failure for one in self.said if one.failure]

    def of(self, cell: str, after: int = 0) -> list[Said]:
        """What this cell answered, of the answers after the first `after`."""
        return [one for one in self.said[after:] if one.cell == cell]

    def worst_seconds(self, after: int = 0) -> float:
        """The longest that anybody waited, of the answers after the first `after`."""
        return max((one.seconds for one in self.said[after:]), default=0.0)


@contextlib.asynccontextmanager
async def steady(room: Room, tenant: str, workers: int = 3) -> AsyncIterator[Traffic]:
    """So many who send over HTTP, and so many over gRPC, one request after the other; ended after the last answers."""
    traffic, stop = Traffic(), asyncio.Event()

    async def worker(protocol: str) -> None:
        while not stop.is_set():
            traffic.said.append(await one(room, tenant, protocol))

    tasks = [asyncio.create_task(worker(protocol)) for protocol in ("http", "grpc") for _ in range(workers)]
    try:
        yield traffic
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def one(room: Room, tenant: str, protocol: str, **headers: str) -> Said:
    """One request, with these headers besides."""
    began = time.perf_counter()
    send = _http if protocol == "http" else _grpc
    cell, got, failure = await send(room, {"x-api-key": room.keys[tenant], **{k.replace("_", "-"): v for k, v in headers.items()}})
    return Said(protocol, time.perf_counter() - began, cell, got, failure)


async def _http(room: Room, headers: dict[str, str]) -> tuple[str, Mapping[str, str], str]:
    try:
        answer = await room.http.post("/v1/batch", headers=headers, content=b"{}")
    except (aiohttp.ClientError, TimeoutError) as error:
        return "", {}, f"http {error!r}"
    if answer.status_code != 200:
        return "", answer.headers, f"http {answer.status_code} {answer.body[:200]!r}"
    echo = answer.json()
    return echo["cell"], echo["headers"], ""


async def _grpc(room: Room, headers: dict[str, str]) -> tuple[str, Mapping[str, str], str]:
    try:
        echo = await room.say(**headers)
    except grpc.aio.AioRpcError as error:
        return "", {}, f"grpc {error.code().name} {error.details()}"
    return echo["cell"], echo["headers"], ""

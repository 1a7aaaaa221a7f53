"""One load on a running cell, from the first request to the last event that is queryable, and what it took."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import secrets
import signal
import time
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Literal

import asyncpg

from bench import resources, stored
from bench.fleet import CELL, Bench, Route
from bench.generator import OpenLoop
from bench.latency import Samples
from bench.outcomes import ACKNOWLEDGED, Outcomes
from bench.progress import Teller
from bench.run import Run
from bench.scenarios import Take
from bench.schedule import plan
from bench.stored import Sizes
from bench.verdict import Ledger, Part
from bench.visibility import Watch
from bench.workload import RUN_CHARS, Bodies, Protocol

Sabotage = Literal["", "loss", "double", "pause"]
_APPLY_SECONDS_MAX: Final = 300.0
_REST_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.25
_PAUSE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class How:
    """`sabotage` is a negative control: one event is lost or doubled before the verdict, or the cell is paused for a second."""

    protocol: Protocol
    route: Route = "edge"
    warmup_seconds: float = 0.0
    sabotage: Sabotage = ""


async def measure(bench: Bench, take: Take, how: How, teller: Teller) -> Run:
    """Plays the take's load."""
    load, run = take.load, secrets.token_hex(RUN_CHARS // 2)
    schedule = plan(load)
    loop = bench.loop(schedule, Bodies(how.protocol, run, load.batch), how.protocol, how.route)
    pids = bench.pids()
    peaks = resources.Peaks(pids)
    teller.say(
        f"{take.label}: {load.events / load.seconds:,.0f} events/s over {how.protocol}, batches of {load.batch}, {load.seconds:.0f} s"
    )
    async with contextlib.AsyncExitStack() as stack:
        connection, looking = [await stack.enter_async_context(_session(bench)) for _ in range(2)]
        watch = Watch(looking)
        gc.collect()
        gc.freeze()  # the schedule and the templates stay as they are: no need to look through them again and again
        since = await stored.positions(connection)
        given, sizes, before = await stored.applied(connection), await _sizes(bench, connection), resources.usage(pids)
        async with watch.following(), peaks.following(), teller.following(loop, schedule, load.batch), _disturbing(bench, loop, take, how):
            await loop.run()
            if not await _wait_until_applied(connection, given, loop.outcomes, load.batch):
                teller.say("not everything was applied in time")
        after, grown = resources.usage(pids), (await _sizes(bench, connection)).since(sizes)
        gc.unfreeze()
        if bench.pids() != pids:
            teller.say("a process was started again: what its predecessor took is not counted")
        await _falsify(connection, how.sabotage)
        ledger = Ledger(load.batch, schedule.tenant)
        parts = stored.parts(connection, run, bench.tenants, since)
        queryable = await settle(parts, ledger, watch, loop.began, len(loop.outcomes.acknowledged))
    samples = Samples(load.batch, schedule.first_due, loop.outcomes.acknowledged, queryable, schedule.stream)
    verdict = ledger.verdict(loop.outcomes.acknowledged)
    sent = len(set(schedule.request[: loop.outcomes.sent]))
    spent = resources.spent(before, after)
    return Run(take, how.protocol, bench.log, sent, loop.outcomes, samples, verdict, spent, peaks.mib, grown, how.warmup_seconds)


@contextlib.asynccontextmanager
async def _session(bench: Bench) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(bench.fleet.dsn(CELL))
    try:
        yield connection
    finally:
        await connection.close()


async def _sizes(bench: Bench, connection: asyncpg.Connection[asyncpg.Record]) -> Sizes:
    found = await stored.sizes(connection)
    return Sizes(found.log + bench.log_bytes(), found.store, found.wal)


async def _wait_until_applied(connection: asyncpg.Connection[asyncpg.Record], given: int, outcomes: Outcomes, batch: int) -> bool:
    """Until the store was given every sending that was acknowledged. What was not may be in the log as well and come in between: then
    the store has to come to rest besides."""
    wanted = given + outcomes.sendings[ACKNOWLEDGED] * batch
    rest = 0.0 if outcomes.sendings[ACKNOWLEDGED] == outcomes.sent else _REST_SECONDS
    deadline = time.monotonic() + _APPLY_SECONDS_MAX
    last, since = -1, time.monotonic()
    while time.monotonic() < deadline:
        found = await stored.applied(connection)
        if found != last:
            last, since = found, time.monotonic()
        if found >= wanted and time.monotonic() - since >= rest:
            return True
        await asyncio.sleep(_LOOK_SECONDS)
    return False


async def settle(parts: AsyncIterator[Part], ledger: Ledger, watch: Watch, began: float, requests: int) -> array[float]:
    """Enters all that is stored into the ledger; when each of so many requests was queryable as a whole, in seconds after the start."""
    queryable = array("d", [math.nan]) * requests
    async for part in parts:
        ledger.add(part)
        moment = watch.visible_at(part.partition, part.offset)
        if moment is not None and part.request < len(queryable):
            known = queryable[part.request]
            queryable[part.request] = moment - began if math.isnan(known) else max(known, moment - began)
    return queryable


@contextlib.asynccontextmanager
async def _disturbing(bench: Bench, loop: OpenLoop, take: Take, how: How) -> AsyncIterator[None]:
    """What happens to the cell while the load runs."""
    async with asyncio.TaskGroup() as tasks:
        if take.held is not None:
            tasks.create_task(_hold_back(bench, loop, *take.held))
        if how.sabotage == "pause":
            tasks.create_task(_pause(bench, loop, take.load.seconds / 2))
        yield


async def _hold_back(bench: Bench, loop: OpenLoop, since: float, until: float) -> None:
    async with _session(bench) as connection:
        await loop.wait_until_second(since)
        async with connection.transaction():
            await connection.execute(stored.HOLD)
            await loop.wait_until_second(until)


async def _pause(bench: Bench, loop: OpenLoop, second: float) -> None:
    await loop.wait_until_second(second)
    bench.fleet.kill(f"cell/{CELL}", signal.SIGSTOP)
    await asyncio.sleep(_PAUSE_SECONDS)
    bench.fleet.kill(f"cell/{CELL}", signal.SIGCONT)


async def _falsify(connection: asyncpg.Connection[asyncpg.Record], sabotage: Sabotage) -> None:
    if sabotage == "loss":
        await stored.lose_one(connection)
    elif sabotage == "double":
        await stored.double_one(connection)

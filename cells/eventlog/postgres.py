"""The event log in PostgreSQL: durable, crash-safe, for one machine.

One appender per partition gathers the records that wait into a group and stores it with one statement, one commit. The commit
is synchronous; an append returns after it. Within this process readers are woken at once; other processes poll.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import asyncpg

from cells.eventlog.log import Bounds, Entry, Membership, Record
from cells.eventlog.postgres_group import PostgresMembership
from kernel import limits
from kernel.clock import DAY, Clock, Micros
from kernel.epoch import Epoch
from kernel.errors import Failure, Reason
from kernel.ids import CellId, SourceId, TenantId
from kernel.queries import parse
from kernel.scram import scram_verifier

_SQL: Final = {query.name: query.text for query in parse((Path(__file__).parent / "sql" / "queries.sql").read_text()).values()}
_POLL_SECONDS: Final = 0.05
_SIZE_SECONDS: Final = 5.0
_SEGMENT_DAYS_AHEAD: Final = 2
_LOST: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)


async def provision(admin_dsn: str, role: str, password: str, partitions: int) -> None:
    """Makes the role and its schema in the database that `admin_dsn` (a superuser's) names. Idempotent."""
    connection = await asyncpg.connect(admin_dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(7401)")
            known = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role)
            verifier = scram_verifier(password, secrets.token_bytes(16))
            quoted = await connection.fetchval("SELECT format('%I LOGIN PASSWORD %L', $1::text, $2::text)", role, verifier)
            await connection.execute(f"{'ALTER' if known else 'CREATE'} ROLE {quoted}")
            await connection.execute((Path(__file__).parent / "sql" / "schema.sql").read_text())
            await connection.execute(_SQL["seed"].replace("$1", str(int(partitions))))
            for statement in (
                "ALTER SCHEMA eventlog OWNER TO {role}",
                "ALTER TABLE eventlog.record OWNER TO {role}",
                "ALTER TABLE eventlog.partition OWNER TO {role}",
            ):
                await connection.execute(statement.format(role=await connection.fetchval("SELECT format('%I', $1::text)", role)))
    finally:
        await connection.close()


class PostgresLog:
    """See `cells.eventlog.log` for what it promises. Make it with `open_log`."""

    def __init__(self, dsn: str, pool: asyncpg.Pool, partitions: int, clock: Clock, bytes_max: int) -> None:
        self._dsn = dsn
        self._pool = pool
        self._clock = clock
        self._bytes_max = bytes_max
        self._size = 0
        self._segments: set[int] = set()
        self._segment_lock = asyncio.Lock()
        self._appenders = [_Appender(self, number) for number in range(partitions)]
        self._janitor = asyncio.create_task(self._watch_size(), name="eventlog-size")

    @property
    def partitions(self) -> int:
        """The number of partitions."""
        return len(self._appenders)

    async def append(self, partition: int, record: Record, deadline: float) -> int:
        """The record's offset, once its group's commit is durable."""
        return await self.append_all(partition, (record,), deadline)

    async def append_all(self, partition: int, records: Sequence[Record], deadline: float) -> int:
        """The first one's offset, once the commit of their group is durable: a group takes all of them."""
        if any(len(record.body) > limits.RECORD_BYTES_MAX for record in records):
            raise Failure(Reason.RECORD_TOO_LARGE)
        if self._size > self._bytes_max:
            raise Failure(Reason.LOG_FULL, retry_after_seconds=10)
        waiting = self._appenders[partition].offer(records)
        self._size += sum(len(record.body) for record in records)
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                return await asyncio.shield(waiting)
        except TimeoutError:
            waiting.add_done_callback(_swallow)
            raise Failure(Reason.LOG_UNAVAILABLE, "the append took too long", retry_after_seconds=1) from None

    async def fetch(self, partition: int, offset: int, records_max: int, bytes_max: int, wait_seconds: float) -> list[Entry]:
        """Records from `offset` on; polls while it waits, and is woken at once by this process's own appends."""
        ends = self._clock.monotonic() + wait_seconds
        while True:
            woken = self._appenders[partition].arrived
            rows = await self._query(_SQL["fetch"], partition, offset, records_max, bytes_max)
            if rows and rows[0][0] != offset:
                raise Failure(Reason.OFFSET_OUT_OF_RANGE, f"{offset} is before {rows[0][0]}")
            left = ends - self._clock.monotonic()
            if rows or left <= 0:
                break
            try:
                async with asyncio.timeout(min(_POLL_SECONDS, left)):
                    await woken.wait()
            except TimeoutError:
                continue
        if not rows and (bounds := (await self.bounds())[partition]).next > offset and bounds.first > offset:
            raise Failure(Reason.OFFSET_OUT_OF_RANGE, f"{offset} is before {bounds.first}")
        return [_entry(row) for row in rows]

    async def offset_at(self, partition: int, at: Micros) -> int:
        """The first offset of `at` or later."""
        return int((await self._query(_SQL["offset_at"], partition, at))[0][0])

    async def bounds(self) -> dict[int, Bounds]:
        """The bounds of every partition."""
        return {row["partition"]: Bounds(row["first"], row["next"]) for row in await self._query(_SQL["bounds"])}

    async def size_bytes(self) -> int:
        """Bytes on disk, indexes included."""
        return int((await self._query(_SQL["size"]))[0][0])

    async def trim(self, before: Micros) -> int:
        """Drops the day segments that ended at or before `before`."""
        dropped = 0
        for (name,) in await self._query(_SQL["segments"]):
            day = int(name.removeprefix("record_"))
            if (day + 1) * DAY <= before:
                await self._query(f"DROP TABLE eventlog.{name}")
                self._segments.discard(day)
                dropped += 1
        return dropped

    async def join(self, group: str, member: str) -> Membership:
        """A membership that lives as long as its own connection."""
        return PostgresMembership(self._dsn, _SQL["members"], group, self.partitions)

    async def supervise(self) -> None:
        """Runs as long as the log's own tasks do; raises what ended one of them, which is a defect."""
        tasks = [self._janitor, *(appender.task for appender in self._appenders)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def close(self) -> None:
        """Ends the appenders after what they hold, then the pool."""
        self._janitor.cancel()
        for appender in self._appenders:
            await appender.stop()
        await self._pool.close()

    async def store_group(self, partition: int, group: list[Record]) -> int:
        """One group, durably; its first offset."""
        now = self._clock.now()
        await self._ensure_segment(now // DAY)
        async with self._pool.acquire(timeout=limits.APPEND_SECONDS_MAX) as connection:
            base = await connection.fetchval(
                _SQL["append"],
                partition,
                len(group),
                now,
                [r.tenant for r in group],
                [r.source for r in group],
                [r.cell for r in group],
                [r.epoch for r in group],
                [r.received_at for r in group],
                [r.events for r in group],
                [r.trace for r in group],
                [r.body for r in group],
                timeout=limits.APPEND_SECONDS_MAX,
            )
        return int(base)

    async def _query(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        try:
            return await self._pool.fetch(sql, *arguments, timeout=limits.APPEND_SECONDS_MAX)
        except _LOST as error:
            raise Failure(Reason.LOG_UNAVAILABLE, type(error).__name__, retry_after_seconds=1) from error

    async def _ensure_segment(self, today: int) -> None:
        """Segments are made ahead, so that midnight costs nothing."""
        if today in self._segments:
            return
        async with self._segment_lock, self._pool.acquire(timeout=limits.APPEND_SECONDS_MAX) as connection:
            for day in range(today, today + _SEGMENT_DAYS_AHEAD):
                async with connection.transaction():
                    await connection.execute("SELECT pg_advisory_xact_lock(7402)")
                    await connection.execute(
                        f"CREATE TABLE IF NOT EXISTS eventlog.record_{day} PARTITION OF eventlog.record"
                        f" FOR VALUES FROM ({day * DAY}) TO ({(day + 1) * DAY})"
                    )
            self._segments.add(today)

    async def _watch_size(self) -> None:
        while True:
            # When it cannot be read the last size stands, and what is appended meanwhile is added to it.
            with contextlib.suppress(Failure):
                self._size = await self.size_bytes()
            await self._clock.sleep(_SIZE_SECONDS)


class _Appender:
    """Owns one partition's queue. At most one group is in flight, so offsets keep the order of the offers."""

    def __init__(self, log: PostgresLog, partition: int) -> None:
        self._log = log
        self._partition = partition
        self._waiting: deque[tuple[Sequence[Record], asyncio.Future[int]]] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self.arrived = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"eventlog-appender-{partition}")

    def offer(self, records: Sequence[Record]) -> asyncio.Future[int]:
        size = sum(len(record.body) for record in records)
        if self._stopping or self._bytes + size > limits.APPEND_QUEUE_BYTES_MAX:
            raise Failure(Reason.LOG_UNAVAILABLE, "too much is waiting", retry_after_seconds=1)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((records, future))
        self._bytes += size
        self._wake.set()
        return future

    async def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        await self.task

    async def _run(self) -> None:
        while True:
            if not self._waiting:
                if self._stopping:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            group = self._take()
            try:
                base = await self._log.store_group(self._partition, [record for records, _ in group for record in records])
            except _LOST as error:
                failure = Failure(Reason.LOG_UNAVAILABLE, type(error).__name__, retry_after_seconds=1)
                for _, future in group:
                    if not future.done():
                        future.set_exception(failure)
                continue
            for records, future in group:
                if not future.done():
                    future.set_result(base)
                base += len(records)
            self.arrived.set()
            self.arrived = asyncio.Event()

    def _take(self) -> list[tuple[Sequence[Record], asyncio.Future[int]]]:
        group: list[tuple[Sequence[Record], asyncio.Future[int]]] = []
        count = size = 0
        while self._waiting and count < limits.APPEND_GROUP_RECORDS_MAX and (not group or size < limits.APPEND_GROUP_BYTES_MAX):
            records, future = self._waiting.popleft()
            size += sum(len(record.body) for record in records)
            count += len(records)
            group.append((records, future))
        self._bytes -= size
        return group


async def open_log(dsn: str, clock: Clock, bytes_max: int = limits.LOG_BYTES_MAX) -> PostgresLog:
    """The log that `provision` made. Raises Failure(LOG_UNAVAILABLE) with what to look at."""
    try:
        pool = await asyncpg.create_pool(dsn, min_size=1, max_size=12, timeout=5.0, reset=_keep)
        partitions = await pool.fetchval(_SQL["partitions"])
    except _LOST as error:
        raise Failure(Reason.LOG_UNAVAILABLE, f"PostgreSQL does not answer: {error}") from error
    return PostgresLog(dsn, pool, partitions, clock, bytes_max)


async def _keep(_: object) -> None:
    """Nothing is reset between uses: no statement here changes its session, and a reset is one more round trip each time."""


def _swallow(future: asyncio.Future[int]) -> None:
    """The caller has given up; the append's fate is looked at so that it is not reported as forgotten."""
    if not future.cancelled():
        future.exception()


def _entry(row: asyncpg.Record) -> Entry:
    offset, appended_at, tenant, source, cell, epoch, received_at, events, trace, body = row
    return Entry(
        offset,
        Micros(appended_at),
        Record(TenantId(tenant), SourceId(source), CellId(cell), Epoch(epoch), Micros(received_at), events, trace, body),
    )

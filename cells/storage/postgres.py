"""PostgreSQL at the edge of storage: connections as the service's own roles, and which errors mean "not now".

A connection that failed in mid-transaction is cut, not mended: the server rolls back, the pool connects anew at the next use,
so a killed server is found again by itself. Every wait is bounded on both sides.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from kernel.effects import EventRow, RecordRow
from kernel.errors import Failure, Reason
from kernel.limits import APPLY_SECONDS_MAX, QUERY_SECONDS_MAX

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection, Pool = asyncpg.Connection, asyncpg.Pool

CONNECT_SECONDS_MAX: Final = 5.0
EVENT_COLUMNS: Final = tuple("log_offset" if name == "offset" else name for name in EventRow._fields)
RECORD_COLUMNS: Final = tuple("log_offset" if name == "offset" else name for name in RecordRow._fields)
REFUSED: Final = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
# InternalClientError: a dying server's last words reached an idle connection. InvalidCachedStatementError: a migration changed a
# table under a prepared statement, which is prepared anew the next time.
NOT_NOW: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalServerError,
)


@dataclass(frozen=True, slots=True)
class Dsn:
    """A database URL, taken apart. Its text holds a password and never reaches a log."""

    text: str

    @property
    def database(self) -> str:
        """The database's name."""
        return unquote(urlsplit(self.text).path.lstrip("/"))

    def to(self, database: str) -> Dsn:
        """The same server and user, another database."""
        return Dsn(urlunsplit(urlsplit(self.text)._replace(path="/" + quote(database, safe=""))))

    def as_role(self, role: str, password: str) -> Dsn:
        """The same database as another role."""
        parts = urlsplit(self.text)
        host = parts.netloc.rpartition("@")[2]
        return Dsn(urlunsplit(parts._replace(netloc=f"{quote(role, safe='')}:{quote(password, safe='')}@{host}")))

    def __repr__(self) -> str:
        return f"Dsn(database={self.database!r})"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a pool: connections, and how long the server lets one statement run."""

    connections: int
    statement_seconds: float


APPLY_BOUNDS: Final = Bounds(connections=6, statement_seconds=APPLY_SECONDS_MAX)
QUERY_BOUNDS: Final = Bounds(connections=8, statement_seconds=QUERY_SECONDS_MAX)
AUDIT_BOUNDS: Final = Bounds(connections=2, statement_seconds=QUERY_SECONDS_MAX)

# Every probe goes by an index whatever the statistics say: tables and partitions are young and without any when it matters.
INDEX_PLANS: Final = {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_seqscan": "off", "jit": "off"}
READ_PLANS: Final = {"jit": "off"}


class Session:
    """A pool of one role, opened lazily: a process may start while its database is down."""

    def __init__(
        self,
        dsn: str,
        name: str,
        bounds: Bounds,
        plans: dict[str, str],
    ) -> None:
        self._dsn = dsn
        self._who = urlsplit(dsn).username or "us"
        self._bounds = bounds
        self._settings = {
            **plans,
            "application_name": name,
            "search_path": "pg_catalog",
            "timezone": "UTC",
            "statement_timeout": str(int(bounds.statement_seconds * 1_000)),
            "lock_timeout": str(int(bounds.statement_seconds * 1_000)),
            "idle_in_transaction_session_timeout": str(int(bounds.statement_seconds * 2_000)),
            "client_connection_check_interval": "1000",
        }
        self._pool: Pool | None = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def connection(self, seconds: float) -> AsyncIterator[Connection]:
        """A connection for at most `seconds`. Raises Failure(STORE_UNAVAILABLE); whatever is raised inside cuts the connection."""
        if seconds <= 0:
            raise Failure(Reason.STORE_UNAVAILABLE, "no time was left")
        try:
            async with asyncio.timeout(seconds):
                pool = await self._open()
                connection = await pool.acquire()
                try:
                    yield connection
                except BaseException:
                    connection.terminate()
                    raise
                finally:
                    await pool.release(connection)
        except REFUSED as error:
            raise Failure(Reason.STORE_UNAVAILABLE, f"PostgreSQL refuses {self._who}: a wrong password, role or database") from error
        except NOT_NOW as error:
            raise Failure(Reason.STORE_UNAVAILABLE, type(error).__name__) from error

    async def _open(self) -> Pool:
        async with self._opening:
            if self._pool is None:
                pool = asyncpg.create_pool(
                    self._dsn,
                    min_size=0,
                    max_size=self._bounds.connections,
                    timeout=CONNECT_SECONDS_MAX,
                    server_settings=self._settings,
                    reset=_keep,
                    max_inactive_connection_lifetime=300.0,
                )
                self._pool = await pool
            return self._pool

    async def close(self) -> None:
        """Cuts what is still open. Idempotent."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None


async def _keep(_: object) -> None:
    """Nothing is reset between uses: what a transaction sets is local to it."""

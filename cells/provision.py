"""Makes a cell's database and its log, once, before the cell starts: `python -m cells.provision`.

The superuser's URL is known to this short process alone; a cell's own process holds the URLs of its services' roles.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

import asyncpg

from cells.config import ProvisionConfig, kafka_access, role_and_password
from cells.eventlog import kafka_provision as eventlog_kafka
from cells.eventlog import postgres as eventlog
from cells.eventlog.topics import Topic
from cells.storage import postgres_provision as storage
from cells.storage.postgres_migrate import MigrationChanged
from kernel.errors import Failure
from kernel.process import settings
from kernel.process.clock import SystemClock

_EXPECTED = (settings.BadSettings, MigrationChanged, Failure, OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError)


async def provision(config: ProvisionConfig) -> None:
    """Database, roles, schemas and migrations of storage, then the event log: its role and schema, or its topic. Idempotent."""
    provision_log = _kafka(config) if config.log_kind == "kafka" else _postgres(config)
    secrets = [role_and_password(dsn)[1] for dsn in (config.owner_dsn, config.apply_dsn, config.query_dsn, config.audit_dsn)]
    await storage.provision(config.admin_dsn, storage.Passwords(*secrets))
    await provision_log()


def _postgres(config: ProvisionConfig) -> Callable[[], Awaitable[None]]:
    if not config.log_dsn:
        raise settings.BadSettings(["DATAFLOW_LOG_DSN is required by log_kind postgres"])
    role, password = role_and_password(config.log_dsn)
    return lambda: eventlog.provision(config.admin_dsn, role, password, config.log_partitions)


def _kafka(config: ProvisionConfig) -> Callable[[], Awaitable[None]]:
    access = kafka_access(config)
    topic = Topic(config.kafka_topic, config.log_partitions, config.log_replication, config.log_min_in_sync)
    return lambda: eventlog_kafka.provision(access, topic, SystemClock())


def main() -> None:
    """Exit code 1, with the reason on standard error, when it cannot be done."""
    try:
        asyncio.run(provision(settings.load(ProvisionConfig, os.environ)))
    except _EXPECTED as error:
        sys.exit(f"provision: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()

"""Makes a cell's database, once, before the cell starts: `python -m cells.provision`.

The superuser's URL is known to this short process alone; a cell's own process holds the URLs of its services' roles.
"""

from __future__ import annotations

import asyncio
import os
import sys

import asyncpg

from cells.config import ProvisionConfig, role_and_password
from cells.eventlog import postgres as eventlog
from cells.storage import postgres_provision as storage
from cells.storage.postgres_migrate import MigrationChanged
from kernel.process import settings


async def provision(config: ProvisionConfig) -> None:
    """Database, roles, schemas and migrations of storage, then those of the event log. Idempotent."""
    secrets = [role_and_password(dsn)[1] for dsn in (config.owner_dsn, config.apply_dsn, config.query_dsn, config.audit_dsn)]
    await storage.provision(config.admin_dsn, storage.Passwords(*secrets))
    role, password = role_and_password(config.log_dsn)
    await eventlog.provision(config.admin_dsn, role, password, config.log_partitions)


def main() -> None:
    """Exit code 1, with the reason on standard error, when it cannot be done."""
    try:
        asyncio.run(provision(settings.load(ProvisionConfig, os.environ)))
    except (settings.BadSettings, MigrationChanged, OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        sys.exit(f"provision: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()

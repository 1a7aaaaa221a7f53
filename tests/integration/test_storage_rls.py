"""Isolation and least privilege, tested as the service's own roles on a real PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import asyncpg
import pytest

from cells.storage.postgres_migrate import MigrationChanged, migrate
from cells.storage.postgres_provision import Dsns, provision
from cells.storage.postgres_read import PostgresReader
from cells.storage.sql import Migration, migrations
from kernel.clock import day_of
from kernel.effects import DeadLetter, HeldRecord, IdentityClaim, TraitClaim
from kernel.ids import TenantId, message_keys
from tests.support.postgres import Databases
from tests.support.storage_room import ACME, GLOBEX, NOW, PASSWORDS, Room, effects, event, postgres_room

__all__ = ["postgres_room"]

pytestmark = pytest.mark.postgres

TABLES = ["event_row", "record", "node", "trait", "dead_letter", "held"]


@pytest.fixture
async def filled(postgres_room: Room) -> Dsns:
    """Both tenants have an event, a person and a trait."""
    for tenant in (ACME, GLOBEX):
        claims = (IdentityClaim(tenant, "u:ann", "a:1"),)
        traits = (TraitClaim(tenant, "u:ann", "plan", '"x"', NOW, "m1"),)
        payload = f'{{"of":"{tenant}"}}'.encode()
        await postgres_room.apply(effects(event("m1", tenant, payload=payload), identities=claims, traits=traits))
    assert postgres_room.dsns is not None
    return postgres_room.dsns


@pytest.fixture
async def query(filled: Dsns) -> AsyncIterator[asyncpg.Connection]:
    """A connection as df_query."""
    connection = await asyncpg.connect(filled.query)
    yield connection
    await connection.close()


@pytest.fixture
async def apply(filled: Dsns) -> AsyncIterator[asyncpg.Connection]:
    """A connection as df_apply."""
    connection = await asyncpg.connect(filled.apply)
    yield connection
    await connection.close()


@pytest.mark.parametrize("table", TABLES)
async def test_no_tenant_no_rows(query: asyncpg.Connection, table: str) -> None:
    """Without a current tenant, with an empty or a wrong one, the role sees nothing whatever the WHERE clause."""
    for setting in (None, "", "stranger", "%", "acme,globex", "ACME"):
        if setting is not None:
            await query.execute("SELECT set_config('dataflow.tenant', $1, false)", setting)
        for where in ("true", "tenant = 'acme'", "tenant LIKE '%' OR true"):
            assert await query.fetch(f"SELECT * FROM tenants.{table} WHERE {where}") == []  # noqa: S608  # the test's own text


async def test_one_tenant_its_rows(query: asyncpg.Connection) -> None:
    """With a current tenant exactly its rows are seen, asking for others' does not help, joins and aggregates included."""
    await query.execute("SELECT set_config('dataflow.tenant', 'acme', false)")
    for table in ("event_row", "record", "node", "trait"):
        rows = await query.fetch(f"SELECT tenant FROM tenants.{table} WHERE tenant = 'globex' OR true")  # noqa: S608  # the test's own text
        assert {r["tenant"] for r in rows} == {"acme"}
    assert await query.fetchval("SELECT count(*) FROM tenants.event_row e JOIN tenants.record r ON true JOIN tenants.trait t ON true") == 1
    assert [r["tenant"] for r in await query.fetch("SELECT tenant FROM cell.ownership")] == ["acme"]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO tenants.trait VALUES ('acme', 'n', 'n', '1', 1, 'm')",
        "UPDATE tenants.event_row SET name = 'x'",
        "UPDATE tenants.record SET body = ''",
        "DELETE FROM tenants.event_row",
        "DELETE FROM tenants.record",
        "TRUNCATE tenants.event_row",
        "SELECT * FROM tenants.ledger",
        "SELECT * FROM cell.audit",
        "SELECT * FROM cell.position",
        "SELECT epoch FROM cell.ownership",
        "SELECT cell.maintain('2026-01-01')",
        "SELECT cell.dedicate('acme')",
        "CREATE TABLE tenants.mine (x int)",
        "SET ROLE df_apply",
        "ALTER TABLE tenants.event_row DISABLE ROW LEVEL SECURITY",
        "SET SESSION AUTHORIZATION df_owner",
    ],
)
async def test_the_query_role_may_only_read(query: asyncpg.Connection, statement: str) -> None:
    """No writing, no other tables, no other role."""
    await query.execute("SELECT set_config('dataflow.tenant', 'acme', false)")
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidAuthorizationSpecificationError)):
        await query.execute(statement)


async def _leaves(connection: asyncpg.Connection) -> list[str]:
    found = await connection.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE relkind = 'r'"
    )
    return [leaf["name"] for leaf in found]


async def test_partitions_are_granted_to_nobody(filled: Dsns, query: asyncpg.Connection, apply: asyncpg.Connection) -> None:
    """A partition touched directly bypasses its parent's policy: every one refuses every role whatever it is asked but for adding."""
    leaves = await _leaves(apply)
    assert {leaf.rpartition("_")[0] for leaf in leaves} == {"tenants.event", "tenants.event_row", "tenants.record"}
    audit = await asyncpg.connect(filled.audit)
    statements = ("SELECT * FROM {}", "SELECT count(*) FROM {}", "UPDATE {} SET source = 'x'", "DELETE FROM {}", "TRUNCATE {}")
    for leaf, statement, connection in itertools.product(leaves, statements, (query, apply, audit)):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(statement.format(leaf))
    await audit.close()


async def test_a_partition_takes_rows_from_the_apply_role_alone(query: asyncpg.Connection, apply: asyncpg.Connection) -> None:
    """That of event rows, for its COPY, and of its own day; what it adds it cannot read back there. Others take nothing from anybody."""
    columns = "tenant, message_key, received_day, event_at, partition, log_offset, ordinal, content_hash, type, source"
    values = "'acme', '\\x00', {}, 1, 0, 99, 0, 1, 'track', 'web'"
    (leaf,) = [leaf for leaf in await _leaves(apply) if leaf == f"tenants.event_row_{day_of(NOW):%Y%m%d}"]
    insert = f"INSERT INTO {leaf} ({columns}) VALUES ({values})"  # noqa: S608  # the test's own text
    day, other = f"date '{day_of(NOW)}'", "date '1999-01-01'"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await query.execute(insert.format(day))
    with pytest.raises(asyncpg.CheckViolationError):
        await apply.execute(insert.format(other))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await apply.fetch(insert.format(day) + " RETURNING *")
    assert await apply.execute(insert.format(day)) == "INSERT 0 1"
    for closed in (leaf.replace("event_row", "record"), leaf.replace("event_row", "event")):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await apply.execute(f"INSERT INTO {closed} SELECT")


async def test_what_is_added_to_a_partition_is_seen_by_its_own_tenant_alone(query: asyncpg.Connection, filled: Dsns) -> None:
    """The parent's policy covers rows that never passed it: acme's and globex's came by COPY into the same partition."""
    seen = {}
    for tenant in (ACME, GLOBEX):
        await query.execute("SELECT set_config('dataflow.tenant', $1, false)", tenant)
        (row,) = await query.fetch("SELECT r.body, e.tenant, e.message_key FROM tenants.event_row e JOIN tenants.record r USING (tenant)")
        assert (row["tenant"], row["message_key"]) == (tenant, message_keys(tenant, ["m1"])[0])
        seen[tenant] = row["body"]
        others = message_keys(GLOBEX if tenant == ACME else ACME, ["m1"])
        assert await query.fetch("SELECT * FROM tenants.event_row WHERE message_key = ANY ($1::bytea[])", others) == []
    assert seen[ACME] != seen[GLOBEX]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM tenants.ledger",
        "UPDATE tenants.event_row SET name = 'x'",
        "TRUNCATE tenants.trait",
        "DROP TABLE tenants.ledger",
        "SELECT * FROM cell.audit",
        "SELECT cell.make_schema('tenant_x')",
        "SELECT cell.isolate('tenants.event_row')",
        "SELECT cell.make_records('tenants')",
        "SELECT cell.make_schema_1('tenant_x')",
        "SELECT cell.make_leaf('tenants', 'record', '2026-01-01')",
        "SELECT cell.make_day('pg_catalog', '2026-01-01')",
    ],
)
async def test_the_apply_role_may_not_remove(apply: asyncpg.Connection, statement: str) -> None:
    """It adds and updates; deleting, the audit chain and the schema are not its business."""
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidSchemaNameError)):
        await apply.execute(statement)


async def test_the_previous_versions_events_may_be_moved_away_by_the_apply_role_alone(
    filled: Dsns, query: asyncpg.Connection, apply: asyncpg.Connection
) -> None:
    """From the table that they stand in, whatever schema it is of; nobody else removes them, and nothing else is removed."""
    assert await apply.execute("DELETE FROM tenants.event") == "DELETE 0"
    assert await apply.fetchval("SELECT cell.dedicate('globex')") == "tenant_globex"
    assert await apply.execute("DELETE FROM tenant_globex.event") == "DELETE 0"
    audit = await asyncpg.connect(filled.audit)
    for connection in (query, audit):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("DELETE FROM tenants.event")
    await audit.close()


@pytest.mark.parametrize("table", TABLES)
async def test_only_a_tenant_that_lives_elsewhere_can_be_removed(
    postgres_room: Room, filled: Dsns, apply: asyncpg.Connection, table: str
) -> None:
    """Whatever a statement of the apply role says, rows of a tenant that the cell owns stay; so do partitions, and the query role removes
    nothing at all."""
    held = HeldRecord(GLOBEX, NOW, 900, 1, b"x")
    letter = DeadLetter(GLOBEX, NOW, 901, 0, "bad", "UNPROCESSABLE_EVENT", "", b"x")
    await postgres_room.apply(effects(held=(held,), dead_letters=(letter,)))
    counted = f"SELECT tenant, count(*) FROM tenants.{table} GROUP BY tenant"  # noqa: S608  # the test's own text
    before = {row["tenant"]: row["count"] for row in await apply.fetch(counted)}
    assert before[GLOBEX]
    remove = f"DELETE FROM tenants.{table}"  # noqa: S608  # the test's own text
    assert await apply.execute(remove) == "DELETE 0"
    await postgres_room.own(GLOBEX, 2, "released")
    assert await apply.execute(remove) == f"DELETE {before.pop(GLOBEX)}"
    assert {row["tenant"]: row["count"] for row in await apply.fetch(counted)} == before
    query = await asyncpg.connect(filled.query)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await query.execute(remove)
    await query.close()
    if table in ("event_row", "record"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await apply.execute(f"DELETE FROM tenants.{table}_{day_of(NOW):%Y%m%d}")  # noqa: S608  # the test's own text


@pytest.mark.parametrize("statement", ["UPDATE cell.audit SET actor = 'x'", "DELETE FROM cell.audit", "TRUNCATE cell.audit"])
async def test_the_audit_role_only_adds(filled: Dsns, statement: str) -> None:
    """The service itself cannot rewrite its audit chain, nor read events."""
    connection = await asyncpg.connect(filled.audit)
    try:
        for refused in (statement, "SELECT * FROM tenants.event_row", "SELECT * FROM tenants.record"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(refused)
    finally:
        await connection.close()


async def test_every_tenant_table_forces_its_policies(postgres: Databases, filled: Dsns) -> None:
    """Row-level security is on and forced on every table of every tenant schema, partitions included, and on ownership. Partitions
    that take COPY, which it refuses, are open to the apply role for adding and to nobody for anything else."""
    connection = await asyncpg.connect(postgres.admin_dsn)
    try:
        open_tables = await connection.fetch(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE relkind IN ('r', 'p') AND (nspname LIKE 'tenant%' OR c.oid = 'cell.ownership'::regclass)"
            " AND NOT (relrowsecurity AND relforcerowsecurity)"
        )
        grants = await connection.fetch(
            "SELECT DISTINCT grantee, privilege_type FROM information_schema.role_table_grants"
            " WHERE table_name ~ '^event_row_' AND grantee <> 'df_owner'"
        )
        roles = await connection.fetch(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'df\\_%' AND (rolsuper OR rolbypassrls OR rolcreaterole)"
        )
        passwords = await connection.fetch(
            "SELECT rolpassword FROM pg_authid WHERE rolname IN ('df_owner', 'df_apply', 'df_query', 'df_audit')"
        )
    finally:
        await connection.close()
    assert {row[0].rpartition("_")[0] for row in open_tables} == {"tenants.event_row"}
    assert {tuple(row) for row in grants} == {("df_apply", "INSERT")}
    assert roles == []
    assert [r["rolpassword"].split("$")[0] for r in passwords] == ["SCRAM-SHA-256"] * 4


async def test_a_wrong_password_is_refused(filled: Dsns) -> None:
    """Roles authenticate with scram, on one machine too."""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(filled.query.replace("query-pw", "apply-pw"))


async def test_a_dedicated_schema_is_isolated_too(postgres_room: Room) -> None:
    """The tables of a tenant of its own show nothing to another tenant."""
    await postgres_room.own(GLOBEX, dedicated=True)
    await postgres_room.apply(effects(event("m1", GLOBEX)))
    assert postgres_room.dsns is not None
    connection = await asyncpg.connect(postgres_room.dsns.query)
    try:
        for tenant, seen in (("acme", 0), ("globex", 1)):
            await connection.execute("SELECT set_config('dataflow.tenant', $1, false)", tenant)
            assert await connection.fetchval("SELECT count(*) FROM tenant_globex.event_row") == seen
            assert await connection.fetchval("SELECT count(*) FROM tenant_globex.record") == seen
    finally:
        await connection.close()


async def test_provisioning_is_idempotent_and_makes_the_database(postgres: Databases) -> None:
    """Twice in a row changes nothing; a database that does not exist is made."""
    fresh = postgres.admin_dsn + "_made"
    try:
        first = await provision(fresh, PASSWORDS)
        assert await provision(fresh, PASSWORDS) == first
        assert await migrate(first.owner) == []
    finally:
        admin = await asyncpg.connect(postgres.admin_dsn)
        await admin.execute(f'DROP DATABASE "{fresh.rpartition("/")[2]}" WITH (FORCE)')
        await admin.close()


async def test_migrations_apply_in_order_once_and_never_change(filled: Dsns) -> None:
    """A new one is applied, an applied one with another text is refused, a failing one leaves nothing behind."""
    steps = migrations()
    more = Migration(len(steps) + 1, "more", "CREATE TABLE cell.more (x int)")
    assert await migrate(filled.owner, [*steps, more]) == [more.version]
    assert await migrate(filled.owner, steps) == [], "a database that is ahead is left alone"
    with pytest.raises(MigrationChanged):
        await migrate(filled.owner, [*steps, Migration(more.version, "more", "CREATE TABLE cell.other (x int)")])
    bad = Migration(more.version + 1, "bad", "CREATE TABLE cell.half (x int); SELECT 1/0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(filled.owner, [*steps, more, bad])
    fixed = Migration(bad.version, "bad", "CREATE TABLE cell.half (x int)")
    assert await migrate(filled.owner, [*steps, more, fixed]) == [fixed.version]


async def test_a_dedicated_tenants_rows_stand_nowhere_else(postgres_room: Room) -> None:
    """Law: of an apply that mixes tenants, each schema holds its own tenants' rows alone."""
    vip = TenantId("very-important")
    await postgres_room.own(vip, dedicated=True)
    await postgres_room.apply(effects(event("m1", vip), event("m1")))
    connection = await asyncpg.connect(postgres_room.admin_dsn)
    try:
        for schema, tenant in (("tenants", ACME), ("tenant_very_important", vip)):
            for table in ("event_row", "record"):
                found = await connection.fetch(f"SELECT DISTINCT tenant FROM {schema}.{table}")  # noqa: S608  # our names
                assert [row["tenant"] for row in found] == [tenant]
    finally:
        await connection.close()


async def test_no_tenant_outlives_its_read(postgres_room: Room) -> None:
    """Law: the connection that read for a tenant is nobody's afterwards, and sees nothing."""
    await postgres_room.apply(effects(event("m1", ACME)))
    assert await postgres_room.ids(ACME) == ["m1"]
    assert isinstance(postgres_room.reader, PostgresReader)
    async with postgres_room.reader._session.connection(5) as connection:
        assert not await connection.fetchval("SELECT current_setting('dataflow.tenant', true)")
        assert await connection.fetchval("SELECT count(*) FROM tenants.event_row") == 0

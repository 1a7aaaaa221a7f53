"""The residency proof's search of a cell's tables, on a real PostgreSQL: it sees what is compressed, else its judge calls it blind."""

from __future__ import annotations

import asyncpg
import pytest

from chaos.checkers.history import Copy, History, Sent
from chaos.checkers.verdicts import judge
from cli.demo.evidence import TokenSearch, opened
from kernel.effects import HeldRecord
from kernel.ids import TenantId
from tests.support.storage_room import ACME, NOW, Room, batch, effects, event, postgres_room

__all__ = ["postgres_room"]
pytestmark = pytest.mark.postgres

VIP = TenantId("very-important")
TOKEN = b"token-eu-9f86d081884c7d659a2feaa0c55ad015"
PAYLOAD = b'{"token":"%s","stuffing":"%s"}' % (TOKEN, b"stuffing " * 200)


async def _search(room: Room) -> list[Copy]:
    connection = await asyncpg.connect(room.admin_dsn)
    try:
        return [copy async for copy in opened(connection, "eu", "a cell", (TOKEN,))]
    finally:
        await connection.close()


async def _search_closed(room: Room, table: str) -> bytes:
    """What a search finds that opens nothing."""
    connection = await asyncpg.connect(room.admin_dsn)
    search = TokenSearch((TOKEN,))
    await connection.copy_from_query(f"SELECT * FROM {table}", output=search.feed, format="binary")  # noqa: S608  # our own name
    await connection.close()
    return search.text


def _findings(copies: list[Copy], canaries: dict[str, tuple[bytes, ...]]) -> set[str]:
    sent = (Sent("acme", "u", "m1", None, "rejected"),)
    found = judge(History(sent, (), copies=tuple(copies), canaries=canaries))
    return {finding.partition(":")[0] for finding in found} - {"void"}


async def test_a_token_in_a_compressed_record_is_found(postgres_room: Room) -> None:
    """In the shared schema as in a tenant's own, where the bytes of the table do not show it."""
    for tenant, schema in ((ACME, "tenants"), (VIP, "tenant_very_important")):
        await postgres_room.own(tenant, dedicated=tenant == VIP)
        before = [copy.name for copy in await _search(postgres_room) if TOKEN in copy.text]
        await postgres_room.apply(batch(event("m1", tenant, payload=PAYLOAD)))
        assert await _search_closed(postgres_room, f"{schema}.record") == b"", "the control is void: the token is not sealed"
        found = [copy for copy in await _search(postgres_room) if TOKEN in copy.text and copy.name not in before]
        assert [(copy.kind, f" {schema}.record_" in copy.name) for copy in found] == [("store", True)]


async def test_a_token_in_a_held_record_is_found(postgres_room: Room) -> None:
    """It waits compressed too."""
    (record,) = batch(event("m1", payload=PAYLOAD)).records
    await postgres_room.apply(effects(held=(HeldRecord(ACME, NOW, 5, 1, record.body),)), epochs={})
    assert TOKEN not in record.body, "the control is void: the token is not sealed"
    assert [copy.kind for copy in await _search(postgres_room) if TOKEN in copy.text] == ["other"]


async def test_a_leak_into_a_compressed_record_is_a_finding(postgres_room: Room) -> None:
    """A token of another zone in this zone's store; and a search that opens nothing is called blind, not clean."""
    await postgres_room.apply(batch(event("m1", payload=PAYLOAD)))
    copies = await _search(postgres_room)
    assert _findings(copies, {"eu": (TOKEN,)}) == set()
    assert _findings(copies, {"us": (TOKEN,)}) == {"leak", "blind"}
    closed = [copy._replace(text=b"") for copy in copies]
    assert _findings([*closed, Copy("eu", "a file", TOKEN)], {"eu": (TOKEN,)}) == {"blind"}

"""What storing must not cost: a look at rows that have nothing to do with the event."""

from __future__ import annotations

import asyncpg
import pytest

from kernel.effects import Applied, IdentityClaim
from tests.support.processes import eventually
from tests.support.storage_room import ACME, Room, effects, postgres_room, row

__all__ = ["postgres_room"]
pytestmark = pytest.mark.postgres

_APPLIES, _EVENTS = 12, 20
_SCANS = """
    SELECT coalesce(sum(idx_scan), 0)::bigint FROM pg_stat_user_indexes
    WHERE schemaname = 'tenants' AND relname ~ $1 AND indexrelname ~ $2
"""


async def _scans(room: Room, relation: str, index: str) -> int:
    """Scans of some indexes of the shared schema, by patterns; read after the store's sessions have ended, when all is counted."""
    connection = await asyncpg.connect(room.admin_dsn)
    found = await connection.fetchval(_SCANS, relation, index)
    await connection.close()
    return int(found)


async def test_an_event_is_never_looked_for_by_time(postgres_room: Room) -> None:
    """A young partition is believed empty, whatever it holds: a look-up by the time index would then read the whole tenant."""
    for number in range(_APPLIES):
        rows = [row(f"m{number}-{index}") for index in range(_EVENTS)]
        assert await postgres_room.apply(effects(*rows)) == Applied(_EVENTS, 0, 0, 0, 0)
    await postgres_room.store.close()

    async def inserted() -> bool:
        connection = await asyncpg.connect(postgres_room.admin_dsn)
        counted = await connection.fetchval("SELECT sum(n_tup_ins) FROM pg_stat_user_tables WHERE relname ~ '^event_'")
        await connection.close()
        return int(counted or 0) == _APPLIES * _EVENTS

    await eventually(inserted, "the sessions' statistics are there")
    assert await _scans(postgres_room, "^event_", "event_at") == 0


async def test_a_repeat_is_not_looked_for_by_time_once_there_is_much(postgres_room: Room) -> None:
    """Repeats that came while the partition was young must not fix the plan for those that come later."""
    small = [[row(f"small-{number}-{index}") for index in range(5)] for number in range(6)]
    large = [[row(f"large-{number}-{index}") for index in range(500)] for number in range(6)]
    for rows in small:
        assert await postgres_room.apply(effects(*rows)) == Applied(len(rows), 0, 0, 0, 0)
        assert await postgres_room.apply(effects(*rows)) == Applied(0, len(rows), 0, 0, 0)
    for rows in large:
        assert await postgres_room.apply(effects(*rows)) == Applied(len(rows), 0, 0, 0, 0)
    for rows in large:
        assert await postgres_room.apply(effects(*rows)) == Applied(0, len(rows), 0, 0, 0)
    await postgres_room.store.close()

    async def counted() -> bool:
        return await _scans(postgres_room, "^event_", "pkey") >= 500 * len(large)

    await eventually(counted, "the sessions' statistics are there")
    assert await _scans(postgres_room, "^event_", "event_at") <= sum(map(len, small))


async def test_a_settled_claim_is_asked_about_once_more_only(postgres_room: Room) -> None:
    """The first apply stores a claim, the second learns that it is settled; later ones leave the graph alone."""
    claim = IdentityClaim(ACME, "u:ann", "a:phone")
    for number in range(_APPLIES):
        await postgres_room.apply(effects(row(f"m{number}"), identities=(claim,)))
    await postgres_room.store.close()

    async def counted() -> bool:
        return await _scans(postgres_room, "^node$", "") > 0

    await eventually(counted, "the sessions' statistics are there")
    assert await _scans(postgres_room, "^node$", "node_pkey") < _APPLIES

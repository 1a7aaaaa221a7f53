"""The laws of `cells.storage.store` on who may apply, on every adapter: owners, standbys, holders, and whose ledger counts what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cells.storage.store import LedgerRow
from kernel.effects import Applied, DeadLetter, Fenced, HeldRecord
from kernel.epoch import Epoch, Ownership
from kernel.ids import CellId, TenantId
from tests.support.storage_room import ACME, GLOBEX, NOW, Room, effects, event, memory_room, postgres_room, room

__all__ = ["memory_room", "postgres_room", "room"]

LETTER = DeadLetter(ACME, NOW, 9, 2, "bad-1", "UNPROCESSABLE_EVENT", "shape", b"\x00not json")


async def test_a_claim_that_does_not_hold_is_fenced(room: Room) -> None:
    """No ownership row, another epoch (older or newer), a released tenant: Fenced names each, and nothing changes."""
    stranger = TenantId("stranger")
    await room.own(GLOBEX, 1, "released")
    outcome = await room.apply(effects(event("m1"), event("m2", GLOBEX), event("m3", stranger)), epochs={ACME: 1, GLOBEX: 1, stranger: 1})
    assert outcome == Fenced(frozenset({GLOBEX, stranger}))
    await room.own(ACME, 2)
    for epoch in (1, 3):
        assert await room.apply(effects(event("m1")), epochs={ACME: epoch}) == Fenced(frozenset({ACME}))
    assert await room.ids() == []
    assert await room.store.positions() == {}
    assert await room.apply(effects(event("m1")), epochs={ACME: 2}) == Applied(1, 0, 0, 0, 0)


async def test_the_epoch_inside_an_envelope_is_never_compared(room: Room) -> None:
    """Facts received under an older epoch stay applicable."""
    await room.own(ACME, 9)
    assert await room.apply(effects(event("m1", epoch=1)), epochs={ACME: 9}) == Applied(1, 0, 0, 0, 0)


async def test_ownership_only_grows(room: Room) -> None:
    """A smaller epoch changes nothing; the same epoch may only turn owner into released."""
    await room.own(ACME, 5)
    await room.own(ACME, 4, "released")
    assert isinstance(await room.apply(effects(event("m1")), epochs={ACME: 5}), Applied)
    await room.own(ACME, 5, "released")
    await room.own(ACME, 5, "owner")
    assert isinstance(await room.apply(effects(event("m2")), epochs={ACME: 5}), Fenced)
    await room.store.own(
        [Ownership(ACME, Epoch(6), "owner"), Ownership(ACME, Epoch(6), "released"), Ownership(ACME, Epoch(7), "owner")], []
    )
    assert isinstance(await room.apply(effects(event("m3")), epochs={ACME: 7}), Applied)


async def test_a_standby_applies_as_an_owner_does(room: Room) -> None:
    """Law: it is fenced by the epoch all the same; at one epoch it may be released and stand by again, and never becomes the owner."""
    await room.own(ACME, 2, "standby")
    assert await room.apply(effects(event("m1")), epochs={ACME: 1}) == Fenced(frozenset({ACME}))
    assert await room.apply(effects(event("m1")), epochs={ACME: 2}) == Applied(1, 0, 0, 0, 0)
    await room.own(ACME, 2, "released")
    assert isinstance(await room.apply(effects(event("m2")), epochs={ACME: 2}), Fenced)
    await room.own(ACME, 2, "standby")
    assert isinstance(await room.apply(effects(event("m2")), epochs={ACME: 2}), Applied)
    await room.own(ACME, 3, "owner")
    assert isinstance(await room.apply(effects(event("m3")), epochs={ACME: 3}), Applied)


async def test_how_far_another_log_is_kept_moves_by_compare_and_set(room: Room) -> None:
    """Law: for each cell and partition by itself, beside the positions of this cell's own log, and forward only."""
    here, there = CellId("eu-central-1-a"), CellId("eu-north-1-a")
    assert await room.store.replicated(here) == {}
    assert not await room.store.replicate(here, 1, 4, 9)
    assert await room.store.replicate(here, 1, 0, 4)
    assert not await room.store.replicate(here, 1, 0, 7)
    assert await room.store.replicate(here, 1, 4, 9)
    assert await room.store.replicate(there, 1, 0, 2)
    assert (await room.store.replicated(here), await room.store.replicated(there)) == ({1: 9}, {1: 2})
    assert await room.store.positions() == {}
    with pytest.raises(ValueError, match="forward"):
        await room.store.replicate(here, 1, 9, 9)


async def test_what_another_cell_accepted_is_stored_and_not_in_the_ledger(room: Room) -> None:
    """Law: each cell accounts for what it accepted itself: rows, duplicates, dead letters and held records of others count there."""
    ours, theirs, again = event("m1"), event("m2"), event("m1")
    held = HeldRecord(GLOBEX, NOW, 90, 17, b"record")
    mixed = effects(ours, theirs, again, dead_letters=(LETTER,), held=(held,))
    replicas = frozenset({theirs.offset, again.offset, LETTER.offset, held.offset})
    assert await room.apply(replace(mixed, elsewhere=replicas)) == Applied(1, 0, 0, 0, 0)
    assert sorted(await room.ids()) == ["m1", "m2"]
    assert [line for line in await room.store.ledger() if line.tenant == ACME] == [LedgerRow(ACME, NOW, 1, 0, 0, 0)]


async def test_held_records_need_no_claim(room: Room) -> None:
    """A tenant that appears in held alone may be unknown here; the position moves on."""
    held = HeldRecord(TenantId("stranger"), NOW, 4, 17, b"record")
    assert await room.apply(effects(held=(held,)), epochs={}) == Applied(0, 0, 0, 17, 0)
    assert await room.store.positions() == {0: 1}


async def test_holding_one_record_does_not_open_the_door_for_rows(room: Room) -> None:
    """A tenant with a held record and a row in one apply still needs its claim for the row."""
    stranger = TenantId("stranger")
    mixed = effects(event("m1", stranger), held=(HeldRecord(stranger, NOW, 4, 17, b"record"),))
    assert await room.apply(mixed, epochs={}) == Fenced(frozenset({stranger}))

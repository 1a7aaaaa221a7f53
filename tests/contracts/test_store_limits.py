"""What a store can keep and what it never can: the largest admissible event passes on every adapter, what is beyond is a ValueError."""

from __future__ import annotations

import random

import pytest

from kernel import limits
from kernel.clock import DAY, Micros
from kernel.effects import Applied, IdentityClaim, TraitClaim
from tests.support.storage_room import ACME, EVER, NOW, Room, effects, memory_room, postgres_room, room, row

__all__ = ["memory_room", "postgres_room", "room"]

_dice = random.Random(7)


def _text(characters: int) -> str:
    """Text of four bytes a character that no compression shortens."""
    return "".join(chr(_dice.randrange(0x1F300, 0x1F9FF)) for _ in range(characters))


async def test_the_largest_of_every_field_is_kept(room: Room) -> None:
    """Every identifier and name as long as admission lets through, in the widest characters: stored, found again, merged."""
    user, device, group, name = (_text(limits.ID_CHARS_MAX) for _ in range(4))
    message_id, trait = _text(limits.MESSAGE_ID_CHARS_MAX), _text(limits.TRAIT_NAME_CHARS_MAX)
    payload = b'{"x":"' + b"y" * (limits.EVENT_BYTES_MAX - 8) + b'"}'
    largest = row(message_id, user_id=user, anonymous_id=device, group_id=group, name=name, payload=payload)
    claims = (TraitClaim(ACME, f"u:{user}", trait, '"v"', Micros(NOW), message_id),)
    applied = await room.apply(effects(largest, identities=(IdentityClaim(ACME, f"u:{user}", f"a:{device}"),), traits=claims))
    assert applied == Applied(1, 0, 0, 0, 0)
    (stored,) = await room.reader.list_events(ACME, EVER, 10, None)
    assert stored.row.payload == payload
    profile = await room.reader.profile(ACME, f"a:{device}")
    assert profile is not None
    assert (profile.user_ids, profile.traits) == ((user,), {trait: '"v"'})


async def test_a_trait_whose_key_fits_no_index_is_refused_and_nothing_changes(room: Room) -> None:
    """On every adapter, so that a simulation sees what PostgreSQL would do."""
    monster = TraitClaim(ACME, "u:ann", _text(1_000), "1", Micros(NOW), "m1")
    with pytest.raises(ValueError, match="key"):
        await room.apply(effects(row("m1"), traits=(monster,)))
    assert await room.apply(effects(row("m1"))) == Applied(1, 0, 0, 0, 0)


@pytest.mark.postgres
async def test_a_payload_that_is_not_json_is_refused_not_retried(postgres_room: Room) -> None:
    """ValueError tells the caller that trying again will not help; nothing changes and the store goes on."""
    with pytest.raises(ValueError, match="never be kept"):
        await postgres_room.apply(effects(row("m1", payload=b"{")))
    assert await postgres_room.apply(effects(row("m1"))) == Applied(1, 0, 0, 0, 0)


async def test_an_apply_over_midnight_finds_an_earlier_write_of_the_later_day(room: Room) -> None:
    """Partitions are applied out of order: the first write may carry the later day, and the apply hold rows of both."""
    await room.apply(effects(row("m1")))
    assert await room.apply(effects(row("m1", at=NOW - DAY), row("m2"))) == Applied(1, 1, 0, 0, 0)

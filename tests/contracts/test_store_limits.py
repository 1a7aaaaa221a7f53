"""What a store can keep and what it never can: the largest admissible event passes on every adapter, what is beyond is Unkeepable."""

from __future__ import annotations

import random
from dataclasses import replace

import asyncpg
import pytest

from cells.storage import tally
from kernel import limits
from kernel.clock import DAY, Micros
from kernel.effects import Applied, Apply, DeadLetter, IdentityClaim, TraitClaim, Unkeepable
from kernel.epoch import Claim, Epoch
from kernel.errors import Failure
from tests.support.storage_room import ACME, CELL, EVER, NOW, Room, effects, event, memory_room, postgres_room, room

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
    largest = event(message_id, user_id=user, anonymous_id=device, group_id=group, name=name, payload=payload)
    claims = (TraitClaim(ACME, f"u:{user}", trait, '"v"', Micros(NOW), message_id),)
    applied = await room.apply(effects(largest, identities=(IdentityClaim(ACME, f"u:{user}", f"a:{device}"),), traits=claims))
    assert applied == Applied(1, 0, 0, 0, 0)
    (stored,) = (await room.reader.list_events(ACME, EVER, 10, None)).events
    assert stored.envelope.payload == payload
    profile = await room.reader.profile(ACME, f"a:{device}")
    assert profile is not None
    assert (profile.user_ids, profile.traits) == ((user,), {trait: '"v"'})


async def test_a_trait_whose_key_fits_no_index_is_refused_and_nothing_changes(room: Room) -> None:
    """On every adapter, so that a simulation sees what PostgreSQL would do."""
    monster = TraitClaim(ACME, "u:ann", _text(1_000), "1", Micros(NOW), "m1")
    with pytest.raises(Unkeepable, match="key"):
        await room.apply(effects(event("m1"), traits=(monster,)))
    assert await room.apply(effects(event("m1"))) == Applied(1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "poison",
    [
        {"name": "a\0b"},
        {"user_id": "\0"},
        {"source": "\0"},
        {"cell": "\0"},
    ],
    ids=str,
)
async def test_text_with_a_nul_is_refused_not_retried(room: Room, poison: dict[str, str]) -> None:
    """Unkeepable tells the caller that trying again will not help; nothing changes and the store goes on."""
    with pytest.raises(Unkeepable, match="never be kept"):
        await room.apply(effects(event("m0"), event("m1", **poison)))  # type: ignore[arg-type]  # test values by name
    assert await room.store.positions() == {}
    assert await room.apply(effects(event("m1"))) == Applied(1, 0, 0, 0, 0)


@pytest.mark.parametrize("number", ["content_hash", "epoch"])
async def test_a_number_of_more_than_64_bits_is_refused_not_retried(room: Room, number: str) -> None:
    """A writer other than ingest leaves any in a log; the largest that fits is kept."""
    with pytest.raises(Unkeepable, match="64 bits"):
        await room.apply(effects(event("m0"), event("m1", **{number: 2**63})))  # type: ignore[arg-type]  # test values by name
    assert await room.store.positions() == {}
    assert await room.apply(effects(event("m1", **{number: 2**63 - 1}))) == Applied(1, 0, 0, 0, 0)  # type: ignore[arg-type]  # as above


async def test_a_time_beyond_the_calendar_is_refused_not_retried(room: Room) -> None:
    """Of a dead letter too, whose time nobody else has looked at."""
    letter = DeadLetter(ACME, Micros(2**60), 9, 0, "bad", "UNPROCESSABLE_EVENT", "shape", b"{")
    with pytest.raises(Unkeepable, match="calendar"):
        await room.apply(effects(dead_letters=(letter,)))
    assert await room.store.positions() == {}


@pytest.mark.postgres
async def test_what_the_driver_refuses_is_refused_not_retried(postgres_room: Room) -> None:
    """In a COPY, and in a statement where its error looks like one of a broken connection; the store goes on."""
    made = effects(event("m1"))
    for bad in (made.rows[0]._replace(event_at=Micros(2**63)), made.rows[0]._replace(name=7), made.rows[0]._replace(name="\ud800")):  # type: ignore[arg-type]  # what a forged record may hold
        with pytest.raises(Unkeepable, match="never be kept"):
            await postgres_room.apply(replace(made, rows=(bad,)))
    letter = DeadLetter(ACME, NOW, 2**63, 0, "bad", "UNPROCESSABLE_EVENT", "shape", b"{")
    with pytest.raises(Unkeepable, match="never be kept"):
        await postgres_room.apply(effects(dead_letters=(letter,)))
    assert await postgres_room.apply(made) == Applied(1, 0, 0, 0, 0)


@pytest.mark.parametrize("payload", [b"{", b"", b"\xff\x00", b'{"a":"\\ud800"}'])
async def test_a_payload_is_kept_whatever_it_is(room: Room, payload: bytes) -> None:
    """The store keeps bytes; whether they are JSON is for whoever shows them to say."""
    assert await room.apply(effects(event("m1", payload=payload))) == Applied(1, 0, 0, 0, 0)
    stored = await room.reader.get_event(ACME, "m1")
    assert stored is not None
    assert stored.envelope.payload == payload


async def test_an_apply_over_midnight_finds_an_earlier_write_of_the_later_day(room: Room) -> None:
    """Partitions are applied out of order: the first write may carry the later day, and the apply hold rows of both."""
    await room.apply(effects(event("m1")))
    assert await room.apply(effects(event("m1", at=NOW - DAY), event("m2"))) == Applied(1, 1, 0, 0, 0)


@pytest.mark.postgres
async def test_a_defect_of_ours_buries_nothing(postgres_room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: only values that cannot be kept are called so; whatever else goes wrong with a value stops the caller, and nothing changes."""
    for error in (TypeError, ValueError):

        def broken(*_: object, error: type[Exception] = error) -> None:
            raise error("a defect")

        with monkeypatch.context() as patched:
            patched.setattr(tally, "settle", broken)
            with pytest.raises(error, match="a defect") as raised:
                await postgres_room.apply(effects(event("m0")))
            assert not isinstance(raised.value, Unkeepable)
    assert await postgres_room.store.positions() == {}
    assert await postgres_room.apply(effects(event("m0"))) == Applied(1, 0, 0, 0, 0)


@pytest.mark.postgres
async def test_a_stuck_apply_ends_at_its_deadline(postgres_room: Room) -> None:
    """Whatever the server does, the caller hears STORE_UNAVAILABLE about when its deadline is over, and nothing was applied."""
    room = postgres_room
    blocker = await asyncpg.connect(room.admin_dsn)
    try:
        await blocker.execute("BEGIN; LOCK TABLE tenants.event_row IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Failure):
            await room.store.apply(Apply(effects(event("m1")), Claim(CELL, {ACME: Epoch(1)}), 0, 1), room.clock.monotonic() + 0.2)
        await blocker.execute("ROLLBACK")
    finally:
        await blocker.close()
    assert await room.apply(effects(event("m1"))) == Applied(1, 0, 0, 0, 0)

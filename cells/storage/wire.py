"""`kernel.effects.Effects` as MessagePack arrays, version 2: how a separate processing role hands them over.

New fields of rows are appended at the end, so that a newer storage reads an older processing; storage is upgraded first.
"""

from __future__ import annotations

from typing import Final

import msgspec

from kernel.clock import Micros
from kernel.effects import DeadLetter, Effects, EventRow, HeldRecord, IdentityClaim, RecordRow, TraitClaim
from kernel.ids import TenantId

VERSION: Final = 2


class _Wire(msgspec.Struct, array_like=True, frozen=True):
    version: int
    partition: int
    rows: tuple[EventRow, ...]
    records: tuple[RecordRow, ...]
    identities: tuple[IdentityClaim, ...]
    traits: tuple[TraitClaim, ...]
    dead_letters: tuple[DeadLetter, ...]
    held: tuple[HeldRecord, ...]
    accepted: tuple[tuple[TenantId, Micros, int], ...]
    elsewhere: tuple[int, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Wire)


def encode_effects(effects: Effects) -> bytes:
    """The bytes."""
    accepted = tuple((tenant, hour, events) for (tenant, hour), events in effects.accepted.items())
    return _encoder.encode(
        _Wire(
            VERSION,
            effects.partition,
            effects.rows,
            effects.records,
            effects.identities,
            effects.traits,
            effects.dead_letters,
            effects.held,
            accepted,
            tuple(sorted(effects.elsewhere)),
        )
    )


def decode_effects(data: bytes) -> Effects:
    """The inverse. Raises ValueError."""
    try:
        wire = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"effects that cannot be read: {error}") from error
    if wire.version != VERSION:
        raise ValueError(f"effects of version {wire.version}, this is {VERSION}")
    accepted = {(tenant, hour): events for tenant, hour, events in wire.accepted}
    found = (wire.rows, wire.records, wire.identities, wire.traits, wire.dead_letters, wire.held)
    return Effects(wire.partition, *found, accepted, frozenset(wire.elsewhere))

"""An envelope: a client's event plus what the cell knows of it."""

from __future__ import annotations

import msgspec

from kernel.clock import Micros

EVENT_TYPES = ("track", "identify", "page", "screen", "group", "alias")


class Envelope(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One admitted event. `payload` is the client's JSON object, byte for byte; the other fields are promoted from it.

    `original_at` is the client's own time of the event. `content_hash` is the CRC-32 of the payload: a second event with the
    same message id but another hash is counted as a conflict. New fields are appended with a default, so that old records
    stay readable.
    """

    message_id: str
    type: str
    payload: bytes
    content_hash: int
    user_id: str | None = None
    anonymous_id: str | None = None
    name: str | None = None
    group_id: str | None = None
    previous_id: str | None = None
    original_at: Micros | None = None


class Body(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a record's body holds: the batch's `sent_at` by the client's clock, and its envelopes in the client's order."""

    sent_at: Micros | None
    envelopes: list[Envelope]

"""An envelope: a client's event plus what the cell knows of it."""

from __future__ import annotations

from operator import attrgetter

import msgspec

from kernel.clock import Micros

EVENT_TYPES = ("track", "identify", "page", "screen", "group", "alias")


class Envelope(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One admitted event. `payload` is the client's JSON object, byte for byte; the other fields are promoted from it.

    `original_at` is the client's own time of the event. `content_hash` is the CRC-32 of the payload: a second event with the
    same message id but another hash is counted as a conflict.
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


class Columns(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A body field by field: who looks at one field of all envelopes makes no object for each. Lists of equal length, in the order and
    with the names of Envelope's fields. A new field is a new format of the codec."""

    sent_at: Micros | None
    message_ids: list[str]
    types: list[str]
    payloads: list[bytes]
    content_hashes: list[int]
    user_ids: list[str | None]
    anonymous_ids: list[str | None]
    names: list[str | None]
    group_ids: list[str | None]
    previous_ids: list[str | None]
    original_ats: list[Micros | None]


_fields = attrgetter(*Envelope.__struct_fields__)


def columns_of(body: Body) -> Columns:
    """The body turned on its side."""
    if not body.envelopes:
        return Columns(body.sent_at, [], [], [], [], [], [], [], [], [], [])
    return Columns(body.sent_at, *map(list, zip(*map(_fields, body.envelopes), strict=True)))


def body_of(columns: Columns) -> Body:
    """The inverse. Raises ValueError when the columns are not of one length."""
    fields = (getattr(columns, name) for name in Columns.__struct_fields__[1:])
    return Body(columns.sent_at, [Envelope(*row) for row in zip(*fields, strict=True)])

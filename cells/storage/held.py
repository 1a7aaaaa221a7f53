"""Finding a message in a held record, which is kept as the log had it. Pure."""

from __future__ import annotations

from typing import Final

from cells.eventlog import codec

HELD_RECORDS_MAX: Final = 64


def ordinal_in(record: bytes, message_id: str) -> int | None:
    """The index of the message in the record's body; None when it is not there or the record cannot be read."""
    try:
        envelopes = codec.decode(record).envelopes
    except codec.Undecodable:
        return None
    return next((index for index, envelope in enumerate(envelopes) if envelope.message_id == message_id), None)

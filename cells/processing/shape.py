"""The built-in check of an event's shape. Tracking plans take this place per tenant; a violation is a dead letter, never silence."""

from __future__ import annotations

from typing import Final

import msgspec

from cells.eventlog.envelope import EVENT_TYPES, Columns, Envelope, body_of

_TYPES: Final = frozenset(EVENT_TYPES)
_UNCONDITIONAL: Final = _TYPES - {"alias", "group"}
_objects: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def violation(envelope: Envelope, strict: bool = False) -> str | None:
    """What is wrong with an envelope that a log may hold (an older or a foreign writer's), or None.

    `strict` also reads the payload, which ingest has done already: a store that refused a batch asks for it.
    """
    if envelope.type not in _TYPES:
        return "type"
    if not envelope.message_id or "\x00" in envelope.message_id:
        return "messageId"
    if envelope.user_id is None and envelope.anonymous_id is None:
        return "userId or anonymousId"
    if envelope.type == "alias" and envelope.previous_id is None:
        return "previousId"
    if envelope.type == "group" and envelope.group_id is None:
        return "groupId"
    return "payload" if strict and not _is_object(envelope.payload) else None


def violations(columns: Columns, strict: bool = False) -> dict[int, str]:
    """What is wrong with which envelopes of a body. Nearly always nothing, which a look at whole columns tells."""
    if not strict and _sound(columns):
        return {}
    found = ((ordinal, violation(envelope, strict)) for ordinal, envelope in enumerate(body_of(columns).envelopes))
    return {ordinal: what for ordinal, what in found if what is not None}


def _sound(columns: Columns) -> bool:
    """Whether no envelope can be wrong. False says that one may be."""
    return (
        _UNCONDITIONAL.issuperset(columns.types)
        and all(columns.message_ids)
        and "\x00" not in "".join(columns.message_ids)
        and (None, None) not in zip(columns.user_ids, columns.anonymous_ids, strict=True)
    )


def _is_object(payload: bytes) -> bool:
    try:
        _objects.decode(payload)
        payload.decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return b"\x00" not in payload

"""The built-in check of an event's shape. Tracking plans take this place per tenant; a violation is a dead letter, never silence."""

from __future__ import annotations

from typing import Final

from cells.eventlog.envelope import EVENT_TYPES, Envelope

_TYPES: Final = frozenset(EVENT_TYPES)


def violation(envelope: Envelope) -> str | None:
    """What is wrong with an envelope that a log may hold (an older or a foreign writer's), or None."""
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
    return None

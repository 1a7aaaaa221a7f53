"""Admits a batch, event by event: every event becomes an envelope, a rejection with its reason, or a repeat. Pure.

An item is the UTF-8 text of one event as the client sent it (Segment's specification); it becomes the envelope's payload
untouched. One bad item never harms its neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Final
from zlib import crc32

import msgspec

from cells.eventlog.envelope import EVENT_TYPES, Envelope
from cells.ingest.verdict import Admitted, Rejected, Repeated
from kernel import limits
from kernel.clock import Micros, parse_iso
from kernel.errors import Reason

Text = str | int | float | None


class _Object(msgspec.Struct, gc=False):
    """Any JSON object: that it is one is all that is looked at."""


class _Identify(msgspec.Struct):
    """The names of an identify call's traits."""

    traits: dict[str, msgspec.Raw] | None = None


class _Event(msgspec.Struct, rename="camel"):
    """The promoted fields of an item; everything else stays in its text. Numbers are taken as ids, since real clients send them."""

    type: str | None = None
    message_id: Text = None
    user_id: Text = None
    anonymous_id: Text = None
    event: Text = None
    name: Text = None
    group_id: Text = None
    previous_id: Text = None
    timestamp: str | None = None
    original_timestamp: str | None = None
    properties: _Object | None = None
    traits: _Object | None = None
    context: _Object | None = None


class _Refusal(Exception):
    def __init__(self, reason: Reason, detail: str = "", message_id: str = "") -> None:
        self.reason = reason
        self.detail = detail
        self.message_id = message_id


_decoder: Final = msgspec.json.Decoder(_Event)
_identify: Final = msgspec.json.Decoder(_Identify)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_TYPES: Final = frozenset(EVENT_TYPES)


def admit(items: Sequence[bytes], new_message_id: Callable[[], str], seen: set[str] | None = None, first_index: int = 0) -> Admitted:
    """Decides each of `items`. `new_message_id` names events whose client did not; `seen` carries ids over from an earlier
    slice of the same request, and `first_index` is the index of the slice's first item in it."""
    known = seen if seen is not None else set()
    accepted: list[tuple[int, Envelope]] = []
    rejected: list[Rejected] = []
    repeated: list[Repeated] = []
    for index, item in enumerate(items, first_index):
        try:
            envelope = _envelope(item, new_message_id)
        except _Refusal as refusal:
            rejected.append(Rejected(index, refusal.message_id, refusal.reason, refusal.detail))
            continue
        if envelope.message_id in known:
            repeated.append(Repeated(index, envelope.message_id))
            continue
        known.add(envelope.message_id)
        accepted.append((index, envelope))
    return Admitted(tuple(accepted), tuple(rejected), tuple(repeated))


def _envelope(item: bytes, new_message_id: Callable[[], str]) -> Envelope:
    plain = item.isascii() and item.find(b"\\") < 0
    event = _decode(item, plain)
    message_id = _text("messageId", event.message_id, limits.MESSAGE_ID_CHARS_MAX) or new_message_id()
    try:
        return _checked(item, event, message_id)
    except _Refusal as refusal:
        refusal.message_id = message_id
        raise


def _decode(item: bytes, plain: bool) -> _Event:
    """`plain` says that the item is ASCII and escapes nothing: then no character can be wrong."""
    if len(item) > limits.EVENT_BYTES_MAX:
        raise _Refusal(Reason.EVENT_TOO_LARGE, f"{len(item)} bytes")
    if item.count(b"{") + item.count(b"[") > limits.NESTING_MAX and deeper_than(item, limits.NESTING_MAX):
        raise _Refusal(Reason.NESTING_TOO_DEEP, f"more than {limits.NESTING_MAX} levels")
    if not plain and _SURROGATE.search(item):
        _refuse_lone_surrogates(item)
    try:
        if not plain:
            item.decode()
        return _decoder.decode(item)
    except msgspec.ValidationError as error:
        raise _Refusal(Reason.INVALID_FIELD, str(error)) from None
    except msgspec.DecodeError as error:
        raise _Refusal(Reason.MALFORMED_BODY, str(error)) from None
    except UnicodeDecodeError:
        raise _Refusal(Reason.INVALID_ENCODING) from None


def _checked(item: bytes, event: _Event, message_id: str) -> Envelope:
    kind = event.type
    if kind not in _TYPES:
        raise _Refusal(Reason.MISSING_FIELD if kind is None else Reason.UNKNOWN_TYPE, "type")
    user_id = _text("userId", event.user_id, limits.ID_CHARS_MAX)
    anonymous_id = _text("anonymousId", event.anonymous_id, limits.ID_CHARS_MAX)
    previous_id = _text("previousId", event.previous_id, limits.ID_CHARS_MAX)
    group_id = _text("groupId", event.group_id, limits.ID_CHARS_MAX)
    name = _text("event", event.event if kind == "track" else event.name, limits.NAME_CHARS_MAX)
    if user_id is None and anonymous_id is None:
        raise _Refusal(Reason.MISSING_ID)
    if kind == "identify" and event.traits is not None:
        _check_traits(_identify.decode(item).traits or {})
    if kind == "track":
        if name is None:
            raise _Refusal(Reason.MISSING_FIELD, "event")
    elif kind == "alias" and previous_id is None:
        raise _Refusal(Reason.MISSING_FIELD, "previousId")
    elif kind == "group" and group_id is None:
        raise _Refusal(Reason.MISSING_FIELD, "groupId")
    original_at = _instant(event)
    return Envelope(message_id, kind, item, crc32(item), user_id, anonymous_id, name, group_id, previous_id, original_at)


def _check_traits(traits: dict[str, msgspec.Raw]) -> None:
    """Each trait becomes a row of its own: their number and the length of their names are bounded."""
    if len(traits) > limits.TRAITS_PER_EVENT_MAX:
        raise _Refusal(Reason.INVALID_FIELD, f"traits holds more than {limits.TRAITS_PER_EVENT_MAX} members")
    for name in traits:
        _text("the name of a trait", name, limits.TRAIT_NAME_CHARS_MAX)


def _text(field: str, value: Text, chars_max: int) -> str | None:
    """The identifier as text; None when absent or empty."""
    if value is None:
        return None
    if type(value) is str and len(value) <= chars_max and "\x00" not in value:
        return value or None
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) > chars_max:
        raise _Refusal(Reason.INVALID_FIELD, f"{field} is longer than {chars_max} characters")
    if "\x00" in text:
        raise _Refusal(Reason.INVALID_CHARACTER, field)
    return text


def _instant(event: _Event) -> Micros | None:
    """The client's own time of the event."""
    text = event.original_timestamp or event.timestamp
    if text is None:
        return None
    moment = parse_iso(text)
    if moment is None:
        raise _Refusal(Reason.INVALID_TIMESTAMP, "originalTimestamp" if event.original_timestamp else "timestamp")
    return moment


def deeper_than(text: bytes, levels: int) -> bool:
    """Whether arrays and objects are nested deeper. The innermost pairs of brackets are taken away again and again; of text that is no JSON
    some brackets stay, and its decoder tells."""
    brackets = _STRING.sub(b"", text).translate(None, _NO_BRACKETS)
    for _ in range(levels):
        fewer = _PAIR.sub(b"", brackets)
        if len(fewer) == len(brackets):
            return False
        brackets = fewer
    return bool(brackets)


# A string that nobody closes reaches to the end: the scan stays linear whatever the text.
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_PAIR: Final = re.compile(rb"\{\}|\[\]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"{}[]"))


def _refuse_lone_surrogates(item: bytes) -> None:
    """Half of a surrogate pair is no character: no store and no reader of UTF-8 can hold it (RFC 8259, section 8.2)."""
    try:
        json.dumps(json.loads(item), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _Refusal(Reason.INVALID_CHARACTER, "a lone surrogate") from None
    except (ValueError, RecursionError):
        return

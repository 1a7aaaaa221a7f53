"""Splits a request's body into its events' texts, without judging them. Pure.

The quick way decodes the frame and leaves every event raw. When the frame does not decode as a whole - one event holds NaN, a
broken string, bytes that are no UTF-8 - the slow way finds the items of `batch` by their brackets, so that the bad one alone
is rejected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from kernel.clock import Micros, parse_iso
from kernel.errors import Failure, Reason


@dataclass(frozen=True, slots=True)
class Split:
    """The events' texts in order, the key in the body if there is one, and the batch's `sentAt` by the client's clock."""

    items: tuple[bytes, ...]
    write_key: str | None
    sent_at: Micros | None


class _Frame(msgspec.Struct, rename="camel"):
    batch: list[msgspec.Raw]
    write_key: str | None = None
    sent_at: str | None = None
    context: dict[str, msgspec.Raw] | None = None
    integrations: dict[str, msgspec.Raw] | None = None


_frame: Final = msgspec.json.Decoder(_Frame)
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text: Final = msgspec.json.Decoder(str)
# A string that nobody closes reaches to the end: the scan stays linear whatever the text.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[{}\[\],:]|[^\s"{}\[\],:]++', re.DOTALL)
_OPEN, _CLOSE = frozenset((b"{", b"[")), frozenset((b"}", b"]"))


def split_batch(body: bytes) -> Split:
    """The events of a `/v1/batch` body, whichever way. Raises Failure when there is no batch to speak of."""
    return split_quickly(body) or salvage(body)


def split_quickly(body: bytes) -> Split | None:
    """The events of a `/v1/batch` body; None when it does not decode as a whole, for `salvage`. Raises Failure when there is no batch to
    speak of."""
    try:
        body.decode()
        frame = _frame.decode(body)
    except msgspec.ValidationError as error:
        raise Failure(Reason.INVALID_FIELD, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not frame.batch:
        raise Failure(Reason.EMPTY_BATCH)
    items = tuple(bytes(item) for item in frame.batch)
    for field, shared in (("context", frame.context), ("integrations", frame.integrations)):
        if shared:
            items = tuple(_merged(item, field, shared) for item in items)
    return Split(items, frame.write_key, _sent_at(frame.sent_at))


def split_single(body: bytes, event_type: str) -> Split:
    """The one event of a `/v1/<type>` body: the path says its type, and the key is no part of the event."""
    try:
        fields = _object.decode(body)
        key = fields.pop("writeKey", None)
        sent_at = fields.get("sentAt")
        write_key = _text.decode(key) if key is not None else None
        sent = _text.decode(sent_at) if sent_at is not None and bytes(sent_at) != b"null" else None
    except msgspec.ValidationError as error:
        raise Failure(Reason.INVALID_FIELD, str(error)) from None
    except RecursionError:
        raise Failure(Reason.NESTING_TOO_DEEP) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Failure(Reason.MALFORMED_BODY, str(error)) from None
    if key is None and "type" in fields:
        return (
            Split((body,), None, _sent_at(sent))
            if bytes(fields["type"]) == b'"%s"' % event_type.encode()
            else _retyped(fields, event_type, None, sent)
        )
    return _retyped(fields, event_type, write_key, sent)


def _retyped(fields: dict[str, msgspec.Raw], event_type: str, write_key: str | None, sent: str | None) -> Split:
    fields["type"] = msgspec.Raw(msgspec.json.encode(event_type))
    return Split((msgspec.json.encode(fields),), write_key, _sent_at(sent))


def _sent_at(text: str | None) -> Micros | None:
    """A `sentAt` that cannot be read only costs the clock correction."""
    return parse_iso(text) if text is not None else None


def _merged(item: bytes, field: str, shared: dict[str, msgspec.Raw]) -> bytes:
    """The item with the batch's `field` under its own; an item that cannot be read is left for `admit` to judge."""
    try:
        fields = _object.decode(item)
        own = _object.decode(fields[field]) if field in fields else {}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return item
    fields[field] = msgspec.Raw(msgspec.json.encode({**shared, **own}))
    return msgspec.json.encode(fields)


def salvage(body: bytes) -> Split:
    """The items of the top-level array `batch`, by their brackets. Raises Failure(MALFORMED_BODY) when they do not close."""
    items: list[bytes] = []
    frame: dict[str, bytes] = {}
    depth, start, key, last, complete = 0, -1, b"", b"", False
    for match in _TOKEN.finditer(body):
        token = match[0]
        if token in _OPEN:
            depth += 1
            in_batch = key == b'"batch"'
            if depth == 3 and in_batch and start < 0:
                start = match.start()
        elif token in _CLOSE:
            depth -= 1
            if depth == 2 and start >= 0:
                items.append(body[start : match.end()])
                start = -1
            complete = depth == 0
        elif depth == 1 and token == b":":
            key = last
        elif depth == 1 and token.startswith(b'"') and last == b":":
            frame[key.decode(errors="replace").strip('"')] = token
        elif depth == 2 and key == b'"batch"' and token not in (b",", b":"):
            items.append(token)
        last = token
    if not items or not complete:
        raise Failure(Reason.MALFORMED_BODY)
    return Split(tuple(items), _frame_text(frame.get("writeKey")), _sent_at(_frame_text(frame.get("sentAt"))))


def _frame_text(token: bytes | None) -> str | None:
    try:
        return _text.decode(token) if token is not None else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None

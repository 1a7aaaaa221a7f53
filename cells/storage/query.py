"""Questions: what a reader asked, checked and filled in. Pure; every refusal is Failure(INVALID_QUESTION).

A page token is opaque: base64url of MessagePack of the fingerprint of (tenant, filter as asked), the resolved time range and the
last event's key. So a token goes with its own filter alone, and pages of a default range keep the range of the first page.
Tokens are not secrets: row-level security, not the token, decides what is seen.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, replace
from datetime import date
from typing import Final

import msgspec

from cells.storage.store import Cursor, Filter
from kernel.clock import DAY, SECOND, Micros
from kernel.errors import Failure, Reason
from kernel.ids import MESSAGE_KEY_BYTES, TenantId
from kernel.limits import COUNT_BUCKETS_MAX, ID_CHARS_MAX, MESSAGE_ID_CHARS_MAX, NAME_CHARS_MAX, PAGE_EVENTS_DEFAULT, PAGE_EVENTS_MAX

SINCE_DEFAULT: Final = 7 * DAY
BUCKET_SECONDS_MIN: Final = 60
TOKEN_CHARS_MAX: Final = 1_024


@dataclass(frozen=True, slots=True)
class Asked:
    """A filter as the reader put it; None does not filter. Without times: the last 7 days."""

    since: Micros | None = None
    until: Micros | None = None
    type: str | None = None
    name: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A checked question for a page."""

    which: Filter
    page_size: int
    after: Cursor | None


class _Token(msgspec.Struct, array_like=True, frozen=True):
    fingerprint: bytes
    since: Micros
    until: Micros
    event_at: Micros
    message_key: bytes
    received_day: date = date.min  # a token without it, of the previous version, leads past all of its key, as it did there


_decoder = msgspec.msgpack.Decoder(_Token)


def page_of(tenant: TenantId, asked: Asked, page_size: int, token: str, now: Micros) -> Page:
    """The page that is asked for. `page_size` 0 means the default."""
    if not 0 <= page_size <= PAGE_EVENTS_MAX:
        raise Failure(Reason.INVALID_QUESTION, f"a page holds 1 to {PAGE_EVENTS_MAX} events")
    size = page_size or PAGE_EVENTS_DEFAULT
    which = resolve(asked, now)
    if not token:
        return Page(which, size, None)
    read = _read(token)
    if read.fingerprint != fingerprint(tenant, asked):
        raise Failure(Reason.INVALID_QUESTION, "the page token belongs to another question")
    return Page(replace(which, since=read.since, until=read.until), size, Cursor(read.event_at, read.message_key, read.received_day))


def token_of(tenant: TenantId, asked: Asked, which: Filter, last: Cursor) -> str:
    """The token that leads past `last`."""
    token = _Token(fingerprint(tenant, asked), which.since, which.until, last.event_at, last.message_key, last.received_day)
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(token)).decode().rstrip("=")


def fingerprint(tenant: TenantId, asked: Asked) -> bytes:
    """8 bytes that tell questions apart."""
    return hashlib.sha256(msgspec.msgpack.encode([tenant, asked])).digest()[:8]


def resolve(asked: Asked, now: Micros) -> Filter:
    """The filter with its times filled in: until now and a second (what is stored now is seen), since 7 days before `until`."""
    until = asked.until if asked.until is not None else Micros(now + SECOND)
    since = asked.since if asked.since is not None else Micros(until - SINCE_DEFAULT)
    if since > until:
        raise Failure(Reason.INVALID_QUESTION, "since is after until")
    for text, most in (
        (asked.type, 16),
        (asked.name, NAME_CHARS_MAX),
        (asked.user_id, ID_CHARS_MAX),
        (asked.anonymous_id, ID_CHARS_MAX),
        (asked.source, 64),
    ):
        check_text(text, most)
    return Filter(since, until, asked.type, asked.name, asked.user_id, asked.anonymous_id, asked.source)


def buckets_of(asked: Asked, bucket_seconds: int, now: Micros) -> Filter:
    """The filter of a count. `since` is required, buckets are bounded in width and number."""
    if asked.since is None:
        raise Failure(Reason.INVALID_QUESTION, "since is required")
    if bucket_seconds < BUCKET_SECONDS_MIN:
        raise Failure(Reason.INVALID_QUESTION, f"a bucket is at least {BUCKET_SECONDS_MIN} seconds wide")
    which = resolve(asked, now)
    width = bucket_seconds * SECOND
    if -(-which.until // width) - which.since // width > COUNT_BUCKETS_MAX:
        raise Failure(Reason.INVALID_QUESTION, f"more than {COUNT_BUCKETS_MAX} buckets")
    return which


def message_id_of(text: str) -> str:
    """A message id that could be stored."""
    if not text:
        raise Failure(Reason.INVALID_QUESTION, "a message id is required")
    check_text(text, MESSAGE_ID_CHARS_MAX)
    return text


def node_of(user_id: str | None, anonymous_id: str | None) -> str:
    """The identity node of exactly one of the two."""
    if bool(user_id) == bool(anonymous_id):
        raise Failure(Reason.INVALID_QUESTION, "one of user id and anonymous id is required")
    text = user_id or anonymous_id or ""
    check_text(text, ID_CHARS_MAX)
    return f"u:{text}" if user_id else f"a:{text}"


def check_text(text: str | None, chars_max: int) -> None:
    """Refuses text that no stored field can equal and PostgreSQL would choke on."""
    if text is None:
        return
    if len(text) > chars_max:
        raise Failure(Reason.INVALID_QUESTION, f"a value is longer than {chars_max} characters")
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise Failure(Reason.INVALID_QUESTION, "a value holds a NUL character or a lone surrogate")


def _read(token: str) -> _Token:
    try:
        if len(token) > TOKEN_CHARS_MAX:
            raise ValueError
        read = _decoder.decode(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        if len(read.message_key) != MESSAGE_KEY_BYTES or not all(
            -(2**62) < moment < 2**62 for moment in (read.since, read.until, read.event_at)
        ):
            raise ValueError
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise Failure(Reason.INVALID_QUESTION, "the page token is damaged") from error
    return read

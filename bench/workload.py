"""What requests hold: Segment-like events of ~600 bytes with skewed users, as JSON or as protobuf. Pure.

The generator shares the machine with what it measures. So a request's body is a template that was rendered before the run, with one
patch of bytes between its pieces: the part of the message ids that tells requests apart, and the time. That costs ~0.1 us an event. One
event in fifty is of a user and a device that nobody has seen.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import msgspec

from dataflow.types.v1 import event_pb2
from kernel.clock import SECOND, Micros, iso

Protocol = Literal["http", "grpc"]

ID_CHARS: Final = 36
RUN_CHARS: Final = 8
_USERS: Final = 50_000
_SHAPES: Final = 4_000
_IDENTIFY_EVERY: Final = 20
_NEWCOMER_EVERY: Final = 50
# Where an event of somebody new has what tells requests apart: as long as what it is replaced by.
_NEWCOMER: Final = b"@newcomer@newcom"
_NAMES: Final = ("Order Completed", "Product Viewed", "Product Added", "Cart Viewed", "Checkout Started", "Search Performed")
_EVENTS_FIELD: Final = b"\x0a"
_MESSAGE_ID_FIELD: Final = b"\x0a%c" % ID_CHARS
_SENT_AT_FIELD: Final = b"\x12"
_TIMESTAMP_FIELD: Final = b"\x42"
_TIME_BYTES: Final = 12
# Both are odd and near a power of two over the golden ratio: multiples of them are spread evenly, and each has an inverse.
_SPREAD_POSITIONS: Final = 40_503
_SPREAD_REQUESTS: Final = 0x9E37_79B9_7F4A_7C15
_UNSPREAD_POSITIONS: Final = pow(_SPREAD_POSITIONS, -1, 2**16)
_POSITION_CHARS: Final = 4


def message_id(run: str, request: int, position: int) -> str:
    """36 characters, as long as a UUID, of which `run` is 8; like UUIDs ids arrive in no index order, within a request neither."""
    return _position(position) + _rest_of_id(run, request)


def positions_by_request(run: str, ids: Iterable[str]) -> dict[int, list[int]]:
    """The inverse of `message_id`, for many at once: which positions of which requests of `run` are among the ids."""
    heads: dict[str, list[str]] = defaultdict(list)
    for identifier in ids:
        heads[identifier[_POSITION_CHARS:]].append(identifier[:_POSITION_CHARS])
    ours = {rest: of for rest, of in heads.items() if len(rest) == ID_CHARS - _POSITION_CHARS and rest[16 : 16 + RUN_CHARS] == run}
    return {int(rest[-8:], 16): [_position_of(head) for head in of] for rest, of in ours.items()}


@cache
def _position_of(head: str) -> int:
    return int(head, 16) * _UNSPREAD_POSITIONS % 2**16


def _position(position: int) -> str:
    return f"{position * _SPREAD_POSITIONS % 2**16:04x}"


def _rest_of_id(run: str, request: int) -> str:
    return f"{request * _SPREAD_REQUESTS % 2**64:016x}{run:0>{RUN_CHARS}}{request:08x}"


@dataclass(frozen=True, slots=True)
class Template:
    """A request without its patches. `path` is for HTTP; `newcomers` tells whether somebody new is in it."""

    path: bytes
    pieces: tuple[bytes, ...]
    newcomers: bool


class Bodies:
    """Makes requests' bodies: request n has the message ids of that number, and the events of template n modulo their count."""

    def __init__(self, protocol: Protocol, run: str, batch: int) -> None:
        self._run = run
        self._protocol = protocol
        dice = random.Random(7)  # noqa: S311  # load, not secrets
        shapes = [_shape(dice, number) for number in range(_SHAPES)]
        starts = range(0, max(1, _SHAPES - batch + 1), batch)
        make = _json_template if protocol == "http" else _protobuf_template
        self._templates = [make([shapes[number % _SHAPES] for number in range(start, start + batch)]) for start in starts]
        self._alone = batch == 1

    def path(self, request: int) -> bytes:
        """The HTTP path of a request."""
        return self._templates[request % len(self._templates)].path

    def make(self, request: int, now: Micros) -> bytes:
        """The body of a request whose events happened, and that was sent, at `now`."""
        template = self._templates[request % len(self._templates)]
        rest = _rest_of_id(self._run, request).encode()
        if self._protocol == "http":
            when = iso(now).encode()
            body = (b'%b","timestamp":"%b' % (rest, when)).join(template.pieces)
            body = body if self._alone else b'%b%b"}' % (body, when)
        else:
            time = _time(now)
            body = (rest + _TIMESTAMP_FIELD + b"%c" % _TIME_BYTES + time).join(template.pieces)
            body += _SENT_AT_FIELD + b"%c" % _TIME_BYTES + time
        return body.replace(_NEWCOMER, rest[-len(_NEWCOMER) :]) if template.newcomers else body


def _json_template(shapes: list[dict[str, object]]) -> Template:
    events = [b'{"messageId":"%b|",%b' % (_position(at).encode(), msgspec.json.encode(shape)[1:]) for at, shape in enumerate(shapes)]
    text = events[0] if len(events) == 1 else b'{"batch":[%b],"sentAt":"' % b",".join(events)
    return Template(b"/v1/batch" if len(events) > 1 else f"/v1/{shapes[0]['type']}".encode(), tuple(text.split(b"|")), _NEWCOMER in text)


def _protobuf_template(shapes: list[dict[str, object]]) -> Template:
    """Fields may come in any order, and repeated ones are put one after the other."""
    patched = ID_CHARS + len(_MESSAGE_ID_FIELD) + len(_TIMESTAMP_FIELD) + 1 + _TIME_BYTES
    pieces = [b""]
    for at, shape in enumerate(shapes):
        tail = _message(shape)
        pieces[-1] += _EVENTS_FIELD + varint(patched + len(tail)) + _MESSAGE_ID_FIELD + _position(at).encode()
        pieces.append(tail)
    return Template(b"/v1/batch", tuple(pieces), _NEWCOMER in b"".join(pieces))


def _time(now: Micros) -> bytes:
    """A google.protobuf.Timestamp that is always as long: nanoseconds fill five bytes with zeros, which every parser takes."""
    seconds, rest = divmod(now, SECOND)
    nanos = rest * 1_000
    five = bytes((nanos & 127 | 128, nanos >> 7 & 127 | 128, nanos >> 14 & 127 | 128, nanos >> 21 & 127 | 128, nanos >> 28))
    return b"\x08" + varint(seconds) + b"\x10" + five


def varint(value: int) -> bytes:
    """protobuf's variable-length integer."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _shape(dice: random.Random, number: int) -> dict[str, object]:
    """An event's fields but its id and time. Half of the events come from the most active twentieth of the users."""
    user: int | str = int(_USERS * dice.random() ** 4.3)
    device = f"{int(user) * 7919 % 2**48:012x}-device"
    if number % _NEWCOMER_EVERY == 0:
        user, device = f"{_NEWCOMER.decode()}-{number}", f"{_NEWCOMER.decode()}-{number}-device"
    kind = "identify" if number % _IDENTIFY_EVERY == 0 else "page" if number % 5 == 1 else "track"
    shape: dict[str, object] = {"type": kind, "userId": f"user-{user}", "anonymousId": device}
    if kind == "identify":
        shape["traits"] = {"plan": dice.choice(("free", "gold", "team")), "email": f"user-{user}@example.com", "city": "Springfield"}
    else:
        shape["event" if kind == "track" else "name"] = dice.choice(_NAMES)
        shape["properties"] = {
            "orderId": f"{dice.getrandbits(64):016x}",
            "total": round(dice.random() * 500, 2),
            "currency": "EUR",
            "products": [{"sku": f"sku-{dice.randrange(9999)}", "price": round(dice.random() * 90, 2), "quantity": 1}],
        }
    shape["context"] = {
        "ip": f"203.0.113.{dice.randrange(255)}",
        "library": {"name": "analytics.js", "version": "2.11.1"},
        "locale": "en-US",
        "page": {"path": f"/products/{dice.randrange(9999)}", "title": "Products", "url": f"https://shop.example/p/{dice.randrange(9999)}"},
        "userAgent": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/120.0",
    }
    return shape


def _message(shape: dict[str, object]) -> bytes:
    """The same event as a protobuf message without its id and time."""
    named = shape.get("event", shape.get("name", ""))
    return event_pb2.Event(
        type=event_pb2.EventType.Value(f"EVENT_TYPE_{str(shape['type']).upper()}"),
        user_id=str(shape["userId"]),
        anonymous_id=str(shape["anonymousId"]),
        name=str(named),
        json=msgspec.json.encode(shape.get("properties", shape.get("traits"))),
        context_json=msgspec.json.encode(shape["context"]),
    ).SerializeToString()

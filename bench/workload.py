"""The offered load: when requests are due, and their bodies. Tenants and users are skewed, events are ~600 bytes, as Segment's are.

Bodies are joined from prepared pieces, since the generator shares the machine with what it measures: about 0.5 us an event.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Literal, NamedTuple

import msgspec

from dataflow.types.v1 import event_pb2
from kernel.clock import SECOND, Micros, iso

Protocol = Literal["http", "grpc"]

TENANTS: Final = 20
_TENANT_SKEW: Final = 1.1
_USERS: Final = 50_000
_SHAPES: Final = 4_000
_RECENT: Final = 100
_IDENTIFY_EVERY: Final = 20
_ID_CHARS: Final = 36
_NAMES: Final = ("Order Completed", "Product Viewed", "Product Added", "Cart Viewed", "Checkout Started", "Search Performed")
_EVENTS_FIELD: Final = b"\x0a"
_MESSAGE_ID_FIELD: Final = b"\x0a%c" % _ID_CHARS
_SENT_AT_FIELD: Final = b"\x12"


class Due(NamedTuple):
    """One sending of the schedule: seconds after the start, the request's number, its tenant, when its events happened.

    A number that comes again is a client's retry: the same bytes a little later.
    """

    after_seconds: float
    request: int
    tenant: int
    born_seconds: float


@dataclass(frozen=True, slots=True)
class Load:
    """`events_per_second` in requests of `batch` events for `seconds`, at random moments (Poisson), the same ones for one `seed`."""

    events_per_second: float
    batch: int
    seconds: float
    seed: int = 1
    retried: float = 0.02

    def schedule(self) -> Iterator[Due]:
        """Every sending in order. Tenants follow Zipf's law: the first of 20 gets about 31 %. Retries are part of the rate."""
        dice = random.Random(self.seed)  # noqa: S311  # load, not secrets
        per_second = self.events_per_second / self.batch
        weights = list(accumulate(1 / rank**_TENANT_SKEW for rank in range(1, TENANTS + 1)))
        recent: deque[Due] = deque(maxlen=_RECENT)
        moment, fresh = 0.0, 0
        while (moment := moment + dice.expovariate(per_second)) < self.seconds:
            if recent and dice.random() < self.retried:
                yield dice.choice(recent)._replace(after_seconds=moment)
                continue
            recent.append(Due(moment, fresh, dice.choices(range(TENANTS), cum_weights=weights)[0], moment))
            fresh += 1
            yield recent[-1]


def message_id(run: str, number: int) -> str:
    """36 characters, as long as a UUID; `run` is 12 of them. The number comes first, so that ids arrive in no index order."""
    return f"{number * 2_654_435_761 % 2**64:016x}{run:0>12}{number:08x}"


def number_of(identifier: str) -> int:
    """The inverse."""
    return int(identifier[-8:], 16)


class Bodies:
    """Makes requests' bodies: event `number` has the message id of that number, and a shape that depends on it alone."""

    def __init__(self, protocol: Protocol, run: str, batch: int) -> None:
        self._run = run
        self._batch = batch
        dice = random.Random(7)  # noqa: S311  # load, not secrets
        shapes = [_shape(dice, number) for number in range(_SHAPES)]
        self.make: Callable[[int, Micros], bytes]
        if protocol == "http":
            self._tails = [msgspec.json.encode(shape)[1:] for shape in shapes]
            self.make = self._json if batch > 1 else self._single
        else:
            self._tails = [_message(shape) for shape in shapes]
            self._heads = [
                _EVENTS_FIELD + varint(len(tail) + len(_MESSAGE_ID_FIELD) + _ID_CHARS) + _MESSAGE_ID_FIELD for tail in self._tails
            ]
            self.make = self._protobuf

    def path(self, first: int) -> str:
        """The HTTP path of the request that begins with event `first`."""
        return "/v1/batch" if self._batch > 1 else f"/v1/{_type_of(first % _SHAPES)}"

    def _json(self, first: int, now: Micros) -> bytes:
        when = iso(now).encode()
        events = b",".join(
            b'{"messageId":"%s","timestamp":"%s",%s' % (message_id(self._run, number).encode(), when, self._tails[number % _SHAPES])
            for number in range(first, first + self._batch)
        )
        return b'{"batch":[%s],"sentAt":"%s"}' % (events, when)

    def _single(self, first: int, now: Micros) -> bytes:
        when = iso(now).encode()
        return b'{"messageId":"%s","timestamp":"%s",%s' % (message_id(self._run, first).encode(), when, self._tails[first % _SHAPES])

    def _protobuf(self, first: int, now: Micros) -> bytes:
        """Repeated fields are concatenated on the wire; the event's time travels with the batch."""
        seconds, rest = divmod(now, SECOND)
        sent_at = b"\x08" + varint(seconds) + b"\x10" + varint(rest * 1_000)
        events = b"".join(
            self._heads[number % _SHAPES] + message_id(self._run, number).encode() + self._tails[number % _SHAPES]
            for number in range(first, first + self._batch)
        )
        return events + _SENT_AT_FIELD + varint(len(sent_at)) + sent_at


def varint(value: int) -> bytes:
    """protobuf's variable-length integer."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _type_of(shape: int) -> str:
    return "identify" if shape % _IDENTIFY_EVERY == 0 else "page" if shape % 5 == 1 else "track"


def _shape(dice: random.Random, number: int) -> dict[str, object]:
    """An event's fields but its id and time. Half of the events come from the most active twentieth of the users."""
    user = int(_USERS * dice.random() ** 4.3)
    kind = _type_of(number)
    shape: dict[str, object] = {"type": kind, "userId": f"user-{user}", "anonymousId": f"{user * 7919 % 2**48:012x}-device"}
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
    """The same event as a protobuf message without its id."""
    named = shape.get("event", shape.get("name", ""))
    return event_pb2.Event(
        type=event_pb2.EventType.Value(f"EVENT_TYPE_{str(shape['type']).upper()}"),
        user_id=str(shape["userId"]),
        anonymous_id=str(shape["anonymousId"]),
        name=str(named),
        json=msgspec.json.encode(shape.get("properties", shape.get("traits"))),
        context_json=msgspec.json.encode(shape["context"]),
    ).SerializeToString()

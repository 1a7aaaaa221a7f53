"""Admission of single events: what is taken, what is refused, and that neighbours never suffer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.ingest.admit import admit, deeper_than
from cells.ingest.verdict import Admitted
from kernel import limits
from kernel.clock import parse_iso
from kernel.errors import Reason

GOOD = b'{"type":"track","messageId":"m0","userId":"u","event":"E"}'


def run(*items: bytes) -> Admitted:
    """Admits with predictable assigned ids."""
    numbers = iter(range(10_000))
    return admit(items, lambda: f"assigned-{next(numbers)}")


def event(**fields: object) -> bytes:
    """A good track event with some fields replaced; None removes one."""
    values: dict[str, object] = {"type": "track", "messageId": "m", "userId": "u", "event": "E", **fields}
    return json.dumps({key: value for key, value in values.items() if value is not None}).encode()


BAD = {
    "truncated": (b'{"type":"track","userId":"u', Reason.MALFORMED_BODY),
    "not an object": (b"[1,2]", Reason.INVALID_FIELD),
    "a number": (b"17", Reason.INVALID_FIELD),
    "NaN": (b'{"type":"track","userId":"u","event":"E","properties":{"x":NaN}}', Reason.MALFORMED_BODY),
    "Infinity": (b'{"type":"track","userId":"u","event":"E","properties":{"x":-Infinity}}', Reason.MALFORMED_BODY),
    "invalid UTF-8 in an id": (b'{"type":"track","userId":"\xff\xfe","event":"E"}', Reason.INVALID_ENCODING),
    "invalid UTF-8 in a property": (b'{"type":"track","userId":"u","event":"E","properties":{"x":"\xc3\x28"}}', Reason.INVALID_ENCODING),
    "lone high surrogate": (b'{"type":"track","userId":"u","event":"E","properties":{"x":"\\ud800"}}', Reason.INVALID_CHARACTER),
    "lone low surrogate": (b'{"type":"track","userId":"u","event":"E","properties":{"x":"\\udc00!"}}', Reason.INVALID_CHARACTER),
    "NUL in an id": (b'{"type":"track","userId":"a\\u0000b","event":"E"}', Reason.INVALID_CHARACTER),
    "NUL in the message id": (b'{"type":"track","userId":"a","messageId":"\\u0000","event":"E"}', Reason.INVALID_CHARACTER),
    "1,000 levels": (
        b'{"type":"track","userId":"u","event":"E","properties":{"x":' + b"[" * 1_000 + b"]" * 1_000 + b"}}",
        Reason.NESTING_TOO_DEEP,
    ),
    "30,000 levels": (b'{"a":' + b"[" * 15_000 + b"]" * 15_000 + b"}", Reason.NESTING_TOO_DEEP),
    "oversize": (event(properties={"x": "y" * limits.EVENT_BYTES_MAX}), Reason.EVENT_TOO_LARGE),
    "no ids": (event(userId=None), Reason.MISSING_ID),
    "empty ids": (event(userId="", anonymousId=""), Reason.MISSING_ID),
    "no type": (event(type=None), Reason.MISSING_FIELD),
    "unknown type": (event(type="trackk"), Reason.UNKNOWN_TYPE),
    "track without event": (event(event=None), Reason.MISSING_FIELD),
    "alias without previousId": (event(type="alias"), Reason.MISSING_FIELD),
    "group without groupId": (event(type="group"), Reason.MISSING_FIELD),
    "long message id": (event(messageId="m" * 101), Reason.INVALID_FIELD),
    "long user id": (event(userId="u" * 513), Reason.INVALID_FIELD),
    "object as user id": (event(userId={"a": 1}), Reason.INVALID_FIELD),
    "boolean as user id": (event(userId=True), Reason.INVALID_FIELD),
    "properties as list": (event(properties=[1]), Reason.INVALID_FIELD),
    "context as text": (event(context="x"), Reason.INVALID_FIELD),
    "year 0": (event(timestamp="0000-01-01T00:00:00Z"), Reason.INVALID_TIMESTAMP),
    "no instant": (event(timestamp="yesterday"), Reason.INVALID_TIMESTAMP),
    "beyond 9999": (event(timestamp="10000-01-01T00:00:00Z"), Reason.INVALID_TIMESTAMP),
    "256 traits": (
        json.dumps({"type": "identify", "userId": "u", "traits": {f"t{n}": n for n in range(256)}}).encode(),
        Reason.INVALID_FIELD,
    ),
    "a trait with a long name": (json.dumps({"type": "identify", "userId": "u", "traits": {"x" * 129: 1}}).encode(), Reason.INVALID_FIELD),
    "a trait with NUL in its name": (b'{"type":"identify","userId":"u","traits":{"a\\u0000":1}}', Reason.INVALID_CHARACTER),
    "number as timestamp": (event(timestamp=17), Reason.INVALID_FIELD),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_rejected_with_its_reason_and_harms_no_neighbour(name: str) -> None:
    """A bad event between two good ones: those two are accepted, this one names its reason and its place."""
    item, reason = BAD[name]
    second = GOOD.replace(b"m0", b"m1")
    admitted = run(GOOD, item, second)
    assert [(r.index_in_batch, r.reason) for r in admitted.rejected] == [(1, reason)]
    assert [(index, envelope.payload) for index, envelope in admitted.accepted] == [(0, GOOD), (2, second)]


TAKEN = {
    "NUL in a property": b'{"type":"track","userId":"u","event":"E","properties":{"x":"\\u0000"}}',
    "a surrogate pair": b'{"type":"track","userId":"u","event":"E","properties":{"x":"\\ud83d\\ude00"}}',
    "raw emoji": '{"type":"track","userId":"u","event":"E","properties":{"x":"😀"}}'.encode(),
    "a 100-digit number": b'{"type":"track","userId":"u","event":"E","properties":{"x":' + b"9" * 100 + b"}}",
    "numbers as ids": b'{"type":"track","userId":17,"event":"E"}',
    "the end of 9999": b'{"type":"track","userId":"u","event":"E","timestamp":"9999-12-31T23:59:59.999999Z"}',
    "the start of year 1": b'{"type":"track","userId":"u","event":"E","timestamp":"0001-01-01T00:00:00Z"}',
    "unknown fields": b'{"type":"track","userId":"u","event":"E","shoeSize":44}',
    "repeated members": b'{"type":"track","userId":"u","event":"E","event":"F"}',
    "odd white space": b' {"type" :\t"track", "userId":"u","event":"E" }\n',
    "100 levels": b'{"type":"track","userId":"u","event":"E","properties":{"x":' + b"[" * 98 + b"]" * 98 + b"}}",
}


@pytest.mark.parametrize("name", TAKEN)
def test_odd_but_valid_input_is_taken_and_kept_byte_for_byte(name: str) -> None:
    """The payload is what the client sent."""
    admitted = run(TAKEN[name])
    assert not admitted.rejected
    assert admitted.accepted[0][1].payload == TAKEN[name]


def test_a_repeated_message_id_is_a_repeat_and_the_first_counts() -> None:
    """Also when the contents differ."""
    admitted = run(event(event="A"), event(event="B"), event(messageId="other"))
    assert [envelope.name for _, envelope in admitted.accepted] == ["A", "E"]
    assert [(r.index_in_batch, r.message_id) for r in admitted.repeated] == [(1, "m")]


def test_a_missing_message_id_is_assigned_and_the_rejected_ones_carry_theirs() -> None:
    """An answer can be matched to the event that it speaks of."""
    admitted = run(event(messageId=None), event(messageId="mine", userId=None))
    assert admitted.accepted[0][1].message_id == "assigned-0"
    assert admitted.rejected[0].message_id == "mine"


def test_original_timestamp_wins_over_timestamp() -> None:
    """SDKs of old send both."""
    admitted = run(event(timestamp="2026-01-02T00:00:00Z", originalTimestamp="2026-01-01T00:00:00Z"))
    assert admitted.accepted[0][1].original_at == parse_iso("2026-01-01T00:00:00Z")


def test_content_hash_tells_contents_apart() -> None:
    """Equal bytes, equal hash; other bytes, another one; always within 63 bits."""
    hashes = [run(event(event=name)).accepted[0][1].content_hash for name in ("A", "A", "B")]
    assert hashes[0] == hashes[1] != hashes[2]
    assert all(0 <= value < 1 << 63 for value in hashes)


@given(
    st.lists(st.one_of(st.binary(max_size=80), st.sampled_from([GOOD, *(item for item, _ in BAD.values()), *TAKEN.values()])), max_size=12)
)
def test_every_event_gets_exactly_one_verdict(items: list[bytes]) -> None:
    """Whatever the bytes: never an exception, never silence, and each index once."""
    admitted = run(*items)
    indexes = [
        *(index for index, _ in admitted.accepted),
        *(rejected.index_in_batch for rejected in admitted.rejected),
        *(repeated.index_in_batch for repeated in admitted.repeated),
    ]
    assert sorted(indexes) == list(range(len(items)))
    assert len({envelope.message_id for _, envelope in admitted.accepted}) == len(admitted.accepted)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=12), JSON, max_size=5))
def test_properties_come_out_as_they_went_in(properties: dict[str, object]) -> None:
    """Semantic identity of any JSON object, unless it holds half a character."""
    item = json.dumps({"type": "track", "userId": "u", "event": "E", "properties": properties}).encode()
    admitted = run(item)
    try:
        json.dumps(properties, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        assert admitted.rejected[0].reason is Reason.INVALID_CHARACTER
        return
    if len(item) <= limits.EVENT_BYTES_MAX:
        assert json.loads(admitted.accepted[0][1].payload)["properties"] == properties


@pytest.mark.parametrize("end", [b"", b"\\", b'"', b"]"])
def test_escape_heavy_text_is_scanned_in_linear_time(end: bytes) -> None:
    """A scanner that goes back at every quote would need an hour for this one; the test's time limit is the oracle."""
    deeper_than(b"[" * 101 + b'\\"' * 250_000 + end, 100)


@given(JSON)
def test_nesting_counts_what_a_recursive_reader_would(value: object) -> None:
    """Brackets inside strings do not count."""

    def depth(node: object) -> int:
        if isinstance(node, dict):
            return 1 + max((depth(child) for child in node.values()), default=0)
        if isinstance(node, list):
            return 1 + max((depth(child) for child in node), default=0)
        return 0

    text = json.dumps(value).encode()
    assert not deeper_than(text, depth(value))
    assert depth(value) == 0 or deeper_than(text, depth(value) - 1)

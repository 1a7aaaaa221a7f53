"""Splitting a body into its events' texts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.ingest.split import split_batch, split_single
from kernel.clock import parse_iso
from kernel.errors import Failure, Reason

ONE = b'{"type":"track","userId":"u","event":"E"}'
NAN = b'{"type":"track","userId":"u","event":"E","properties":{"x":[NaN,{"y":"]}"}]}}'


def test_items_are_the_clients_own_bytes() -> None:
    """No re-encoding on the quick way."""
    odd = b'{ "type" : "track",\n"x":1.10 }'
    split = split_batch(b'{"batch":[' + odd + b"," + ONE + b'],"writeKey":"k","sentAt":"2026-01-01T00:00:00Z"}')
    assert split.items == (odd, ONE)
    assert (split.write_key, split.sent_at) == ("k", parse_iso("2026-01-01T00:00:00Z"))


def test_a_broken_item_is_cut_out_alone() -> None:
    """A frame that does not decode as a whole still gives each of its items, the broken one as it came."""
    body = b'{"sentAt":"2026-01-01T00:00:00Z","batch":[' + ONE + b", " + NAN + b" ," + ONE + b'],"writeKey":"k"}'
    split = split_batch(body)
    assert split.items == (ONE, NAN, ONE)
    assert (split.write_key, split.sent_at) == ("k", parse_iso("2026-01-01T00:00:00Z"))


@pytest.mark.parametrize("bad", [b'{"x":"\xff"}', b'{"x":"\\ud800"}', b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}", b'{"x":01}'])
def test_salvage_keeps_neighbours_of_every_kind_of_breakage(bad: bytes) -> None:
    """Invalid UTF-8, half characters, depth and numbers that are none."""
    assert split_batch(b'{"batch":[' + ONE + b"," + bad + b"," + ONE + b"]}").items == (ONE, bad, ONE)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.MALFORMED_BODY),
        (b"{", Reason.MALFORMED_BODY),
        (b'{"batch":[' + ONE, Reason.MALFORMED_BODY),
        (b'{"batch":[' + ONE + b"]", Reason.MALFORMED_BODY),
        (b"\xff\xfe", Reason.MALFORMED_BODY),
        (b"[" * 100_000, Reason.INVALID_FIELD),
        (b'{"batch":[]}', Reason.EMPTY_BATCH),
        (b"{}", Reason.INVALID_FIELD),
        (b'{"batch":{}}', Reason.INVALID_FIELD),
        (b"[]", Reason.INVALID_FIELD),
        (b'{"batch":[{}],"writeKey":7}', Reason.INVALID_FIELD),
    ],
)
def test_a_body_without_a_batch_is_refused_whole(body: bytes, reason: Reason) -> None:
    """With a reason."""
    with pytest.raises(Failure) as caught:
        split_batch(body)
    assert caught.value.reason is reason


def test_batch_level_context_lies_under_each_items_own() -> None:
    """The item's own members win."""
    body = json.dumps({"batch": [{"context": {"a": 1}}, {"type": "x"}], "context": {"a": 0, "b": 2}, "integrations": {"All": True}})
    assert [json.loads(item) for item in split_batch(body.encode()).items] == [
        {"context": {"a": 1, "b": 2}, "integrations": {"All": True}},
        {"type": "x", "context": {"a": 0, "b": 2}, "integrations": {"All": True}},
    ]


def test_a_single_event_gets_its_type_from_the_path_and_loses_its_key() -> None:
    """The key is a credential, no part of the event."""
    split = split_single(b'{"userId":"u","type":"page","writeKey":"k"}', "track")
    assert json.loads(split.items[0]) == {"userId": "u", "type": "track"}
    assert split.write_key == "k"


def test_a_single_event_that_is_right_already_is_untouched() -> None:
    """Byte for byte."""
    assert split_single(ONE, "track").items == (ONE,)


@given(st.binary(max_size=300))
def test_any_bytes_split_or_fail_with_a_reason(body: bytes) -> None:
    """Never another exception."""
    for split in (split_batch, lambda text: split_single(text, "track")):
        try:
            assert split(body).items
        except Failure:
            continue


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(), max_size=3), min_size=1, max_size=6),
    st.integers(0, 6),
)
def test_salvage_and_the_quick_way_agree(events: list[dict[str, object]], place: int) -> None:
    """With one broken item put in somewhere, the others come out as without it."""
    texts = [json.dumps(event).encode() for event in events]
    whole = split_batch(b'{"batch":[' + b",".join(texts) + b"]}").items
    place = min(place, len(texts))
    with_broken = [*texts[:place], b'{"x":NaN}', *texts[place:]]
    salvaged = split_batch(b'{"batch":[' + b",".join(with_broken) + b"]}").items
    assert [item for number, item in enumerate(salvaged) if number != place] == list(whole)


@pytest.mark.parametrize("end", [b"", b"\\", b'"', b"]}"])
def test_an_escape_heavy_body_is_split_in_linear_time(end: bytes) -> None:
    """A scanner that goes back at every quote would need an hour for this one; the test's time limit is the oracle."""
    with pytest.raises(Failure):
        split_batch(b'{"batch":[' + b'\\"' * 250_000 + end)

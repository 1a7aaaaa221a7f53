"""A record's body: what is written is read, and so is what earlier code wrote."""

from __future__ import annotations

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cells.eventlog import codec
from cells.eventlog.envelope import EVENT_TYPES, Body, Envelope, body_of, columns_of
from cells.processing import identity_claims, shape
from kernel.clock import Micros
from kernel.ids import TenantId
from kernel.limits import RECORD_BYTES_MAX

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=4)
maybe = st.none() | texts
moments = st.none() | st.integers(-(2**60), 2**60).map(Micros)
kinds = st.sampled_from([*EVENT_TYPES, "", "trackk"])
envelopes = st.builds(
    Envelope, texts, kinds, st.binary(max_size=600), st.integers(0, 2**63 - 1), maybe, maybe, maybe, maybe, maybe, moments
)
bodies = st.builds(Body, moments, st.lists(envelopes, max_size=6))


@given(bodies)
def test_a_body_comes_out_as_it_went_in(body: Body) -> None:
    """Whole or by columns, large or small."""
    data = codec.encode(body)
    assert codec.decode(data) == body
    assert codec.decode_columns(data) == columns_of(body)
    assert body_of(columns_of(body)) == body


@given(bodies, st.booleans())
def test_what_earlier_code_wrote_is_read(body: Body, compressed: bool) -> None:
    """Formats 0 and 1: the envelopes one after the other."""
    text = msgspec.msgpack.encode(body)
    data = b"\x01" + zstandard.ZstdCompressor().compress(text) if compressed else b"\x00" + text
    for written in (data, codec.encode_envelopes(body)):
        assert codec.decode(written) == body
        assert codec.decode_columns(written) == columns_of(body)


@given(bodies)
def test_what_is_written_for_earlier_code_is_what_it_reads(body: Body) -> None:
    """One of its two formats, and nothing after the envelopes."""
    data = codec.encode_envelopes(body)
    text = zstandard.ZstdDecompressor().decompress(data[1:]) if data[0] == 1 else data[1:]
    assert data[0] in (0, 1)
    assert msgspec.msgpack.decode(text, type=Body) == body


def test_columns_of_different_lengths_are_no_body() -> None:
    """Undecodable, never an event short."""
    columns = columns_of(Body(None, [Envelope("m1", "track", b"{}", 1)]))
    data = b"\x02" + msgspec.msgpack.encode(msgspec.structs.replace(columns, payloads=[]))
    with pytest.raises(codec.Undecodable, match="lengths"):
        codec.decode(data)


def columns_but(**fields: object) -> bytes:
    """A body of one event in columns, with these in place of its own."""
    columns = columns_of(Body(None, [Envelope("m1", "track", b"{}", 1, "u1")]))
    return b"\x02" + msgspec.msgpack.encode(msgspec.structs.replace(columns, **fields))


_DECLARES_TWO_TEBIBYTES = b"\x03\x28\xb5\x2f\xfd\xe0" + (2**41).to_bytes(8, "little") + b"\x01\x00\x00"
_FAR_TOO_LARGE = codec.encode(Body(None, [Envelope("m1", "track", bytes(4 * RECORD_BYTES_MAX), 1, "u1")]))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_DECLARES_TWO_TEBIBYTES, id="two TiB declared"),
        pytest.param(_FAR_TOO_LARGE, id="inflates beyond the bound"),
        pytest.param(b"\x02\x9c\xc0" + b"\x90" * 10 + b"\x91" * 200_000 + b"\xc0", id="nested without end behind the last field"),
        pytest.param(columns_but(message_ids=["mX"]).replace(b"mX", b"\xff\xfe"), id="a text that is none"),
        pytest.param(columns_but(content_hashes=[2**63]), id="a hash too large"),
        pytest.param(columns_but(content_hashes=[-1]), id="a hash below zero"),
        pytest.param(columns_but(original_ats=[2**63]), id="a time too late"),
        pytest.param(columns_but(sent_at=2**64 - 1), id="sent too late"),
        pytest.param(b"\x00" + msgspec.msgpack.encode(Body(None, [Envelope("m1", "track", b"{}", 2**63)])), id="a whole envelope's hash"),
    ],
)
def test_a_body_that_only_a_stranger_writes_is_no_body(data: bytes) -> None:
    """Undecodable and nothing else, whole or by columns: neither memory nor the fold ends on it, and no store is given its numbers."""
    for read in (codec.decode, codec.decode_columns):
        with pytest.raises(codec.Undecodable):
            read(data)


@given(st.lists(envelopes, max_size=6), st.booleans())
def test_a_look_at_whole_columns_misses_nothing(events: list[Envelope], strict: bool) -> None:
    """The violations of a body are those of its envelopes, one by one."""
    alone = {ordinal: shape.violation(event, strict) for ordinal, event in enumerate(events)}
    found = shape.violations(columns_of(Body(None, events)), strict)
    assert found == {ordinal: what for ordinal, what in alone.items() if what is not None}


@given(st.lists(envelopes, max_size=6), st.sets(st.integers(0, 5)))
def test_claims_are_those_of_each_event_alone(events: list[Envelope], but: set[int]) -> None:
    """Each once, and nothing from those that are not heard."""
    acme = TenantId("acme")
    alone = [
        claim
        for ordinal, event in enumerate(events)
        if ordinal not in but
        for claim in identity_claims.identities(acme, columns_of(Body(None, [event])))
    ]
    together = list(identity_claims.identities(acme, columns_of(Body(None, events)), but))
    assert set(together) == set(alone)

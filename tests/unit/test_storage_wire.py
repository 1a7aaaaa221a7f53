"""Effects cross between roles unchanged, and SQL files are described."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.storage import codec_grpc, sql, wire
from kernel import queries
from kernel.clock import Micros
from kernel.effects import (
    Applied,
    Apply,
    DeadLetter,
    Duplicate,
    Effects,
    EventRow,
    Fenced,
    HeldRecord,
    IdentityClaim,
    Outcome,
    RecordRow,
    TraitClaim,
)
from kernel.epoch import Claim, Epoch
from kernel.ids import CellId, TenantId

ACME = TenantId("acme")
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
maybe = st.none() | texts
numbers = st.integers(0, 2**63 - 1)
moments = st.integers(-(2**60), 2**60).map(Micros)
binaries = st.binary(max_size=16)
rows = st.builds(
    EventRow,
    st.just(ACME),
    binaries,
    st.dates(),
    moments,
    numbers,
    numbers,
    numbers,
    numbers,
    texts,
    maybe,
    maybe,
    maybe,
    maybe,
    texts,
)
records = st.builds(
    RecordRow, st.just(ACME), st.dates(), numbers, numbers, moments, numbers, st.just(CellId("c")), texts, numbers, binaries
)
all_effects = st.builds(
    Effects,
    st.integers(0, 3),
    st.lists(rows, max_size=3).map(tuple),
    st.lists(records, max_size=2).map(tuple),
    st.lists(st.builds(IdentityClaim, st.just(ACME), texts, texts), max_size=2).map(tuple),
    st.lists(st.builds(TraitClaim, st.just(ACME), texts, texts, texts, moments, texts), max_size=2).map(tuple),
    st.lists(st.builds(DeadLetter, st.just(ACME), moments, numbers, numbers, texts, texts, texts, st.binary(max_size=9)), max_size=2).map(
        tuple
    ),
    st.lists(st.builds(HeldRecord, st.just(ACME), moments, numbers, numbers, st.binary(max_size=9)), max_size=2).map(tuple),
    st.dictionaries(st.tuples(st.just(ACME), moments), st.integers(0, 9), max_size=2),
    st.frozensets(numbers, max_size=3),
)


@given(all_effects)
def test_effects_come_out_as_they_went_in(effects: Effects) -> None:
    """Every field of every kind of effect; and the claim, to whom they name: a claim to anybody else is not worth its bytes."""
    named = (
        {tenant for tenant, _ in effects.accepted}
        | {claim.tenant for claim in effects.identities}
        | {claim.tenant for claim in effects.traits}
    )
    claim = Claim(CellId("c"), dict.fromkeys([*named, TenantId("somebody-else")], Epoch(3)))
    assert wire.decode_effects(wire.encode_effects(effects)) == effects
    back = codec_grpc.apply_of(codec_grpc.apply_request(Apply(effects, claim, 4, 5)))
    assert back == Apply(effects, Claim(CellId("c"), dict.fromkeys(named, Epoch(3))), 4, 5)


@pytest.mark.parametrize("data", [b"", b"\x90", b"\xff", wire.encode_effects(Effects(0)).replace(b"\x9a\x02", b"\x9a\x01", 1)])
def test_effects_that_are_not_understood_are_refused(data: bytes) -> None:
    """ValueError: damaged, or of another version."""
    with pytest.raises(ValueError):
        wire.decode_effects(data)


@pytest.mark.parametrize("outcome", [Applied(1, 2, 3, 4, 5), Duplicate(7), Fenced(frozenset({ACME}))])
def test_outcomes_come_out_as_they_went_in(outcome: Outcome) -> None:
    """All three."""
    assert codec_grpc.outcome_of(codec_grpc.apply_response(outcome)) == outcome


def test_every_query_has_a_name_and_a_description() -> None:
    """The loader refuses a query without; quoting keeps a schema's name in its place."""
    assert all(query.description for query in sql.queries().values())
    with pytest.raises(ValueError, match="description"):
        queries.parse("-- name: bare\nSELECT 1")
    with pytest.raises(ValueError, match="two queries"):
        queries.parse("-- name: a\n-- d\nSELECT 1\n-- name: a\n-- d\nSELECT 1")
    assert '"a""b".ledger' in sql.sql("ledger", 'a"b')

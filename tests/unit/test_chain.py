"""A chain of entries finds whatever is done to it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.chain import BEGINNING, GENESIS, Head, Verdict, digest, link, verify


def entry(number: int = 0) -> tuple[int, str, str]:
    return number, "ann", f"did {number}"


CHAIN = link(BEGINNING, [entry(number) for number in range(6)])
HEAD = Head(CHAIN[-1].seq, CHAIN[-1].hash)


def test_an_untouched_chain_is_whole() -> None:
    """Its verdict names the head, which is what is printed and kept elsewhere."""
    assert verify(CHAIN) == Verdict(HEAD)
    assert str(HEAD) == f"6:{CHAIN[-1].hash.hex()}"
    assert verify([]) == Verdict(BEGINNING)


@pytest.mark.parametrize("field", ["at", "actor", "what", "prev_hash", "hash"])
@given(at=st.integers(0, 5))
def test_an_edited_entry_is_found(field: str, at: int) -> None:
    """Whatever is edited, the chain breaks at that entry."""
    held = CHAIN[at]
    if field.endswith("hash"):
        forged = replace(held, **{field: b"x" * 32})  # type: ignore[arg-type]  # by name
    else:
        number = ("at", "actor", "what").index(field)
        forged = replace(held, fields=(*held.fields[:number], 99 if field == "at" else "mallory", *held.fields[number + 1 :]))  # type: ignore[arg-type]  # by place
    assert verify([*CHAIN[:at], forged, *CHAIN[at + 1 :]]).broken_at == at + 1


@given(at=st.integers(0, 5))
def test_an_edited_entry_with_a_fresh_hash_is_found_at_the_next(at: int) -> None:
    """Hashing the forgery anew moves the break to the next entry; of the last entry only a printed head tells."""
    before = Head(at, CHAIN[at - 1].hash) if at else BEGINNING
    forged = [*CHAIN[:at], *link(before, [entry(77)]), *CHAIN[at + 1 :]]
    assert verify(forged, printed=[HEAD]).broken_at == min(at + 2, 6)


@given(at=st.integers(0, 4))
def test_a_removed_or_reordered_entry_is_found(at: int) -> None:
    """At the place where it stood."""
    assert verify([*CHAIN[:at], *CHAIN[at + 1 :]]).broken_at == at + 1
    assert verify([*CHAIN[:at], CHAIN[at + 1], CHAIN[at], *CHAIN[at + 2 :]]).broken_at == at + 1


@given(kept=st.integers(0, 5))
def test_a_cut_tail_is_found_through_a_printed_head(kept: int) -> None:
    """Without the head a prefix is a whole chain; with it the cut is found."""
    assert verify(CHAIN[:kept]).broken_at is None
    assert verify(CHAIN[:kept], printed=[HEAD]).broken_at == kept + 1


@given(st.lists(st.text(max_size=5), min_size=4, max_size=4), st.lists(st.text(max_size=5), min_size=4, max_size=4))
def test_different_entries_have_different_encodings(one: list[str], other: list[str]) -> None:
    """No text moves from one field to its neighbour unseen."""
    hashes = [digest(1, tuple(texts), GENESIS) for texts in (one, other)]
    assert (hashes[0] == hashes[1]) == (one == other)


_numbers = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([2**power + more for power in (7, 8, 16, 32) for more in (-1, 0)]))
_texts = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.integers(0, 70_000).map("x".__mul__))
_bytes = st.one_of(st.binary(max_size=40), st.integers(0, 70_000).map(bytes))


@given(st.lists(st.one_of(_numbers, _texts, _bytes), max_size=10).map(tuple))
def test_the_encoding_is_messagepack(fields: tuple[int | str | bytes, ...]) -> None:
    """Law: an auditor with any MessagePack library can compute the hashes."""
    assert digest(7, fields, GENESIS) == hashlib.sha256(msgspec.msgpack.encode([7, *fields, GENESIS])).digest()


@pytest.mark.parametrize("fields", [(-1,), (2**64,), ("x",) * 14])
def test_what_no_entry_holds_is_refused(fields: tuple[object, ...]) -> None:
    """Law: never another encoding, which another entry might have as well."""
    with pytest.raises(ValueError):
        digest(1, fields, GENESIS)

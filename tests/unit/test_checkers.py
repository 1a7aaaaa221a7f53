"""The oracle's negative controls: a planted defect of each kind must be found, and a clean history must pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from chaos.checkers.history import Copy, History, LedgerLine, Sent, Stored
from chaos.checkers.verdicts import judge, order_is_kept
from cli.demo.evidence import TokenSearch

CELL, ZONE = "eu-west-1-a", "eu"
KINDS: tuple[Literal["log", "store"], ...] = ("log", "store")


def clean(users: int = 3, events: int = 5) -> History:
    """A history in which all is well."""
    sent, stored = [], []
    for user in range(users):
        for number in range(events):
            message_id = f"{user}-{number}"
            sent.append(Sent("acme", f"u{user}", message_id, number, "acknowledged"))
            stored.append(Stored(CELL, "acme", f"u{user}", message_id, (user % 2, number, user)))
    total = users * events
    return History(
        tuple(sent),
        tuple(stored),
        (LedgerLine(CELL, "acme", total + 3, total, 1, 1, 1),),
        (Copy("eu", "eu log", b"..token-eu.."), Copy("us", "us log", b"..token-us..")),
        {"acme": CELL},
        {CELL: ZONE},
        {"eu": (b"token-eu",), "us": (b"token-us",)},
    )


def test_a_clean_history_has_no_findings() -> None:
    """Unanswered events may be there or not; refused ones are not."""
    history = clean()
    unknown = (Sent("acme", "u0", "x", 99, "unknown"), Sent("acme", "u0", "y", 100, "rejected"))
    assert judge(replace(history, sent=history.sent + unknown)) == []


@given(st.integers(0, 14))
def test_any_planted_loss_is_found(place: int) -> None:
    """Whichever row is taken away."""
    history = clean()
    rows = list(history.stored)
    del rows[place]
    assert [f.split(":")[0] for f in judge(replace(history, stored=tuple(rows)))] == ["lost"]


@given(st.integers(0, 14))
def test_any_planted_duplicate_is_found(place: int) -> None:
    """Also in another partition."""
    history = clean()
    copy = history.stored[place]._replace(position=(3, 99, 0))
    assert "duplicate" in {f.split(":")[0] for f in judge(replace(history, stored=(*history.stored, copy)))}


@given(st.integers(0, 2), st.integers(0, 3))
def test_any_planted_reordering_is_found(user: int, number: int) -> None:
    """Two neighbours of one user change places."""
    history = clean()
    rows = list(history.stored)
    first, second = user * 5 + number, user * 5 + number + 1
    rows[first], rows[second] = (
        rows[first]._replace(position=rows[second].position),
        rows[second]._replace(position=rows[first].position),
    )
    assert {f.split(":")[0] for f in judge(replace(history, stored=tuple(rows)))} == {"order"}


def test_planted_inventions_and_misplacements_are_found() -> None:
    """A row nobody sent; a row of a refused event; a row in another cell."""
    history = clean()
    ghost = Stored(CELL, "acme", "u9", "ghost", (0, 50, 0))
    assert {f.split(":")[0] for f in judge(replace(history, stored=(*history.stored, ghost)))} == {"invented"}
    refused = (history.sent[0]._replace(answer="rejected"), *history.sent[1:])
    assert {f.split(":")[0] for f in judge(replace(history, sent=refused))} == {"invented"}
    moved = (history.stored[0]._replace(cell="us-east-1-a"), *history.stored[1:])
    assert {f.split(":")[0] for f in judge(replace(history, stored=moved))} == {"misplaced"}


@given(st.sampled_from(["accepted", "stored", "duplicate", "quarantined", "held"]), st.sampled_from([-1, 1]))
def test_any_ledger_that_is_off_by_one_is_found(column: str, by: int) -> None:
    """In whichever column."""
    history = clean()
    line = history.ledger[0]._replace(**{column: getattr(history.ledger[0], column) + by})
    assert {f.split(":")[0] for f in judge(replace(history, ledger=(line,)))} == {"ledger"}


def test_a_planted_leak_and_a_blind_search_are_found() -> None:
    """A token in the other zone's copy; a token that is not even in its own."""
    history = clean()
    leaked = (*history.copies, Copy("us", "us WAL", b"x token-eu x"))
    assert {f.split(":")[0] for f in judge(replace(history, copies=leaked))} == {"leak"}
    assert {f.split(":")[0] for f in judge(replace(history, copies=history.copies[1:]))} == {"blind"}


def test_a_search_that_is_blind_in_one_kind_of_copy_is_found() -> None:
    """What the log shows does not excuse a store in which nothing is seen."""
    copies = tuple(Copy(zone, f"{zone} {kind}", f"..token-{zone}..".encode(), kind) for zone in ("eu", "us") for kind in KINDS)
    history = replace(clean(), copies=copies)
    assert judge(history) == []
    for place, copy in enumerate(copies):
        closed = (*copies[:place], copy._replace(text=b"\x28\xb5\x2f\xfd sealed"), *copies[place + 1 :])
        assert {f.split(":")[0] for f in judge(replace(history, copies=closed))} == {"blind"}


def test_a_history_without_acknowledgements_is_void() -> None:
    """A run that did nothing proves nothing."""
    assert judge(History((), ())) == ["void: nothing was acknowledged"]


def test_a_reordering_inside_one_record_is_found() -> None:
    """The place inside a record counts too."""
    sent = tuple(Sent("acme", "u", f"m{n}", n, "acknowledged") for n in range(2))
    rows = (Stored(CELL, "acme", "u", "m0", (0, 5, 1)), Stored(CELL, "acme", "u", "m1", (0, 5, 0)))
    assert order_is_kept(History(sent, rows)) != []


@given(st.binary(min_size=1, max_size=12), st.binary(max_size=20), st.binary(max_size=20), st.lists(st.integers(0, 60), max_size=30))
def test_a_token_is_found_however_the_stream_is_cut(token: bytes, before: bytes, after: bytes, cuts: list[int]) -> None:
    """Also across many small chunks."""
    text, search, at = before + token + after, TokenSearch((token,)), 0
    for cut in [*sorted(min(cut, len(text)) for cut in cuts), len(text)]:
        search.take(text[at:cut])
        at = cut
    assert search.text == token

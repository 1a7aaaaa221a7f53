"""The fault suite's pure parts: what counts as a point, what is planned, how an auditor reads a record - and that each verdict can fail."""

from __future__ import annotations

import struct
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.eventlog import headers
from chaos.checkers.history import History, LedgerLine, Poison, Recovery, Sent, Stored
from chaos.checkers.points import Attempt, Strike, Walk, counted, met
from chaos.checkers.verdicts import judge
from kernel.clock import Micros
from kernel.errors import Failure
from kernel.ids import UNREADABLE
from tests.faults.controls import planted
from tests.faults.foreign import VARIANTS, header, ours, variant, weigh
from tests.faults.kinds import KINDS
from tests.faults.placement import Party, parties
from tests.faults.plan import ALONE, BROKER_KILLS, THREE, Card, Deck
from tests.support.records import CELL, TENANT

PARTIES: dict[str, Party] = {party.name: party for party in parties()}
PARTY = PARTIES[TENANT]


def clean() -> History:
    """A session in which all was well: two users' events, three poisons, a duplicate."""
    sent = tuple(Sent("acme", f"u{n % 2}", f"m{n}", n, "acknowledged") for n in range(8))
    stored = tuple(Stored(CELL, "acme", one.user, one.message_id, (0, number, 0)) for number, one in enumerate(sent))
    return History(
        sent,
        stored,
        (LedgerLine(CELL, UNREADABLE, 2, 0, 0, 2, 0), LedgerLine(CELL, "acme", 12, 8, 1, 3, 0)),
        homes={"acme": CELL},
        poisons=(Poison(CELL, UNREADABLE, 1, 0, 1), Poison(CELL, UNREADABLE, 1, 0, 3), Poison(CELL, "acme", 3, 0, 5)),
        recoveries=(Recovery(CELL, 4.0, 45.0),),
    )


def test_a_clean_session_has_no_findings() -> None:
    """Law: poison that is dead and a recovery in time are none."""
    assert judge(clean()) == []


def test_each_planted_violation_is_found_by_its_name() -> None:
    """Law: of every verdict on a session one violation is planted, and found."""
    words = []
    for violation in planted(clean()):
        assert violation.word in {finding.split(":")[0] for finding in judge(violation.history)}
        words.append(violation.word)
    assert words == ["lost", "duplicate", "invented", "order", "ledger", "poison", "stalled", "late"]


@pytest.mark.parametrize("line", [LedgerLine(CELL, UNREADABLE, 2, 0, 0, 1, 1), LedgerLine(CELL, UNREADABLE, 2, 2, 0, 0, 0)])
def test_poison_that_is_held_or_stored_is_found(line: LedgerLine) -> None:
    """Law: a ledger that balances is not enough: what nobody can read is a dead letter."""
    assert [finding.split(":")[0] for finding in judge(replace(clean(), ledger=(line, clean().ledger[1])))] == ["poison"]


def test_poison_without_any_line_in_the_ledger_is_found() -> None:
    """Law: a record that was passed over leaves no line at all."""
    found = {finding.split(":")[0] for finding in judge(replace(clean(), ledger=clean().ledger[1:]))}
    assert found == {"poison"}


AT, HERE, ELSEWHERE = 100.0, frozenset([1]), frozenset([2])


@pytest.mark.parametrize(
    ("attempt", "hit"),
    [
        (Attempt(99.0, 101.0, HERE), True),
        (Attempt(99.0, 101.0, HERE | ELSEWHERE), True),
        (Attempt(99.0, 101.0, ELSEWHERE), False),
        (Attempt(99.0, 99.5, HERE), False),
        (Attempt(100.5, 101.0, HERE), False),
    ],
)
def test_a_fault_of_the_log_counts_when_a_request_to_it_had_no_answer(attempt: Attempt, hit: bool) -> None:
    """Law: sent before, answered after, of a partition that the fault is about; an apply under way does not help."""
    strike = Strike("broker killed", "node 1", AT, "append", HERE)
    assert met(strike, [attempt], [Walk(99.0, 101.0, 1)]) is hit
    assert met(strike._replace(partitions=frozenset()), [attempt], []) is (attempt.sent_at < AT < attempt.ended_at)


@pytest.mark.parametrize(
    ("walk", "hit"),
    [
        (Walk(99.0, 101.0, 1), True),
        (Walk(99.0, 101.0, 2), False),
        (Walk(99.0, 99.5, 1), False),
        (Walk(100.5, 101.0, 1), False),
    ],
)
def test_a_fault_of_the_store_counts_when_something_acknowledged_was_not_applied(walk: Walk, hit: bool) -> None:
    """Law: acknowledged before, stored after; a request under way does not help."""
    assert met(Strike("storage killed", "storage", AT, "apply", HERE), [Attempt(99.0, 101.0, HERE)], [walk]) is hit


def test_faults_of_an_idle_cell_do_not_count() -> None:
    """Law: a run whose faults meet nothing has no points."""
    strikes = [Strike("broker killed", "node 1", AT, "append"), Strike("storage killed", "storage", AT, "apply")]
    assert counted(strikes, [], []).total() == 0
    assert counted(strikes, [Attempt(99.0, 101.0, HERE)], []) == {"broker killed": 1}


@given(st.text(max_size=8))
def test_a_seed_draws_the_same_faults(seed: str) -> None:
    """Law: what fails can be replayed."""
    assert THREE.drawn(seed) == THREE.drawn(seed)


@pytest.mark.parametrize("deck", [THREE, ALONE])
def test_every_planned_kind_is_dealt_and_can_be_done(deck: Deck) -> None:
    """Law: the lanes hold each kind as often as the deck says, nothing else, and there is somebody who does it."""
    dealt = [fault.kind for faults in deck.drawn("seed").values() for fault in faults]
    assert {kind: dealt.count(kind) for kind in dealt} == dict(deck.counts)
    assert set(dealt) <= set(KINDS)
    assert set(BROKER_KILLS) <= set(KINDS)


def test_a_share_of_a_deck_holds_every_kind_and_what_is_missing_is_all_that_is_drawn_again() -> None:
    """Law: a quick run leaves out no kind; a second round repeats no kind that has counted."""
    few = THREE.scaled(0.05)
    assert set(few.counts) == set(THREE.counts)
    assert few.counts.total() < THREE.counts.total() / 3
    assert THREE.only({"disk full": 2}).counts == {"disk full": 2}
    lone = Deck({"lane": {"kind": Card(5)}}).drawn("seed")["lane"]
    assert len({fault.choice for fault in lone}) == 5


def test_every_variant_of_a_foreign_record_comes_up() -> None:
    """Law: as many faults in a row as there are variants leave none out."""
    assert {variant(choice)[0] for choice in range(7, 7 + len(VARIANTS))} == set(VARIANTS)


def read_by_the_cell(key: bytes | None, value: bytes | None, held: list[tuple[str, bytes]]) -> tuple[str, int]:
    """Tenant and events, as the adapter has them."""
    try:
        record = headers.unpack(key, value, held, "here")
    except Failure:
        return UNREADABLE, 1
    return (UNREADABLE, 1) if headers.forged(record, Micros(time.time_ns() // 1_000)) else (record.tenant, record.events)


def known(party: Party) -> bytes:
    """A party's key in the log."""
    return party.name.encode()


@pytest.mark.parametrize("name", VARIANTS)
def test_auditor_and_cell_agree_about_every_variant(name: str) -> None:
    """Law: two readers that share no code take the same records for ours, and count the same events."""
    foreign = VARIANTS[name](known(PARTY))
    auditors = weigh(foreign.key, foreign.value, foreign.headers, PARTIES, UNREADABLE)
    assert auditors == read_by_the_cell(foreign.key, foreign.value, foreign.headers)


@given(
    st.sampled_from([known(PARTY), b"No Name", b"\xff", None]),
    st.one_of(st.none(), st.binary(max_size=4)),
    st.one_of(
        st.builds(header, version=st.integers(0, 3), days_from_now=st.integers(-(10**6), 10**6), events=st.integers(0, 2**32 - 1)),
        st.builds(header, events=st.integers(0, 100_002), source=st.binary(max_size=4)),
        st.binary(max_size=40),
    ),
    st.integers(0, 60),
)
def test_auditor_and_cell_agree_about_any_header(key: bytes | None, value: bytes | None, data: bytes, length: int) -> None:
    """Law: whatever stands in the header, and wherever it is cut."""
    held = ours(data[:length])
    assert weigh(key, value, held, PARTIES, UNREADABLE) == read_by_the_cell(key, value, held)


def test_an_epoch_beyond_all_numbers_is_foreign_to_both() -> None:
    """Law: what the store's numbers do not hold is not ours."""
    data = bytearray(header())
    struct.pack_into(">Q", data, 1, 2**63)
    held = ours(bytes(data))
    assert weigh(known(PARTY), b"x", held, PARTIES, UNREADABLE) == read_by_the_cell(known(PARTY), b"x", held) == (UNREADABLE, 1)

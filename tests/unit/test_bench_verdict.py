"""The verdict on a run: loss, doubles and strangers are found, whatever the size of requests."""

from __future__ import annotations

import math
import random
from array import array
from collections import defaultdict

import pytest

from bench.verdict import WORD, Ledger, Part, Verdict

REQUESTS = 6
BATCHES = (1, 10, 60, 100, 1_000)


def judged(batch: int, stored: list[tuple[int, int, int]], acknowledged: set[int]) -> Verdict:
    """The verdict when (tenant, request, position) are stored, in parts as the store gives them. Request n is of tenant n modulo 3."""
    groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for tenant, request, position in stored:
        groups[tenant, request, position // WORD].append(position % WORD)
    ledger = Ledger(batch, array("B", [number % 3 for number in range(REQUESTS)]))
    parts = list(groups.items())
    random.Random(1).shuffle(parts)
    for (tenant, request, word), bits in parts:
        mask = 0
        for bit in bits:
            mask |= 1 << bit
        ledger.add(Part(tenant, request, word, 0, len(bits), mask, 0))
    return ledger.verdict(array("d", [1.0 if number in acknowledged else math.nan for number in range(REQUESTS)]))


def everything(batch: int) -> list[tuple[int, int, int]]:
    """What is stored when all went well."""
    return [(request % 3, request, position) for request in range(REQUESTS) for position in range(batch)]


@pytest.mark.parametrize("batch", BATCHES)
def test_a_whole_run_holds(batch: int) -> None:
    """Law: everything acknowledged and stored once is nothing missing, doubled or strange."""
    verdict = judged(batch, everything(batch), set(range(REQUESTS)))
    assert verdict == Verdict(REQUESTS * batch, REQUESTS * batch, 0, 0, 0, 0)
    assert verdict.holds


@pytest.mark.parametrize("batch", BATCHES)
def test_each_lost_event_is_found(batch: int) -> None:
    """Law: whichever event is lost, the first, the last or one between, one is missing."""
    whole = everything(batch)
    for lost in {0, len(whole) // 2, len(whole) - 1}:
        verdict = judged(batch, whole[:lost] + whole[lost + 1 :], set(range(REQUESTS)))
        assert (verdict.missing, verdict.holds) == (1, False)


@pytest.mark.parametrize("batch", BATCHES)
def test_each_double_is_found(batch: int) -> None:
    """Law: an event that is stored twice is, also when another one is lost and the count is right."""
    whole = everything(batch)
    verdict = judged(batch, [*whole, whole[-1]], set(range(REQUESTS)))
    assert (verdict.doubled, verdict.missing, verdict.holds) == (1, 0, False)
    verdict = judged(batch, [*whole[1:], whole[-1]], set(range(REQUESTS)))
    assert (verdict.doubled, verdict.missing, verdict.stored) == (1, 1, len(whole) - 1)


def test_a_double_in_another_part_is_found() -> None:
    """Law: the same event in another partition of the log is a double too."""
    ledger = Ledger(10, array("B", [0]))
    ledger.add(Part(0, 0, 0, 0, 10, 2**10 - 1, 5))
    ledger.add(Part(0, 0, 0, 1, 1, 1, 9))
    assert ledger.verdict(array("d", [1.0])).doubled == 1


def test_what_nobody_sent_is_found() -> None:
    """Law: events of another tenant, of a request that never was, and of a position that it has not are strange."""
    for stranger in ((1, 0, 0), (-1, 0, 0), (0, REQUESTS, 0), (0, 0, 10), (0, 0, 70)):
        verdict = judged(10, [*everything(10), stranger], set(range(REQUESTS)))
        assert (verdict.strange, verdict.doubled, verdict.missing, verdict.holds) == (1, 0, 0, False), stranger


def test_what_was_not_acknowledged_may_be_stored_or_not() -> None:
    """Law: a request that was refused, or whose answer was lost, owes nothing; what of it is stored is counted apart."""
    whole = everything(10)
    acknowledged = set(range(1, REQUESTS))
    assert judged(10, whole, acknowledged).unasked == 10
    assert judged(10, whole[3:], acknowledged).unasked == 7
    assert judged(10, whole[10:], acknowledged).holds
    assert not judged(10, [*whole, whole[0]], acknowledged).holds


def test_a_run_that_acknowledged_nothing_proves_nothing() -> None:
    """Law: an empty run does not hold."""
    assert not judged(10, [], set()).holds

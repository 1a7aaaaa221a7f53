"""The audit chain finds tampering, and no answer overtakes its entry."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.storage import audit
from cells.storage.audit import BEGINNING, Entry, Head, Reading, link, verify
from cells.storage.auditor import Auditor, verify_chain
from cells.storage.memory_audit import MemoryAuditTrail
from kernel.clock import Micros
from kernel.errors import Failure, Reason
from kernel.limits import AUDIT_QUEUE_MAX
from kernel.metrics import MemoryMeter


def reading(number: int = 0) -> Reading:
    return Reading(Micros(number), "rk_eu", "acme", "get_event", f'{{"message_id":"m{number}"}}')


CHAIN = link(BEGINNING, [reading(number) for number in range(6)])
HEAD = Head(CHAIN[-1].seq, CHAIN[-1].hash)


def test_an_untouched_chain_is_whole() -> None:
    """Its verdict names the head, which is what is printed and kept elsewhere."""
    assert verify(CHAIN) == audit.Verdict(HEAD)
    assert str(HEAD) == f"6:{CHAIN[-1].hash.hex()}"
    assert verify([]) == audit.Verdict(BEGINNING)


@pytest.mark.parametrize("field", ["at", "actor", "tenant", "action", "question", "prev_hash", "hash"])
@given(at=st.integers(0, 5))
def test_an_edited_entry_is_found(field: str, at: int) -> None:
    """Whatever is edited, the chain breaks at that entry."""
    value = {"at": Micros(99), "prev_hash": b"x" * 32, "hash": b"x" * 32}.get(field, "mallory")
    forged = [*CHAIN[:at], CHAIN[at]._replace(**{field: value}), *CHAIN[at + 1 :]]  # type: ignore[arg-type]  # by name
    assert verify(forged).broken_at == at + 1


@given(at=st.integers(0, 5))
def test_an_edited_entry_with_a_fresh_hash_is_found_at_the_next(at: int) -> None:
    """Hashing the forgery anew moves the break to the next entry; of the last entry only a printed head tells."""
    before = Head(at, CHAIN[at - 1].hash) if at else BEGINNING
    forged = [*CHAIN[:at], *link(before, [reading(77)]), *CHAIN[at + 1 :]]
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
def test_different_readings_have_different_encodings(one: list[str], other: list[str]) -> None:
    """No text moves from one field to its neighbour unseen."""
    hashes = [audit.digest(1, Reading(Micros(0), *texts), audit.GENESIS) for texts in (one, other)]
    assert (hashes[0] == hashes[1]) == (one == other)


async def test_concurrent_readings_form_one_chain() -> None:
    """Each caller returns after its own entry is in the chain; a new process continues where the old one ended."""
    trail = MemoryAuditTrail()
    for process in range(2):
        auditor = Auditor(trail, "cell", MemoryMeter())
        auditor.start()
        await asyncio.gather(*(auditor.record(reading(number)) for number in range(500)))
        assert len(trail.chains["cell"]) == 500 * (process + 1)
        await auditor.close()
    verdict = await verify_chain(trail, "cell")
    assert (verdict.broken_at, verdict.head.seq) == (None, 1_000)


async def test_two_processes_with_one_chain_keep_it_whole() -> None:
    """The loser of a race links anew: nothing is lost, nothing breaks."""
    trail = MemoryAuditTrail()
    auditors = [Auditor(trail, "cell", MemoryMeter()) for _ in range(2)]
    for auditor in auditors:
        auditor.start()
    for number in range(20):
        await asyncio.gather(*(auditor.record(reading(number)) for auditor in auditors))
    for auditor in auditors:
        await auditor.close()
    verdict = await verify_chain(trail, "cell")
    assert (verdict.broken_at, verdict.head.seq) == (None, 40)


async def test_a_reading_that_cannot_be_kept_fails_its_answer_and_the_writer_goes_on() -> None:
    """STORE_UNAVAILABLE while the trail is down; afterwards readings are kept again."""
    trail = MemoryAuditTrail()
    auditor = Auditor(trail, "cell", MemoryMeter())
    auditor.start()
    trail.down = True
    with pytest.raises(Failure) as caught:
        await auditor.record(reading())
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    trail.down = False
    await auditor.record(reading())
    assert len(trail.chains["cell"]) == 1
    await auditor.close()
    with pytest.raises(Failure) as caught:
        await auditor.record(reading())
    assert caught.value.reason is Reason.DRAINING


class StuckTrail(MemoryAuditTrail):
    """Never answers."""

    async def append(self, chain: str, entries: object) -> bool:
        """Waits for ever."""
        await asyncio.Event().wait()
        return False


async def test_the_queue_is_bounded() -> None:
    """Above AUDIT_QUEUE_MAX waiting readings the next one is refused at once; closing fails those that wait."""
    auditor = Auditor(StuckTrail(), "cell", MemoryMeter())
    auditor.start()
    waiting = [asyncio.create_task(auditor.record(reading(number))) for number in range(AUDIT_QUEUE_MAX)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    refused = 0
    for number in range(AUDIT_QUEUE_MAX):
        task = asyncio.create_task(auditor.record(reading(number)))
        await asyncio.sleep(0)
        if task.done():
            failure = task.exception()
            assert isinstance(failure, Failure)
            assert failure.reason is Reason.OVERLOADED
            refused += 1
            break
        waiting.append(task)
    assert refused == 1
    await auditor.close()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(failure, Failure) and failure.reason is Reason.DRAINING for failure in ended)


def test_entries_are_what_the_table_holds() -> None:
    """Field order of Entry is the order in which `digest` reads a Reading."""
    assert Entry._fields[1:6] == Reading._fields

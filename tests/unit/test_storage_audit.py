"""No answer overtakes its entry in the audit chain."""

from __future__ import annotations

import asyncio

import pytest

from cells.storage.audit import Reading
from cells.storage.auditor import Auditor, verify_chain
from cells.storage.memory_audit import MemoryAuditTrail
from kernel.clock import Micros
from kernel.errors import Failure, Reason
from kernel.limits import AUDIT_QUEUE_MAX
from kernel.metrics import MemoryMeter


def reading(number: int = 0) -> Reading:
    return Reading(Micros(number), "rk_eu", "acme", "get_event", f'{{"message_id":"m{number}"}}')


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

"""A cell's process with one defect, for a control that the oracle must find: its log acknowledges what it has only begun to append."""

from __future__ import annotations

import asyncio
from typing import Final

from cells.app import main
from cells.eventlog.kafka import KafkaLog
from cells.eventlog.log import Record

_HONEST: Final = KafkaLog.append
_begun: set[asyncio.Task[int]] = set()


async def _hasty(self: KafkaLog, partition: int, record: Record, deadline: float) -> int:
    task = asyncio.create_task(_HONEST(self, partition, record, deadline), name="hasty-append")
    _begun.add(task)
    task.add_done_callback(_ended)
    return 0


def _ended(task: asyncio.Task[int]) -> None:
    _begun.discard(task)
    if not task.cancelled():
        task.exception()


KafkaLog.append = _hasty  # type: ignore[method-assign]  # the defect

if __name__ == "__main__":
    main()

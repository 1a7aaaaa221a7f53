"""The shape of every cell's event log, in a fleet and on one machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class LogShape:
    """`partitions` are fixed when a cell's log is first made; `replication` copies are kept of a record, `min_in_sync` of which must be
    written before it is acknowledged. How long what was applied is kept is `kernel.limits.LOG_RETENTION_DAYS`, the same for every log.
    Raises ValueError for what cannot be."""

    partitions: int
    replication: int
    min_in_sync: int

    def __post_init__(self) -> None:
        if self.partitions < 1 or not 1 <= self.min_in_sync <= self.replication:
            raise ValueError(f"no log can be {self}")

    def on_one_machine(self, brokers: int) -> LogShape:
        """What `brokers` nodes on one machine can keep of it: a copy on each of them, up to as many as declared. Acknowledged by one
        node fewer than there are copies, as declared, so that one of three may die; a node alone acknowledges for itself. Few
        partitions, since a machine has one process a cell."""
        replication = min(self.replication, brokers)
        return replace(
            self,
            partitions=min(self.partitions, _PARTITIONS_ON_ONE_MACHINE),
            replication=replication,
            min_in_sync=min(self.min_in_sync, max(1, replication - 1)),
        )


# Each partition of a process is applied by itself: more of them mean smaller applies, and fewer events a second.
_PARTITIONS_ON_ONE_MACHINE: Final = 2
# Twelve divide evenly among 1, 2, 3, 4, 6 and 12 consumers.
LOG: Final = LogShape(partitions=12, replication=3, min_in_sync=2)

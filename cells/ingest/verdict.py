"""What became of a request's events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cells.eventlog.envelope import Envelope
from kernel.errors import Reason


class Rejected(NamedTuple):
    """An event that is permanently refused; its neighbours are not. `message_id` is empty when it could not be read."""

    index_in_batch: int
    message_id: str
    reason: Reason
    detail: str


class Repeated(NamedTuple):
    """A repeat of a message id inside the request; the first one counts."""

    index_in_batch: int
    message_id: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """The pure outcome of a batch. `accepted` pairs an event's index in the batch with its envelope, in the client's order."""

    accepted: tuple[tuple[int, Envelope], ...]
    rejected: tuple[Rejected, ...]
    repeated: tuple[Repeated, ...]

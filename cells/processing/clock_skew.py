"""Corrects the client's clock. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kernel.clock import SECOND, Micros
from kernel.limits import CLOCK_SKEW_AHEAD_SECONDS

_OLDEST: Final = Micros(0)


def correct(received_at: Micros, sent_at: Micros | None, original_ats: Iterable[Micros | None]) -> list[Micros]:
    """When the events of one batch happened by our clock: `receivedAt - (sentAt - originalTimestamp)` (Segment's rule, ingest.md).

    Without `sentAt` the client's time is taken as it is; without that, `receivedAt`. A result before 1970, or further ahead
    than the bound, is no time at all and becomes `receivedAt`; the payload keeps what the client said.
    """
    shift = 0 if sent_at is None else received_at - sent_at
    latest = received_at + CLOCK_SKEW_AHEAD_SECONDS * SECOND
    return [
        Micros(at) if original is not None and _OLDEST <= (at := original + shift) <= latest else received_at for original in original_ats
    ]

"""Corrects the client's clock. Pure."""

from __future__ import annotations

from typing import Final

from kernel.clock import SECOND, Micros
from kernel.limits import CLOCK_SKEW_AHEAD_SECONDS

_OLDEST: Final = Micros(0)


def correct(received_at: Micros, sent_at: Micros | None, original_at: Micros | None) -> Micros:
    """When an event happened by our clock: `receivedAt - (sentAt - originalTimestamp)` (Segment's rule, ingest.md).

    Without `sentAt` the client's time is taken as it is; without that, `receivedAt`. A result before 1970, or further ahead
    than the bound, is no time at all and becomes `receivedAt`; the payload keeps what the client said.
    """
    if original_at is None:
        return received_at
    corrected = original_at if sent_at is None else received_at - (sent_at - original_at)
    if not _OLDEST <= corrected <= received_at + CLOCK_SKEW_AHEAD_SECONDS * SECOND:
        return received_at
    return Micros(corrected)

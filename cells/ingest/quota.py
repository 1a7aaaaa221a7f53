"""Per-tenant token buckets: a decision over (bucket, now), no timer. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from kernel.limits import RETRY_AFTER_SECONDS_MAX, Plan


class Bucket(NamedTuple):
    """`tokens` events could be taken at `at` (monotonic seconds)."""

    tokens: float
    at: float


def take(bucket: Bucket | None, plan: Plan, events: int, now: float, *, owing: bool = False) -> tuple[Bucket, int | None]:
    """Takes `events` tokens. Gives the bucket after it, and None, or else the whole seconds to wait before the same request.

    A request larger than the whole burst is let through when the bucket is full, and leaves a debt: it could never pass otherwise. In a
    bucket that several share, `owing` lets every request through that finds a token: else large ones never would beside many small ones.
    """
    if bucket is None:
        bucket = Bucket(plan.burst_events, now)
    tokens = min(plan.burst_events, bucket.tokens + max(0.0, now - bucket.at) * plan.events_per_second)
    needed = min(1.0 if owing else float(events), plan.burst_events)
    if tokens >= needed:
        return Bucket(tokens - events, now), None
    wait = (needed - tokens) / plan.events_per_second if plan.events_per_second > 0 else RETRY_AFTER_SECONDS_MAX
    return Bucket(tokens, now), min(RETRY_AFTER_SECONDS_MAX, max(1, math.ceil(wait)))

"""Dedup as arithmetic: which rows are new, given what is stored under their keys. Pure. The rules are in `store`'s docstring."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from operator import attrgetter
from typing import Final, NamedTuple

from kernel.clock import SECOND, Micros, day_of
from kernel.effects import EventRow
from kernel.limits import APPLY_SECONDS_MAX, SEEN_WINDOW_DAYS

WINDOW: Final = timedelta(days=SEEN_WINDOW_DAYS)
_MIDNIGHT: Final = 2 * int(APPLY_SECONDS_MAX) * SECOND  # the longest apply, and as much for clocks that differ

_key = attrgetter("message_key")


class Found(NamedTuple):
    """An event that is stored already."""

    message_key: bytes
    received_day: date
    content_hash: int


@dataclass(frozen=True, slots=True)
class Sifted:
    """`fresh` rows are new, in key order: two appliers meet shared keys in one order. `conflicts` counts those of `repeated` whose
    content differs from the first write's."""

    fresh: Sequence[EventRow]
    repeated: Sequence[EventRow]
    conflicts: int


def window_begins(now: Micros) -> date:
    """The first received day that rule 2 decides about, as things stand at `now`."""
    return day_of(now) - WINDOW


def alone(days: Iterable[date], now: Micros) -> bool:
    """Whether an apply at `now` of rows received on these days may meet their repeats of another day in a transaction at the same time:
    no unique index sees such two. All that is received today and applied today may not: it is of one day. The last minute of a day
    counts as of none, since the transaction may end tomorrow, and another process may be there already."""
    begins, today = window_begins(now), day_of(now)
    return any(day >= begins and (day != today or day != day_of(Micros(now + _MIDNIGHT))) for day in days)


def sift(rows: Iterable[EventRow], found: Iterable[Found], begins: date) -> Sifted:
    """Tells new rows from repeated ones. `found` holds at least what is stored under the rows' keys within the window of their days."""
    ordered = sorted(rows, key=_key)
    stored: dict[bytes, list[Found]] = {}
    for one in found:
        stored.setdefault(one.message_key, []).append(one)
    if not stored and len(set(map(_key, ordered))) == len(ordered):
        return Sifted(ordered, [], 0)
    fresh: list[EventRow] = []
    repeated: list[EventRow] = []
    conflicts = 0
    before: EventRow | None = None
    for row in ordered:
        if before is not None and before.message_key == row.message_key:
            stored.setdefault(row.message_key, [_as_found(before)])  # the first of them was new
        earlier = stored.get(row.message_key)
        before = row
        first = _first(row, earlier, begins) if earlier is not None else None
        if first is not None:
            repeated.append(row)
            conflicts += first.content_hash != row.content_hash
            continue
        fresh.append(row)
        if earlier is not None:
            earlier.append(_as_found(row))
    return Sifted(fresh, repeated, conflicts)


def _as_found(row: EventRow) -> Found:
    return Found(row.message_key, row.received_day, row.content_hash)


def _first(row: EventRow, earlier: Sequence[Found], begins: date) -> Found | None:
    """The write that `row` repeats: by rule 1 that of its own day, else by rule 2 the first one in the window."""
    for one in earlier:
        if one.received_day == row.received_day:
            return one
    if row.received_day < begins:
        return None
    near = [one for one in earlier if abs(one.received_day - row.received_day) <= WINDOW]
    return min(near, key=attrgetter("received_day")) if near else None

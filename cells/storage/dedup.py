"""Dedup as arithmetic: the days that rule 2 looks at, and repeats inside one apply. Pure. The rules are in `store`'s docstring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from operator import itemgetter

from kernel.clock import Micros, day_of
from kernel.effects import EventRow
from kernel.ids import TenantId
from kernel.limits import SEEN_WINDOW_DAYS

_key = itemgetter(0, 1)
EventKey = tuple[TenantId, str]


@dataclass(frozen=True, slots=True)
class Window:
    """`begins` is the first received day that rule 2 decides about; `keeps` the first whose ids it must remember for that."""

    begins: date
    keeps: date

    @property
    def drops_before(self) -> date:
        """Remembered days before this one may go: one day later than possible, for appliers whose clock is a little behind."""
        return self.keeps - timedelta(days=1)


def window_at(now: Micros) -> Window:
    """The window as it stands at `now`."""
    today = day_of(now)
    return Window(today - timedelta(days=SEEN_WINDOW_DAYS), today - timedelta(days=2 * SEEN_WINDOW_DAYS))


def unique(rows: Sequence[EventRow]) -> tuple[list[EventRow], list[EventRow]]:
    """(the first row of each tenant and message id, in key order; the others). Two appliers thus meet shared keys in one order."""
    ordered = sorted(rows, key=_key)
    if len({(row.tenant, row.message_id) for row in ordered}) == len(ordered):
        return ordered, []
    firsts: list[EventRow] = []
    repeats: list[EventRow] = []
    for row in ordered:
        again = firsts and firsts[-1].message_id == row.message_id and firsts[-1].tenant == row.tenant
        (repeats if again else firsts).append(row)
    return firsts, repeats


def conflicts(rows: Sequence[EventRow], first_hash: Mapping[EventKey, int]) -> int:
    """How many rows differ in content from the first write of their id. The first write itself does not differ."""
    return sum(first_hash.get((row.tenant, row.message_id), row.content_hash) != row.content_hash for row in rows)

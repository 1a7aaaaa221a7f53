"""Dedup as arithmetic: the days that rule 2 looks at, and repeats inside one apply. Pure. The rules are in `store`'s docstring."""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import date, timedelta
from operator import itemgetter
from typing import Final

from kernel.clock import Micros, day_of
from kernel.effects import EventRow
from kernel.ids import TenantId
from kernel.limits import SEEN_WINDOW_DAYS

_key = itemgetter(0, 1)
EventKey = tuple[TenantId, str]


WINDOW: Final = timedelta(days=SEEN_WINDOW_DAYS)


def window_begins(now: Micros) -> date:
    """The first received day that rule 2 decides about, as things stand at `now`."""
    return day_of(now) - WINDOW


def days_to_look_at(days: Set[date]) -> tuple[date, date, date, date]:
    """First and last day of two ranges in which rule 2 may find an earlier write of rows received on `days`.

    Rows of one single day are not looked for in that day: its primary key tells. This is nearly every apply, and it spares a look
    into the one partition that grows while the planner still believes it empty.
    """
    first, last, day = min(days), max(days), timedelta(days=1)
    return first - WINDOW, last if len(days) > 1 else last - day, last + day, last + WINDOW


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

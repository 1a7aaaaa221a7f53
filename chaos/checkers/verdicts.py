"""The oracle: what must hold of every history once it is quiet (fleet.md). Each checker returns its findings; none means it held.

What it can miss: an event that was acknowledged and stored with another content, or a copy that nobody listed.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from chaos.checkers.history import History, LedgerLine

_FINDINGS_MAX: Final = 20


def acknowledged_is_stored(history: History) -> list[str]:
    """Zero acknowledged events lost."""
    visible = {(row.tenant, row.message_id) for row in history.stored}
    return [
        f"lost: {sent.tenant} {sent.message_id} was acknowledged and is not visible"
        for sent in history.sent
        if sent.answer == "acknowledged" and (sent.tenant, sent.message_id) not in visible
    ]


def stored_was_sent(history: History) -> list[str]:
    """Nothing is visible that nobody sent, or that was refused for good."""
    known = {(sent.tenant, sent.message_id) for sent in history.sent if sent.answer != "rejected"}
    return [
        f"invented: {row.tenant} {row.message_id} is visible in {row.cell} and was not sent"
        for row in history.stored
        if (row.tenant, row.message_id) not in known
    ]


def stored_once(history: History) -> list[str]:
    """No duplicate is visible, in whatever cells."""
    counts = Counter((row.tenant, row.message_id) for row in history.stored)
    return [f"duplicate: {tenant} {message_id} is visible {n} times" for (tenant, message_id), n in counts.items() if n > 1]


def order_is_kept(history: History) -> list[str]:
    """What one sequential client got acknowledged for one user stands in the log in that order. An attempt that was never answered
    may still arrive late: its place is free."""
    places = {(row.tenant, row.message_id): row.position for row in history.stored}
    streams: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for sent in history.sent:
        if sent.sequence is not None and sent.answer == "acknowledged" and (sent.tenant, sent.message_id) in places:
            streams[(sent.tenant, sent.user)].append((sent.sequence, sent.message_id))
    found = []
    for (tenant, user), events in streams.items():
        ordered = [places[(tenant, message_id)] for _, message_id in sorted(events)]
        for before, after in itertools.pairwise(ordered):
            if not before < after:
                found.append(f"order: {tenant} {user}: {after} stands before {before}")
    return found


def ledger_balances(history: History) -> list[str]:
    """accepted = stored + duplicate + quarantined + held, per tenant and cell."""
    return [
        f"ledger: {line.tenant} in {line.cell}: accepted {line.accepted}, accounted for {accounted}"
        for line in history.ledger
        if line.accepted != (accounted := line.stored + line.duplicate + line.quarantined + line.held)
    ]


def poison_is_buried(history: History) -> list[str]:
    """Every record that nobody can read is quarantined, none is held or passed over, and the partition goes on behind it. One behind
    which nothing acknowledged stands proves nothing: that is a finding too."""
    if not history.poisons:
        return []
    events: Counter[tuple[str, str]] = Counter()
    for poison in history.poisons:
        events[(poison.cell, poison.tenant)] += poison.events
    lines = {(line.cell, line.tenant): line for line in history.ledger}
    found = []
    for (cell, tenant), wanted in events.items():
        line = lines.get((cell, tenant), LedgerLine(cell, tenant, 0, 0, 0, 0, 0))
        if (line.quarantined, line.held) != (wanted, 0):
            found.append(f"poison: {tenant} in {cell}: {wanted} events of unreadable records, {line.quarantined} dead, {line.held} held")
    ends: dict[tuple[str, int], int] = defaultdict(int)
    for row in history.stored:
        place = (row.cell, row.position[0])
        ends[place] = max(ends[place], row.position[1])
    return found + [
        f"stalled: nothing is visible of partition {poison.partition} of {poison.cell} behind the poison at {poison.offset}"
        for poison in history.poisons
        if ends[(poison.cell, poison.partition)] < poison.offset
    ]


def recovers_in_time(history: History) -> list[str]:
    """Each cell has applied everything soon after the last fault."""
    return [
        f"late: {recovery.cell} had applied everything {recovery.seconds:.1f} s after the last fault, at most {recovery.seconds_max:.0f} s"
        for recovery in history.recoveries
        if recovery.seconds > recovery.seconds_max
    ]


def stays_at_home(history: History) -> list[str]:
    """Every row is in its tenant's home cell."""
    return [
        f"misplaced: {row.tenant} {row.message_id} is in {row.cell}, home is {history.homes.get(row.tenant)}"
        for row in history.stored
        if history.homes.get(row.tenant) != row.cell
    ]


def stays_in_zone(history: History) -> list[str]:
    """No zone's planted token is found in a copy of another zone; and each is found in a copy of its own, of every certain kind that
    was searched at all, else the search is blind."""
    found = []
    kinds = sorted({copy.kind for copy in history.copies} - {"other"})
    for zone, tokens in history.canaries.items():
        for token in tokens:
            foreign = [copy.name for copy in history.copies if copy.zone != zone and token in copy.text]
            if foreign:
                found.append(f"leak: a token of zone {zone} is in {', '.join(sorted(foreign))}")
            at_home = [copy for copy in history.copies if copy.zone == zone and token in copy.text]
            if not at_home:
                found.append(f"blind: a token of zone {zone} is in no copy of its own zone, so the search proves nothing")
            unseen = [kind for kind in kinds if at_home and kind not in {copy.kind for copy in at_home}]
            found += [f"blind: a token of zone {zone} is in no {kind} of its own zone, where every event stands" for kind in unseen]
    return found


CHECKERS: Final[tuple[Callable[[History], list[str]], ...]] = (
    acknowledged_is_stored,
    stored_was_sent,
    stored_once,
    order_is_kept,
    ledger_balances,
    poison_is_buried,
    recovers_in_time,
    stays_at_home,
    stays_in_zone,
)


def judge(history: History, checkers: Iterable[Callable[[History], list[str]]] = CHECKERS) -> list[str]:
    """All findings, at most twenty of each checker. A history in which nothing was acknowledged proves nothing: that is one too."""
    found = [finding for checker in checkers for finding in checker(history)[:_FINDINGS_MAX]]
    if not any(sent.answer == "acknowledged" for sent in history.sent):
        found.append("void: nothing was acknowledged")
    return found

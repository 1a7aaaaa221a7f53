"""Violations planted in the history of a session that passed: for each verdict one that it must find. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from chaos.checkers.history import History, Sent, Stored


class Planted(NamedTuple):
    """A history with one violation, and the word that a finding of it begins with."""

    history: History
    word: str


def planted(history: History) -> Iterator[Planted]:
    """One after the other. The history must hold acknowledged, ordered and poisonous records, as every session's does."""
    acknowledged = {(sent.tenant, sent.message_id) for sent in history.sent if sent.answer == "acknowledged"}
    place = next(number for number, row in enumerate(history.stored) if (row.tenant, row.message_id) in acknowledged)
    row, rows = history.stored[place], list(history.stored)
    yield Planted(replace(history, stored=(*rows[:place], *rows[place + 1 :])), "lost")
    yield Planted(replace(history, stored=(*rows, row._replace(position=(row.position[0], row.position[1] + 1_000_000, 0)))), "duplicate")
    yield Planted(replace(history, stored=(*rows, row._replace(message_id="nobody-sent-this"))), "invented")
    yield Planted(replace(history, stored=_swapped(history)), "order")
    line = next(line for line in history.ledger if line.stored > 1)
    skipped = tuple(one._replace(stored=one.stored - 1) if one is line else one for one in history.ledger)
    yield Planted(replace(history, ledger=skipped), "ledger")
    poison = history.poisons[0]
    passed_over = tuple(
        one._replace(quarantined=one.quarantined - 1, accepted=one.accepted - 1) if one.tenant == poison.tenant else one
        for one in history.ledger
    )
    yield Planted(replace(history, ledger=passed_over), "poison")
    yield Planted(replace(history, poisons=(*history.poisons, poison._replace(events=0, offset=1 << 40))), "stalled")
    [recovery] = history.recoveries
    yield Planted(replace(history, recoveries=(recovery._replace(seconds=recovery.seconds_max + 1),)), "late")


def _swapped(history: History) -> tuple[Stored, ...]:
    """The rows, with the places of two events changed that one client got acknowledged one after the other for one user."""
    first, second = _neighbours(history.sent)
    places = {(row.tenant, row.message_id): row.position for row in history.stored}
    one, other = (first.tenant, first.message_id), (second.tenant, second.message_id)
    changed = {one: places[other], other: places[one]}
    return tuple(row._replace(position=changed.get((row.tenant, row.message_id), row.position)) for row in history.stored)


def _neighbours(sent: tuple[Sent, ...]) -> tuple[Sent, Sent]:
    last: dict[tuple[str, str], Sent] = {}
    for one in sent:
        if one.answer != "acknowledged" or one.sequence is None:
            continue
        if (before := last.get((one.tenant, one.user))) is not None:
            return before, one
        last[(one.tenant, one.user)] = one
    raise AssertionError("no client got two events of one user acknowledged")

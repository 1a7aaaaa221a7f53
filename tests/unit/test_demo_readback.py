"""What the demo makes of what it reads back: whose place in the log is free."""

from __future__ import annotations

from chaos.checkers.history import History, Sent, Stored
from chaos.checkers.verdicts import order_is_kept, stays_at_home
from cli.demo.readback import Seen, freed

HOME, STANDBY = "eu-central-1-a", "eu-west-1-a"


def seen(message_id: str, offset: int, taken_by: str = HOME, cell: str = HOME) -> Seen:
    """A row at this offset."""
    return Seen(Stored(cell, "acme", "ann", message_id, (0, offset, 0)), 0.0, taken_by)


def judged(rows: list[Seen]) -> list[str]:
    """What is found, of three events that one client had acknowledged in order."""
    sent = [Sent("acme", "ann", f"m{number}", number, "acknowledged") for number in range(3)]
    history = History(tuple(freed(sent, HOME, rows)), tuple(row.row for row in rows), homes={"acme": HOME})
    return order_is_kept(history) + stays_at_home(history)


def test_what_a_standby_took_may_stand_anywhere_and_nothing_else_may() -> None:
    """Law: it was taken in another log than what stands around it. What its home took stands in the client's order, and is at home."""
    assert judged([seen("m0", 0), seen("m1", 9, STANDBY), seen("m2", 5)]) == []
    assert len(judged([seen("m0", 0), seen("m1", 9), seen("m2", 5)])) == 1
    assert len(judged([seen("m0", 0), seen("m1", 3), seen("m2", 5, "us-east-1-a", "us-east-1-a")])) == 1

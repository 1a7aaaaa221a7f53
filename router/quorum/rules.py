"""What a site may promise. Pure.

Raft's rules (Ongaro and Ousterhout 2014, 5.2 to 5.4): one vote a term, only for who has everything that the voter knows of, and nothing
from a leader of an older term. Any two majorities share a site, and that site forgets nothing of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from router.placement.entry import Ballot, Entry, Place


class Candidacy(NamedTuple):
    """A site asks to lead in a term; `last` is its newest entry."""

    site: str
    term: int
    last: Place


class Vote(NamedTuple):
    """The answer, and the newest term that the voter knows. A `blank` voter has nothing of the zone: nobody knows whether it never had, or
    has forgotten what it promised."""

    granted: bool
    term: int
    blank: bool = False


@dataclass(frozen=True, slots=True)
class Append:
    """What a leader says: that it leads, up to where the zone is settled, and the entries up to `place`, if it brings any."""

    site: str
    term: int
    settled: Place
    place: Place | None = None
    entries: tuple[Entry, ...] = ()


class Appended(NamedTuple):
    """The answer: whether the site has the entries, and the newest term that it knows."""

    accepted: bool
    term: int


def granted(ballot: Ballot, newest: Place, asked: Candidacy) -> Ballot | None:
    """The voter's ballot with its vote; None when it refuses. `newest` is the newest entry that the voter knows of."""
    if asked.term < ballot.term or asked.last < newest:
        return None
    if asked.term == ballot.term and ballot.voted_for not in ("", asked.site):
        return None
    return replace(ballot, term=asked.term, voted_for=asked.site)


def followed(ballot: Ballot, term: int) -> Ballot | None:
    """The ballot of a site that heard of a leader in `term`; None when it knows of a newer term."""
    if term < ballot.term:
        return None
    return ballot if term == ballot.term else replace(ballot, term=term, voted_for="")


def elected(votes: Sequence[Vote], others: int, blank: bool) -> bool:
    """Whether a site leads with these votes of the `others`, its own put aside. A vote of one that may have forgotten something counts only
    where all agree: when a zone begins, or a disk is new while every other site is there. So does a vote for one that is `blank` itself.
    """
    for_it = [vote for vote in votes if vote.granted]
    if len(for_it) == others:
        return True
    return not blank and sum(not vote.blank for vote in for_it) >= others_needed(others)


def others_needed(others: int) -> int:
    """How many of the `others` make a majority together with the site itself."""
    return (others + 1) // 2

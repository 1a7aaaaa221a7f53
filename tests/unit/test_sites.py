"""What a site may promise, what a witness keeps, and how sites are named."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.errors import Failure
from kernel.metrics import MemoryMeter
from router.placement.entry import (
    FORM,
    NOWHERE,
    WITNESS,
    Ballot,
    Chunk,
    Entry,
    Place,
    decode,
    decode_all,
    encode,
    encode_all,
    left_of,
    still_held,
)
from router.placement.memory import MemoryStore
from router.placement.table import Topology
from router.quorum.ballot_file import BallotFile
from router.quorum.election import Election
from router.quorum.leader import Leader
from router.quorum.rules import Append, Appended, Candidacy, Vote, elected, followed, granted, others_needed
from router.quorum.settings import Sites, sites_of
from router.quorum.site import Site
from router.quorum.voter import SILENCE_SECONDS, Voter
from tests.support.clock import ManualClock
from tests.support.edge_room import QuietLog
from tests.support.router_words import EU

places = st.builds(Place, st.integers(0, 4), st.integers(0, 4))
names = st.sampled_from(("east", "west"))
ballots = st.builds(Ballot, st.integers(0, 4), st.sampled_from(("", "east", "west")), places)


@given(ballots, st.lists(st.builds(Candidacy, names, st.integers(0, 5), places), max_size=6), places)
def test_a_voter_gives_one_vote_a_term_to_who_lacks_nothing(ballot: Ballot, asked: list[Candidacy], newest: Place) -> None:
    """Law: terms never fall, nobody who lacks an entry is voted for, and no two in a term."""
    voted: dict[int, str] = {ballot.term: ballot.voted_for} if ballot.voted_for else {}
    for one in asked:
        after = granted(ballot, newest, one)
        if after is None:
            continue
        assert after.term >= ballot.term
        assert one.last >= newest
        assert voted.setdefault(after.term, one.site) == one.site
        ballot = after


@given(ballots, st.integers(0, 5))
def test_a_leader_of_an_older_term_is_not_followed(ballot: Ballot, term: int) -> None:
    """Law: and a newer one takes no vote along."""
    after = followed(ballot, term)
    assert (after is None) == (term < ballot.term)
    if after is not None:
        assert (after.term, after.last) == (term, ballot.last)
        assert after.voted_for == (ballot.voted_for if term == ballot.term else "")


@given(st.integers(1, 9))
def test_any_two_majorities_share_a_site(others: int) -> None:
    """Law: with this site, and as few as may be."""
    majority, sites = 1 + others_needed(others), 1 + others
    assert 2 * majority > sites
    assert 2 * (majority - 1) <= sites


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), places)
def test_what_is_left_of_what_was_held_follows_what_is_settled(term: int, first: int, count: int, settled: Place) -> None:
    """Law: only a stretch of which nothing, or its own beginning, is settled."""
    entries = [Entry(number, number) for number in range(first, first + count)]
    place = Place(term, entries[-1].number)
    left = still_held(place, entries, settled)
    assert [entry.number for entry in left] in ([], list(range(settled.number + 1, place.number + 1)))
    if left:
        assert settled.number < first or settled.term <= term
    assert left == [] or list(left) == list(left_of(entries, settled))


votes = st.lists(st.builds(Vote, st.booleans(), st.just(1), st.booleans()), max_size=4)


@given(votes, st.integers(2, 4), st.booleans())
def test_nobody_leads_by_the_word_of_who_may_have_forgotten(given_votes: list[Vote], others: int, blank: bool) -> None:
    """Law: without everybody's vote a majority of those counts that have something of the zone, and nobody leads who has nothing."""
    given_votes = given_votes[:others]
    for_it = [vote for vote in given_votes if vote.granted]
    found = elected(given_votes, others, blank)
    assert found == (len(for_it) == others or (not blank and sum(not vote.blank for vote in for_it) >= others_needed(others)))
    if found and len(for_it) < others:
        assert not blank
        assert 2 * (1 + sum(not vote.blank for vote in for_it)) > 1 + others


async def test_who_hears_a_leader_votes_for_nobody() -> None:
    """Law: until it has been silent for a while; and who has just voted waits for the one it voted for."""
    clock = ManualClock()
    voter = Voter(WITNESS, _Ballots(), clock)
    assert (await voter.append(Append("east", 1, Place(1, 1)))).accepted
    asked = Candidacy("west", 2, Place(1, 1))
    assert not (await voter.vote(asked)).granted
    clock.advance(SILENCE_SECONDS)
    assert (await voter.vote(asked)).granted
    assert not (await voter.vote(Candidacy("east", 3, Place(1, 1)))).granted
    assert not (await voter.append(Append("east", 1, Place(1, 1)))).accepted
    clock.advance(SILENCE_SECONDS)
    assert (await voter.vote(Candidacy("east", 3, Place(1, 1)))).granted


class _Ballots:
    """A disk in memory."""

    def __init__(self) -> None:
        self.kept = Ballot()

    async def ballot(self) -> Ballot:
        return self.kept

    async def promise(self, ballot: Ballot) -> None:
        self.kept = ballot


async def test_a_witness_knows_how_far_the_zone_is() -> None:
    """Law: by what it is asked to hold and by what is settled elsewhere, and never less; who lacks that cannot lead."""
    clock, ballots = ManualClock(), _Ballots()
    voter = Voter(WITNESS, ballots, clock)
    await voter.append(Append("east", 1, Place(1, 4)))
    await voter.append(Append("east", 1, Place(1, 4), Place(1, 6)))
    await voter.append(Append("east", 1, Place(1, 5)))
    assert ballots.kept.last == Place(1, 6)
    clock.advance(SILENCE_SECONDS)
    assert not (await voter.vote(Candidacy("west", 2, Place(1, 5)))).granted
    assert (await voter.vote(Candidacy("west", 2, Place(1, 6)))).granted


async def test_a_witness_that_cannot_read_its_promises_makes_none(tmp_path: Path) -> None:
    """Law: what was promised is there after a restart; a torn file is refused by name, not taken for a blank one."""
    path = tmp_path / "witness" / "ballot.json"
    promised = Ballot(3, "east", Place(2, 9))
    await BallotFile(path).promise(promised)
    assert await BallotFile(path).ballot() == promised
    await BallotFile(path).promise(replace(promised, term=4))
    assert [file.name for file in path.parent.iterdir()] == ["ballot.json"]
    path.write_text(path.read_text()[:-3])
    with pytest.raises(Failure, match=r"ballot\.json"):
        BallotFile(path)


def test_sites_are_named_with_their_addresses() -> None:
    """Law: the first one founds the zone; its own address is not among the others'."""
    found = sites_of("east=a:1,west=b:2,witness=c:3", "west")
    assert found == Sites("west", {"east": "a:1", "witness": "c:3"}, "east")
    assert Place(0, 1) > NOWHERE


@pytest.mark.parametrize(
    ("text", "own", "why"),
    [
        ("east=a:1,west=b:2,witness=c:3", "north", "is not among"),
        ("east=a:1,west=b:2,witness=c:3", "", "has no name"),
        ("east=a:1,west=b:2", "east", "at least 3"),
        ("east=a:1,west=b:2,north=c:3", "east", "witness"),
        ("witness=c:3,east=a:1,west=b:2", "east", "cannot be the first"),
        ("east=a:1,east=b:2,witness=c:3", "east", "twice"),
        ("east=a,west=b:2,witness=c:3", "east", "host:port"),
        ("east", "east", "host:port"),
    ],
)
def test_wrong_sites_are_refused_with_the_reason(text: str, own: str, why: str) -> None:
    """Law: before anything is promised to anybody."""
    with pytest.raises(ValueError, match=why):
        sites_of(text, own)


def test_an_entry_of_a_newer_form_is_refused_whole() -> None:
    """Law: a site of this version keeps nothing of what it does not know, rather than a part of it. What an entry holds is named
    here by its schema: whoever changes it raises FORM, or a site of the version before would drop what is new."""
    entry = Entry(1, 1)
    assert decode(encode(entry)) == entry
    assert decode_all(encode_all([entry])) == (entry,)
    for read, data in ((decode, encode(replace(entry, form=FORM + 1))), (decode_all, encode_all([entry, replace(entry, form=FORM + 1)]))):
        with pytest.raises(Failure, match="form"):
            read(data)
    schema = hashlib.sha256(json.dumps(msgspec.json.schema(Entry), sort_keys=True).encode()).hexdigest()[:16]
    assert (FORM, schema) == (1, "9ab2a570ae51b568")


async def test_who_votes_for_two_at_once_votes_for_one() -> None:
    """Law: one vote a term also where two ask at once and the disk takes its time."""

    class Slow(_Ballots):
        async def promise(self, ballot: Ballot) -> None:
            await asyncio.sleep(0)
            await super().promise(ballot)

    voter = Voter(WITNESS, Slow(), ManualClock())
    votes = await asyncio.gather(*(voter.vote(Candidacy(site, 1, NOWHERE)) for site in ("east", "west")))
    assert sum(vote.granted for vote in votes) == 1


class _Told:
    """Another site, that says the same to everything."""

    def __init__(self, term: int, granted: bool = True) -> None:
        self.term, self.granted = term, granted
        self.asked: list[int] = []

    async def vote(self, asked: Candidacy) -> Vote:
        self.asked.append(asked.term)
        return Vote(self.granted and asked.term > self.term, max(self.term, asked.term))

    async def append(self, append: Append) -> Appended:
        return Appended(True, append.term)

    async def entries(self, after: int) -> Sequence[tuple[Place, Entry]] | None:
        return []

    def copy(self) -> AsyncIterator[Chunk]:
        raise NotImplementedError


def _site(peer: _Told, clock: ManualClock) -> Site:
    return Site("east", MemoryStore(EU), {"west": peer, WITNESS: peer}, clock)


async def test_a_leader_that_cannot_keep_what_was_agreed_on_leads_no_more() -> None:
    """Law: whatever its disk, or whoever cancels it, says: another entry of the number must not be offered in that term."""
    for error in (OSError("the disk is gone"), asyncio.CancelledError()):
        leader = Leader(site := _site(_Told(1), ManualClock()), 1, MemoryMeter(), QuietLog())
        await site.replica.promise(Ballot(1, "east"))
        with pytest.raises(type(error)):
            async with leader.agreed([Entry(1, 1)]):
                raise error
        assert leader.over.is_set()


async def test_who_stands_in_vain_stands_in_a_newer_term_than_the_others_know() -> None:
    """Law: a site that was away when others voted overtakes their terms by being told of them, though nobody leads."""
    witness = _Told(7)
    election = Election(_site(witness, ManualClock()), True, lambda: 0.5, MemoryMeter(), QuietLog())
    assert await election._stand() is None
    assert await election._stand() == 8


async def test_who_lacks_something_and_hears_nobody_waits_for_the_next_leader() -> None:
    """Law: it was told that something is missing, and voted for another one before it could ask: that ends nothing."""
    clock = ManualClock()
    site = _site(_Told(1), clock)
    await site.append(Append("west", 1, Place(1, 4)))
    clock.advance(SILENCE_SECONDS)
    assert (await site.vote(Candidacy("west", 2, Place(1, 4)))).granted
    catching_up = asyncio.create_task(site.catch_up())
    for _ in range(10):  # more turns of the loop than it takes
        await asyncio.sleep(0)
    assert not catching_up.done()
    catching_up.cancel()


async def test_a_word_of_a_newer_leader_settles_nothing_of_an_older_one() -> None:
    """Law: what is held at the number that a majority settled is not what was settled, unless the same leader offered it."""
    site = _site(_Told(1), ManualClock())
    assert (await site.append(Append("west", 1, NOWHERE, Place(1, 1), (Entry(1, 1, topology=Topology((), ())),)))).accepted
    await site.append(Append("west", 2, Place(2, 1)))
    assert await site.replica.settled() == NOWHERE
    await site.append(Append("west", 2, Place(1, 1)))
    assert await site.replica.settled() == Place(1, 1)


async def test_who_holds_and_votes_at_once_forgets_neither() -> None:
    """Law: what a disk that takes its time keeps last is no older than what it kept before."""

    class Slow(MemoryStore):
        async def ballot(self) -> Ballot:
            found = await super().ballot()
            await asyncio.sleep(0)
            return found

        async def hold(self, ballot: Ballot, entries: Sequence[Entry]) -> None:
            await asyncio.sleep(0)
            await super().hold(ballot, entries)

    clock, place = ManualClock(), Place(1, 1)
    site = Site("east", Slow(EU), {}, clock)
    await site.append(Append("west", 1, NOWHERE))
    clock.advance(SILENCE_SECONDS)
    await asyncio.gather(site.hold(place, [Entry(1, 1)]), site.vote(Candidacy("west", 2, place)))
    assert await site.replica.ballot() == Ballot(2, "west", place)

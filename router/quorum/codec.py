"""Sites' words between the wire and the domain."""

from __future__ import annotations

from typing import Final

from dataflow.routing.v1 import quorum_pb2 as pb
from kernel.ids import ZoneName
from router.placement import entry as stored
from router.placement.entry import Entry, Place
from router.quorum.rules import Append, Candidacy

MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of one message between sites: an entry is a tenant, and a message has at most some hundred of them."""


def candidacy(zone: ZoneName, asked: Candidacy) -> pb.RequestVoteRequest:
    """To the wire."""
    return pb.RequestVoteRequest(zone=zone, site=asked.site, term=asked.term, last=_place(asked.last))


def candidacy_of(request: pb.RequestVoteRequest) -> Candidacy:
    """From the wire."""
    return Candidacy(request.site, request.term, _place_of(request.last))


def append(zone: ZoneName, said: Append, witness: bool) -> pb.AppendEntriesRequest:
    """To the wire; a `witness` is told no more than the entries' place."""
    request = pb.AppendEntriesRequest(zone=zone, site=said.site, term=said.term, settled=_place(said.settled))
    if said.place is not None:
        request.place.CopyFrom(_place(said.place))
        request.bodies.extend(() if witness else map(stored.encode, said.entries))
    return request


def append_of(request: pb.AppendEntriesRequest) -> Append:
    """From the wire. Raises ValueError for an entry that cannot be read."""
    place = _place_of(request.place) if request.HasField("place") else None
    return Append(request.site, request.term, _place_of(request.settled), place, tuple(map(stored.decode, request.bodies)))


def placed(place: Place, entry: Entry) -> pb.PlacedEntry:
    """To the wire."""
    return pb.PlacedEntry(place=_place(place), body=stored.encode(entry))


def placed_of(message: pb.PlacedEntry) -> tuple[Place, Entry]:
    """From the wire. Raises ValueError for an entry that cannot be read."""
    return _place_of(message.place), stored.decode(message.body)


def _place(place: Place) -> pb.EntryPlace:
    return pb.EntryPlace(term=place.term, number=place.number)


def _place_of(message: pb.EntryPlace) -> Place:
    return Place(message.term, message.number)

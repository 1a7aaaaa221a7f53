"""How a tenant is given part by part: the one order of reading, over whatever can be read of one state of a store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from msgspec.structs import replace

from cells.eventlog import codec
from cells.storage.chunk import BEGINNING, VERSION, Chunk, Cursor, KeptHeld, KeptLetter, KeptRecord, Key, LedgerLine
from cells.storage.copies import Part
from kernel.effects import EventRow, TraitClaim
from kernel.epoch import Epoch
from kernel.ids import TenantId, message_keys
from kernel.limits import COPY_KEYS_MAX

ALL_NODES, ALL_TRAITS, NEW_NODES, NEW_TRAITS = range(4)
_FIRST: Final = (ALL_NODES, "", "")


class Source(Protocol):
    """One state of a store, and one tenant in it. Whatever is limited comes in order."""

    async def positions(self) -> dict[int, int]:
        """Up to where each partition of the log is applied."""
        ...

    async def keys_below_zero(self, after: Key, limit: int) -> list[tuple[Key, int]]:
        """Where records, dead letters and held records lie that lie in no partition of the log, each with its size in bytes."""
        ...

    async def keys_of(self, partition: int, first: int, until: int, limit: int) -> list[tuple[Key, int]]:
        """The same of a partition, from an offset on and before another."""
        ...

    async def records(self, keys: Sequence[Key]) -> list[KeptRecord]:
        """The records there, in order."""
        ...

    async def rows(self, records: Sequence[KeptRecord], found: Sequence[bytes]) -> list[EventRow]:
        """The rows under these message keys that lead into these records."""
        ...

    async def letters(self, keys: Sequence[Key]) -> list[KeptLetter]:
        """The dead letters there."""
        ...

    async def held(self, keys: Sequence[Key]) -> list[KeptHeld]:
        """The held records there."""
        ...

    async def marker(self) -> int:
        """What changes later changes behind it."""
        ...

    async def nodes(self, since: int | None, after: str, limit: int) -> list[tuple[str, str]]:
        """Nodes of the identity graph with their components, that may have changed since a marker; None: all."""
        ...

    async def traits(self, since: int | None, after: tuple[str, str], limit: int) -> list[TraitClaim]:
        """Traits behind (node, name), as nodes."""
        ...

    async def ledger(self) -> list[LedgerLine]:
        """The tenant's ledger."""
        ...

    async def events_kept(self) -> int:
        """How many events were stored, by the ledger."""
        ...


async def end(source: Source) -> Cursor:
    """The cursor of one who has everything."""
    positions, marker = await source.positions(), await source.marker()
    return Cursor(None, None, marker, marker, positions, positions)


async def export(source: Source, tenant: TenantId, epoch: Epoch, cursor: Cursor | None, bytes_max: int) -> Part:
    """See the port `cells.storage.copies`."""
    reached, events_kept = await source.positions(), await source.events_kept()
    at = cursor or await _beginning(source, reached)
    if at.people is not None:
        nodes, traits, following = await _people(source, at, at.people, bytes_max)
        ledger = [] if following.settled is None else await source.ledger()
        chunk = Chunk(VERSION, tenant, epoch, [], [], nodes, traits, [], [], ledger)
        return Part(chunk, following, reached, True, events_kept)
    keys, following = await _keys(source, at, reached, bytes_max)
    if not keys and following.history is None and following.given == reached and following.settled != reached:
        following = replace(following, people=(NEW_NODES, "", ""), mark=await source.marker(), settled=None)
    more = following.people is not None or following.history is not None or following.settled != reached
    ledger = [] if more else await source.ledger()
    return Part(await _records(source, tenant, epoch, keys, ledger), following, reached, more, events_kept)


async def keys_between(source: Source, after: Cursor, until: Cursor) -> list[Key]:
    """Where everything lies that was given between two cursors, both behind what lies below zero."""
    keys: list[Key] = []
    for partition, stop in sorted(until.given.items()):
        first = after.given.get(partition, 0)
        while first < stop and (found := await source.keys_of(partition, first, stop, COPY_KEYS_MAX)):
            keys += dict.fromkeys(key for key, _ in found)
            first = found[-1][0][1] + 1
    return keys


async def _beginning(source: Source, reached: dict[int, int]) -> Cursor:
    marker = await source.marker()
    return Cursor(_FIRST, BEGINNING, marker, marker, dict.fromkeys(reached, 0), None)


async def _people(
    source: Source, at: Cursor, stage: tuple[int, str, str], bytes_max: int
) -> tuple[list[tuple[str, str]], list[TraitClaim], Cursor]:
    kind, node, name = stage
    since = at.since if kind in (NEW_NODES, NEW_TRAITS) else None
    if kind in (ALL_NODES, NEW_NODES):
        nodes = await source.nodes(since, node, COPY_KEYS_MAX)
        full = len(nodes) == COPY_KEYS_MAX
        return nodes, [], replace(at, people=(kind, nodes[-1][0], "") if full else (kind + 1, "", ""))
    found = await source.traits(since, (node, name), COPY_KEYS_MAX)
    traits = _light(found, bytes_max)
    if len(traits) < len(found) or len(found) == COPY_KEYS_MAX:
        return [], traits, replace(at, people=(kind, traits[-1].node, traits[-1].name))
    if kind == ALL_TRAITS:
        return [], traits, replace(at, people=None)
    return [], traits, replace(at, people=None, since=at.mark, settled=at.given)


def _light(traits: list[TraitClaim], bytes_max: int) -> list[TraitClaim]:
    """As many of the first as fit, one at least."""
    left = bytes_max
    for count, claim in enumerate(traits):
        left -= len(claim.value) + len(claim.node) + len(claim.name)
        if count and left < 0:
            return traits[:count]
    return traits


async def _keys(source: Source, at: Cursor, reached: dict[int, int], bytes_max: int) -> tuple[list[Key], Cursor]:
    """The next keys, and the cursor behind them. A partition without any is passed over at once."""
    if at.history is not None:
        keys, whole = _affordable(await source.keys_below_zero(at.history, COPY_KEYS_MAX), bytes_max)
        return keys, replace(at, history=None if whole else keys[-1])
    given = dict(at.given)
    for partition, until in sorted(reached.items()):
        first = given.setdefault(partition, 0)
        if first >= until:
            continue
        keys, whole = _affordable(await source.keys_of(partition, first, until, COPY_KEYS_MAX), bytes_max)
        given[partition] = until if whole else keys[-1][1] + 1
        if keys:
            return keys, replace(at, given=given)
    return [], replace(at, given=given)


def _affordable(found: list[tuple[Key, int]], bytes_max: int) -> tuple[list[Key], bool]:
    """As many of the first keys as fit, one at least, and whether these were all. What lies under one key is never parted."""
    sizes: dict[Key, int] = {}
    for key, size in found:
        sizes[key] = sizes.get(key, 0) + size
    keys: list[Key] = []
    left = bytes_max
    for key, size in sizes.items():
        left -= size
        if keys and left < 0:
            return keys, False
        keys.append(key)
    return keys, len(found) < COPY_KEYS_MAX


async def _records(source: Source, tenant: TenantId, epoch: Epoch, keys: Sequence[Key], ledger: list[LedgerLine]) -> Chunk:
    if not keys:
        return Chunk(VERSION, tenant, epoch, [], [], [], [], [], [], ledger)
    records = await source.records(keys)
    ids: set[str] = set()
    for kept in records:
        ids.update(codec.decode_columns(kept.record.body).message_ids)
        await asyncio.sleep(0)
    # Keys in order: a set's order is another one in every process.
    rows = await source.rows(records, sorted(message_keys(tenant, sorted(ids)))) if records else []
    return Chunk(VERSION, tenant, epoch, records, rows, [], [], await source.letters(keys), await source.held(keys), ledger)

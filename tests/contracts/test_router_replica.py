"""A site's copy of its zone, as its port specifies it, in memory and in PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from cli.local.postgres import Postgres
from kernel.chain import verify
from kernel.clock import Micros
from kernel.errors import Failure, Reason
from kernel.ids import SourceId, TenantId, hash_of
from kernel.limits import Plan
from router.placement import entry as codec
from router.placement.entry import NOWHERE, Ballot, Chunk, Entry, Place
from router.placement.memory import MemoryStore
from router.placement.postgres_replica import PostgresReplica, open_replica
from router.placement.replica import Replica
from router.placement.steps import AddReadKey, AddSource, ChangeDemand, CreateTenant, PinTenant, RevokeKey, Step, Suspend
from router.placement.store import Intent
from router.placement.table import Credential, Pin, Source, Topology
from tests.support.postgres import databases
from tests.support.router_words import EU, ZONES, cell

TOPOLOGY = Topology((cell("a1"), cell("b1", 7_100, 2.0)), tuple(sorted(ZONES.items())))
ONE, TWO = TenantId("one"), TenantId("two")
NOW = Micros(1_795_262_400_000_000)


class Willing:
    """Agrees to everything, in a term; or to nothing. Keeps what it was asked for."""

    def __init__(self, term: int) -> None:
        self.term = term
        self.asked: list[tuple[Place, Entry]] = []
        self.willing = True
        self.times = 0
        self.given_up = 0

    def give_up(self) -> None:
        self.given_up += 1

    @contextlib.asynccontextmanager
    async def agreed(self, entries: Sequence[Entry]) -> AsyncIterator[Place]:
        if not self.willing:
            raise Failure(Reason.STORE_UNAVAILABLE, "nobody agrees")
        self.asked += [(Place(self.term, entry.number), entry) for entry in entries]
        self.times += 1
        yield self.asked[-1][0]


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.postgres)])
def server(request: pytest.FixtureRequest) -> Postgres | None:
    """As in `test_router_store`."""
    return None if request.param == "memory" else request.getfixturevalue("postgres_server")


@contextlib.asynccontextmanager
async def opened(server: Postgres | None) -> AsyncIterator[Replica]:
    """A blank one."""
    if server is None:
        yield MemoryStore(EU)
        return
    async with databases(server) as made, open_replica(made.admin_dsn, EU) as replica:
        yield replica


@pytest.fixture
async def replicas(server: Postgres | None) -> AsyncIterator[tuple[Replica, Replica, Willing]]:
    """A leader's, with some of everything in it, a blank one, and who agrees with the leader."""
    async with opened(server) as leader, opened(server) as other:
        willing = Willing(3)
        leader.agrees = willing  # type: ignore[attr-defined]  # both adapters have it
        await leader.adopt(TOPOLOGY)
        steps: tuple[Step, ...] = (
            CreateTenant(ONE, Plan(), 2.0),
            CreateTenant(TWO, Plan(), 1.0),
            AddSource(ONE, Source(SourceId("web"), "eu-slug", (Credential(hash_of("wk_eu_1")),))),
            AddReadKey(TWO, Credential(hash_of("rk_eu_2"))),
            RevokeKey(hash_of("wk_eu_1")),
            Suspend(TWO, True),
            Suspend(TWO, True),
        )
        for number, step in enumerate(steps):
            await leader.change(step, Intent("ada", Micros(NOW + number), f"request-{number}", b"\x01\xff"))
        yield leader, other, willing


async def everything(replica: Replica) -> tuple[object, ...]:
    """What two copies of a zone must have alike."""
    return await replica.table(), list(await replica.audit()), await replica.settled(), await replica.revision()


async def test_what_is_settled_one_by_one_is_the_zone(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: whoever settles a leader's entries in order has what the leader has, its audit chain and its answers to requests too."""
    leader, other, willing = replicas
    for place, entry in willing.asked:
        await other.settle(place, codec.decode(codec.encode(entry)))
    assert await everything(other) == await everything(leader)
    assert verify(await other.audit()).broken_at is None
    assert await other.changes(0) == await leader.changes(0)
    again = await other.change(CreateTenant(ONE, Plan(), 2.0), Intent("ada", NOW, "request-0", b"\x01\xff"))
    assert again.repeated


async def test_asking_for_what_is_so_is_an_entry_only_where_it_has_a_request(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: an answer to a request is kept by all sites; without a request nothing is there to be kept."""
    leader, _, willing = replicas
    revision, asked = await leader.revision(), len(willing.asked)
    assert (willing.asked[-1][1].tenant, willing.asked[-1][1].deed) == (None, None)
    await leader.change(Suspend(TWO, True), Intent("ada", NOW))
    assert (await leader.revision(), len(willing.asked)) == (revision, asked)


async def test_entries_are_told_in_order_and_a_copy_is_the_zone(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: the entries after a number, however many are asked for at once; and a copy, whatever was there before it."""
    leader, other, willing = replicas
    assert await leader.entries(0) == willing.asked
    assert await leader.entries(2, 3) == willing.asked[2:5]
    assert await leader.entries(len(willing.asked)) == []
    assert await leader.entries(len(willing.asked) + 7) == []
    for place, entry in willing.asked[:4]:
        await other.settle(place, entry)
    await other.take_copy(leader.copy())
    assert await everything(other) == await everything(leader)
    assert await other.changes(await leader.revision()) == ()
    assert await other.changes(1) is None
    assert await other.entries(1) is None
    again = await other.change(CreateTenant(ONE, Plan(), 2.0), Intent("ada", NOW, "request-0", b"\x01\xff"))
    assert again.repeated


async def test_a_copy_that_is_no_newer_or_that_breaks_off_changes_nothing(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: all of it or nothing, and never back."""
    leader, other, willing = replicas

    async def broken() -> AsyncIterator[Chunk]:
        async for chunk in leader.copy():
            yield chunk
            raise Failure(Reason.STORE_UNAVAILABLE, "the link is cut")

    with pytest.raises(Failure):
        await other.take_copy(broken())
    assert await other.settled() == NOWHERE
    await other.take_copy(leader.copy())
    before = await everything(other)
    old = leader.copy()
    head = await anext(old)
    assert head.place is not None

    async def stale() -> AsyncIterator[Chunk]:
        yield replace(head, place=Place(9, len(willing.asked) - 1), revision=1)

    await other.take_copy(stale())
    assert await everything(other) == before


async def test_nobody_agrees_and_nothing_is_kept(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: a change that no majority holds changes nothing here, and the next one is not in its way."""
    leader, _, willing = replicas
    before = await everything(leader)
    willing.willing = False
    with pytest.raises(Failure) as refused:
        await leader.change(ChangeDemand(ONE, 7.0), Intent("ada", NOW))
    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    assert await everything(leader) == before
    willing.willing = True
    dry = await leader.change(ChangeDemand(ONE, 7.0), Intent("ada", NOW, dry_run=True))
    assert (dry.tenant.demand, await everything(leader)) == (7.0, before)
    await leader.change(ChangeDemand(ONE, 7.0), Intent("ada", NOW))
    assert (await leader.tenant(ONE)).demand == 7.0


async def test_what_is_refused_is_proposed_to_nobody(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: neither what a rule refuses, nor what only the disk finds: a key that another tenant has."""
    leader, _, willing = replicas
    asked = len(willing.asked)
    for step in (CreateTenant(ONE, Plan(), 1.0), AddReadKey(ONE, Credential(hash_of("rk_eu_2")))):
        with pytest.raises(Failure):
            await leader.change(step, Intent("ada", NOW))
    assert len(willing.asked) == asked


async def test_what_no_disk_can_keep_is_refused_alone(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: a change that lies in the way of those that wait with it is answered by itself; both stores refuse what is no JSON text."""
    leader, _, willing = replicas
    if isinstance(leader, MemoryStore):
        return  # it keeps anything
    changes = (ChangeDemand(ONE, 3.0), PinTenant(ONE, Pin(TOPOLOGY.cells[0].cell, "a\0b")), ChangeDemand(TWO, 3.0))
    first, second, third = await asyncio.gather(*(leader.change(one, Intent("ada", NOW)) for one in changes), return_exceptions=True)
    assert isinstance(second, Failure)
    assert second.reason is Reason.INVALID_FIELD
    assert not isinstance(first, BaseException)
    assert not isinstance(third, BaseException)
    assert (await leader.tenant(TWO)).demand == 3.0
    assert willing.given_up == 0


async def test_a_disk_that_keeps_nothing_gives_up(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: a leader that can read and not write makes room for the other region."""
    leader, _, willing = replicas
    if isinstance(leader, MemoryStore):
        return  # it always can
    assert isinstance(leader, PostgresReplica)
    await leader._pool.execute(
        "ALTER DATABASE "
        + await leader._pool.fetchval("SELECT quote_ident(current_database())")
        + " SET default_transaction_read_only = on"
    )
    await leader._pool.expire_connections()
    with pytest.raises(Failure) as refused:
        await leader.change(ChangeDemand(ONE, 3.0), Intent("ada", NOW))
    assert refused.value.reason is Reason.STORE_UNAVAILABLE
    assert willing.given_up == 1


async def test_a_promise_is_never_taken_back(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: two processes of one site, one of which is about to end, cannot undo what the other has promised."""
    _, other, willing = replicas
    if isinstance(other, MemoryStore):
        return  # there is one process
    (place, entry), (later, following) = willing.asked[:2]
    await other.hold(Ballot(3, "east", later), [entry, following])
    for old in (Ballot(2, "west", later), Ballot(3, "west", later), Ballot(3, "", later), Ballot(4, "", place)):
        with pytest.raises(Failure):
            await other.promise(old)
        with pytest.raises(Failure):
            await other.hold(old, [entry])
    assert (await other.ballot(), await other.held()) == (Ballot(3, "east", later), (later, [entry, following]))


async def test_whoever_stops_waiting_stops_nothing(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: a change that others may hold already comes to its end, though nobody waits for it any more."""
    leader, _, willing = replicas
    asked, gate = asyncio.Event(), asyncio.Event()

    class Slow(Willing):
        @contextlib.asynccontextmanager
        async def agreed(self, entries: Sequence[Entry]) -> AsyncIterator[Place]:
            asked.set()
            await gate.wait()
            yield Place(self.term, entries[-1].number)

    leader.agrees = Slow(3)  # type: ignore[attr-defined]  # as above
    task = asyncio.create_task(leader.change(ChangeDemand(ONE, 9.0), Intent("ada", NOW)))
    await asked.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    gate.set()
    leader.agrees = willing  # type: ignore[attr-defined]  # as above
    await leader.change(ChangeDemand(TWO, 9.0), Intent("ada", NOW))
    assert (await leader.tenant(ONE)).demand == 9.0


async def test_what_is_held_changes_nothing_until_it_is_settled(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: entries that are held are kept with their ballot, and forgotten for others. Those of them that are settled are held no more,
    whoever settled them."""
    _, other, willing = replicas
    (_, first), (last, second) = willing.asked[:2]
    await other.hold(Ballot(3, "east", last), [first, second])
    assert await other.ballot() == Ballot(3, "east", last)
    assert await other.held() == (last, [first, second])
    assert await other.settled() == NOWHERE
    await other.promise(Ballot(4, "west", last))
    assert await other.held() == (last, [first, second])
    await other.settle(Place(3, 1), first)
    assert await other.held() == (last, [second])
    again = Place(4, 2)
    await other.hold(Ballot(4, "west", again), [second])
    assert await other.held() == (again, [second])
    await other.settle(again, second)
    assert (await other.held(), await other.settled()) == (None, again)
    await other.hold(Ballot(5, "west", Place(5, 9)), [willing.asked[8 - 1][1]])
    assert await other.held() is None, "it does not follow what is settled"


async def test_what_is_held_behind_something_else_is_held_no_more(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: an entry goes with those that it was held with. Where a newer leader's took the place of the first ones, it follows nothing;
    where an older leader had them agreed on, they are the same."""
    _, other, willing = replicas
    (_, first), (last, second) = willing.asked[:2]
    await other.hold(Ballot(3, "east", last), [first, second])
    await other.settle(Place(2, 1), first)
    assert await other.held() == (last, [second])
    await other.restate(Place(4, 1))
    assert await other.settled() == Place(4, 1)
    assert await other.held() is None
    await other.restate(Place(5, 2))
    await other.restate(Place(3, 1))
    assert await other.settled() == Place(4, 1)


async def test_changes_that_wait_together_are_agreed_on_together(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: each is an entry of its own and finds what those before it did; a refused one is in nobody's way. Few agreements do for many."""
    leader, other, willing = replicas
    times, names = willing.times, [TenantId(f"many-{number}") for number in range(30)]
    steps: list[Step] = [
        *(CreateTenant(name, Plan(), 1.0) for name in names),
        *(ChangeDemand(name, 2.0) for name in names),
        ChangeDemand(TenantId("nobody"), 1.0),
    ]
    done = await asyncio.gather(*(leader.change(step, Intent("ada", NOW)) for step in steps), return_exceptions=True)
    assert isinstance(done[-1], Failure)
    assert done[-1].reason is Reason.UNKNOWN_TENANT
    assert [one.tenant.demand for one in done[:-1] if not isinstance(one, BaseException)] == [1.0] * 30 + [2.0] * 30
    assert willing.times - times <= 3
    for place, entry in willing.asked:
        await other.settle(place, entry)
    assert await everything(other) == await everything(leader)


async def test_what_does_not_follow_is_refused(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: sites that have come apart are found at the next entry, by its number, its revision or its place in the audit chain."""
    _, other, willing = replicas
    await other.settle(*willing.asked[0])
    place, entry = willing.asked[1]
    assert entry.deed is not None
    await other.settle(place, entry)
    after, following = willing.asked[2]
    assert following.deed is not None
    await other.settle(place, entry)
    for wrong in (
        replace(following, number=9),
        replace(following, revision=9),
        replace(following, deed=replace(following.deed, prev_hash=bytes(32))),
    ):
        with pytest.raises(ValueError, match="follow"):
            await other.settle(after, wrong)
    assert await other.settled() == place
    await other.settle(after, following)


async def test_what_was_agreed_on_is_kept_before_the_agreement_ends(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: its end is what others are told from. Whatever goes wrong with the disk before is heard by who had it agreed on."""
    leader, _, _ = replicas
    kept: list[bool] = []

    class Looking(Willing):
        @contextlib.asynccontextmanager
        async def agreed(self, entries: Sequence[Entry]) -> AsyncIterator[Place]:
            async with super().agreed(entries) as place:
                yield place
                kept.append(await leader.settled() == place)

    leader.agrees = Looking(3)  # type: ignore[attr-defined]  # as above
    await leader.change(ChangeDemand(ONE, 9.0), Intent("ada", NOW))
    assert kept == [True]


async def test_a_copy_is_of_one_place_though_the_zone_goes_on(replicas: tuple[Replica, Replica, Willing]) -> None:
    """Law: what is changed while a copy is read is not in it; it comes as an entry."""
    leader, other, _ = replicas
    before, copy = await everything(leader), leader.copy()
    chunks = [await anext(copy)]
    await leader.change(CreateTenant(TenantId("three"), Plan(), 1.0), Intent("ada", NOW, "late", b"\x01"))
    chunks += [chunk async for chunk in copy]

    async def told() -> AsyncIterator[Chunk]:
        for chunk in chunks:
            yield chunk

    await other.take_copy(told())
    assert await everything(other) == before
    for place, entry in await leader.entries(before[2].number) or ():  # type: ignore[attr-defined]  # a place
        await other.settle(place, entry)
    assert await everything(other) == await everything(leader)

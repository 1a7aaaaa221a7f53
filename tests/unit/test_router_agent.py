"""The agent: what it believes, what it keeps on disk, how it waits for its directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel import follow
from kernel.errors import Failure, Reason
from kernel.follow import BACKOFF_SECONDS_BASE, BACKOFF_SECONDS_MAX, backoff
from kernel.ids import ZoneName
from kernel.journal import Signed
from kernel.metrics import MemoryMeter
from kernel.process.journal import FileJournal, Signer
from router import metrics
from router.agent.feed import FeedLost
from router.agent.follow import Follower
from router.agent.keeper import Keeper
from router.placement import codec
from router.placement.table import Update
from router.xds.listener import Listen
from router.xds.snapshot import Snapshot
from tests.support.edge_room import QuietLog
from tests.support.journal import FillableJournal
from tests.support.processes import eventually
from tests.support.router_words import EU, cell, source, table, tenant

SIGNER, STRANGER = Signer(b"s" * 32), Signer(b"x" * 32)
TABLE = table(5, tuple(tenant(f"t{n}", "a1", 1, source(f"web{n}", f"k{n}")) for n in range(3)), (cell("a1"), cell("b1", 7_100)))
WHOLE = SIGNER.sign(codec.update_bytes(TABLE.whole()))


def change(start: int, end: int, name: str = "t1", epoch: int = 2) -> Signed:
    return SIGNER.sign(codec.update_bytes(Update(EU, start, end, (tenant(name, "b1", epoch, source("web1", "k1")),))))


def keeper(folder: Path, zone: ZoneName = EU) -> Keeper:
    made = Keeper(zone, FileJournal(folder / "journal", SIGNER.public_key), Listen("127.0.0.1", 80))
    made.boot()
    return made


def test_what_is_taken_survives_a_restart(tmp_path: Path) -> None:
    """Law (rule 3): the next boot serves the same table from disk alone."""
    first = keeper(tmp_path)
    assert (first.compiled, first.resume_after) == (None, 0)
    first.take(WHOLE)
    first.take(change(5, 6))
    second = keeper(tmp_path)
    assert second.table == first.table
    assert second.resume_after == 6
    assert second.compiled is not None
    assert first.compiled is not None
    assert second.compiled.snapshot.types.keys() == first.compiled.snapshot.types.keys()


def test_what_is_refused_changes_nothing(tmp_path: Path) -> None:
    """Law (rule 4): a wrong signature, a gap, nonsense, another zone and two owners of one key leave table, journal and snapshot."""
    held = keeper(tmp_path)
    held.take(WHOLE)
    before, journal = held.compiled, (tmp_path / "journal").read_bytes()
    foreign = SIGNER.sign(codec.update_bytes(replace(TABLE.whole(), zone=ZoneName("us"), to_revision=9)))
    clash = SIGNER.sign(codec.update_bytes(Update(EU, 5, 6, (tenant("t2", "a1", 1, source("other", "k1")),))))
    cases = [
        (Signed(WHOLE.update, STRANGER.sign(WHOLE.update).signature), Reason.BAD_SIGNATURE),
        (change(7, 8), Reason.SNAPSHOT_REFUSED),
        (SIGNER.sign(b"\xff\xff"), Reason.SNAPSHOT_REFUSED),
        (foreign, Reason.SNAPSHOT_REFUSED),
        (clash, Reason.SNAPSHOT_REFUSED),
    ]
    for signed, reason in cases:
        with pytest.raises(Failure) as raised:
            held.take(signed)
        assert raised.value.reason is reason
    assert held.compiled is before
    assert (tmp_path / "journal").read_bytes() == journal


def test_a_change_without_a_map_is_refused(tmp_path: Path) -> None:
    """Law: the first thing that is believed is whole."""
    with pytest.raises(Failure):
        keeper(tmp_path).take(change(5, 6))


def test_a_journal_of_another_zone_serves_nobody(tmp_path: Path) -> None:
    """Law: a well-signed map of another zone is no map."""
    keeper(tmp_path).take(WHOLE)
    other = Keeper(ZoneName("us"), FileJournal(tmp_path / "journal", SIGNER.public_key), Listen("127.0.0.1", 80))
    assert other.boot().refused is not None
    assert other.compiled is None


def test_a_refused_entry_asks_for_a_whole_map(tmp_path: Path) -> None:
    """Law: what stands behind a bad entry is not read, so the next whole map starts the journal again."""
    keeper(tmp_path).take(WHOLE)
    FileJournal(tmp_path / "journal", SIGNER.public_key).append(change(8, 9))
    booted = keeper(tmp_path)
    assert (booted.table.revision, booted.resume_after) == (5, 0)
    booted.take(WHOLE)
    assert keeper(tmp_path).resume_after == 5


def test_a_long_journal_asks_for_a_whole_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the journal is bounded."""
    monkeypatch.setattr(follow, "JOURNAL_CHANGES_MAX", 2)
    held = keeper(tmp_path)
    held.take(WHOLE)
    held.take(change(5, 6))
    assert held.resume_after == 6
    held.take(change(6, 7))
    assert held.resume_after == 0


@given(failures=st.integers(0, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_waits_are_bounded_and_spread(failures: int, chance: float) -> None:
    """Law: no wait is longer than the bound or shorter than half its step."""
    assert BACKOFF_SECONDS_BASE / 2 <= backoff(failures, chance) <= BACKOFF_SECONDS_MAX


class ScriptedFeed:
    """A feed whose connections each give what the script says, then hang (None) or are lost."""

    def __init__(self, *connections: list[Signed | None]) -> None:
        self.connections = list(connections)
        self.asked: list[int] = []

    async def watch(self, after_revision: int, connected: Callable[[], None]) -> AsyncGenerator[Signed, None]:
        self.asked.append(after_revision)
        if not self.connections:
            await asyncio.Event().wait()
        script = self.connections.pop(0)
        connected()
        for signed in script:
            if signed is None:
                await asyncio.Event().wait()
            else:
                yield signed
        raise FeedLost("UNAVAILABLE")


class LastShown:
    """Keeps the newest snapshot."""

    snapshot: Snapshot | None = None

    def publish(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot


async def test_following_goes_on_after_losses_and_refusals(tmp_path: Path) -> None:
    """Law: after a loss the follower asks from what it holds; a refused update is counted and the last good one stays shown."""
    feed = ScriptedFeed([WHOLE], [change(5, 6), change(9, 10)], [change(6, 7), None])
    meter, shown, log, stop = MemoryMeter(), LastShown(), QuietLog(), asyncio.Event()
    follower = Follower(keeper(tmp_path), feed, shown, meter, log, lambda: 0.0)
    task = asyncio.create_task(follower.run(stop))
    await eventually(lambda: follower.keeper.table.revision == 7, "the last change is taken")
    assert feed.asked == [0, 5, 6]
    assert meter.values[(metrics.EDGE_UPDATES_REFUSED.name, (("reason", "SNAPSHOT_REFUSED"),))] == 1
    assert shown.snapshot is not None
    assert shown.snapshot.revision == 7
    assert follower.connected
    stop.set()
    await task
    assert not follower.connected


async def test_a_full_disk_costs_the_next_boot_its_news_and_nothing_else(tmp_path: Path) -> None:
    """Law: what the disk does not take is shown to Envoy and counted; the next connection asks for a whole map, which mends the disk."""
    journal = FillableJournal(tmp_path / "journal", SIGNER.public_key)
    journal.restart(WHOLE)
    later = SIGNER.sign(codec.update_bytes(replace(TABLE.whole(), to_revision=8, tenants=(tenant("t1", "b1", 3, source("web1", "k1")),))))
    feed = ScriptedFeed([change(5, 6), change(6, 7)], [later, None])
    meter, shown, log, stop = MemoryMeter(), LastShown(), QuietLog(), asyncio.Event()
    follower = Follower(Keeper(EU, journal, Listen("127.0.0.1", 80)), feed, shown, meter, log, lambda: 0.0)
    follower.boot()
    journal.refusals = 1
    task = asyncio.create_task(follower.run(stop))
    await eventually(lambda: follower.keeper.table.revision == 8, "the whole map is taken")
    assert feed.asked == [5, 0]
    assert meter.values[(metrics.EDGE_UPDATES_UNKEPT.name, ())] == 2
    assert [values["revision"] for event, values in log.lines if event == "update not kept"] == [6, 7]
    assert shown.snapshot is not None
    assert shown.snapshot.revision == keeper(tmp_path).table.revision == 8
    stop.set()
    await task


async def test_a_long_journal_is_renewed_while_the_directory_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the journal is bounded also when no connection is ever lost."""
    monkeypatch.setattr(follow, "JOURNAL_CHANGES_MAX", 2)
    later = SIGNER.sign(codec.update_bytes(replace(TABLE.whole(), to_revision=7, tenants=(tenant("t1", "b1", 3, source("web1", "k1")),))))
    feed, stop = ScriptedFeed([WHOLE, change(5, 6), change(6, 7), None], [later, None]), asyncio.Event()
    follower = Follower(keeper(tmp_path), feed, LastShown(), MemoryMeter(), QuietLog(), lambda: 0.0)
    task = asyncio.create_task(follower.run(stop))
    await eventually(lambda: follower.keeper.resume_after == 7 and feed.asked == [0, 0], "the journal is renewed")
    assert len(FileJournal(tmp_path / "journal", SIGNER.public_key).load()) == 1
    stop.set()
    await task


async def test_a_connection_that_brings_nothing_does_not_shorten_the_wait(tmp_path: Path) -> None:
    """Law: only an update that is taken proves the directory good; one that answers and hangs up is waited for longer and longer."""
    waits: list[float] = []
    feed, stop = ScriptedFeed(*([] for _ in range(4))), asyncio.Event()
    follower = Follower(keeper(tmp_path), feed, LastShown(), MemoryMeter(), QuietLog(), lambda: 0.0)

    def wait(failures: int, _: float) -> float:
        waits.append(backoff(failures, 0.0))
        return 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("router.agent.follow.backoff", wait)
        task = asyncio.create_task(follower.run(stop))
        await eventually(lambda: len(feed.asked) > 4, "five connections")
    assert waits[:4] == sorted(set(waits[:4]))
    stop.set()
    await task

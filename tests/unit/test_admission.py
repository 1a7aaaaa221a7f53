"""The cell's admission table and how it follows the directory."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.admission import codec
from cells.admission.follow import Follower
from cells.admission.table import Admission, Tenant, Update
from dataflow.routing.v1 import routing_pb2
from kernel import follow
from kernel.epoch import Epoch, door_two
from kernel.errors import Failure, Reason
from kernel.ids import UNREADABLE, CellId, KeyHash, TenantId, ZoneName, hash_of, is_name
from kernel.journal import Signed
from kernel.limits import Plan
from kernel.metrics import MemoryMeter
from kernel.process.journal import FileJournal, Signer
from tests.support.cell import KEY, credential, fixture_admission
from tests.support.clock import ManualClock
from tests.support.journal import FillableJournal, room_for
from tests.support.processes import eventually

EU = ZoneName("eu")
CELL = CellId("eu-west-1-a")


def tenant(name: str, epoch: int = 1, key: str = "") -> Tenant:
    """A tenant of CELL."""
    return Tenant(TenantId(name), CELL, Epoch(epoch), Plan(), credentials=(credential(key, "web"),) if key else ())


def whole(revision: int, *tenants: Tenant, zone: ZoneName = EU) -> Update:
    return Update(zone, 0, revision, tenants, {EU: "https://eu.example"})


def test_a_change_replaces_the_tenant_and_forgets_its_former_keys() -> None:
    """A key that the new word does not name leads nowhere."""
    table = Admission(EU).apply(whole(1, tenant("acme", key=KEY)))
    changed = table.apply(Update(EU, 1, 2, (tenant("acme", 2),)))
    assert (changed.revision, changed.tenants[TenantId("acme")].epoch) == (2, 2)
    assert hash_of(KEY) in table.keys
    assert hash_of(KEY) not in changed.keys


@pytest.mark.parametrize(
    "update",
    [
        whole(9, tenant("acme"), zone=ZoneName("us")),
        whole(4, tenant("acme")),
        Update(EU, 3, 6, ()),
        Update(EU, 6, 7, ()),
        whole(9, *(tenant(f"t{n}") for n in range(9))),
        whole(9),
    ],
    ids=["another zone's", "older", "a gap before", "a gap after", "sharply shrunk", "empty"],
)
def test_a_wrong_update_is_refused_and_the_table_stays(update: Update) -> None:
    """The last good one serves."""
    table = Admission(EU).apply(whole(5, *(tenant(f"t{n}") for n in range(20))))
    with pytest.raises(Failure) as caught:
        table.apply(update)
    assert caught.value.reason is Reason.SNAPSHOT_REFUSED
    assert len(table.tenants) == 20


def test_claims_and_ownerships_are_of_the_cells_own_tenants() -> None:
    """A tenant that lives elsewhere is released here; what nobody can read is every cell's own."""
    table = fixture_admission()
    claim = table.claim(CELL)
    assert TenantId("moved-away") not in claim.epochs
    assert claim.epochs[TenantId("acme-retail")] == 3
    owned = {o.tenant: o for o in table.ownerships(CELL)}
    assert owned[TenantId("moved-away")].state == "released"
    assert door_two(claim, owned[UNREADABLE])
    assert not is_name(UNREADABLE)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_update_are_refused_not_guessed(data: bytes) -> None:
    """Either they decode, or it is SNAPSHOT_REFUSED."""
    try:
        codec.decode(data)
    except Failure as failure:
        reason = failure.reason
    else:
        return
    assert reason is Reason.SNAPSHOT_REFUSED


def test_unset_plan_numbers_take_the_defaults() -> None:
    """A directory that knows fewer numbers than the cell is understood."""
    update = routing_pb2.Update(zone="eu", to_revision=1, tenants=[routing_pb2.Tenant(name="acme", plan=routing_pb2.Plan(spread=4))])
    (decoded,) = codec.decode(update.SerializeToString()).tenants
    assert decoded.plan == replace(Plan(), spread=4)


SIGNER = Signer(bytes(range(32)))


def signed(revision: int, after: int, *names: str) -> Signed:
    """What the directory would send."""
    message = routing_pb2.Update(zone="eu", from_revision=after, to_revision=revision)
    message.tenants.extend(routing_pb2.Tenant(name=name, zone="eu", cell=CELL, epoch=1) for name in names)
    return SIGNER.sign(message.SerializeToString())


class ScriptedDirectory:
    """Plays one list of updates per watch, without end after a None; then it is away. Remembers what it was asked for."""

    def __init__(self, *watches: list[Signed | None]) -> None:
        self.watches = list(watches)
        self.asked: list[int] = []

    async def watch(self, after_revision: int) -> AsyncGenerator[Signed, None]:
        self.asked.append(after_revision)
        for update in self.watches.pop(0) if self.watches else []:
            if update is None:
                await asyncio.Event().wait()
            else:
                yield update
        raise ConnectionError("away")


class Room:
    """A follower over a real journal file."""

    def __init__(self, path: Path, *watches: list[Signed | None]) -> None:
        self.directory, self.meter, self.clock = ScriptedDirectory(*watches), MemoryMeter(), ManualClock()
        self.path = path
        self.journal = FillableJournal(path, SIGNER.public_key)
        self.follower = Follower(EU, self.journal, self.directory, self.clock, self.meter, lambda: 0.0)

    async def follow(self, watches: int) -> None:
        running = asyncio.create_task(self.follower.follow())

        def watched() -> bool:
            self.clock.advance(5.0)
            return len(self.directory.asked) > watches

        await eventually(watched, f"{watches} watches")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_follower_boots_from_disk_alone_to_where_it_was(tmp_path: Path) -> None:
    """Whole, then changes; a second process reads the same from the file, without a directory."""
    room = Room(tmp_path / "journal", [signed(1, 0, "a"), signed(2, 1, "b")], [signed(3, 2, "c")])
    await room.follow(2)
    assert room.directory.asked[:2] == [0, 2]
    again = Room(tmp_path / "journal")
    assert again.follower.boot()
    assert again.follower.current == room.follower.current
    assert sorted(again.follower.current.tenants) == ["a", "b", "c"]


async def test_a_cell_waits_for_its_first_placement_and_no_longer(tmp_path: Path) -> None:
    """Law: whoever waits is told at once, without a poll; one that is stopped before goes without."""
    room, stop = Room(tmp_path / "journal", [signed(1, 0, "a")]), asyncio.Event()
    waiting = asyncio.create_task(room.follower.wait_until_placed(stop))
    await asyncio.sleep(0)
    assert not waiting.done()
    await room.follow(1)
    assert await waiting
    assert await room.follower.wait_until_placed(stop)
    unplaced = asyncio.create_task(Room(tmp_path / "empty").follower.wait_until_placed(stop))
    await asyncio.sleep(0)
    stop.set()
    assert not await unplaced


async def test_a_forged_update_is_refused_counted_and_not_kept(tmp_path: Path) -> None:
    """Signed by somebody else, or changed on the way."""
    forged = Signer(bytes(32)).sign(signed(2, 1, "evil").update)
    bent = Signed(signed(2, 1, "evil").update, signed(1, 0, "a").signature)
    room = Room(tmp_path / "journal", [signed(1, 0, "a"), forged], [bent], [signed(2, 1, "b")])
    await room.follow(3)
    assert sorted(room.follower.current.tenants) == ["a", "b"]
    assert room.meter.values[("dataflow_admission_refused_total", (("why", "signature"),))] == 2


async def test_a_full_disk_costs_the_next_boot_its_news_and_nothing_else(tmp_path: Path) -> None:
    """Law: what the disk does not take serves from memory and is counted; the next watch asks for a whole map, which mends the disk."""
    room = Room(tmp_path / "journal", [signed(2, 1, "b"), signed(3, 2, "c")], [signed(3, 0, "a", "b", "c")])
    room.journal.restart(signed(1, 0, "a"))
    room.follower.boot()
    room.journal.refusals = 1
    await room.follow(1)
    assert sorted(room.follower.current.tenants) == ["a", "b", "c"]
    assert room.meter.values[("dataflow_admission_unkept_total", ())] == 2
    await room.follow(3)
    assert room.directory.asked[:4] == [1, 0, 3, 3]
    again = Room(tmp_path / "journal")
    again.follower.boot()
    assert again.follower.current == room.follower.current


async def test_a_refused_entry_is_repaired_by_a_whole_map(tmp_path: Path) -> None:
    """Law: after a boot that stopped at an entry, the journal is started again, so that later changes are reachable."""
    room = Room(tmp_path / "journal", [signed(1, 0, "a"), signed(2, 1, "b")], [signed(3, 2, "c")])
    room.journal.restart(signed(1, 0, "a"))
    room.journal.append(signed(9, 8, "never"))
    assert room.follower.boot()
    await room.follow(2)
    assert room.directory.asked[:2] == [0, 2]
    again = Room(tmp_path / "journal")
    assert again.follower.boot()
    assert sorted(again.follower.current.tenants) == ["a", "b", "c"]


async def test_a_long_journal_is_renewed_while_the_directory_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the journal is bounded also when no connection is ever lost."""
    monkeypatch.setattr(follow, "JOURNAL_CHANGES_MAX", 2)
    changes = [signed(1, 0, "a"), signed(2, 1, "b"), signed(3, 2, "c"), None]
    room = Room(tmp_path / "journal", changes, [signed(3, 0, "a", "b", "c")])
    await room.follow(2)
    assert room.directory.asked[:3] == [0, 0, 3]
    assert len(room.journal.load()) == 1


@pytest.mark.parametrize("room_bytes", [1, 8, 40, 90])
def test_an_append_that_does_not_fit_leaves_the_journal_as_it_was(tmp_path: Path, room_bytes: int) -> None:
    """Law: a write that stops in the middle is taken back; what is appended later is read."""
    journal = FileJournal(tmp_path / "journal", SIGNER.public_key)
    journal.restart(signed(1, 0, "a"))
    before = (tmp_path / "journal").read_bytes()
    with room_for(tmp_path / "journal", room_bytes), pytest.raises(OSError, match="large"):
        journal.append(signed(2, 1, "b" * 60))
    assert (tmp_path / "journal").read_bytes() == before
    journal.append(signed(2, 1, "c"))
    assert FileJournal(tmp_path / "journal", SIGNER.public_key).load() == [signed(1, 0, "a"), signed(2, 1, "c")]


def test_a_whole_map_that_does_not_fit_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    """Law: the file is replaced by a whole one or not at all, and the torn one takes no room."""
    journal = FileJournal(tmp_path / "journal", SIGNER.public_key)
    journal.restart(signed(1, 0, "a"))
    with room_for(tmp_path / "journal", 10), pytest.raises(OSError, match="large"):
        journal.restart(signed(2, 0, "a" * 60, "b" * 60))
    assert [file.name for file in tmp_path.iterdir()] == ["journal"]
    journal.append(signed(2, 1, "b"))
    assert journal.load() == [signed(1, 0, "a"), signed(2, 1, "b")]


@given(cut=st.integers(1, 40))
def test_an_append_behind_a_torn_tail_is_reachable(cut: int) -> None:
    """Law: whoever appends, also without having read the file, appends to its valid prefix."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        first = FileJournal(path, SIGNER.public_key)
        first.restart(signed(1, 0, "a"))
        first.append(signed(2, 1, "torn"))
        path.write_bytes(path.read_bytes()[:-cut])
        FileJournal(path, SIGNER.public_key).append(signed(2, 1, "b"))
        assert first.load() == [signed(1, 0, "a"), signed(2, 1, "b")]


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_whatever_byte_of_the_journal_is_bent_nothing_unsigned_comes_out(place: int, by: int) -> None:
    """The valid prefix is loaded; the rest is cut off, and later appends are reachable."""
    path = Path(tempfile.mkdtemp()) / "journal"
    entries = [signed(1, 0, "a"), signed(2, 1, "b"), signed(3, 2, "c")]
    journal = FileJournal(path, SIGNER.public_key)
    journal.restart(entries[0])
    for entry in entries[1:]:
        journal.append(entry)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= by
    path.write_bytes(bytes(data))
    try:
        loaded = journal.load()
        assert loaded == entries[: len(loaded)]
        journal.append(signed(9, 8, "d"))
        assert journal.load() == [*loaded, signed(9, 8, "d")]
    finally:
        shutil.rmtree(path.parent)


def test_a_torn_last_entry_is_cut_off(tmp_path: Path) -> None:
    """A crash in mid-append costs that entry alone."""
    journal = FileJournal(tmp_path / "journal", SIGNER.public_key)
    journal.restart(signed(1, 0, "a"))
    journal.append(signed(2, 1, "b"))
    data = (tmp_path / "journal").read_bytes()
    for cut in range(1, 40):
        (tmp_path / "journal").write_bytes(data[:-cut])
        assert journal.load() == [signed(1, 0, "a")]


def test_a_key_hash_is_all_that_a_table_holds() -> None:
    """The key itself is nowhere in it."""
    assert KEY not in repr(fixture_admission())
    assert KeyHash(hash_of(KEY)) in fixture_admission().keys


async def test_a_follower_tells_whom_it_has_heard_of_since(tmp_path: Path) -> None:
    """Law: after a whole map all tenants may have changed; then those of each change, until somebody has taken them; what could not be used
    is asked for again."""
    room = Room(tmp_path / "journal", [signed(1, 0, "a")])
    assert room.follower.take_touched() is None
    await room.follow(1)
    assert room.follower.take_touched() is None
    assert room.follower.take_touched() == frozenset()
    room.directory.watches = [[signed(2, 1, "b"), signed(3, 2, "c"), None]]
    running = asyncio.create_task(room.follower.follow())
    await eventually(lambda: room.follower.current.revision == 3, "the changes arrive")
    touched = room.follower.take_touched()
    assert touched == frozenset(map(TenantId, "bc"))
    room.follower.give_back(touched)
    assert room.follower.take_touched() == touched
    room.follower.give_back(None)
    room.follower.give_back(touched)
    assert room.follower.take_touched() is None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_a_claim_knows_whom_the_cell_owns_and_nobody_else() -> None:
    """Law: looked up or gone through, it is what the table says of this cell, and what nobody can read."""
    elsewhere = replace(tenant("globex"), cell=CellId("eu-central-1-a"))
    claim = Admission(EU).apply(whole(1, tenant("acme", 3), elsewhere)).claim(CELL)
    assert dict(claim.epochs) == {UNREADABLE: 1, "acme": 3}
    assert len(claim.epochs) == 2
    assert claim.epochs.get(TenantId("globex")) is None
    assert claim.epochs.get(TenantId("nobody")) is None

"""The shared vocabulary."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cells.ingest.authenticate import Credentials, authenticate_reader, authenticate_sender, key_of_headers
from cells.ingest.quota import Bucket, take
from cells.ingest.stamp import stamp_of
from gitops.fleet import EU, FLEET, US
from kernel.clock import Micros, day_of, from_datetime, hour_of, iso, parse_iso, to_datetime
from kernel.epoch import Claim, Epoch, Ownership, Stamp, door_one, door_two
from kernel.errors import Failure, Reason
from kernel.ids import MESSAGE_KEY_BYTES, CellId, RegionName, TenantId, ZoneName, is_name, message_keys, mint_key, parse_key, zone_prefix
from kernel.limits import Plan
from kernel.residency import Cell, Fleet, Zone
from tests.support.cell import KEY, READ_KEY, fixture_admission

SECRETS = st.binary(min_size=32, max_size=32)


@given(SECRETS, st.sampled_from(["eu", "us", "ap-2"]), st.sampled_from(["wk", "rk"]))
def test_a_minted_key_is_read_back_and_names_its_zone(secret: bytes, zone: str, kind: str) -> None:
    """And its text is nowhere in its repr."""
    key = mint_key("wk" if kind == "wk" else "rk", ZoneName(zone), secret)
    assert parse_key(key.text) == key
    assert zone_prefix(key.text) == zone
    assert key.text not in repr(key)


@given(SECRETS, st.integers(0, 200), st.characters(codec="ascii"))
def test_a_key_with_a_typo_is_no_key(secret: bytes, place: int, other: str) -> None:
    """The checksum tells it from an unknown one."""
    text = mint_key("wk", EU, secret).text
    place %= len(text)
    bent = text[:place] + other + text[place + 1 :]
    assert bent == text or parse_key(bent) is None


def test_a_key_takes_exactly_32_random_bytes() -> None:
    """Low-entropy secrets are never accepted."""
    with pytest.raises(ValueError, match="32 random bytes"):
        mint_key("wk", EU, b"short")


@pytest.mark.parametrize(
    ("name", "good"), [("acme-retail", True), ("a", False), ("Acme", False), ("-a", False), ("a-", False), ("a" * 64, False)]
)
def test_names_are_dns_labels(name: str, good: bool) -> None:
    """RFC 1123, in lower case."""
    assert is_name(name) is good


names = st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9]", fullmatch=True).map(TenantId)
any_ids = st.text(max_size=12) | st.just("\ud800")


@given(names, names, any_ids, any_ids)
def test_no_two_events_share_a_message_key(tenant: TenantId, other: TenantId, message_id: str, other_id: str) -> None:
    """Whatever ids they choose, no two tenants do, and of one tenant only the same id has the same key."""
    (one,), (two,) = message_keys(tenant, [message_id]), message_keys(other, [other_id])
    assert len(one) == MESSAGE_KEY_BYTES
    assert (one == two) == ((tenant, message_id) == (other, other_id))


@given(names, st.lists(any_ids, max_size=5))
def test_message_keys_depend_on_nothing_but_tenant_and_id(tenant: TenantId, message_ids: list[str]) -> None:
    """An id's neighbours in a batch do not change its key."""
    assert message_keys(tenant, message_ids) == [message_keys(tenant, [one])[0] for one in message_ids]


def test_a_tenants_name_and_an_id_cannot_be_cut_elsewhere() -> None:
    """What one tenant's name ends with is not what another's id begins with; the form is fixed for ever, since it is stored."""
    assert message_keys(TenantId("ab"), ["c"]) != message_keys(TenantId("a"), ["bc"])
    assert message_keys(TenantId("acme"), ["m1"])[0].hex() == "146d29a20a1eb1eacc02c76d116edab8"


def test_door_one_takes_its_own_tenants_newer_stamps_and_no_older_ones() -> None:
    """A stamp that is ahead of the cell's knowledge is taken."""
    home, other = CellId("eu-west-1-a"), CellId("eu-central-1-a")
    stamp = Stamp(TenantId("acme"), home, Epoch(2))
    assert door_one(stamp, home, home, None, Epoch(2)) == "home"
    assert door_one(stamp, home, home, None, Epoch(1)) == "home"
    assert door_one(stamp, home, home, None, Epoch(3)) == "moved"
    assert door_one(stamp, other, home, None, Epoch(2)) == "moved"
    assert door_one(stamp, other, other, None, Epoch(2)) == "moved"


CELLS = st.sampled_from([CellId("a"), CellId("b"), CellId("c")])


@given(st.builds(Stamp, st.just(TenantId("acme")), CELLS, st.integers(1, 3).map(Epoch)), CELLS, CELLS, CELLS | st.none(), st.integers(1, 3))
def test_who_is_neither_home_nor_standby_takes_nothing(
    stamp: Stamp, here: CellId, home: CellId, standby: CellId | None, epoch: int
) -> None:
    """Law: a write is taken at home or by its standby, whoever stamped it; as handoff by the standby alone, and never past an epoch that
    it knows of; what one of the pair was sent while the placement changed between them, one of the pair takes."""
    entry = door_one(stamp, here, home, standby, Epoch(epoch))
    assert entry == "moved" or here in (home, standby)
    assert (entry == "home") <= (here == home)
    assert (entry == "handoff") <= (here == standby != home and stamp.epoch >= epoch)
    if stamp.cell not in (home, standby):
        assert entry == "moved"


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(["owner", "released"]))
def test_door_two_opens_for_the_owner_at_the_same_epoch_alone(claimed: int, owned: int, state: str) -> None:
    """No row, no claim, another epoch or a released tenant: no."""
    tenant = TenantId("acme")
    claim = Claim(CellId("c1"), {tenant: Epoch(claimed)})
    row = Ownership(tenant, Epoch(owned), "owner" if state == "owner" else "released")
    assert door_two(claim, row) is (state == "owner" and claimed == owned)
    assert not door_two(claim, None)
    assert not door_two(Claim(CellId("c1"), {}), row)


def test_half_a_stamp_is_a_defect_and_none_is_none() -> None:
    """An edge that stamps, stamps whole."""
    whole = {"x-dataflow-tenant": "t", "x-dataflow-cell": "c", "x-dataflow-epoch": "3"}
    assert stamp_of(whole) == Stamp(TenantId("t"), CellId("c"), Epoch(3))
    assert stamp_of({}) is None
    for broken in ({**whole, "x-dataflow-epoch": "x"}, {k: v for k, v in whole.items() if k != "x-dataflow-cell"}):
        with pytest.raises(Failure) as caught:
            stamp_of(broken)
        assert caught.value.reason is Reason.INTERNAL


MOMENTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001  # bounds take no zone


@given(MOMENTS)
def test_instants_survive_every_form(moment: datetime) -> None:
    """Datetime, microseconds and text, over all years."""
    at = from_datetime(moment)
    assert to_datetime(at) == moment
    assert parse_iso(iso(at)) == at
    assert hour_of(at) <= at < hour_of(at) + 3_600_000_000
    assert day_of(at) == moment.date()


@pytest.mark.parametrize(
    "text", ["", "yesterday", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "2026-13-01", "0001-01-01T00:00:00+23:00"]
)
def test_what_is_no_instant_is_none(text: str) -> None:
    """Never an exception."""
    assert parse_iso(text) is None or text.startswith("0001")


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 3)), max_size=40), st.integers(1, 20), st.integers(1, 100))
def test_a_quota_lets_through_no_more_than_rate_and_burst(asks: list[tuple[int, float]], rate: int, burst: int) -> None:
    """Over any schedule of requests no larger than the burst."""
    plan, bucket, now, granted = Plan(float(rate), float(burst)), None, 0.0, 0
    for events, gap in asks:
        now += gap
        events = min(events, burst)
        bucket, wait = take(bucket, plan, events, now)
        if wait is None:
            granted += events
        else:
            assert 1 <= wait <= 300
    assert granted <= burst + rate * now + 1e-6


@given(st.lists(st.tuples(st.integers(1, 300), st.floats(0, 3)), max_size=40), st.integers(1, 20), st.integers(1, 100))
def test_a_request_above_the_burst_is_paid_back(asks: list[tuple[int, float]], rate: int, burst: int) -> None:
    """It passes once, and its debt is not forgiven: in sum no more than the rate, and the largest single request, gets through."""
    plan, bucket, now, granted, largest = Plan(float(rate), float(burst)), None, 0.0, 0, 0
    for events, gap in asks:
        now += gap
        bucket, wait = take(bucket, plan, events, now)
        if wait is None:
            granted += events
            largest = max(largest, events)
    assert granted <= max(burst, largest) + rate * now + 1e-6


def test_a_debt_is_waited_out_to_the_end() -> None:
    """Ten a second, a hundred too many: nothing passes for ten seconds, then one does."""
    plan = Plan(10.0, 10.0)
    bucket, wait = take(None, plan, 110, 0.0)
    assert wait is None
    assert take(bucket, plan, 1, 9.5)[1] is not None
    assert take(bucket, plan, 1, 10.11)[1] is None


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 200))
def test_after_the_told_wait_the_same_request_passes(rate: int, burst: int, events: int) -> None:
    """Also one that is larger than the burst: it passes when the bucket is full."""
    plan = Plan(float(rate), float(burst))
    bucket, wait = take(Bucket(0.0, 0.0), plan, events, 0.0)
    assert wait is not None
    assert take(bucket, plan, events, wait + 1e-6)[1] is None


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_header_is_a_key_or_none(authorization: str, api_key: str) -> None:
    """Never an exception."""
    key = key_of_headers(authorization, api_key)
    assert key is None or isinstance(key, str)


def test_a_write_key_cannot_read_and_a_read_key_cannot_write() -> None:
    """Each says so."""
    admission = fixture_admission()
    for attempt in (lambda: authenticate_reader(KEY, admission), lambda: authenticate_sender(Credentials(READ_KEY), admission)):
        with pytest.raises(Failure) as caught:
            attempt()
        assert caught.value.reason is Reason.WRONG_KEY_KIND
    assert authenticate_reader(READ_KEY, admission).name == "acme-retail"


def test_the_declared_fleet_has_no_problems() -> None:
    """Two zones, each with two regions, each cell with a peer in the other."""
    assert FLEET.problems == ()
    for zone in (EU, US):
        assert len({cell.region for cell in FLEET.cells_of(zone)}) >= 2
        assert all(cell.peer is not None for cell in FLEET.cells_of(zone))


def test_a_wrong_declaration_names_every_problem() -> None:
    """All at once."""
    one = Cell(CellId("a1"), EU, RegionName("r1"), peer=CellId("b1"))
    two = Cell(CellId("b1"), US, RegionName("r1"), weight=0.0, peer=CellId("nowhere"))
    three = Cell(CellId("c1"), ZoneName("mars"), RegionName("r3"))
    problems = Fleet({EU: Zone(EU, ""), US: Zone(US, "")}, {c.name: c for c in (one, two, three)}).problems
    assert len(problems) == 5
    assert any("another residency zone" in problem for problem in problems)


def test_two_cells_stand_by_for_each_other() -> None:
    """Law: a ring is refused, for where a home and its standby have changed places the edge would hand over to a third cell."""
    ring = [Cell(CellId(f"{name}1"), EU, RegionName(name), peer=CellId(f"{peer}1")) for name, peer in ("ab", "bc", "ca")]
    problems = Fleet({EU: Zone(EU, "")}, {cell.name: cell for cell in ring}).problems
    assert [problem.endswith("two cells stand by for each other") for problem in problems] == [True, True, True]


def test_microseconds_are_integers() -> None:
    """No float ever stands for an instant."""
    assert from_datetime(datetime(1970, 1, 1, tzinfo=UTC)) == Micros(0)

"""How a group's partitions are shared out: all of them, evenly, and moved as little as possible."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cells.eventlog.share import share

groups = st.integers(1, 40).flatmap(
    lambda partitions: st.tuples(
        st.just(partitions),
        st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.frozensets(st.integers(0, partitions + 3)), min_size=1, max_size=9),
    )
)


@given(groups)
def test_every_partition_is_given_to_one_member_and_evenly(group: tuple[int, dict[str, frozenset[int]]]) -> None:
    """Law: whatever members claim to hold, no partition is left out or given twice, and no member has two more than another."""
    partitions, held = group
    shares = share(partitions, held)
    assert shares.keys() == held.keys()
    assert sorted(number for numbers in shares.values() for number in numbers) == list(range(partitions))
    sizes = [len(numbers) for numbers in shares.values()]
    assert max(sizes) - min(sizes) <= 1


@given(groups, st.text("xyz", min_size=1, max_size=3))
def test_a_newcomer_moves_only_what_it_is_given(group: tuple[int, dict[str, frozenset[int]]], newcomer: str) -> None:
    """Law: from a settled group, each partition that changes hands goes to the newcomer."""
    settled = share(*group)
    after = share(group[0], {**settled, newcomer: ()})
    for member, numbers in settled.items():
        assert set(after[member]) <= set(numbers)


@given(groups)
def test_a_leaver_moves_only_what_it_had(group: tuple[int, dict[str, frozenset[int]]]) -> None:
    """Law: whoever stays keeps all that it has."""
    settled = share(*group)
    leaver = min(settled)
    left = {member: numbers for member, numbers in settled.items() if member != leaver}
    if left:
        after = share(group[0], left)
        assert all(set(numbers) <= set(after[member]) for member, numbers in left.items())


@given(groups)
def test_a_settled_group_stays_as_it_is(group: tuple[int, dict[str, frozenset[int]]]) -> None:
    """Law: sharing again changes nothing."""
    settled = share(*group)
    assert share(group[0], settled) == settled

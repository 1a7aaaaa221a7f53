"""Identity and traits merge commutatively."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cells.storage import identity, traits
from kernel.clock import Micros
from kernel.effects import TraitClaim
from kernel.ids import TenantId

ACME = TenantId("acme")
nodes = st.sampled_from([f"{kind}:{number}" for kind in "ua" for number in range(6)])
claims = st.lists(st.tuples(nodes, nodes), max_size=20)
trait_claims = st.lists(
    st.builds(
        TraitClaim,
        st.just(ACME),
        st.sampled_from(["u:1", "a:1"]),
        st.sampled_from(["plan", "city"]),
        st.sampled_from(['"x"', '"y"']),
        st.integers(0, 3).map(Micros),
        st.sampled_from(["m1", "m2"]),
    ),
    max_size=12,
)


def merged(batches: list[list[tuple[str, str]]]) -> dict[str, str]:
    """The graph after merging one batch after the other."""
    known: dict[str, str] = {}
    for batch in batches:
        known.update(identity.merge(known, batch).changed)
    return known


def reachable(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The same by another road: each node's smallest reachable node."""
    found = {node: {node} for pair in pairs for node in pair}
    for _ in found:
        for left, right in pairs:
            found[left] |= found[right]
            found[right] |= found[left]
    return {node: min(others) for node, others in found.items()}


@given(claims, st.data())
def test_any_order_cut_and_repetition_of_claims_is_the_same_graph(pairs: list[tuple[str, str]], data: st.DataObject) -> None:
    """Merging is commutative, associative and idempotent, and equals reachability."""
    again = data.draw(st.permutations([*pairs, *pairs[:5]]))
    cut = data.draw(st.integers(0, len(again)))
    assert merged([pairs]) == merged([again[:cut], again[cut:]]) == reachable(pairs)


@given(claims)
def test_news_tells_when_there_is_nothing_to_merge(pairs: list[tuple[str, str]]) -> None:
    """After a merge the same claims are no news, and merging them changes nothing."""
    known = merged([pairs])
    assert not identity.news(known, pairs)
    assert identity.merge(known, pairs) == identity.Merged({}, 0)


@given(claims, st.integers(1, 4))
def test_no_component_outgrows_its_bound(pairs: list[tuple[str, str]], nodes_max: int) -> None:
    """Beyond the bound claims are dropped and counted, never half applied."""
    done = identity.merge({}, pairs, nodes_max)
    sizes = [list(done.changed.values()).count(name) for name in set(done.changed.values())]
    assert all(size <= nodes_max for size in sizes)
    unsettled = [pair for pair in set(pairs) if identity.news(done.changed, [pair])]
    assert len(unsettled) == done.dropped


@given(trait_claims, st.data())
def test_any_order_and_cut_of_trait_claims_has_the_same_winners(listed: list[TraitClaim], data: st.DataObject) -> None:
    """Last writer by (at, message id), ties by value: a maximum, so order and repetition cannot matter."""
    again = data.draw(st.permutations([*listed, *listed[:3]]))
    cut = data.draw(st.integers(0, len(again)))
    halves = [*traits.latest(again[:cut]).values(), *traits.latest(again[cut:]).values()]
    assert traits.latest(listed) == traits.latest(halves)
    assert traits.of_person(listed) == traits.of_person(again)

"""Items that share something, directly or through others, are one group."""

from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.pairs.pair import connected


def test_a_chain_of_shared_documents_is_one_group() -> None:
    groups = connected([["a"], ["b"], ["a", "c"], ["c", "d"], []])
    assert sorted(map(sorted, groups)) == [[0, 2, 3], [1], [4]]


@given(st.lists(st.lists(st.integers(0, 6), max_size=3), max_size=8))
def test_groups_share_nothing_and_hold_every_item_once(keys: list[list[int]]) -> None:
    groups = connected(keys)
    assert sorted(item for group in groups for item in group) == list(range(len(keys)))
    held = [{key for item in group for key in keys[item]} for group in groups]
    for place, one in enumerate(held):
        assert all(one.isdisjoint(other) for other in held[place + 1 :])

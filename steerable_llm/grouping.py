"""Putting items together that have something in common, directly or through others."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence


def connected(keys: Sequence[Iterable[Hashable]]) -> list[list[int]]:
    """Return the groups of items that share a key, each as the positions of its items.

    Args:
        keys: per item what it shares with others, such as the documents it quotes.
    """
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    seen: dict[Hashable, int] = {}
    for i, shared in enumerate(keys):
        for key in shared:
            parent[root(i)] = root(seen.setdefault(key, i))
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(keys)):
        groups[root(i)].append(i)
    return list(groups.values())

"""Where two texts differ, word by word, in time that grows with their length and not its square."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

#: What differs, as `difflib` tells it: kind, start and end in one text, start and end in the other.
Opcode = tuple[str, int, int, int, int]
#: Products of two lengths up to which two runs of words are compared exactly.
_EXACT = 40_000
#: So many words in a row that stand once in each text are the same place.
_ANCHOR = 4


def differences(mine: Sequence[str], theirs: Sequence[str]) -> list[Opcode]:
    """Return how one text becomes the other, as `SequenceMatcher.get_opcodes` does.

    Long texts are first held together where both have the same few words in a row just once
    (patience diff, with runs for words); only what lies between is compared word by word, and
    where even that is long, it is one change.
    """
    made: list[Opcode] = []
    for kind, start, end, other_start, other_end in _parts(mine, theirs):
        if start == end and other_start == other_end:
            continue
        if made and made[-1][0] == kind:
            _, first, _, other_first, _ = made.pop()
            start, other_start = first, other_first
        made.append((kind, start, end, other_start, other_end))
    return made


def _parts(mine: Sequence[str], theirs: Sequence[str]) -> Iterator[Opcode]:
    at, other = 0, 0
    if len(mine) * len(theirs) > _EXACT:
        for place, other_place in _anchors(mine, theirs):
            yield from _between(mine, theirs, (at, place), (other, other_place))
            yield "equal", place, place + 1, other_place, other_place + 1
            at, other = place + 1, other_place + 1
    yield from _between(mine, theirs, (at, len(mine)), (other, len(theirs)))


def _between(
    mine: Sequence[str], theirs: Sequence[str], here: tuple[int, int], there: tuple[int, int]
) -> Iterator[Opcode]:
    (start, end), (other, other_end) = here, there
    same = 0
    while (
        start + same < end
        and other + same < other_end
        and (mine[start + same] == theirs[other + same])
    ):
        same += 1
    yield "equal", start, start + same, other, other + same
    start, other = start + same, other + same
    tail = 0
    while (
        end - tail > start
        and other_end - tail > other
        and (mine[end - tail - 1] == theirs[other_end - tail - 1])
    ):
        tail += 1
    last, other_last = end - tail, other_end - tail
    if start == last or other == other_last or (last - start) * (other_last - other) > _EXACT:
        kind = "insert" if start == last else "delete" if other == other_last else "replace"
        yield kind, start, last, other, other_last
    else:
        matcher = SequenceMatcher(None, mine[start:last], theirs[other:other_last], autojunk=False)
        for kind, a, b, c, d in matcher.get_opcodes():
            yield kind, start + a, start + b, other + c, other + d
    yield "equal", last, end, other_last, other_end


def _anchors(mine: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Return places that belong together, in the order of both texts."""
    runs, other_runs = _runs(mine), _runs(theirs)
    counts, other_counts = Counter(runs), Counter(other_runs)
    place_of = {run: n for n, run in enumerate(other_runs) if other_counts[run] == 1}
    once = ((n, run) for n, run in enumerate(runs) if counts[run] == 1 and run in place_of)
    shared = [(n, place_of[run]) for n, run in once]
    # The longest rising sequence of places: what was moved is a change, and holds nothing together.
    ends: list[int] = []
    lengths: list[int] = []
    for _, place in shared:
        length = bisect_left(ends, place)
        ends[length : length + 1] = [place]
        lengths.append(length)
    chosen: list[tuple[int, int]] = []
    wanted = len(ends) - 1
    limit = len(theirs)
    for pair, length in zip(reversed(shared), reversed(lengths), strict=True):
        if length == wanted and pair[1] < limit:
            chosen.append(pair)
            wanted, limit = wanted - 1, pair[1]
    return chosen[::-1]


def _runs(words: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(words[n:] for n in range(_ANCHOR)), strict=False))

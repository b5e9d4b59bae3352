"""A diff of two texts is true of them, as close as difflib's where they are short, and quick."""

from __future__ import annotations

import random
from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.pairs import diff
from steerable_llm.pairs.diff import differences

words = st.lists(st.sampled_from("abcdef"), max_size=40)


def rebuilt(mine: list[str], theirs: list[str]) -> list[str]:
    """The second text, by the changes; what is equal is taken from the first."""
    made: list[str] = []
    at = other = 0
    for kind, start, end, other_start, other_end in differences(mine, theirs):
        assert (start, other_start) == (at, other)
        assert kind in ("equal", "insert", "delete", "replace")
        made += mine[start:end] if kind == "equal" else theirs[other_start:other_end]
        at, other = end, other_end
    assert (at, other) == (len(mine), len(theirs))
    return made


@given(words, words)
def test_what_is_told_makes_one_text_of_the_other(mine: list[str], theirs: list[str]) -> None:
    assert rebuilt(mine, theirs) == theirs


@given(words, words)
def test_long_texts_are_told_truly_too(mine: list[str], theirs: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diff, "_EXACT", 4)
        assert rebuilt(mine, theirs) == theirs


def test_a_short_change_is_told_as_difflib_tells_it() -> None:
    bad, good = "the shop opens at nine today".split(), "the shop opens at ten today".split()
    oracle = SequenceMatcher(None, bad, good, autojunk=False).get_opcodes()
    assert differences(bad, good) == oracle


def test_in_a_long_text_only_what_was_changed_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    bad = [
        draw.choice("the a of in on river depot lies opens at ten".split()) for _ in range(30_000)
    ]
    good = [*bad[:9_000], "new", *bad[9_000:15_000], *bad[15_003:20_000], "X", *bad[20_001:]]
    compared = 0
    real = SequenceMatcher

    def counting(junk: None, mine: list[str], theirs: list[str], **options: bool) -> object:
        nonlocal compared
        compared += len(mine) * len(theirs)
        return real(junk, mine, theirs, **options)

    monkeypatch.setattr(diff, "SequenceMatcher", counting)
    assert rebuilt(bad, good) == good
    changed = [op for op in differences(bad, good) if op[0] != "equal"]
    assert sum(op[2] - op[1] + op[4] - op[3] for op in changed) <= 10
    # A square of the length would be 900 million.
    assert compared <= 30_000

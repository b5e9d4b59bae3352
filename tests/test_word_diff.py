"""The words that differ are marked, and nothing in a log can steer the terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from steerable_llm.pairs.review_terminal import ADDED, TAKEN, word_diff
from steerable_llm.reports.parts import visible


def marked(text: Text, style: str) -> list[str]:
    return [text.plain[span.start : span.end] for span in text.spans if span.style == style]


def test_only_the_words_that_differ_are_marked() -> None:
    bad, good = word_diff("It opens at nine, sir.", "It opens at ten, sir.")
    assert marked(bad, TAKEN) == ["nine"]
    assert marked(good, ADDED) == ["ten"]


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert visible("a\x1b[2Jb\r\nc\td\u202ee") == "a\ufffd[2Jb\nc\td\ufffde"
    assert word_diff("\x1b]0;x\x07", "b")[0].plain == "\ufffd]0;x\ufffd"


@given(st.text(max_size=30), st.text(max_size=30))
def test_both_texts_stay_whole_and_without_the_marked_words_are_the_same(a: str, b: str) -> None:
    bad, good = word_diff(a, b)
    assert (bad.plain, good.plain) == (visible(a), visible(b))

    def common(text: Text) -> str:
        hidden = {i for span in text.spans for i in range(span.start, span.end)}
        return "".join(c for i, c in enumerate(text.plain) if i not in hidden)

    assert common(bad) == common(good)

"""The review in a terminal: by keys given to a function, and in a real pseudo-terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from steerable_llm.errors import InvalidInputError
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.pairs.review import Review, ReviewItem
from steerable_llm.pairs.review_terminal import ADDED, TAKEN, edit_text, run_review, word_diff
from steerable_llm.reports.parts import visible


def item(name: str, *goods: str) -> ReviewItem:
    options = tuple(
        PreferencePair(f"When, {name}?", good, "At nine.", source="log/x", id=name)
        for good in goods
    )
    return ReviewItem(options, tuple(0.25 * place for place in range(len(goods))))


ITEMS = [item("one", "At ten."), item("two", "At ten.", "At noon."), item("three", "At ten.")]


def play(
    out: Path, keys: str, edit: Callable[[str], str] = lambda text: text
) -> tuple[Review, str]:
    console = Console(file=io.StringIO(), width=100)
    review, pressed = Review(ITEMS, out), iter(keys)

    def read_key() -> str:
        try:
            return next(pressed)
        except StopIteration:
            raise EOFError from None

    run_review(review, console, read_key, edit)
    assert isinstance(console.file, io.StringIO)
    return review, console.file.getvalue()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_keys_decide_and_the_progress_is_shown(out: Path) -> None:
    review, said = play(out, "ars")
    assert review.counts == {"approved": 1, "rejected": 1, "skipped": 1, "left": 0}
    assert "0 of 50 approved" in said
    assert "1 of 50 approved" in said
    assert "1 approved, 1 rejected, 1 left for the next time" in said
    assert "When, one?" in said


def test_pairs_that_were_approved_and_are_gone_are_told(out: Path) -> None:
    Review([*ITEMS, item("four", "At ten.")], out).approve(item("four", "At ten."))
    _, said = play(out, "a")
    assert "1 pairs that were approved are not in these files any more" in said
    assert "out.decisions.jsonl keeps them" in said


def test_a_proposal_is_chosen_by_its_number(out: Path) -> None:
    _, said = play(out, "r2a")
    assert [pair.good for pair in Pairs.from_jsonl(out)] == ["At noon."]
    assert "2 answers, choose with a number" in said
    assert "judged 0.25" in said


def test_the_editor_gets_the_chosen_answer_and_its_text_is_approved(out: Path) -> None:
    given = []

    def edit(text: str) -> str:
        given.append(text)
        return "At ten sharp."

    play(out, "s2e", edit)
    assert given == ["At noon."]
    assert [pair.good for pair in Pairs.from_jsonl(out)] == ["At ten sharp."]


@pytest.mark.parametrize(
    ("edited", "said"),
    [("At ten.", "unchanged"), ("", "is empty"), ("At nine.", "are the same")],
)
def test_an_edit_that_makes_no_pair_decides_nothing(out: Path, edited: str, said: str) -> None:
    review, text = play(out, "e", lambda _: edited)
    assert said in text
    assert review.counts["left"] == 3


def test_undo_shows_the_pair_again_and_unknown_keys_do_nothing(out: Path) -> None:
    review, said = play(out, "auxZ9")
    assert review.counts["left"] == 3
    assert said.count("When, one?") == 2
    _, said = play(out, "u")
    assert "nothing to undo" in said


@pytest.mark.parametrize("key", ["q", "\x03", "\x04"])
def test_quitting_keeps_what_was_decided(out: Path, key: str) -> None:
    review, _ = play(out, "a" + key + "a")
    assert review.counts["approved"] == 1


def editor(folder: Path, code: str) -> str:
    script = folder / "editor.py"
    script.write_text(f"import pathlib, sys\npath = pathlib.Path(sys.argv[1])\n{code}\n")
    return shlex.join([sys.executable, str(script)])


def test_the_editor_of_the_environment_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", editor(tmp_path, "path.write_text(path.read_text().upper())"))
    assert edit_text("At ten.") == "AT TEN."
    monkeypatch.setenv("EDITOR", editor(tmp_path, "sys.exit(3)"))
    with pytest.raises(InvalidInputError, match="ended with code 3"):
        edit_text("At ten.")
    monkeypatch.setenv("EDITOR", str(tmp_path / "none"))
    with pytest.raises(InvalidInputError, match="cannot be started"):
        edit_text("At ten.")


class Terminal:
    """`steerable pairs review` in a pseudo-terminal, as a person sees and drives it."""

    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        self.screen = ""
        self._seen = 0
        self._end, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "steerable_llm", "pairs", "review", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "90", **environment},
            start_new_session=True,
        )
        os.close(theirs)

    def until(self, text: str, seconds: float = 90) -> str:
        """Wait for a text on the screen, after what was waited for before."""
        deadline = time.monotonic() + seconds
        while text not in self.screen[self._seen :]:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.screen[self._seen :]!r}"
            if select.select([self._end], [], [], left)[0]:
                try:
                    new = os.read(self._end, 65_536)
                except OSError:  # the other end is closed
                    new = b""
                assert new, f"it ended before {text!r}: {self.screen!r}"
                # Without colours, which may stand inside a word.
                self.screen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", new.decode())
        start = self._seen
        self._seen = self.screen.index(text, start) + len(text)
        return self.screen[start : self._seen]

    def press(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    pairs = Pairs(
        PreferencePair(f"When, {name}?", good="At ten.", bad="At nine.", id=name)
        for name in ("first", "second", "third")
    )
    return pairs.to_jsonl(tmp_path / "pairs.jsonl")


def test_a_person_reviews_is_killed_goes_on_edits_undoes_and_quits(
    tmp_path: Path, pairs_file: Path
) -> None:
    reviewed = tmp_path / "pairs.reviewed.jsonl"
    terminal = Terminal(tmp_path, pairs_file.name)
    try:
        terminal.until("When, first?")
        terminal.until("q quit")
        terminal.press("a")
        terminal.until("1 of 50 approved")
        terminal.until("q quit")
        # Killed in front of the second pair.
        os.kill(terminal.process.pid, signal.SIGKILL)
    finally:
        terminal.close()
    assert [pair.id for pair in Pairs.from_jsonl(reviewed)] == ["first"]

    command = editor(tmp_path, "path.write_text('At ten sharp.')")
    terminal = Terminal(tmp_path, pairs_file.name, EDITOR=command, VISUAL="")
    try:
        assert "When, first?" not in terminal.until("When, second?")
        terminal.until("1 of 50 approved")
        terminal.until("q quit")
        terminal.press("e")
        terminal.until("2 of 50 approved")
        terminal.until("q quit")
        terminal.press("r")
        terminal.until("2 approved, 1 rejected")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()
    assert [(p.id, p.good) for p in Pairs.from_jsonl(reviewed)] == [
        ("first", "At ten."),
        ("second", "At ten sharp."),
    ]


def test_keys_typed_ahead_are_kept_and_arrows_do_nothing(tmp_path: Path, pairs_file: Path) -> None:
    terminal = Terminal(tmp_path, pairs_file.name)
    try:
        terminal.until("q quit")
        terminal.press("ara")
        terminal.until("2 approved, 1 rejected")
    finally:
        terminal.close()
    terminal = Terminal(tmp_path, pairs_file.name, "--out", "other.jsonl")
    try:
        terminal.until("q quit")
        terminal.press("\x1b[A")
        terminal.until("q quit")
        terminal.press("aq")
        terminal.until("1 approved, 0 rejected, 2 left")
    finally:
        terminal.close()


def test_undo_and_control_c_in_a_terminal(tmp_path: Path, pairs_file: Path) -> None:
    terminal = Terminal(tmp_path, pairs_file.name, "--out", "mine.jsonl")
    try:
        terminal.until("q quit")
        terminal.press("a")
        terminal.until("When, second?")
        terminal.until("q quit")
        terminal.press("u")
        terminal.until("When, first?")
        terminal.until("0 of 50 approved")
        terminal.until("q quit")
        terminal.press("\x03")
        terminal.until("0 approved, 0 rejected, 3 left")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()
    assert (tmp_path / "mine.jsonl").read_text() == ""


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

"""A progress bar goes to the error stream and counts what is done."""

from __future__ import annotations

import pytest

from steerable_llm.progress import progress_bar


def test_the_bar_counts_on_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("evaluating", 12, show=True) as advance:
        for _ in range(3):
            advance(4)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "evaluating" in shown.err
    assert "12/12" in shown.err


def test_nothing_is_shown_when_not_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("evaluating", 12, show=False) as advance:
        advance(12)
    assert capsys.readouterr() == ("", "")

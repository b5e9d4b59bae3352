"""Drafts on disk come back as they were, and are chosen without being read."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from steerable_llm.chat.message import as_messages, read_from
from steerable_llm.logs.answers import LoggedAnswer, Passage
from steerable_llm.pairs import draft_file
from steerable_llm.pairs.draft_file import DraftFile
from steerable_llm.pairs.pair import Edit
from steerable_llm.pairs.pairing import NO_GOOD_ANSWER, Draft


def drafts(folder: Path) -> list[Draft]:
    picture = "data:image/png;base64," + base64.b64encode(b"\x89PNG picture").decode()
    shown = {"type": "image_url", "image_url": {"url": picture}}
    named = {"type": "image", "image": "here.png"}
    contents = ["Où ?\u2028 [1]\n", [shown, {"type": "text", "text": "What?"}], [named]]
    return [
        Draft(
            LoggedAnswer(
                id=f"a{n}",
                question="When?",
                passages=(Passage(id="d", text="It opens\nat ten."),),
                messages=read_from(folder, as_messages([{"role": "user", "content": content}])),
                answer="At nine.",
                steering=({"name": "v", "strength": 0.5},),
                time="2026-01-31T12:00:00+02:00",
            ),
            None if n == 1 else "At ten.",
            NO_GOOD_ANSWER if n == 1 else "correction",
            Edit(wrong="nine", value="ten", bad="At nine, sir.") if n == 0 else None,
        )
        for n, content in enumerate(contents)
    ]


@pytest.mark.parametrize("in_memory", [10**6, 1])
def test_drafts_come_back_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(draft_file, "_IN_MEMORY", in_memory)
    given = drafts(tmp_path)
    kept = DraftFile(given)
    assert list(kept) == given
    assert [kept[place] for place in (2, 0, 1)] == [given[2], given[0], given[1]]
    assert list(kept[1:]) == given[1:]
    assert [bool(paired) for paired in kept.paired] == [True, False, True]
    some = kept.chosen([0, 2])
    del kept
    assert list(some) == [given[0], given[2]]
    assert list(some.chosen([1])) == [given[2]]
    assert (some.sources, some.edited, len(some)) == (["correction", "correction"], 1, 2)

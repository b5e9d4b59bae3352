"""ContextFocus against its equation, worked out prompt by prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from slow_states import PAIRS, slow_states

from steerable_llm.errors import PairError, PromptTooLongError
from steerable_llm.methods.build import build_vector
from steerable_llm.methods.contextfocus import INSTRUCTION
from steerable_llm.pairs.pair import PreferencePair
from steerable_llm.vector.provenance import Deltas


def test_a_direction_is_what_instruction_and_context_add_to_the_question(tiny_llm: Any) -> None:
    vector = build_vector(tiny_llm, PAIRS, method="contextfocus", progress=False)
    for layer in (0, 1):
        rows = []
        for pair in PAIRS:
            full = [{"role": "system", "content": INSTRUCTION}, *pair.prompt]
            bare = "Question: When does it open?"
            with_context, without = (
                slow_states(tiny_llm, tiny_llm.encode(messages))[layer][-1]
                for messages in (full, bare)
            )
            rows.append(with_context - without)
        expected = np.mean(rows, axis=0)
        np.testing.assert_allclose(vector.directions[layer], expected, rtol=1e-3, atol=1e-4)


def test_answers_play_no_part(tiny_llm: Any) -> None:
    other = [PreferencePair(p.messages, good="Anything.") for p in PAIRS]
    one, two = (
        build_vector(tiny_llm, pairs, method="contextfocus", name="x", progress=False)
        for pairs in (PAIRS, other)
    )
    assert one.fingerprint_id == two.fingerprint_id


def test_prompts_without_a_context_are_left_out_and_counted(tiny_llm: Any) -> None:
    mixed = [*PAIRS, PreferencePair("Why is that?", "Because.", "No.")]
    vector = build_vector(tiny_llm, mixed, method="contextfocus", progress=False)
    assert vector.provenance.deltas == Deltas(6)
    assert vector.provenance.facts["without_context"] == 1
    with pytest.raises(PairError, match="no prompt has a context"):
        build_vector(tiny_llm, mixed[-1:], method="contextfocus", progress=False)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("contextfocus", {}), ("repe", {"positive": INSTRUCTION, "negative": INSTRUCTION})],
)
def test_a_prompt_that_only_the_instruction_makes_too_long_is_named(
    tiny_llm: Any, monkeypatch: pytest.MonkeyPatch, method: str, settings: dict[str, str]
) -> None:
    longest = max(
        len(tiny_llm.encode(pair.messages)) + len(tiny_llm.encode_answer(answer))
        for pair in PAIRS
        for answer in (pair.good, pair.bad)
    )
    monkeypatch.setattr(tiny_llm, "context_window", longest)
    with pytest.raises(PromptTooLongError, match=r"^pair .+: the prompt has \d+ tokens, but"):
        build_vector(tiny_llm, PAIRS, method=method, progress=False, **settings)

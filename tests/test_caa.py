"""CAA against its equation, worked out pair by pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from slow_states import PAIRS, slow_deltas, slow_states, with_answer

from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.methods.build import build_vector
from steerable_llm.pairs.pair import PreferencePair


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_a_direction_is_the_mean_difference_at_the_last_answer_token(
    make_llm: Any, family: str
) -> None:
    llm = make_llm(family)
    vector = build_vector(llm, PAIRS, method="caa", progress=False)
    for layer in (0, 1):
        expected = slow_deltas(llm, PAIRS, layer).mean(0)
        np.testing.assert_allclose(vector.directions[layer], expected, rtol=1e-3, atol=1e-4)


def test_states_can_be_read_after_the_first_answer_tokens(tiny_llm: Any) -> None:
    vector = build_vector(tiny_llm, PAIRS[:1], method="caa", progress=False, answer_tokens=2)
    pair = PAIRS[0]
    after_two = len(tiny_llm.encode(pair.messages)) + 1
    good, bad = (
        slow_states(tiny_llm, with_answer(tiny_llm, pair, text))[0][after_two]
        for text in (pair.good, str(pair.bad))
    )
    np.testing.assert_allclose(vector.directions[0], good - bad, rtol=1e-3, atol=1e-4)


def test_tokens_are_counted_from_the_first_one_in_which_answers_differ(tiny_llm: Any) -> None:
    pair = PreferencePair("Where?", good="The shop opens at nine.", bad="The shop opens in Rome.")
    good, bad = (tiny_llm.encode_answer(text) for text in (pair.good, pair.bad))
    stem = next(i for i, (g, b) in enumerate(zip(good, bad, strict=False)) if g != b)
    assert stem > 2
    vector = build_vector(tiny_llm, [pair], method="caa", progress=False, answer_tokens=1)
    prompt = tiny_llm.encode(pair.messages)
    states = [
        slow_states(tiny_llm, [*prompt, *answer[: stem + 1]])[0][-1] for answer in (good, bad)
    ]
    np.testing.assert_allclose(vector.directions[0], states[0] - states[1], rtol=1e-3, atol=1e-4)
    assert vector.decision_tokens == stem


def test_it_is_added_as_it_is_and_lengths_may_change(tiny_llm: Any) -> None:
    vector = build_vector(tiny_llm, PAIRS, method="caa", progress=False, layers=(1,))
    (term,) = vector.steer(2.0, unit="absolute").terms
    assert not term.renormalise
    assert torch.equal(term.delta(1), 2.0 * vector.directions[1])


def test_what_it_cannot_use_is_refused(tiny_llm: Any) -> None:
    alone = [PreferencePair("Why?", good="Because.", id="lonely")]
    with pytest.raises(PairError, match=r"lonely has no bad answer.*contextfocus"):
        build_vector(tiny_llm, alone, method="caa", progress=False)
    pictured = [PreferencePair("Why?", "Because.", "No.", images=["a.png"], id="pictured")]
    with pytest.raises(PairError, match=r"pair pictured: .* this model reads text only"):
        build_vector(tiny_llm, pictured, method="caa", progress=False)
    with pytest.raises(InvalidInputError, match="blocks 0 to 2"):
        build_vector(tiny_llm, PAIRS, method="caa", progress=False, layers=(3,))

"""Answers from a shared state agree with the model asked one prompt and one answer at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.runtime.decoding import forced_logits, greedy_tokens, log_probs
from steerable_llm.runtime.forward import Stream, run_prompts
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector

PROMPTS = ["What is it?", "Documents:\n[1] The shop in Lyon opens at nine.\n\nQuestion: When?"]
ANSWERS = [["Lyon", "The text does not say."], ["nine", "ten or so"]]


def random_vector(llm: SteerableHFLLM) -> SteeringVector:
    source = torch.Generator().manual_seed(1)
    layers = range(len(llm.blocks))
    return SteeringVector(
        name="random",
        directions={layer: torch.randn(32, generator=source) for layer in layers},
        scales=dict.fromkeys(layers, 3.0),
        fingerprint=llm.fingerprint,
    )


def state_of(llm: SteerableHFLLM, steerings: list[Steering]) -> Stream:
    return run_prompts(llm, [llm.encode(p) for p in PROMPTS], steerings)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "opt", "bloom", "gemma2"])
@pytest.mark.parametrize("scope", ["generated", "prompt", "all"])
def test_logits_equal_those_of_one_full_pass_per_answer(
    family: str, scope: Any, make_tiny_model: Any, tiny_tokenizer: Any
) -> None:
    llm = SteerableHFLLM(make_tiny_model(family), tiny_tokenizer, model_id=family)
    steerings = [random_vector(llm).steer(0.3, scope=scope), Steering.none()]
    state = state_of(llm, steerings)
    for place in (0, 1):
        given = [llm.encode_answer(answers[place]) for answers in ANSWERS]
        found = forced_logits(state, given)
        for prompt, answers, steering, logits in zip(
            PROMPTS, ANSWERS, steerings, found, strict=True
        ):
            slow = llm.answer_logits(prompt, answers[place], steering)
            assert logits is not None
            # Float32; the two differ in padding and in the order of additions.
            torch.testing.assert_close(logits, slow, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scope", ["generated", "all"])
def test_greedy_answers_equal_those_of_generate(tiny_llm: SteerableHFLLM, scope: Any) -> None:
    vector = random_vector(tiny_llm)
    steerings = [vector.steer(0.4, scope=scope), vector.steer(-0.4, scope=scope)]
    state = state_of(tiny_llm, steerings)
    made = greedy_tokens(state, tiny_llm.end_ids, 9)
    alone = [
        tiny_llm.generate(prompt, steering, max_new_tokens=9)
        for prompt, steering in zip(PROMPTS, steerings, strict=True)
    ]
    assert [tuple(tokens) for tokens in made] == [answer.token_ids for answer in alone]


def test_an_answer_ends_with_its_end_token(tiny_llm: SteerableHFLLM) -> None:
    state = state_of(tiny_llm, [Steering.none(), Steering.none()])
    free = greedy_tokens(state, set(), 6)
    end = free[0][2]
    cut = greedy_tokens(state, {end}, 6)
    assert cut[0] == free[0][: free[0].index(end) + 1]
    stop = free[1].index(end) + 1 if end in free[1] else 6
    assert cut[1] == free[1][:stop]


def test_log_probs_agree_with_the_models_own_score(tiny_llm: SteerableHFLLM) -> None:
    state = state_of(tiny_llm, [Steering.none(), Steering.none()])
    given = [tiny_llm.encode_answer(answers[0]) for answers in ANSWERS]
    found = forced_logits(state, given)
    for prompt, answers, tokens, logits in zip(PROMPTS, ANSWERS, given, found, strict=True):
        assert logits is not None
        [slow] = tiny_llm.score(prompt, answers[:1])
        assert float(log_probs(logits, tokens).sum()) == pytest.approx(slow, abs=1e-3)


def test_a_row_without_an_answer_is_left_out(tiny_llm: SteerableHFLLM) -> None:
    state = state_of(tiny_llm, [Steering.none(), Steering.none()])
    found = forced_logits(state, [[7, 8, 9], []])
    assert found[0] is not None
    assert len(found[0]) == 3
    assert found[1] is None
    for given in ([[], []], [[1]]):
        with pytest.raises(InvalidInputError, match="answers for 2 rows"):
            forced_logits(state, given)

"""Prompts run once and shared among rows equal prompts run row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import GROUPED
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import SteeringNotAppliedError
from steerable_llm.runtime.decoding import forced_logits
from steerable_llm.runtime.forward import padded, run_prompts
from steerable_llm.vector.steering import Steering
from steerable_llm.vector.vector import SteeringVector

QUESTIONS = ["What is it?", "Documents:\n[1] The shop in Lyon opens at nine.\n\nQuestion: When?"]


def vector_for(llm: SteerableHFLLM) -> SteeringVector:
    source = torch.Generator().manual_seed(1)
    layers = range(len(llm.blocks))
    return SteeringVector(
        "random",
        {layer: torch.randn(32, generator=source) for layer in layers},
        dict.fromkeys(layers, 3.0),
        llm.fingerprint,
    )


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "opt", "bloom", "gemma2"])
def test_shared_prompts_give_the_states_of_separate_ones(
    family: str, make_tiny_model: Any, tiny_tokenizer: Any
) -> None:
    llm = SteerableHFLLM(make_tiny_model(family), tiny_tokenizer, model_id=family)
    vector = vector_for(llm)
    steerings = [vector.steer(0.3), Steering.none(), vector.steer(-0.3), vector.steer(0.1)]
    prompts = [llm.encode(QUESTIONS[row % 2]) for row in range(4)]
    shared = run_prompts(llm, prompts, steerings)
    more = torch.tensor([[9, 10]])
    after = shared.fork().feed(more.expand(4, -1))
    for row, (prompt, steering) in enumerate(zip(prompts, steerings, strict=True)):
        alone = run_prompts(llm, [prompt], [steering])
        torch.testing.assert_close(shared.first[row], alone.first[0], rtol=1e-3, atol=1e-3)
        follow = alone.fork().feed(more)
        torch.testing.assert_close(after[row], follow[0], rtol=1e-3, atol=1e-3)


def tokens_read(llm: SteerableHFLLM, run: Any) -> int:
    """Prompt tokens (rows times columns) that go through the first block."""
    read: list[int] = []
    handle = llm.blocks[0].register_forward_hook(
        lambda _, inputs, __: read.append(inputs[0].shape[0] * inputs[0].shape[1])
    )
    try:
        run()
    finally:
        handle.remove()
    return sum(read)


def test_a_shared_prompt_is_read_once_whatever_the_number_of_conditions(
    tiny_llm: SteerableHFLLM,
) -> None:
    vector, prompt = vector_for(tiny_llm), tiny_llm.encode(QUESTIONS[1])

    def read(scope: Any) -> int:
        steerings = [vector.steer(s, scope=scope) for s in (0.1, 0.2, 0.3, -0.1)]
        prompts = [prompt] * 4
        return tokens_read(tiny_llm, lambda: run_prompts(tiny_llm, prompts, steerings))

    assert read("generated") == read("last_prompt") == len(prompt) - 1 + 4
    # A scope that changes the prompt itself leaves nothing to share.
    assert read("all") == 4 * len(prompt)


def test_a_state_can_be_continued_again_and_again(tiny_llm: SteerableHFLLM) -> None:
    steering = vector_for(tiny_llm).steer(0.3)
    prompt = tiny_llm.encode(QUESTIONS[0])
    state = run_prompts(tiny_llm, [prompt], [steering])
    ids = torch.tensor([[5, 6, 7]])
    one, two = (state.fork().feed(ids) for _ in range(2))
    assert torch.equal(one, two)
    assert not any(block._forward_hooks for block in tiny_llm.blocks)


def test_a_steering_that_reaches_no_block_raises(tiny_llm: SteerableHFLLM) -> None:
    blocks = [nn.Identity() for _ in tiny_llm.blocks]
    strangers = SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, blocks=blocks)
    steering = vector_for(tiny_llm).steer(0.3)
    prompt = tiny_llm.encode(QUESTIONS[0])
    with pytest.raises(SteeringNotAppliedError):
        run_prompts(strangers, [prompt], [steering])


RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 8},
    "lfm2": {**GROUPED, "layer_types": ["conv", "full_attention", "conv"]},
}


@pytest.mark.parametrize("family", RECURRENT)
def test_families_with_a_recurrent_state_are_read_as_they_read_themselves(
    family: str, tiny_tokenizer: Any
) -> None:
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(
        family, **RECURRENT[family], vocab_size=len(tiny_tokenizer), **ids
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    llm = SteerableHFLLM(model, tiny_tokenizer, model_id=family)
    prompts = [llm.encode(QUESTIONS[row % 2]) for row in range(4)]
    shared = run_prompts(llm, prompts, [Steering.none()] * 4)
    more = [[9, 10, 11, 12]] * 4
    with torch.no_grad():
        for prompt, found in zip(prompts, forced_logits(shared, more), strict=True):
            whole = llm.model(torch.tensor([[*prompt, *more[0][:-1]]])).logits[0, -4:]
            torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-3)
    inputs, mask = padded(prompts[:2], "left")
    expected = llm.model.generate(inputs, attention_mask=mask, max_new_tokens=6, do_sample=False)
    answers = llm.generate_batch([GenerationRequest(q, max_new_tokens=6) for q in QUESTIONS])
    for answer, tokens in zip(answers, expected[:, inputs.shape[1] :].tolist(), strict=True):
        assert tokens[: len(answer.token_ids)] == list(answer.token_ids)

"""The demonstration's two retrieval chains, over a tiny random model and real embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from steerable_llm import Policy, SteerableHFLLM, SteeringVector
from steerable_llm.demo.chains import SteppedAnswer, ask_langchain, ask_llama_index

DOCUMENTS = {
    "hours": "The shop in Lyon opens at nine.",
    "refunds": "A refund is paid within thirty days.",
    "parking": "Guests park behind the house.",
}
Ask = Callable[..., list[SteppedAnswer]]


@pytest.fixture(scope="module")
def stepping_llm(tiny_llm: Any) -> SteerableHFLLM:
    """The tiny model with a policy that steers the step "answer" hard, and no other."""
    layers = range(len(tiny_llm.blocks))
    generator = torch.Generator().manual_seed(3)
    width = tiny_llm.fingerprint.hidden_size
    vector = SteeringVector(
        name="push",
        directions={layer: torch.randn(width, generator=generator) for layer in layers},
        scales=dict.fromkeys(layers, 1.0),
        fingerprint=tiny_llm.fingerprint,
    )
    policy = Policy.from_dict(
        {"steps": {"answer": {"vectors": [{"name": "push", "strength": 5.0}]}, "unsteered": {}}},
        vectors={"push": vector},
    )
    return SteerableHFLLM(
        tiny_llm.model,
        tiny_llm.tokenizer,
        policy=policy,
        model_id=tiny_llm.model_id,
        context_window=1024,
    )


@pytest.mark.parametrize("ask", [ask_langchain, ask_llama_index])
def test_the_step_decides_what_is_steered_and_nothing_else(
    ask: Ask, stepping_llm: SteerableHFLLM
) -> None:
    question = "When does the shop in Lyon open?"
    plain, steered, again = ask(
        stepping_llm, DOCUMENTS, question, ("unsteered", "answer", "unsteered")
    )
    assert plain.question == steered.question == question
    assert plain.passages == steered.passages
    assert plain.text != steered.text
    assert plain.text == again.text


@pytest.mark.parametrize("ask", [ask_langchain, ask_llama_index])
def test_the_best_passage_is_about_the_question(ask: Ask, stepping_llm: SteerableHFLLM) -> None:
    (answer,) = ask(stepping_llm, DOCUMENTS, "How long does a refund take?", ["unsteered"])
    assert answer.passages[0] == DOCUMENTS["refunds"]
    assert len(answer.passages) == 2


@pytest.mark.parametrize("ask", [ask_langchain, ask_llama_index])
def test_each_framework_reports_the_vector_that_was_applied(
    ask: Ask, stepping_llm: SteerableHFLLM
) -> None:
    plain, steered = ask(stepping_llm, DOCUMENTS, "Where do guests park?", ("unsteered", "answer"))
    assert plain.steered == ()
    assert [applied["name"] for applied in steered.steered] == ["push"]


def test_both_frameworks_answer_what_the_model_answers_to_their_prompt(
    stepping_llm: SteerableHFLLM,
) -> None:
    question = "Where do guests park?"
    (answer,) = ask_langchain(stepping_llm, DOCUMENTS, question, ["answer"])
    numbered = "\n".join(f"[{i}] {text}" for i, text in enumerate(answer.passages, start=1))
    prompt = f"Documents:\n{numbered}\n\nQuestion: {question}"
    assert answer.text == stepping_llm.generate(prompt, step="answer", max_new_tokens=32).text

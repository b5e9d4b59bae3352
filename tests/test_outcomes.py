"""Measured outcomes, against the model asked one prompt and one arm at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import build_tiny_model
from planted_behaviour import planted_llm, planted_vector, questions
from slow_states import PAIRS

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.context import question_alone
from steerable_llm.errors import PromptTooLongError
from steerable_llm.evaluation.arms import Arm, arms_of
from steerable_llm.evaluation.measure import answers, measure
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.methods.lora import LoraSettings, train_lora
from steerable_llm.metrics import kl_per_token
from steerable_llm.pairs.pair import PreferencePair
from steerable_llm.runtime.lora import adapted
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.vector import SteeringVector


def test_batched_outcomes_equal_those_of_one_call_per_prompt(tiny_tokenizer: Any) -> None:
    llm = planted_llm(tiny_tokenizer)
    vector = planted_vector(llm).with_calibration(Calibration(0.05))
    items = list(questions(llm, 7))
    runs = arms_of(
        vector,
        EvaluationSettings(
            strict_instruction="Be strict.", random_vectors=1, against=["prompt", "random"]
        ),
    )
    done: list[int] = []
    found = measure(llm, runs, items, max_new_tokens=4, batch_size=9, advance=done.append)
    assert sum(done) == len(runs) * len(items)
    for run, outcomes in zip(runs, found, strict=True):
        for item, outcome in zip(items, outcomes, strict=True):
            messages = run.messages(item)
            slow = llm.generate(messages, run.steering, max_new_tokens=4)
            assert (outcome.text, outcome.tokens) == (slow.text, slow.token_ids)
            assert outcome.success == float(item.accept[0] in slow.text)
            assert item.good is not None
            assert item.bad is not None
            good, bad = llm.score(messages, [item.good, item.bad], run.steering)
            assert outcome.margin == pytest.approx(good - bad, abs=1e-3)
            own = llm.generate(item.prompt, max_new_tokens=4).text
            divergence = kl_per_token(
                llm.answer_logits(messages, own, run.steering), llm.answer_logits(item.prompt, own)
            )
            assert outcome.kl_per_token == pytest.approx(divergence, abs=1e-3)


def test_the_unsteered_model_does_not_diverge_from_itself(tiny_tokenizer: Any) -> None:
    llm = planted_llm(tiny_tokenizer)
    vector = planted_vector(llm).with_calibration(Calibration(0.05))
    runs = arms_of(vector, EvaluationSettings(against=[]))
    steered, none = measure(llm, runs, list(questions(llm, 5)), max_new_tokens=4)
    assert {outcome.kl_per_token for outcome in none} == {0.0}
    assert all(outcome.kl_per_token > 0 for outcome in steered)


def test_answers_come_back_in_the_order_of_the_jobs(tiny_tokenizer: Any) -> None:
    llm = planted_llm(tiny_tokenizer)
    items = questions(llm, 6)
    vector = planted_vector(llm).with_calibration(Calibration(0.05))
    runs = arms_of(vector, EvaluationSettings(against=["sign_flipped"]))
    asked = [(run, item) for item in items for run in runs]
    together = answers(llm, asked, max_new_tokens=4, batch_size=4)
    alone = [answers(llm, [one], max_new_tokens=4)[0] for one in asked]
    assert together == alone
    assert together == [
        llm.generate(item.prompt, arm.steering, max_new_tokens=4).text for arm, item in asked
    ]


@pytest.mark.parametrize("scope", ["generated", "prompt", "all"])
def test_random_models_answer_as_they_do_one_by_one(tiny_llm: SteerableHFLLM, scope: Any) -> None:
    """Long, various answers in mixed batches, whether or not the prompt can be shared."""
    source = torch.Generator().manual_seed(2)
    layers = range(len(tiny_llm.blocks))
    vector = SteeringVector(
        "random",
        {layer: torch.randn(32, generator=source) for layer in layers},
        dict.fromkeys(layers, 3.0),
        tiny_llm.fingerprint,
    )
    arms = [Arm(f"{s}", vector.steer(s, scope=scope)) for s in (0.0, 0.3, -0.5)]
    items = questions(tiny_llm, 5)
    asked = [(arm, item) for arm in arms for item in items]
    together = answers(tiny_llm, asked, max_new_tokens=12, batch_size=8)
    alone = [
        tiny_llm.generate(item.prompt, arm.steering, max_new_tokens=12).text for arm, item in asked
    ]
    assert together == alone
    assert len(set(alone)) > len(items)


def test_a_prompt_that_does_not_fit_is_refused(tiny_llm: SteerableHFLLM) -> None:
    long = EvaluationItem(id="x", category="v", messages="word " * 300, accept=["a"])
    unsteered = Arm("none")
    with pytest.raises(PromptTooLongError, match=r"item 'x': the prompt has .* context window"):
        answers(tiny_llm, [(unsteered, long)], max_new_tokens=4)
    with pytest.raises(PromptTooLongError, match=r"item 'x': the prompt has .* context window"):
        measure(tiny_llm, [unsteered], [long])


def test_contrasted_and_adapted_arms_equal_those_of_one_call_per_prompt(
    tiny_tokenizer: Any,
) -> None:
    pytest.importorskip("peft")
    llm = SteerableHFLLM(build_tiny_model("llama", tiny_tokenizer), tiny_tokenizer)
    adapter = train_lora(llm, PAIRS, LoraSettings(rank=4, learning_rate=1e-2, epochs=2))
    vector = planted_vector(llm).with_calibration(Calibration(0.3))
    items = [
        EvaluationItem(
            id=str(n), category="x", messages=pair.messages, good=pair.good, bad=pair.bad,
            accept=["nine"],
        )
        for n, pair in enumerate([*PAIRS[:3], PreferencePair("Why?", "Because.", "No.")])
    ]  # fmt: skip
    against = [adapter, Contrast("cad", 0.8), "prompt", "adacad"]
    runs = arms_of(vector, EvaluationSettings(strict_instruction="Be strict.", against=against))
    found = measure(llm, runs, items, max_new_tokens=6, batch_size=7)
    by_name = {run.name: outcomes for run, outcomes in zip(runs, found, strict=True)}
    for name, contrast in (("cad", Contrast("cad", 0.8)), ("adacad", Contrast("adacad"))):
        for item, outcome in zip(items, by_name[name], strict=True):
            request = GenerationRequest(item.prompt, max_new_tokens=6, contrast=contrast)
            assert outcome.tokens == llm.generate_batch([request])[0].token_ids
            bare = question_alone(item.prompt)
            margins = []
            for text in (item.good, item.bad):
                logits = llm.answer_logits(item.prompt, str(text))
                if bare is not None:
                    logits = contrast.combine(logits, llm.answer_logits(bare, str(text)))
                tokens = torch.tensor(llm.encode_answer(str(text)))[:, None]
                margins.append(float(logits.log_softmax(-1).gather(-1, tokens).sum()))
            assert outcome.margin == pytest.approx(margins[0] - margins[1], abs=1e-2)
            assert (outcome.kl_per_token > 1e-4) == (bare is not None)
    with adapted(llm, adapter):
        for item, outcome in zip(items, by_name["lora"], strict=True):
            assert outcome.tokens == llm.generate(item.prompt, max_new_tokens=6).token_ids
            good, bad = llm.score(item.prompt, [str(item.good), str(item.bad)])
            assert outcome.margin == pytest.approx(good - bad, abs=1e-2)

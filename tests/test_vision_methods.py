"""Every method that reads states takes pairs with images, and reads what the model really sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from slow_vision import CONTEXT, PAIRS, pair, slow_inputs, slow_log_prob, slow_pass
from torch import Tensor
from vision_models import VISION_FAMILIES, vision_llm

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.context import question_alone
from steerable_llm.chat.message import instructed
from steerable_llm.errors import PairError
from steerable_llm.methods.aggregation import aggregate
from steerable_llm.methods.build import build_vector
from steerable_llm.methods.contextfocus import INSTRUCTION
from steerable_llm.methods.iti import head_direction
from steerable_llm.methods.lora import LoraSettings, train_lora
from steerable_llm.methods.mat_steer import MatSteerConfig, train_weighed
from steerable_llm.methods.repe import _coins, reading_vector
from steerable_llm.pairs.pair import PreferencePair


@pytest.fixture(scope="session", params=list(VISION_FAMILIES))
def llm(request: pytest.FixtureRequest) -> SteerableHFLLM:
    return vision_llm(request.param)


@torch.no_grad()
def slow_ends(llm: Any, last: int = 1, site: str = "block") -> tuple[list[Tensor], list[Tensor]]:
    """Per pair what every block gives at the end of its good and of its bad answer, `[L, w]`."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for each in PAIRS:
        for ends, answer in zip(found, (each.good, str(each.bad)), strict=True):
            ids = llm.encode_answer(answer)[:-1]
            _, states, _ = slow_pass(llm, slow_inputs(llm, each.messages, ids), site=site)
            ends.append(torch.stack([h[-last:].mean(0) for h in states]))
    return found


def slow_deltas(llm: Any) -> Tensor:
    good, bad = slow_ends(llm)
    return torch.stack(good) - torch.stack(bad)


def build(llm: Any, method: str, **settings: Any) -> Any:
    return build_vector(llm, PAIRS, method, progress=False, **settings)


def assert_directions(vector: Any, expected: Any) -> None:
    for layer, direction in vector.directions.items():
        torch.testing.assert_close(direction, expected[layer], rtol=1e-3, atol=1e-5)


def test_caa_is_the_mean_difference(llm: SteerableHFLLM) -> None:
    vector = build(llm, "caa")
    assert_directions(vector, slow_deltas(llm).mean(0))
    with torch.no_grad():
        lengths = [
            slow_pass(llm, slow_inputs(llm, each.messages))[1][0][-1].norm() for each in PAIRS
        ]
    assert vector.scales[0] == pytest.approx(float(torch.stack(lengths).mean()), rel=1e-4)


def test_icv_is_the_component_over_all_blocks(llm: SteerableHFLLM) -> None:
    deltas = slow_deltas(llm)
    expected = aggregate(deltas.flatten(1), "pca_plus_mean").view(deltas.shape[1:])
    assert_directions(build(llm, "icv"), expected)


def test_repe_is_the_component_of_differences_in_random_order(llm: SteerableHFLLM) -> None:
    deltas, coins = slow_deltas(llm), _coins(len(PAIRS), 0)
    expected = [reading_vector(deltas[:, layer], coins) for layer in range(deltas.shape[1])]
    assert_directions(build(llm, "repe"), expected)
    asked = build(llm, "repe", positive="Look at the image.", negative="Do not look.")
    assert asked.directions[0].any()


@pytest.mark.parametrize(("method", "last"), [("iti", 1), ("nl_iti", 4)])
def test_directions_of_heads_are_those_of_the_states_before_the_projection(
    llm: SteerableHFLLM, method: str, last: int
) -> None:
    good, bad = slow_ends(llm, last, "heads")
    vector = build(llm, method, heads=100)
    states = torch.stack([*good, *bad])
    labels = torch.tensor([1.0] * len(good) + [0.0] * len(bad))
    heads = states.unflatten(-1, (4, -1))
    expected = [
        torch.cat([head_direction(heads[:, layer, head], labels) for head in range(4)])
        for layer in range(states.shape[1])
    ]
    assert_directions(vector, expected)


def test_weighed_vectors_are_trained_on_these_states(llm: SteerableHFLLM) -> None:
    good, bad = map(torch.stack, slow_ends(llm))
    config = MatSteerConfig(steps=3)
    everybody = [torch.ones(len(PAIRS), dtype=torch.bool)]
    expected, _ = train_weighed(good[:, 1], bad[:, 1], everybody, config)
    vector = build(llm, "mat_steer", steps=3)
    torch.testing.assert_close(vector.weighed[1].vectors, expected.vectors, rtol=1e-2, atol=1e-5)


def test_contextfocus_takes_the_words_away_and_leaves_the_image(llm: SteerableHFLLM) -> None:
    [asked] = [each.messages for each in PAIRS if CONTEXT in each.messages[0].content]
    bare = question_alone(asked)
    assert bare is not None
    full = instructed(asked, INSTRUCTION)
    states = []
    with torch.no_grad():
        for messages in (full, bare):
            _, found, _ = slow_pass(llm, slow_inputs(llm, messages))
            states.append(torch.stack([h[-1] for h in found]))
    assert bare[0].images
    assert_directions(build(llm, "contextfocus"), states[0] - states[1])


@pytest.mark.filterwarnings("ignore:the training made the good answers less likely")
def test_bipo_trains_on_what_the_model_says_of_the_image(llm: SteerableHFLLM) -> None:
    with torch.no_grad():
        before = {
            side: sum(float(slow_log_prob(llm, p.messages, str(text))) for p, text in answers)
            / len(PAIRS)
            for side, answers in (
                ("good", [(p, p.good) for p in PAIRS]),
                ("bad", [(p, p.bad) for p in PAIRS]),
            )
        }
    vector = build(llm, "bipo", loss="preference", bidirectional=True, steps=4)
    told = vector.provenance.facts["log_prob"]
    assert told["good"]["before"] == pytest.approx(before["good"], abs=2e-3)
    assert told["bad"]["before"] == pytest.approx(before["bad"], abs=2e-3)
    margin = {when: told["good"][when] - told["bad"][when] for when in ("before", "after")}
    assert margin["after"] > margin["before"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_lora_is_trained_on_the_decoder_alone(llm: SteerableHFLLM) -> None:
    pytest.importorskip("peft")
    with torch.no_grad():
        total = sum(float(slow_log_prob(llm, each.messages, each.good)) for each in PAIRS)
    tokens = sum(len(llm.encode_answer(each.good)) for each in PAIRS)
    settings = LoraSettings(objective="sft", rank=2, epochs=1, learning_rate=1e-3)
    lora = train_lora(llm, PAIRS, settings)
    assert lora.provenance.facts["first_loss"] == pytest.approx(-total / tokens, rel=1e-4)
    assert lora.weights
    assert all("language_model" in name for name in lora.weights)


@pytest.mark.parametrize("method", ["caa", "bipo", "contextfocus", "grains"])
def test_a_model_of_text_names_the_pair_that_it_cannot_read(tiny_llm: Any, method: str) -> None:
    one = pair(0, "A shop.", "A cat.", CONTEXT)
    with pytest.raises(PairError, match=r"pair p0: message 0 holds an image: .* text only") as told:
        build_vector(tiny_llm, [one], method, progress=False)
    assert "\n" not in str(told.value)


def test_pairs_of_text_are_read_as_before(llm: SteerableHFLLM) -> None:
    text = [PreferencePair("Where is the shop?", "In Lyon.", "In Nice.")]
    alone = build_vector(llm, text, "caa", progress=False)
    expected = []
    with torch.no_grad():
        for answer in ("In Lyon.", "In Nice."):
            inputs = slow_inputs(llm, text[0].messages, llm.encode_answer(answer)[:-1])
            expected.append(slow_pass(llm, inputs)[1][0][-1])
    torch.testing.assert_close(alone.directions[0], expected[0] - expected[1], rtol=1e-3, atol=1e-5)

"""CAD and AdaCAD against their equations, token by token, alone and in batches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import entropy
from slow_states import PAIRS

from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import InvalidInputError
from steerable_llm.runtime.hooks import steering_hooks
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.contrast import jensen_shannon as jensen_shannon_divergence
from steerable_llm.vector.steering import Steering

logits = st.lists(st.floats(-6, 6, width=32), min_size=4, max_size=4).map(torch.tensor)
PROMPT = PAIRS[0].messages
BARE = "Question: When does it open?"


def jensen_shannon(p: Any, q: Any) -> float:
    # Not scipy's distance: its root of a divergence that rounding has made negative is no number.
    middle = (p + q) / 2
    return float((entropy(p, middle, base=2) + entropy(q, middle, base=2)) / 2)


@given(logits, logits)
@example(torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.8863678619140956e-08]))
def test_the_divergence_is_that_of_scipy(one: torch.Tensor, other: torch.Tensor) -> None:
    p, q = (x.double().softmax(-1).numpy() for x in (one, other))
    expected = jensen_shannon(p, q)
    assert float(jensen_shannon_divergence(one, other)) == pytest.approx(expected, abs=1e-4)


@given(logits, logits, st.floats(0, 3))
def test_cad_is_its_equation(one: torch.Tensor, other: torch.Tensor, alpha: float) -> None:
    expected = [
        (1 + alpha) * a - alpha * b for a, b in zip(one.tolist(), other.tolist(), strict=True)
    ]
    found = Contrast("cad", alpha).combine(one, other)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_adacad_weighs_by_the_divergence_of_each_token() -> None:
    one = torch.tensor([[4.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    other = torch.tensor([[0.0, 4.0, 0.0], [1.0, 1.0, 1.0]])
    found = Contrast("adacad").combine(one, other)
    weight = float(jensen_shannon_divergence(one[0], other[0]))
    assert 0.5 < weight < 1
    torch.testing.assert_close(found[0], (1 + weight) * one[0] - weight * other[0])
    torch.testing.assert_close(found[1], one[1])  # nothing to contrast, nothing changed


def test_what_is_impossible_stays_impossible() -> None:
    one = torch.tensor([0.0, -math.inf, 1.0])
    for kind in ("cad", "adacad"):
        found = Contrast(kind, 0.5).combine(one, one)
        assert found[1] == -math.inf
        assert not torch.isnan(found).any()


@pytest.mark.parametrize("kind", ["cad", "adacad"])
def test_the_largest_alpha_still_gives_scores(kind: Any) -> None:
    one, other = torch.tensor([4.0, 0.0, -math.inf]), torch.tensor([0.0, 4.0, -math.inf])
    found = Contrast(kind, 1e308).combine(one, other)
    assert found.argmax() == 0
    assert torch.isfinite(found[:2]).all()


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="unknown contrast 'dola'"):
        Contrast("dola")  # type: ignore[arg-type]
    for alpha in (-0.1, math.inf, math.nan):
        with pytest.raises(InvalidInputError, match="0 or more"):
            Contrast("cad", alpha)


def slow_contrast(llm: Any, contrast: Contrast, length: int, steering: Any = None) -> list[int]:
    """Two full passes per token, no caches, no batches, equations written out."""
    answer: list[int] = []
    for _ in range(length):
        pair = []
        for messages, how in ((PROMPT, steering), (BARE, None)):
            ids = torch.tensor([[*llm.encode(messages), *answer]])
            pair.append(_last_logits(llm, ids, len(llm.encode(messages)), how))
        p, q = (x.double().softmax(-1).numpy() for x in pair)
        a = contrast.alpha
        if contrast.kind == "adacad":
            a *= jensen_shannon(p, q)
        answer.append(int(((1 + a) * pair[0] - a * pair[1]).argmax()))
        if answer[-1] in llm.end_ids:
            break
    return answer


def _last_logits(llm: Any, ids: torch.Tensor, prompt: int, steering: Any) -> torch.Tensor:
    plan = SteeringPlan([steering or Steering.none()], torch.ones_like(ids), prompt - 1)
    with torch.no_grad(), steering_hooks(llm.blocks, plan):
        found: torch.Tensor = llm.model(ids).logits[0, -1].double()
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("contrast", [Contrast("cad", 1.0), Contrast("adacad")])
def test_decoding_with_two_caches_equals_two_full_passes_per_token(
    make_llm: Any, make_vector: Any, family: str, contrast: Contrast
) -> None:
    llm = make_llm(family)
    for steering in (None, make_vector(llm).steer(0.3)):
        request = GenerationRequest(PROMPT, steering, max_new_tokens=8, contrast=contrast)
        (answer,) = llm.generate_batch([request])
        assert list(answer.token_ids) == slow_contrast(llm, contrast, 8, steering)
        assert bool(answer.steered) == (steering is not None)


def test_a_batch_of_contrasted_and_plain_rows_equals_one_by_one(
    tiny_llm: Any, tiny_vector: Any
) -> None:
    requests = [
        GenerationRequest(PAIRS[0].messages, max_new_tokens=9, contrast=Contrast("cad", 0.7)),
        GenerationRequest(PAIRS[1].messages, max_new_tokens=4),
        GenerationRequest("Why?", max_new_tokens=7, contrast=Contrast("cad", 2.0)),
        GenerationRequest(
            PAIRS[2].messages, tiny_vector.steer(0.4), max_new_tokens=6, contrast=Contrast("adacad")
        ),
        GenerationRequest(
            PAIRS[3].messages, max_new_tokens=6, temperature=0.8, seed=5, contrast=Contrast()
        ),
    ]
    together = tiny_llm.generate_batch(requests)
    for request, answer in zip(requests, together, strict=True):
        assert tiny_llm.generate_batch([request])[0].token_ids == answer.token_ids
    plain = [tiny_llm.generate(request.messages, max_new_tokens=4) for request in requests]
    # The effect exists, and a prompt without a context is answered as ever.
    assert together[0].token_ids[:4] != plain[0].token_ids
    assert together[2].token_ids[:4] == plain[2].token_ids


def test_every_way_in_takes_a_contrast(tiny_llm: Any) -> None:
    prompt = "Context:\nThe shop opens at nine.\n\nQuestion: When does the shop open?"
    contrast = Contrast("cad", 1.5)
    request = GenerationRequest(prompt, max_new_tokens=8, contrast=contrast)
    expected = tiny_llm.generate_batch([request])[0]
    assert expected.text != tiny_llm.generate(prompt, max_new_tokens=8).text
    assert tiny_llm.generate(prompt, max_new_tokens=8, contrast=contrast) == expected
    *_, last = tiny_llm.stream(prompt, max_new_tokens=8, contrast=contrast)
    assert last.final == expected
    chat = tiny_llm.as_langchain(max_tokens=8)
    assert chat.invoke(prompt, contrast=contrast).content == expected.text
    assert chat.bind(contrast=contrast).invoke(prompt).content == expected.text
    model = tiny_llm.as_llama_index(max_tokens=8)
    assert model.complete(prompt, contrast=contrast).text == expected.text


def test_alpha_zero_is_plain_decoding(tiny_llm: Any) -> None:
    contrasted = GenerationRequest(PROMPT, max_new_tokens=8, contrast=Contrast("cad", 0.0))
    assert (
        tiny_llm.generate_batch([contrasted])[0].token_ids
        == tiny_llm.generate(PROMPT, max_new_tokens=8).token_ids
    )

"""RepE's reading vectors against the covariance matrix, and where the coin matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from slow_states import PAIRS, slow_component, slow_deltas, slow_states

from steerable_llm.errors import AttributionError, InvalidInputError
from steerable_llm.methods.build import build_vector
from steerable_llm.methods.repe import _coins, reading_vector


def agrees(found: torch.Tensor, expected: Any) -> bool:
    return abs(float(found.double().numpy() @ expected)) > 1 - 1e-5


def test_a_direction_is_the_first_component_of_differences_in_random_order(tiny_llm: Any) -> None:
    vector = build_vector(tiny_llm, PAIRS, method="repe", progress=False)
    coins = np.array(_coins(len(PAIRS), 0))[:, None]
    for layer in (0, 1):
        deltas = slow_deltas(tiny_llm, PAIRS, layer)
        assert agrees(vector.directions[layer], slow_component(deltas * coins))
        higher = (deltas @ vector.directions[layer].double().numpy() > 0).mean()
        assert higher >= 0.5


def test_instructions_contrast_the_prompt_with_itself(tiny_llm: Any) -> None:
    how = {"positive": "Use the text.", "negative": "Use your memory."}
    vector = build_vector(tiny_llm, PAIRS, method="repe", progress=False, **how)

    def state(pair: Any, instruction: str) -> Any:
        messages = [{"role": "system", "content": instruction}, *pair.prompt]
        return slow_states(tiny_llm, tiny_llm.encode(messages))[1][-1]

    deltas = np.array([state(p, how["positive"]) - state(p, how["negative"]) for p in PAIRS])
    coins = np.array(_coins(len(PAIRS), 0))[:, None]
    assert agrees(vector.directions[1], slow_component(deltas * coins))
    assert vector.provenance.facts["contrast"] == "instructions"


def test_the_coin_keeps_what_all_differences_share() -> None:
    source = torch.Generator().manual_seed(1)
    planted = torch.nn.functional.normalize(torch.randn(16, generator=source), dim=0)
    deltas = 3 * planted + 0.3 * torch.randn(40, 16, generator=source)
    assert float(reading_vector(deltas, _coins(40, 0)) @ planted) > 0.99
    without_coin = reading_vector(deltas, [1] * 40)
    assert abs(float(without_coin @ planted)) < 0.9


def test_coins_are_half_heads_and_half_tails() -> None:
    assert sum(_coins(10, 3)) == 0
    assert _coins(10, 3) == _coins(10, 3)
    assert _coins(10, 3) != _coins(10, 4)


def test_half_a_contrast_and_a_single_pair_are_refused(tiny_llm: Any) -> None:
    with pytest.raises(InvalidInputError, match="both a positive and a negative"):
        build_vector(tiny_llm, PAIRS, method="repe", progress=False, positive="Be kind.")
    with pytest.raises(AttributionError, match="at least 2 pairs"):
        build_vector(tiny_llm, PAIRS[:1], method="repe", progress=False)

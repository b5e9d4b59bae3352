"""Prompts of one pair that open alike are run together, and give what each gives by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from slow_states import PAIRS
from torch import Tensor

from steerable_llm.methods.grains.objective import EncodedPair, PreferenceObjective
from steerable_llm.runtime.hooks import intercepted

CHANGES = {
    "the first token": (0,),
    "one in the middle": (7,),
    "the last token": (-1,),
    "two of them": (5, 12),
    "nothing": (),
}


@pytest.fixture
def objective(tiny_llm: Any) -> PreferenceObjective:
    encoded = [
        EncodedPair(
            pair.id,
            tuple(tiny_llm.encode(pair.prompt)),
            tuple(tiny_llm.encode_answer(pair.good)),
            tuple(tiny_llm.encode_answer(str(pair.bad))),
        )
        for pair in PAIRS[:2]
    ]
    return PreferenceObjective(tiny_llm.model, encoded)


def variants(objective: PreferenceObjective, index: int) -> list[tuple[int, Tensor]]:
    x = objective.embeddings(index)
    found = [(index, x)]
    for places in CHANGES.values():
        other = x.clone()
        other[list(places)] = 0
        found.append((index, other))
    return found


def test_each_gives_what_it_gives_by_itself(tiny_llm: Any, objective: PreferenceObjective) -> None:
    assert objective.reader.packs
    prompts = [*variants(objective, 0), *variants(objective, 1)]
    together = objective.decision_states(tiny_llm, prompts)
    objective.reader.packs = False
    apart = torch.cat([objective.decision_states(tiny_llm, [prompt]) for prompt in prompts])
    assert together.shape == apart.shape
    # Rounding must be nothing beside what the change of a single token does.
    least = min(float((apart[i] - apart[0]).norm()) for i in range(1, len(CHANGES)))
    assert float((together - apart).norm()) < 1e-3 * least


def test_what_they_open_with_is_run_once(tiny_llm: Any, objective: PreferenceObjective) -> None:
    length = len(objective.pairs[0].prompt) + len(objective.pairs[0].stem)
    columns = []

    def look(named: dict[str, Any]) -> None:
        columns.append(named["inputs_embeds"].shape[1])

    whole, _, middle, *_ = variants(objective, 0)
    with intercepted(tiny_llm.model.base_model, look):
        objective.decision_states(tiny_llm, [whole, middle])
    assert columns == [2 * length - CHANGES["one in the middle"][0]]

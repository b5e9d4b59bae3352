"""Pairs that are read in parts give the vector that they give together."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from steerable_llm.errors import InvalidInputError, MissingExtraError
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.methods.build import build, build_vector
from steerable_llm.methods.grains.grains import (
    GrainsConfig,
    combine_grains,
    extract_grains,
    gather_grains,
)
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.runtime.ray_workers import RayWorkers

pytestmark = pytest.mark.filterwarnings("ignore:the token scores miss")
PAIRS = Pairs(
    PreferencePair(f"Where is the {what} in {city}?", f"In {city}.", "Nobody knows.")
    for what in ("shop", "tall old tower")
    for city in ("Lyon", "Paris", "Rome")
)


@pytest.mark.parametrize("aggregation", ["mean", "pca"])
@pytest.mark.parametrize("attribution", ["integrated_gradients", "smoothgrad", "random"])
def test_parts_of_the_pairs_give_the_vector_of_all(
    tiny_llm: Any, attribution: Any, aggregation: Any
) -> None:
    config = GrainsConfig(attribution=attribution, aggregation=aggregation, seed=3)
    whole = extract_grains(tiny_llm, PAIRS, config)
    parts = [
        gather_grains(tiny_llm, PAIRS[first : first + 4], config, first=first) for first in (0, 4)
    ]
    joined = combine_grains(tiny_llm, parts, config)
    assert [each.positive for each in joined.attributions] == [
        each.positive for each in whole.attributions
    ]
    for layer, direction in whole.directions.items():
        torch.testing.assert_close(joined.directions[layer], direction, rtol=1e-3, atol=1e-4)
        assert joined.scales[layer] == pytest.approx(whole.scales[layer], rel=1e-5)
    assert joined.differences is not None
    assert whole.differences is not None
    torch.testing.assert_close(joined.differences, whole.differences, rtol=1e-3, atol=1e-4)


def test_workers_are_refused_where_they_cannot_help(
    tiny_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInputError, match="number of workers is 0"):
        RayWorkers(0)
    with pytest.raises(InvalidInputError, match="or build with grains"):
        build_vector(tiny_llm, PAIRS, method="caa", workers=RayWorkers(2), progress=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"steerable-llm\[ray\]"):
        build(tiny_llm, PAIRS, workers=RayWorkers(2), progress=False)


def test_a_model_that_cannot_be_loaded_again_is_refused(
    tiny_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    with pytest.raises(InvalidInputError, match="from_pretrained"):
        build(tiny_llm, PAIRS, workers=RayWorkers(2), progress=False)
    with pytest.raises(InvalidInputError, match="from_pretrained"):
        evaluate(tiny_llm, "cad=0.5", PAIRS, workers=RayWorkers(2), progress=False)

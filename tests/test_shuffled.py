"""The control of shuffled labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from slow_states import PAIRS, slow_deltas

from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.evaluation.shuffled import shuffled_vectors, swap_half
from steerable_llm.methods.build import build_vector
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.vector import SteeringVector

pytestmark = pytest.mark.filterwarnings("ignore:the token scores miss")


def calibrated(llm: Any, method: str, **config: Any) -> SteeringVector:
    made = build_vector(llm, PAIRS, method=method, name="v", progress=False, **config)
    return made.with_calibration(Calibration(0.1, scope="all", remark="by hand"))


@pytest.mark.parametrize("number", [2, 3, 6])
def test_half_of_the_pairs_are_swapped_and_nothing_else_changes(number: int) -> None:
    pairs = PAIRS[:number]
    swapped = swap_half(pairs, seed=3)
    turned = [
        (mine.good, mine.bad) == (old.bad, old.good)
        for mine, old in zip(swapped, pairs, strict=True)
    ]
    assert sum(turned) == number // 2
    for mine, old, was_turned in zip(swapped, pairs, turned, strict=True):
        assert mine.messages == old.messages
        assert was_turned or mine == old


def test_another_seed_swaps_others() -> None:
    assert len({swap_half(PAIRS, seed).digest for seed in range(6)}) > 1
    assert swap_half(PAIRS, 1) == swap_half(PAIRS, 1)


def test_the_control_is_the_method_on_swapped_pairs_at_the_vectors_length(tiny_llm: Any) -> None:
    vector = calibrated(tiny_llm, "caa")
    (control,) = shuffled_vectors(tiny_llm, vector, PAIRS, [0])
    turned = [pair.good != old.good for pair, old in zip(swap_half(PAIRS, 0), PAIRS, strict=True)]
    for layer in (0, 1):
        deltas = torch.tensor(slow_deltas(tiny_llm, PAIRS, layer))
        signs = torch.tensor([-1.0 if flag else 1.0 for flag in turned], dtype=torch.float64)
        slow = (deltas * signs[:, None]).mean(0)
        expected = slow * (vector.directions[layer].double().norm() / slow.norm())
        torch.testing.assert_close(
            control.directions[layer].double(), expected, rtol=1e-3, atol=1e-4
        )
    assert control.calibration == vector.calibration
    assert control.name == "v-shuffled0"


@pytest.mark.parametrize("method", ["grains", "icv", "iti", "mat_steer", "repe"])
def test_every_method_that_reads_the_labels_has_such_a_control(tiny_llm: Any, method: str) -> None:
    config = {"heads": 2} if method == "iti" else {}
    vector = calibrated(tiny_llm, method, **config)
    one, two = shuffled_vectors(tiny_llm, vector, PAIRS, [0, 1])
    assert one.fingerprint_id != two.fingerprint_id != vector.fingerprint_id
    assert one.application == vector.application
    tiny_llm.generate("When?", one.steer(), max_new_tokens=2)


def test_swapped_grains_points_elsewhere_than_the_vector(tiny_llm: Any) -> None:
    vector = calibrated(tiny_llm, "grains", k=2)
    (control,) = shuffled_vectors(tiny_llm, vector, PAIRS, [0])
    assert control.provenance.config == vector.provenance.config
    for layer, direction in vector.directions.items():
        other = control.directions[layer]
        assert float(other.norm()) == pytest.approx(float(direction.norm()), rel=1e-4)
        assert abs(float(torch.cosine_similarity(direction, other, dim=0))) < 0.95


def test_where_labels_play_no_part_the_control_would_be_the_vector(tiny_llm: Any) -> None:
    with pytest.raises(InvalidInputError, match="does not ask which answer is the good one"):
        shuffled_vectors(tiny_llm, calibrated(tiny_llm, "contextfocus"), PAIRS, [0])


def test_pairs_that_cannot_be_swapped_are_refused(tiny_llm: Any) -> None:
    vector = calibrated(tiny_llm, "caa")
    with pytest.raises(InvalidInputError, match="was built from other pairs"):
        shuffled_vectors(tiny_llm, vector, PAIRS[:4], [0])
    with pytest.raises(PairError, match="at least two"):
        swap_half(PAIRS[:1])
    with pytest.raises(PairError, match="no bad answer to swap with"):
        swap_half(Pairs([PAIRS[0], PreferencePair("When?", "At nine.")]))

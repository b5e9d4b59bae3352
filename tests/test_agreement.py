"""The pre-flight badge: what pairs with and without a common direction come to."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_states import PAIRS, slow_deltas

from steerable_llm.methods import METHODS
from steerable_llm.methods.agreement import agreement_of
from steerable_llm.methods.build import build_vector
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.vector.provenance import Agreement, Provenance

pytestmark = pytest.mark.filterwarnings("ignore:the token scores miss")


def slow_cosine(rows: list[list[float]], place: int) -> float:
    """One pair's cosine with the mean of the others, number by number."""
    others = [row for other, row in enumerate(rows) if other != place]
    mean = [sum(column) / len(others) for column in zip(*others, strict=True)]
    product = sum(a * b for a, b in zip(rows[place], mean, strict=True))
    return product / math.dist(rows[place], [0] * len(mean)) / math.dist(mean, [0] * len(mean))


def test_it_is_the_mean_cosine_with_the_mean_of_the_others() -> None:
    differences = torch.randn((7, 2, 5), generator=torch.Generator().manual_seed(0))
    found = agreement_of(differences, (3, 8))
    assert found is not None
    for column, layer in enumerate((3, 8)):
        rows = differences[:, column].tolist()
        cosines = [slow_cosine(rows, place) for place in range(7)]
        assert found.layers[layer].cosine == pytest.approx(sum(cosines) / 7)
        assert found.layers[layer].share == pytest.approx(sum(c > 0 for c in cosines) / 7)
    assert found.cosine == pytest.approx(sum(x.cosine for x in found.layers.values()) / 2)


def test_a_pair_that_agrees_in_most_blocks_counts_as_agreeing() -> None:
    differences = torch.ones(4, 3, 2)
    differences[0, 0] = -1.0  # against the others in one block of three
    differences[1] = -1.0  # in all
    found = agreement_of(differences, (0, 1, 2))
    assert found is not None
    assert found.share == 0.75


@pytest.mark.parametrize(
    ("noise", "badge"), [(0.0, "strong"), (2.0, "strong"), (5.0, "fair"), (1e9, "weak")]
)
def test_the_badge_falls_as_the_common_direction_drowns(noise: float, badge: str) -> None:
    source = torch.Generator().manual_seed(1)
    common = torch.nn.functional.normalize(torch.randn(64, generator=source), dim=0)
    own = torch.randn((50, 3, 64), generator=source) / 8
    found = agreement_of(common + noise * own, range(3))
    assert found is not None
    assert found.badge == badge
    assert found.line.startswith(f"pre-flight {badge}: ")
    assert "proves nothing" in found.line


@settings(max_examples=30)
@given(n=st.integers(2, 12), seed=st.integers(0, 1000))
def test_length_does_not_count_and_direction_does(n: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    deltas = torch.randn((n, 1, 6), generator=source)
    found = agreement_of(deltas, (0,))
    longer = agreement_of(deltas * 37.0, (0,))
    opposite = agreement_of(-deltas, (0,))
    assert found is not None
    assert longer is not None
    assert opposite is not None
    assert -1 <= found.cosine <= 1
    assert found.cosine == pytest.approx(longer.cosine, abs=1e-6)
    assert found.cosine == pytest.approx(opposite.cosine, abs=1e-6)


def test_few_pairs_need_more_than_chance() -> None:
    layers = {0: {"cosine": 0.4, "share": 0.8}}
    few, many = (
        Agreement.model_validate({"pairs": n, "cosine": 0.4, "share": 0.8, "layers": layers})
        for n in (8, 50)
    )
    assert (few.badge, many.badge) == ("weak", "strong")


def test_one_pair_has_nothing_to_agree_with_and_zeros_agree_with_nobody() -> None:
    assert agreement_of(torch.ones(1, 2, 3), (0, 1)) is None
    found = agreement_of(torch.zeros(3, 1, 4), (0,))
    assert found is not None
    assert (found.cosine, found.share, found.badge) == (0.0, 0.0, "weak")


# A vector that is trained as a whole has nothing that each pair says by itself.
@pytest.mark.parametrize(
    "method", [name for name, m in METHODS.items() if name != "bipo" and not m.images]
)
def test_every_method_keeps_the_badge_with_its_vector(tiny_llm: Any, method: str) -> None:
    vector = build_vector(tiny_llm, PAIRS, method=method, progress=False)
    found = vector.provenance.agreement
    assert found is not None
    assert found.pairs == len(PAIRS)
    assert vector.provenance.record()["agreement"]["badge"] == found.badge
    assert set(found.layers) == set(range(len(tiny_llm.blocks)))


def test_of_caa_it_is_that_of_the_answers_states(tiny_llm: Any) -> None:
    found = build_vector(tiny_llm, PAIRS, method="caa", progress=False).provenance.agreement
    rows = slow_deltas(tiny_llm, PAIRS, 1).tolist()
    cosines = [slow_cosine(rows, place) for place in range(len(rows))]
    assert found is not None
    assert found.layers[1].cosine == pytest.approx(sum(cosines) / len(cosines), abs=1e-4)


def test_of_grains_it_is_that_of_the_deltas_that_the_mean_is_made_of(tiny_llm: Any) -> None:
    vector = build_vector(tiny_llm, PAIRS, aggregation="mean", progress=False)
    one_by_one = [
        build_vector(tiny_llm, PAIRS[i : i + 1], aggregation="mean", progress=False)
        for i in range(len(PAIRS))
    ]
    rows = [one.directions[1].tolist() for one in one_by_one]
    cosines = [slow_cosine(rows, place) for place in range(len(rows))]
    found = vector.provenance.agreement
    assert found is not None
    assert found.layers[1].cosine == pytest.approx(sum(cosines) / len(cosines), abs=1e-3)


def test_what_another_version_kept_is_no_agreement() -> None:
    assert Provenance.from_record({}).agreement is None
    assert Provenance.from_record({"agreement": {"score": 3}}).agreement is None


@pytest.mark.parametrize("method", ["caa", "contextfocus"])
def test_copies_of_a_pair_count_once(tiny_llm: Any, method: str) -> None:
    pairs = Pairs([PreferencePair("No documents?", "None.", "Some."), *PAIRS])
    again = (PreferencePair(p.messages, p.good, p.bad, id=f"copy-{p.id}") for p in pairs)
    found, copied = (
        build_vector(tiny_llm, some, method=method, progress=False).provenance.agreement
        for some in (pairs, Pairs([*pairs, *pairs, *again]))
    )
    assert found is not None
    assert copied is not None
    assert copied.pairs == found.pairs == len(pairs) - (method == "contextfocus")
    assert copied.cosine == pytest.approx(found.cosine, abs=1e-5)
    assert copied.badge == found.badge

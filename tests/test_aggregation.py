"""One direction out of many deltas, beside scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from steerable_llm.errors import AttributionError
from steerable_llm.methods.aggregation import AGGREGATIONS, aggregate
from steerable_llm.methods.build import build_vector
from steerable_llm.pairs.pair import Pairs, PreferencePair


@pytest.fixture
def deltas():
    source = torch.Generator().manual_seed(0)
    spread = torch.tensor([5.0, 2.0, 1.0, 0.5, 0.1])
    return torch.randn(30, 5, generator=source) * spread + torch.tensor([0.0, 3, -1, 0, 0.2])


def oriented(component, deltas):
    return component * np.sign(deltas.numpy().mean(0) @ component)


def test_pca_is_scikit_learns_first_component(deltas):
    expected = oriented(PCA(1).fit(deltas.numpy()).components_[0], deltas)
    np.testing.assert_allclose(aggregate(deltas, "pca").numpy(), expected, atol=1e-5)


def test_uncentred_pca_is_the_first_singular_vector(deltas):
    expected = oriented(np.linalg.svd(deltas.numpy(), full_matrices=False)[2][0], deltas)
    np.testing.assert_allclose(aggregate(deltas, "pca_uncentred").numpy(), expected, atol=1e-5)


def test_the_sum_of_both_is_the_unit_component_and_the_mean(deltas):
    both = aggregate(deltas, "pca") + aggregate(deltas, "mean")
    torch.testing.assert_close(aggregate(deltas, "pca_plus_mean"), both)
    torch.testing.assert_close(aggregate(deltas, "mean"), deltas.mean(0))


@pytest.mark.parametrize("strategy", AGGREGATIONS)
@pytest.mark.parametrize("sign", [1, -1])
def test_every_strategy_points_where_the_mean_does(deltas, strategy, sign):
    assert (sign * deltas).mean(0) @ aggregate(sign * deltas, strategy) > 0


def test_centred_pca_needs_two_deltas():
    with pytest.raises(AttributionError, match="at least 2 deltas and has 1: give more pairs"):
        aggregate(torch.ones(1, 5), "pca")


@pytest.mark.parametrize(
    ("method", "settings", "has_it"), [("grains", {"aggregation": "pca"}, True), ("icv", {}, False)]
)
def test_another_aggregation_is_offered_where_the_method_has_that_setting(
    tiny_llm, method, settings, has_it
):
    pair = Pairs([PreferencePair("Who wrote it?", "Ann Lee.", "Someone.", id="a")])
    with pytest.raises(AttributionError, match="at least 2 deltas") as told:
        build_vector(tiny_llm, pair, method, progress=False, **settings)
    assert ('aggregation="mean"' in str(told.value)) == has_it


def test_equal_deltas_have_no_centred_direction_but_an_uncentred_one():
    same = torch.tensor([3.0, 4.0]).expand(6, 2)
    assert torch.equal(aggregate(same, "pca"), torch.zeros(2))
    torch.testing.assert_close(aggregate(same, "pca_uncentred"), torch.tensor([0.6, 0.8]))

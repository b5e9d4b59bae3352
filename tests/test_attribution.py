"""Attribution over functions whose integrals are known in closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.errors import AttributionError
from steerable_llm.methods.grains.attribution import (
    completeness_error,
    gradient_path,
    integrated_gradients_path,
    quadrature_nodes,
    random_path,
    select_tokens,
    smoothgrad_path,
)

X = torch.tensor([[1.0, -2.0], [0.5, 3.0], [2.0, 0.0]])
ZERO = torch.zeros(2)


def cubes(points):
    """f(x) = sum of x^3, whose integrated gradients from zero are x^3 per coordinate."""
    return (points**3).sum((1, 2))


def product(points):
    """f(x) = product of the tokens' sums, which lets tokens interact."""
    return points.sum(2).prod(1)


def attribute(f, path):
    """The scores along a path of a function from points [N, T, d] to values [N]."""
    points = path.points.detach().requires_grad_(True)
    (gradients,) = torch.autograd.grad(f(points).sum(), points)
    return path.scores(gradients)


def integrated_gradients(f, x, baseline, steps=5, quadrature="right"):
    return attribute(f, integrated_gradients_path(x, baseline, steps, quadrature))


def smoothgrad(f, x, samples=5, seed=0):
    return attribute(f, smoothgrad_path(x, x, samples, seed=seed))


def random(x, seed):
    path = random_path(x, x, seed=seed)
    return path.scores(path.points)


def test_the_closed_form_of_cubes_is_met():
    exact = integrated_gradients(cubes, X, ZERO, steps=2, quadrature="gauss_legendre")
    torch.testing.assert_close(exact, (X**3).sum(1), rtol=1e-5, atol=1e-5)


def test_the_right_riemann_sum_is_the_papers():
    # d/dx x^3 = 3 x^2 at (k/m) x for k = 1..m, averaged: 3 x^2 (m + 1)(2m + 1) / (6 m^2).
    m = 5
    expected = (X**3).sum(1) * 3 * (m + 1) * (2 * m + 1) / (6 * m**2)
    torch.testing.assert_close(
        integrated_gradients(cubes, X, ZERO, steps=m), expected, rtol=1e-5, atol=1e-5
    )


def test_another_baseline_moves_the_path():
    baseline = torch.tensor([1.0, 1.0])
    scores = integrated_gradients(cubes, X, baseline, steps=2, quadrature="gauss_legendre")
    torch.testing.assert_close(scores, (X**3 - baseline**3).sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quadrature", ["right", "gauss_legendre"])
def test_completeness_converges_with_the_steps(quadrature):
    def f(points):
        return 0.1 * product(points) + torch.tanh(points.sum((1, 2)))

    gap = [float(f(points[None])) for points in (X, torch.zeros_like(X))]
    errors = [
        completeness_error(integrated_gradients(f, X, ZERO, m, quadrature), *gap)
        for m in (4, 16, 64, 256)
    ]
    assert errors[-1] < 0.1
    assert errors[-1] < errors[0]


@given(st.integers(1, 20), st.sampled_from(["right", "gauss_legendre"]))
def test_quadrature_weights_sum_to_one_inside_the_path(steps, quadrature):
    nodes, weights = quadrature_nodes(steps, quadrature)
    assert float(weights.sum()) == pytest.approx(1)
    assert ((nodes > 0) & (nodes <= 1)).all()


def test_gradient_and_smoothgrad_of_a_linear_function_are_its_slope():
    slope = torch.tensor([[1.0, 2.0], [3.0, -4.0], [0.0, 5.0]])

    def f(points):
        return (points * slope).sum((1, 2))

    torch.testing.assert_close(attribute(f, gradient_path(X, X)), slope.sum(1))
    torch.testing.assert_close(smoothgrad(f, X, samples=7), slope.sum(1))


def test_smoothgrad_is_the_mean_over_seeded_noise():
    assert torch.equal(smoothgrad(cubes, X, seed=1), smoothgrad(cubes, X, seed=1))
    assert not torch.equal(smoothgrad(cubes, X, seed=1), smoothgrad(cubes, X, seed=2))
    near = smoothgrad(cubes, X, samples=4000)
    noise = (0.15 * X.std()) ** 2  # E[3 (x + e)^2] = 3 x^2 + 3 var
    torch.testing.assert_close(near, (3 * X**2 + 3 * noise).sum(1), rtol=0.05, atol=0.1)


def test_random_scores_follow_the_seed():
    assert torch.equal(random(X, seed=4), random(X, seed=4))
    assert not torch.equal(random(X, seed=4), random(X, seed=5))


def test_gradients_that_are_not_finite_are_refused():
    with pytest.raises(AttributionError, match="NaN"):
        integrated_gradients(lambda points: torch.sqrt(points).sum((1, 2)), X, ZERO)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.booleans()), max_size=15),
    st.integers(1, 4),
)
def test_selection_respects_signs_flags_and_order(tokens, k):
    scores = [score for score, _ in tokens]
    flags = [flag for _, flag in tokens]
    positive, negative = select_tokens(scores, flags, k)
    for picked, sign in ((positive, 1), (negative, -1)):
        candidates = [i for i in range(len(tokens)) if flags[i] and sign * scores[i] > 0]
        assert len(picked) == min(k, len(candidates))
        assert set(picked) <= set(candidates)
        strengths = [sign * scores[i] for i in picked]
        assert strengths == sorted(strengths, reverse=True)
        left_out = [sign * scores[i] for i in candidates if i not in picked]
        assert not left_out or max(left_out) <= min(strengths)


def test_the_completeness_error_is_relative():
    assert completeness_error(torch.tensor([1.0, 2.0]), 5.0, 1.0) == pytest.approx(0.25)
    assert completeness_error(torch.tensor([0.0]), 1.0, 1.0) == 0
    assert completeness_error(torch.tensor([1.0]), 1.0, 1.0) == math.inf

"""In-context vectors against the flattened eigenproblem, and what they do to the MLPs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from slow_states import PAIRS, slow_component, slow_deltas

from steerable_llm.methods.build import build_vector
from steerable_llm.runtime.hooks import capture_site, steering_hooks
from steerable_llm.runtime.plan import SteeringPlan


def test_the_vector_is_one_component_over_all_layers_plus_the_mean(tiny_llm: Any) -> None:
    vector = build_vector(tiny_llm, PAIRS, method="icv", layers=(0, 1), progress=False)
    flat = np.concatenate([slow_deltas(tiny_llm, PAIRS, layer) for layer in (0, 1)], axis=1)
    component = slow_component(flat)
    mean = flat.mean(0)
    component *= np.sign(component @ mean)
    found = torch.cat([vector.directions[0], vector.directions[1]])
    np.testing.assert_allclose(found, component + mean, rtol=1e-3, atol=1e-3)


def test_every_mlp_output_is_turned_and_keeps_its_length(tiny_llm: Any) -> None:
    vector = build_vector(tiny_llm, PAIRS, method="icv", progress=False)
    ids = torch.tensor([tiny_llm.encode(PAIRS[0].messages)])
    steering = vector.steer(0.3 * len(vector.layers))
    assert {(t.site, t.rule, t.scope) for t in steering.terms} == {("mlp", "icv", "all")}
    plan = SteeringPlan([steering], torch.ones_like(ids), ids.shape[1] - 1)
    with torch.no_grad(), capture_site(tiny_llm.blocks, "mlp") as raw:
        with steering_hooks(tiny_llm.blocks, plan), capture_site(tiny_llm.blocks, "mlp") as turned:
            tiny_llm.model(ids)
    # Only of the first block is the input that of the unsteered pass in both captures.
    before, after = raw[0][0], turned[0][0]
    torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))
    v = vector.directions[0] / vector.directions[0].norm()
    unit = before / before.norm(dim=-1, keepdim=True)
    s = 1 + torch.relu(-(unit @ v))
    # The strength is spread over the blocks, so that each has the source's lambda of 0.3.
    expected = unit + (0.3 * s)[:, None] * v
    expected = expected / expected.norm(dim=-1, keepdim=True) * before.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-5)

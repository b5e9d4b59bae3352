"""Where MLPs and attention heads are in a block, and that steering really acts there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FAMILIES, HIDDEN, LAYERS
from torch import nn

from steerable_llm.answer.request import GenerationRequest
from steerable_llm.errors import UnknownArchitectureError
from steerable_llm.runtime.blocks import find_site
from steerable_llm.runtime.hooks import capture_block_outputs, capture_site, steering_hooks
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.steering import Application, Steering, WeighedVectors
from steerable_llm.vector.vector import SteeringVector

PROMPT = "The shop in Lyon opens at nine. When does the shop open?"

# Blocks that normalise what leaves the MLP before it joins the residual stream.
NORMALISED_AFTER = ("gemma2", "gemma3_text")


def vector_at(llm: Any, site: Any, rule: Any = "add", seed: int = 0) -> SteeringVector:
    """A random vector at a site, with the true lengths of what it steers."""
    ids = torch.tensor([llm.encode(PROMPT)])
    with torch.no_grad(), capture_site(llm.blocks, site) as seen:
        llm.model(ids)
    source = torch.Generator().manual_seed(seed)
    width = seen[0].shape[-1]
    weighed = {
        i: WeighedVectors(
            torch.randn(2, width, generator=source),
            torch.randn(2, generator=source),
            torch.randn(2, width, generator=source),
        )
        for i in range(LAYERS)
    }
    random = {i: torch.randn(width, generator=source) for i in range(LAYERS)}
    return SteeringVector(
        name=f"{site}-{rule}",
        directions={i: g.vectors.sum(0) for i, g in weighed.items()} if rule == "weigh" else random,
        scales={i: float(h.reshape(-1, width)[-1].norm()) for i, h in seen.items()},
        fingerprint=llm.fingerprint,
        application=Application(site=site, rule=rule, renormalise=rule != "add"),
        weighed=weighed if rule == "weigh" else {},
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_zeroed_mlp_leaves_the_block_without_its_share(make_llm: Any, family: str) -> None:
    llm = make_llm(family)
    ids = torch.tensor([llm.encode(PROMPT)])
    found = find_site(llm.blocks[0], "mlp")
    assert not found.on_input
    handle = found.module.register_forward_hook(lambda _m, _i, output: torch.zeros_like(output))
    try:
        with (
            torch.no_grad(),
            capture_block_outputs(llm.blocks) as outputs,
            capture_site(llm.blocks[:1], "heads") as heads,
        ):
            llm.model(ids)
        projected = find_site(llm.blocks[0], "heads").module(heads[0])
    finally:
        handle.remove()
    # Without its MLP, what is left of a block is the attention's share on the block's input.
    before = _block_input(llm, ids)
    share = outputs[0] - before
    if family in NORMALISED_AFTER:
        share, projected = (torch.nn.functional.normalize(x, dim=-1) for x in (share, projected))
        projected = _post_norm(llm, heads[0])
        share = outputs[0] - before
    torch.testing.assert_close(share.reshape(projected.shape), projected, rtol=1e-4, atol=1e-4)


def _post_norm(llm: Any, heads: torch.Tensor) -> torch.Tensor:
    block = llm.blocks[0]
    normed: torch.Tensor = block.post_attention_layernorm(block.self_attn.o_proj(heads))
    return normed


def _block_input(llm: Any, ids: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []

    def keep(_module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = llm.blocks[0].register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        llm.model(ids)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", ["mlp", "heads"])
def test_a_planted_addition_arrives_on_every_row_and_token(
    make_llm: Any, family: str, site: Any
) -> None:
    llm = make_llm(family)
    vector = vector_at(llm, site)
    ids = torch.tensor([llm.encode(PROMPT)] * 2)
    steering = Steering.of(vector, 0.5, unit="absolute", renormalise=False, scope="all")
    plan = SteeringPlan([steering, Steering.none()], torch.ones_like(ids), ids.shape[1] - 1)
    with torch.no_grad(), capture_site(llm.blocks, site) as raw:
        with steering_hooks(llm.blocks, plan), capture_site(llm.blocks, site) as steered:
            llm.model(ids)
        width = raw[0].shape[-1]
        change = (steered[0] - raw[0]).reshape(2, -1, width)
    torch.testing.assert_close(
        change[0], (0.5 * vector.directions[0]).expand_as(change[0]), rtol=1e-4, atol=1e-5
    )
    assert not change[1].any()
    assert plan.steered_tokens(0, steering.terms[0]) == ids.shape[1]


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bloom"])
@pytest.mark.parametrize(
    ("site", "rule"), [("mlp", "icv"), ("heads", "add"), ("block", "weigh"), ("block", "icv")]
)
def test_a_batch_of_mixed_sites_equals_one_by_one(
    make_llm: Any, make_vector: Any, family: str, site: Any, rule: Any
) -> None:
    llm = make_llm(family)
    there, plain = vector_at(llm, site, rule), make_vector(llm)
    steerings = [
        there.steer(0.3, scope="all"),
        Steering.none(),
        there.steer(-0.4, layers=(1,)) + plain.steer(0.2),
        there.steer(0.3, scope="prompt"),
        plain.steer(0.3),
        there.steer(0.0),
    ]
    prompts = [PROMPT, "Why?", "The capital of France is what?", "Who?", PROMPT, PROMPT]
    requests = [
        GenerationRequest(prompt, steering, max_new_tokens=8)
        for prompt, steering in zip(prompts, steerings, strict=True)
    ]
    together = llm.generate_batch(requests)
    for request, answer in zip(requests, together, strict=True):
        alone = llm.generate_batch([request])[0]
        assert alone.token_ids == answer.token_ids
        assert alone.steered == answer.steered
    assert together[5].token_ids == llm.generate(PROMPT, max_new_tokens=8).token_ids


@pytest.mark.parametrize(
    ("site", "rule"), [("mlp", "add"), ("mlp", "icv"), ("heads", "add"), ("block", "weigh")]
)
def test_cached_decoding_equals_one_full_pass(tiny_llm: Any, site: Any, rule: Any) -> None:
    vector = vector_at(tiny_llm, site, rule)
    ids = torch.tensor([tiny_llm.encode(PROMPT)])
    for scope in ("all", "generated", "prompt"):
        steering = vector.steer(0.3, scope=scope)
        split = 9
        whole = SteeringPlan([steering], torch.ones_like(ids), split - 1)
        parts = SteeringPlan([steering], torch.ones_like(ids[:, :split]), split - 1)
        with torch.no_grad(), steering_hooks(tiny_llm.blocks, whole):
            expected = tiny_llm.model(ids).logits
        with torch.no_grad(), steering_hooks(tiny_llm.blocks, parts):
            first = tiny_llm.model(ids[:, :split], use_cache=True)
            rest = [first.logits]
            for column in range(split, ids.shape[1]):
                rest.append(
                    tiny_llm.model(
                        ids[:, column : column + 1], past_key_values=first.past_key_values
                    ).logits
                )
        torch.testing.assert_close(torch.cat(rest, 1), expected, rtol=1e-4, atol=1e-4)
        term = steering.terms[0]
        assert whole.steered_tokens(0, term) == parts.steered_tokens(0, term)


@pytest.mark.parametrize(
    ("site", "rule"), [("mlp", "add"), ("mlp", "icv"), ("heads", "add"), ("block", "weigh")]
)
def test_strength_zero_is_bit_identical_and_leaves_no_hook(
    tiny_llm: Any, site: Any, rule: Any
) -> None:
    def hooks() -> int:
        modules = tiny_llm.model.modules()
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    before = hooks()
    vector = vector_at(tiny_llm, site, rule)
    plain = tiny_llm.answer_logits(PROMPT, "At nine.")
    assert torch.equal(tiny_llm.answer_logits(PROMPT, "At nine.", vector.steer(0.0)), plain)
    steered = tiny_llm.answer_logits(PROMPT, "At nine.", vector.steer(0.5))
    assert not torch.allclose(steered, plain, atol=1e-3)
    assert torch.equal(tiny_llm.answer_logits(PROMPT, "At nine."), plain)
    assert hooks() == before


class TwoMlps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(HIDDEN, HIDDEN))
        self.mlp_a = nn.Sequential(nn.Linear(HIDDEN, HIDDEN))
        self.mlp_b = nn.Sequential(nn.Linear(HIDDEN, HIDDEN))


def test_a_part_that_cannot_be_told_is_refused_with_the_parts_there_are() -> None:
    with pytest.raises(UnknownArchitectureError, match="mlp_a, mlp_b"):
        find_site(TwoMlps(), "mlp")
    with pytest.raises(UnknownArchitectureError, match="fitting: none"):
        find_site(nn.Linear(2, 2), "heads")

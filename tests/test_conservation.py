"""Conservative gradients beside relevance that is propagated by hand, layer by layer."""

import copy
import threading

import pytest
import torch
from conftest import FAMILIES

from steerable_llm.errors import InvalidInputError
from steerable_llm.methods.build import build
from steerable_llm.methods.grains import grains
from steerable_llm.methods.grains.conservation import conservation, proportional
from steerable_llm.methods.grains.objective import EncodedPair, PreferenceObjective
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.runtime.forward import frozen

IDS = list(range(20, 29))
# Each has one token of its own, so that f is a difference of two logits.
DECIDED_AT_ONCE = EncodedPair("once", tuple(IDS), (80,), (81,))
LONGER = EncodedPair("longer", tuple(IDS), (40, 50, 51, 2), (40, 60, 2))
LEARNED_POSITIONS = {"gpt2", "opt"}  # these are inputs as well, and take their part of f


def shares(model, pair):
    objective = PreferenceObjective(model, [pair])
    with conservation(model):
        (found,) = objective.gradients([(0, objective.embeddings(0)[None])])
    scores = (found.gradients[0] * objective.embeddings(0)).sum(-1)
    return scores, float(found.rest[0]), float(found.values[0])


def through_matrix(x, weight, relevance):
    """LRP-0: each input gets as much of an output's relevance as it has of its value."""
    return x * ((relevance / (x @ weight.T)) @ weight)


def slow_relevance(model, ids, good, bad):
    """Relevance of every input token for logit[good] - logit[bad] of a Llama, by hand."""
    model = copy.deepcopy(model).double()
    model.config._attn_implementation = "eager"
    with torch.no_grad():
        x = model.get_input_embeddings()(torch.tensor(ids))
        seen = model(inputs_embeds=x[None], output_attentions=True, output_hidden_states=True)
        kept = []
        for block, weights in zip(model.model.layers, seen.attentions, strict=True):
            attention, mlp = block.self_attn, block.mlp
            a = block.input_layernorm(x)
            values = a @ attention.v_proj.weight.T
            groups = attention.num_key_value_groups
            heads = values.view(len(ids), -1, attention.head_dim).repeat_interleave(groups, 1)
            mixed = torch.einsum("hij,jhd->ihd", weights[0], heads)
            after = x + mixed.flatten(1) @ attention.o_proj.weight.T
            b = block.post_attention_layernorm(after)
            gate, up = b @ mlp.gate_proj.weight.T, b @ mlp.up_proj.weight.T
            inner = torch.nn.functional.silu(gate) * up
            kept.append((block, x, a, heads, weights[0], mixed, after, b, inner))
            x = after + inner @ mlp.down_proj.weight.T
        last = model.model.norm(x)
        relevance = torch.zeros_like(x)
        reads = model.lm_head.weight[good] - model.lm_head.weight[bad]
        relevance[-1] = last[-1] * reads  # through the head and, unchanged, through the norm
        for block, x, a, heads, weights, mixed, after, b, inner in reversed(kept):
            attention, mlp = block.self_attn, block.mlp
            written = inner @ mlp.down_proj.weight.T
            share = relevance / (after + written)
            stays = after * share
            of_inner = through_matrix(inner, mlp.down_proj.weight, written * share)
            of_b = through_matrix(b, mlp.gate_proj.weight, of_inner / 2)
            of_b += through_matrix(b, mlp.up_proj.weight, of_inner / 2)
            relevance = stays + of_b
            written = mixed.flatten(1) @ attention.o_proj.weight.T
            share = relevance / (x + written)
            stays = x * share
            of_mixed = through_matrix(
                mixed.flatten(1), attention.o_proj.weight, written * share
            ).view_as(mixed)
            of_heads = heads * torch.einsum("hij,ihd->jhd", weights, of_mixed / mixed)
            groups = attention.num_key_value_groups
            of_values = of_heads.view(len(ids), -1, groups, attention.head_dim).sum(2).flatten(1)
            relevance = stays + through_matrix(a, attention.v_proj.weight, of_values)
        return relevance.sum(-1)


def test_scores_are_the_relevance_that_is_propagated_by_hand(make_tiny_model):
    model = make_tiny_model("llama")
    scores, _, _ = shares(model, DECIDED_AT_ONCE)
    expected = slow_relevance(model, IDS, 80, 81)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - LEARNED_POSITIONS))
def test_scores_add_up_to_the_preference(make_tiny_model, family, attention):
    model = copy.deepcopy(make_tiny_model(family))
    if attention == "sdpa" and not model._supports_sdpa:
        pytest.skip("the family has no such attention")
    model.set_attn_implementation(attention)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    scores, rest, value = shares(model, DECIDED_AT_ONCE)
    assert float(scores.sum()) + rest == pytest.approx(value, rel=1e-3, abs=1e-4)
    assert abs(value) > 1e-2


def test_of_longer_answers_the_entropies_are_left_over(make_tiny_model):
    # log p = z - log sum exp z, whose gradient times z is larger by the entropy of p.
    model = make_tiny_model("llama")
    scores, rest, value = shares(model, LONGER)
    entropies = 0.0
    for sign, answer in ((1, LONGER.good), (-1, LONGER.bad)):
        with torch.no_grad():
            logits = model(torch.tensor([[*IDS, *answer[:-1]]])).logits[0, len(IDS) - 1 :]
        entropies += sign * float(torch.distributions.Categorical(logits=logits).entropy().sum())
    assert rest != 0
    assert float(scores.sum()) + rest == pytest.approx(value + entropies, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_what_the_model_says_stays_what_it_is(make_tiny_model, family):
    model = make_tiny_model(family)
    ids = torch.tensor([IDS])
    with torch.no_grad():
        plain = model(ids).logits
    before = [len(module._forward_hooks) for module in model.modules()]
    x = model.get_input_embeddings()(ids).detach().requires_grad_(True)
    with frozen(model), conservation(model):
        held = model(inputs_embeds=x).logits
    torch.testing.assert_close(held, plain, rtol=1e-5, atol=1e-5)
    assert [len(module._forward_hooks) for module in model.modules()] == before


def test_gradients_outside_are_the_usual_ones(make_tiny_model):
    model = make_tiny_model("llama")

    def slope():
        x = model.get_input_embeddings()(torch.tensor([IDS])).detach().requires_grad_(True)
        with frozen(model):
            return torch.autograd.grad(model(inputs_embeds=x).logits[0, -1, 5], x)[0]

    usual, found = slope(), []
    thread = threading.Thread(target=lambda: found.append(slope()))
    with conservation(model):
        held = slope()
        thread.start()
        thread.join()
    assert torch.equal(found[0], usual)
    assert torch.equal(slope(), usual)
    assert not torch.allclose(held, usual)


def test_an_activation_passes_on_what_it_gives():
    x = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    y = proportional(x, torch.nn.functional.silu(x))
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope * x.detach(), y.detach())


def test_attention_that_cannot_be_held_is_refused(make_tiny_model):
    model = copy.deepcopy(make_tiny_model("llama"))
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(InvalidInputError, match=r"flash_attention_2.*sdpa"), conservation(model):
        pass


def test_a_build_tells_how_far_the_scores_miss(tiny_llm, monkeypatch):
    said = ("The shop in Rome opens at nine.", "The shop in Nice opens at two.")
    pairs = Pairs(PreferencePair(prompt, "At nine o'clock.", "At two.") for prompt in said)
    monkeypatch.setattr(grains, "LARGE_COMPLETENESS_ERROR", 0.0)
    with pytest.warns(UserWarning, match=r"token scores miss \d+ %"):
        built = build(tiny_llm, pairs, attribution="conservative", verified=0, progress=False)
    for seen, pair in zip(built.attributions, pairs, strict=True):
        answers = (tuple(tiny_llm.encode_answer(text)) for text in (pair.good, pair.bad))
        scores, rest, value = shares(tiny_llm.model, EncodedPair("", seen.token_ids, *answers))
        missing = abs(float(scores.sum()) + rest - value) / abs(value)
        torch.testing.assert_close(seen.scores, scores)
        assert seen.baseline_value is None
        assert seen.completeness_error == pytest.approx(missing, rel=1e-4)

"""GrAInS beside a slow oracle from the equations, and on a model with a planted direction."""

import copy
import warnings

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from transformers import LlamaConfig, LlamaForCausalLM

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import (
    AttributionError,
    InvalidInputError,
    PairError,
    PromptTooLongError,
)
from steerable_llm.methods.build import build, build_vector
from steerable_llm.methods.grains import grains
from steerable_llm.methods.grains.grains import GRAINS_PRESETS, GrainsConfig
from steerable_llm.pairs.pair import Pairs, PreferencePair

# Five Riemann steps from zero miss most of the preference on random models, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:the token scores miss")

CITIES = ("Lyon", "Paris", "Rome", "Köln", "Nice")
PAIRS = Pairs(
    PreferencePair(
        f"Documents:\n[1] The shop in {city} opens at nine.\n\nQuestion: When does it open?",
        "According to the text, nine." if i % 2 else "Nine.",
        f"As I recall, {city}.",
    )
    for i, city in enumerate(CITIES)
)


def oracle(llm, pairs, steps=5, k=3):
    """Eq. 1 to 6, one pair, step, answer, token and layer at a time."""
    model = llm.model
    embed = model.get_input_embeddings()

    def log_p(x, answer):
        ids = torch.tensor(llm.encode_answer(answer))
        logits = model(inputs_embeds=torch.cat([x, embed(ids)])[None]).logits[0]
        total = 0.0
        for i, token in enumerate(ids):
            total = total + logits[len(x) - 1 + i].log_softmax(-1)[token]
        return total

    def last_states(x):
        found = []
        hooks = [
            block.register_forward_hook(
                lambda _m, _i, out: found.append(
                    (out[0] if isinstance(out, tuple) else out)[0, -1].detach()
                )
            )
            for block in llm.blocks
        ]
        with torch.no_grad():
            model(inputs_embeds=x[None])
        for hook in hooks:
            hook.remove()
        return torch.stack(found)

    all_scores, plus, minus, norms = [], [], [], []
    for pair in pairs:
        x = embed(torch.tensor(llm.encode(pair.prompt))).detach()
        slope = torch.zeros_like(x)
        for step in range(1, steps + 1):
            point = (x * step / steps).requires_grad_(True)
            f = log_p(point, pair.good) - log_p(point, pair.bad)
            slope += torch.autograd.grad(f, point)[0] / steps
        scores = (x * slope).sum(-1)
        content = [
            i
            for i, special in enumerate(llm.chat_format.special_token_mask(pair.prompt))
            if not special
        ]
        ranked = sorted(content, key=lambda i: float(scores[i]))
        lowest = [i for i in ranked[:k] if scores[i] < 0]
        highest = [i for i in ranked[::-1][:k] if scores[i] > 0]
        whole = last_states(x)
        norms.append(whole.norm(dim=-1))
        for removed, deltas in ((highest, plus), (lowest, minus)):
            masked = x.clone()
            masked[removed] = 0
            deltas.append(whole - last_states(masked))
        all_scores.append(scores)
    directions = []
    for layer in range(len(llm.blocks)):
        parts = []
        for deltas in (plus, minus):
            rows = np.stack([delta[layer].numpy() for delta in deltas])
            component = PCA(1).fit(rows).components_[0]
            parts.append(component if rows.mean(0) @ component > 0 else -component)
        directions.append(torch.from_numpy(parts[0] - parts[1]))
    return all_scores, directions, torch.stack(norms).mean(0)


def test_the_papers_preset_agrees_with_the_slow_oracle(tiny_llm):
    built = build(tiny_llm, PAIRS, preset="paper", progress=False)
    scores, directions, norms = oracle(tiny_llm, PAIRS)
    for attribution, expected in zip(built.attributions, scores, strict=True):
        torch.testing.assert_close(attribution.scores, expected, rtol=1e-3, atol=1e-4)
    for layer, expected in enumerate(directions):
        cosine = torch.nn.functional.cosine_similarity(
            built.vector.directions[layer], expected, dim=0
        )
        assert cosine > 0.9999
        torch.testing.assert_close(
            built.vector.directions[layer].norm(), expected.norm(), rtol=1e-3, atol=0
        )
        assert built.vector.scales[layer] == pytest.approx(float(norms[layer]), rel=1e-4)


def test_deltas_are_read_where_the_answers_part(tiny_llm):
    opened = "The shop opens at "
    pairs = [PreferencePair(p.messages, f"{opened}nine.", f"{opened}two.") for p in PAIRS]
    stem = tiny_llm.tokenizer(opened.strip(), add_special_tokens=False).input_ids
    built = build(tiny_llm, pairs, aggregation="mean", progress=False)
    model = copy.deepcopy(tiny_llm.model)  # transformers leaves hooks on it
    embed = model.get_input_embeddings()

    def state(ids, removed=()):
        x = embed(torch.tensor([*ids, *stem])).detach()
        x[list(removed)] = 0
        with torch.no_grad():
            return model(inputs_embeds=x[None], output_hidden_states=True)

    found = {1: [], -1: []}
    for seen in built.attributions:
        whole = state(seen.token_ids).hidden_states[1][0, -1]
        for sign, removed in ((1, seen.positive), (-1, seen.negative)):
            if removed:
                found[sign].append(whole - state(seen.token_ids, removed).hidden_states[1][0, -1])
    expected = torch.stack(found[1]).mean(0) - torch.stack(found[-1]).mean(0)
    torch.testing.assert_close(built.vector.directions[0], expected, rtol=1e-3, atol=1e-4)
    assert built.vector.decision_tokens == len(stem)


def test_the_preset_is_the_papers():
    preset = GRAINS_PRESETS["paper"]
    assert (preset.baseline, preset.steps, preset.quadrature, preset.k) == ("zero", 5, "right", 3)
    assert (preset.objective, preset.aggregation, preset.layers) == ("preference", "pca", None)
    assert (preset.attribution, preset.verified) == ("integrated_gradients", 0)
    assert not preset.special_tokens_selectable


@pytest.fixture(scope="module")
def planted(tiny_tokenizer):
    """One block adds u times how much evidence the prompt's tokens carry; u means "good"."""
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        vocab_size=len(tiny_tokenizer),
        tie_word_embeddings=False,
        # Without it a norm makes f constant along the path from zero, and all scores vanish.
        rms_norm_eps=1.0,
    )
    source = torch.Generator().manual_seed(3)
    model = LlamaForCausalLM(config).eval()
    u, evidence = torch.eye(16)[0], torch.eye(16)[1]
    with torch.no_grad():
        for block in model.model.layers:
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                getattr(block.self_attn, name).weight.zero_()
            block.mlp.down_proj.weight.zero_()
        attention = model.model.layers[0].self_attn  # zero queries: it takes the mean
        attention.v_proj.weight[0] = 3 * evidence
        attention.o_proj.weight[:, 0] = 3 * u
        embedding = model.model.embed_tokens.weight
        embedding.normal_(generator=source)
        embedding[:, 0] = 0
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, 0] = torch.randn(len(tiny_tokenizer), generator=source)
    llm = SteerableHFLLM(model, tiny_tokenizer, model_id="planted")
    return llm, u


@pytest.mark.parametrize("aggregation", ["pca", "pca_uncentred", "mean", "pca_plus_mean"])
def test_a_planted_direction_is_recovered_with_its_sign(planted, aggregation):
    llm, u = planted
    weights = llm.model.lm_head.weight[:, 0].detach()
    # The better an answer's tokens stand on u, the more evidence speaks for it.
    answers = sorted(
        ("nine.", "Rome.", "Köln", "thirty days."),
        key=lambda a: float(weights[torch.tensor(llm.encode_answer(a))].mean()),
    )
    pairs = Pairs(PreferencePair(pair.messages, answers[-1], answers[0]) for pair in PAIRS)
    built = build(
        llm,
        pairs,
        attribution="integrated_gradients",
        verified=0,
        baseline="zero",
        steps=20,
        quadrature="gauss_legendre",
        reduction="mean",
        aggregation=aggregation,
        progress=False,
    )
    for direction in built.vector.directions.values():
        assert torch.nn.functional.cosine_similarity(direction, u, dim=0) > 0.99
    for attribution in built.attributions:
        evidence = llm.model.get_input_embeddings().weight.detach()[list(attribution.token_ids), 1]
        assert all(evidence[i] > 0 for i in attribution.positive)
        assert all(evidence[i] < 0 for i in attribution.negative)


def test_better_quadrature_makes_the_scores_add_up(tiny_llm):
    errors = []
    for steps in (4, 40):
        built = build(
            tiny_llm,
            PAIRS,
            attribution="integrated_gradients",
            verified=0,
            baseline="mean",
            quadrature="gauss_legendre",
            steps=steps,
            progress=False,
        )
        errors.append(built.vector.provenance.completeness_error.median)
        for attribution in built.attributions:
            gap = attribution.value - attribution.baseline_value
            missing = abs(float(attribution.scores.sum()) - gap) / abs(gap)
            assert attribution.completeness_error == pytest.approx(missing, abs=1e-4)
    assert errors[1] < 1e-3
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        (
            {"baseline": "zero"},
            'try quadrature="gauss_legendre" or baseline="mean" or more than 5 steps',
        ),
        ({"quadrature": "gauss_legendre", "baseline": "eos"}, "try more than 5 steps"),
        ({"quadrature": "gauss_legendre", "baseline": "zero", "steps": 50}, 'try baseline="mean"'),
        (
            {"quadrature": "gauss_legendre", "baseline": "mean", "steps": 64},
            "read them as a ranking at most",
        ),
    ],
)
def test_scores_worse_than_none_are_warned_about_with_what_is_untried(
    tiny_llm, monkeypatch, settings, advice
):
    missing = iter([0.2, 1.5, 9.0, 1.4, 0.9])
    monkeypatch.setattr(grains, "completeness_error", lambda *_: next(missing))
    with pytest.warns(UserWarning, match="the token scores miss 140 %") as caught:
        build_vector(
            tiny_llm, PAIRS, attribution="integrated_gradients", progress=False, **settings
        )
    assert str(caught[0].message).endswith(f"than scores of zero would: {advice}")


def test_scores_that_miss_less_than_no_scores_would_are_not_warned_about(tiny_llm, monkeypatch):
    missing = iter([0.9, 0.99, 99.0, 1.0, 1.5])  # a median of 1
    monkeypatch.setattr(grains, "completeness_error", lambda *_: next(missing))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_vector(tiny_llm, PAIRS, progress=False)


@pytest.mark.parametrize("attribution", ["gradient", "smoothgrad", "random"])
def test_other_scorers_build_vectors_without_completeness(tiny_llm, attribution):
    vector = build_vector(tiny_llm, PAIRS, attribution=attribution, progress=False)
    assert vector.provenance.completeness_error is None
    assert len(vector.layers) == len(tiny_llm.blocks)


@pytest.mark.parametrize("baseline", ["mean", "eos", "pad"])
def test_special_tokens_are_selected_only_when_allowed(tiny_llm, baseline):
    for allowed in (False, True):
        built = build(
            tiny_llm,
            PAIRS,
            baseline=baseline,
            verified=200,
            k=200,
            special_tokens_selectable=allowed,
            progress=False,
        )
        for attribution, pair in zip(built.attributions, PAIRS, strict=True):
            special = tiny_llm.chat_format.special_token_mask(pair.prompt)
            picked = (*attribution.positive, *attribution.negative)
            assert any(special[i] for i in picked) == allowed


def test_layers_can_be_chosen(tiny_llm):
    full = build_vector(tiny_llm, PAIRS, progress=False)
    part = build_vector(tiny_llm, PAIRS, layers=(2, 0), progress=False)
    assert part.layers == (0, 2)
    assert torch.equal(part.directions[2], full.directions[2])


def test_likelihood_needs_no_bad_answers(tiny_llm):
    alone = Pairs(PreferencePair(pair.messages, pair.good) for pair in PAIRS)
    with pytest.raises(PairError, match="likelihood"):
        build_vector(tiny_llm, alone, progress=False)
    assert build_vector(tiny_llm, alone, objective="likelihood", progress=False).layers


def test_a_prompt_that_does_not_fit_is_refused(tiny_llm):
    long = PreferencePair("The capital of France is Paris. " * 80, "a", "b", id="long")
    for method in ("grains", "caa", "iti", "bipo"):
        with pytest.raises(PromptTooLongError, match="pair long: the prompt has"):
            build_vector(tiny_llm, [*PAIRS, long], method, progress=False)


def test_gradients_that_are_not_finite_name_the_pair(tiny_llm, monkeypatch):
    from steerable_llm.methods.grains.objective import PreferenceObjective

    real = PreferenceObjective.gradients

    def broken(self, points, done=None):
        found = real(self, points, done)
        return [one._replace(gradients=one.gradients * float("nan")) for one in found]

    monkeypatch.setattr(PreferenceObjective, "gradients", broken)
    with pytest.raises(AttributionError, match=r"pair .*NaN"):
        build_vector(tiny_llm, PAIRS, progress=False)


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        ({"layers": (9,)}, InvalidInputError, "blocks 0 to 2"),
        ({"layers": ()}, InvalidInputError, "layers"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(tiny_llm, change, error, problem):
    with pytest.raises(error, match=problem):
        build_vector(tiny_llm, PAIRS, progress=False, **change)


def test_images_are_refused(tiny_llm):
    with pytest.raises(PairError, match="holds an image"):
        build_vector(tiny_llm, [PreferencePair("q", "a", "b", images=["x.png"])], progress=False)


def test_prompts_without_content_have_nothing_to_select(tiny_llm):
    empty = [PreferencePair([{"role": "user", "content": ""}], "a", b) for b in ("b", "c")]
    with pytest.raises(AttributionError, match="special_tokens_selectable"):
        build_vector(tiny_llm, empty, progress=False)


def test_the_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        GrainsConfig().k = 5

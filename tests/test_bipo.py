"""BiPO: the loss and its gradient are the equations', kept prompts and gates do what they say."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from conftest import FAMILIES
from hypothesis import given
from hypothesis import strategies as st
from slow_states import CITIES, PAIRS

from steerable_llm import demo
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import PairError
from steerable_llm.methods import METHODS
from steerable_llm.methods.bipo import (
    BipoConfig,
    Plan,
    _dealt,
    _with_both,
    backward,
    log_probs_of,
)
from steerable_llm.methods.build import build_vector, grid_of
from steerable_llm.methods.pair_answers import AnsweredPair, PairAnswers, answered, shared_end
from steerable_llm.methods.trainable import TrainableVector, gates
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.runtime.forward import frozen
from steerable_llm.runtime.scores import Prefilled, Scored, answer_logits
from steerable_llm.vector.steering import Application, Steering
from steerable_llm.vector.vector import SteeringVector


def trainable(llm: Any, config: BipoConfig, seed: int = 0) -> TrainableVector:
    """A random vector of all blocks, with random gates where the settings have them."""
    source = torch.Generator().manual_seed(seed)
    depth, width = len(llm.blocks), llm.model.config.hidden_size
    shares = 0.3 * torch.randn(depth, width, generator=source)
    gate = {
        "weights": torch.randn(depth, width, generator=source),
        "biases": torch.randn(depth, generator=source),
    }
    rule: Any = "weigh" if config.gated else "add"
    return TrainableVector(
        {layer: 2.0 + layer for layer in range(depth)},
        shares.requires_grad_(),
        Application("block", rule, "absolute", config.scope, config.renormalise),
        **({k: v.requires_grad_() for k, v in gate.items()} if config.gated else {}),
    )


def slow_log_prob(
    llm: Any, prompt: Any, answer: Any, vector: TrainableVector | None, sign: float, scope: str
) -> float:
    """One text in one pass, with hooks of its own that add to one position after the other."""
    handles = []

    def hook(layer: int) -> Any:
        row = list(vector.scales).index(layer)
        norm = vector.scales[layer]
        v = vector.shares.detach()[row] * norm

        def steer(_module: Any, _inputs: Any, output: Any) -> Any:
            states = (output[0] if isinstance(output, tuple) else output).clone()
            first = 0 if scope == "all" else len(prompt) - 1
            for place in range(first, states.shape[1]):
                x = states[0, place]
                share = 1.0
                if vector.weights is not None:
                    w, b = vector.weights.detach()[row] / norm, vector.biases.detach()[row]
                    share = 1 / (1 + math.exp(-float(x @ w + b)))
                moved = x + sign * share * v
                if vector.application.renormalise:
                    moved = moved * (x.norm() / moved.norm())
                states[0, place] = moved
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return steer

    if vector is not None:
        handles = [llm.blocks[i].register_forward_hook(hook(i)) for i in vector.scales]
    try:
        with torch.no_grad():
            logits = llm.model(torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    table = logits.double().log_softmax(-1)
    return sum(float(table[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))


def slow_loss(
    llm: Any, pairs: list[AnsweredPair], vector: TrainableVector, config: BipoConfig, sign: float
) -> float:
    """The module's equations for a batch of pairs that all count the same."""
    total = 0.0
    for pair in pairs:
        good, bad = (
            slow_log_prob(llm, pair.prompt, answer, vector, sign, config.scope)
            for answer in (pair.good, pair.bad)
        )
        good_0, bad_0 = (
            slow_log_prob(llm, pair.prompt, answer, None, 1.0, config.scope)
            for answer in (pair.good, pair.bad)
        )
        gained = (good - bad) - (good_0 - bad_0)
        preference = math.log1p(math.exp(-sign * config.beta * gained))
        likelihood = -good if sign > 0 else -bad
        total += {
            "preference": preference,
            "likelihood": likelihood,
            "both": preference + config.likelihood_weight * likelihood,
        }[config.loss]
    return total / len(pairs)


def prepared(llm: Any, config: BipoConfig, pairs: Pairs = PAIRS) -> tuple[PairAnswers, Plan]:
    encoded = answered(llm, pairs, whole=config.shared_end)
    answers = PairAnswers(llm, encoded, [range(len(pairs))], config.scope)
    before = log_probs_of(answers, 1, Steering.none())
    return answers, Plan(config, encoded, before, frozenset())


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "preference"},
        {"loss": "preference", "scope": "all", "renormalise": False},
        {"loss": "likelihood"},
        {"loss": "both", "likelihood_weight": 0.3},
        {"loss": "both", "gated": True},
    ],
    ids=str,
)
def test_loss_and_gradient_are_those_of_the_equations(
    tiny_llm: Any, settings: dict[str, Any], sign: float
) -> None:
    config = BipoConfig(beta=0.4, bidirectional=True, **settings)
    pairs = PAIRS[:2]
    answers, plan = prepared(tiny_llm, config, pairs)
    vector = trainable(tiny_llm, config)
    with frozen(tiny_llm.model):
        loss = backward(answers, 0, [0, 1], vector, plan, sign)
    assert loss == pytest.approx(
        slow_loss(tiny_llm, list(plan.pairs), vector, config, sign), rel=1e-4
    )
    source = torch.Generator().manual_seed(1)
    for parameter in (vector.shares, vector.weights, vector.biases):
        if parameter is None:
            continue
        toward = torch.randn(parameter.shape, generator=source)
        toward = toward / toward.norm()
        step, ends = 0.02, []
        for side in (1, -1):
            with torch.no_grad():
                parameter += side * step * toward
            ends.append(slow_loss(tiny_llm, list(plan.pairs), vector, config, sign))
            with torch.no_grad():
                parameter -= side * step * toward
        expected = (ends[0] - ends[1]) / (2 * step)
        assert float((parameter.grad * toward).sum()) == pytest.approx(expected, rel=0.03, abs=2e-3)


def test_the_opposite_vector_prefers_the_opposite_answers(tiny_llm: Any) -> None:
    config = BipoConfig(loss="preference", bidirectional=True)
    swapped = Pairs(PreferencePair(p.messages, str(p.bad), p.good) for p in PAIRS)
    vector = trainable(tiny_llm, config)
    here, there = prepared(tiny_llm, config), prepared(tiny_llm, config, swapped)
    places = range(len(PAIRS))
    opposite = TrainableVector(vector.scales, -vector.shares.detach(), vector.application)
    opposite.shares.requires_grad_()
    with frozen(tiny_llm.model):
        minus = backward(here[0], 0, places, vector, here[1], -1.0)
        plus = backward(there[0], 0, places, opposite, there[1], 1.0)
    assert minus == pytest.approx(plus, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_from_kept_prompts_scores_and_gradients_are_those_of_whole_texts(
    family: str, make_llm: Any
) -> None:
    llm = make_llm(family)
    config = BipoConfig()
    encoded = answered(llm, PAIRS)
    found = []
    for prefilled in (True, False):
        vector = trainable(llm, config)
        if prefilled:
            assert Prefilled.serves(llm, [pair.prompt for pair in encoded], "generated")
            answers = [
                (i, side) for i, pair in enumerate(encoded) for side in (pair.good, pair.bad)
            ]
            kept = Prefilled(llm, [pair.prompt for pair in encoded])
            # A second run starts from the same prompts as the first.
            kept.answer_logits(answers, vector.steering(-1.0))
            logits = kept.answer_logits(answers, vector.steering())
        else:
            items = [
                Scored(list(pair.prompt), list(side), vector.steering())
                for pair in encoded
                for side in (pair.good, pair.bad)
            ]
            ran = dict(answer_logits(llm, items))
            logits = [ran[i] for i in range(len(items))]
        value = torch.stack([one.log_softmax(-1).square().mean() for one in logits]).sum()
        (slope,) = torch.autograd.grad(value, vector.shares)
        found.append((torch.cat(logits).detach(), slope))
    (kept_logits, kept_slope), (whole_logits, whole_slope) = found
    torch.testing.assert_close(kept_logits, whole_logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        kept_slope, whole_slope, rtol=0.0, atol=1e-3 * float(whole_slope.abs().max())
    )


def test_what_changes_the_prompt_or_must_be_read_anew_is_not_kept(tiny_llm: Any) -> None:
    assert not Prefilled.serves(tiny_llm, [[1, 2, 3]], "all")
    assert not Prefilled.serves(tiny_llm, [[1, 2, 3], [1]], "generated")


def test_without_room_for_prompts_the_vector_is_the_same(tiny_llm: Any) -> None:
    how = {"method": "bipo", "steps": 3, "batch_size": 4, "progress": False}
    roomy = build_vector(tiny_llm, PAIRS, **how)
    narrow = build_vector(tiny_llm, PAIRS, memory_budget=1, **how)
    assert roomy.fingerprint_id == narrow.fingerprint_id


@pytest.fixture(scope="module")
def exhibit() -> SteerableHFLLM:
    return SteerableHFLLM.demo()


def gained(llm: Any, vector: SteeringVector, pairs: Pairs) -> tuple[float, float]:
    """How much likelier the good answers and the bad ones are at strength 1, in nats."""
    means = []
    for answers in ([p.good for p in pairs], [str(p.bad) for p in pairs]):
        items = [(pair.messages, answer) for pair, answer in zip(pairs, answers, strict=True)]
        steered, plain = llm.score_batch(items, vector.steer(1.0)), llm.score_batch(items)
        means.append((sum(steered) - sum(plain)) / len(items))
    return means[0], means[1]


def test_held_out_good_answers_become_likelier_as_the_record_says(exhibit: Any) -> None:
    build, _, held_out = demo.pairs("faithfulness").split(seed=1)
    build = build.sample(24, seed=0)
    vector = build_vector(exhibit, build, method="bipo", steps=12, progress=False)
    good, bad = gained(exhibit, vector, held_out.sample(12, seed=0))
    assert good > 0.2
    assert good > bad
    facts = vector.provenance.facts
    assert facts["last_loss"] < facts["first_loss"]
    seen_good, seen_bad = gained(exhibit, vector, build)
    told = {name: change["after"] - change["before"] for name, change in facts["log_prob"].items()}
    assert told["good"] == pytest.approx(seen_good, abs=2e-3)
    assert told["bad"] == pytest.approx(seen_bad, abs=2e-3)


@pytest.mark.filterwarnings("ignore:the training made the good answers less likely")
def test_trained_both_ways_the_negated_vector_prefers_the_bad_answers(exhibit: Any) -> None:
    pairs = demo.pairs("faithfulness").sample(8, seed=0)
    how = {"method": "bipo", "loss": "preference", "beta": 1.0, "steps": 12, "progress": False}
    vector = build_vector(exhibit, pairs, bidirectional=True, **how)
    good, bad = gained(exhibit, vector, pairs)
    assert good - bad > 0.5
    good, bad = gained(exhibit, vector.negated(), pairs)
    assert bad - good > 0.5


def two_kinds(llm: Any) -> tuple[Pairs, Pairs]:
    """Prompts of two kinds that are to get opposite answers, one of them the likelier for both."""
    said, other = "Paris.", "Rome."
    asked = [f"The shop in {city} opens at {hour}. When?" for city in CITIES for hour in "ab"]
    greeted = [f"Grüße aus {city}! Ça va {word}?" for city in CITIES for word in "ab"]
    first = [llm.score(prompt, [said, other]) for prompt in asked + greeted]
    if sum(one - two for one, two in first) < 0:
        said, other = other, said
    return (
        Pairs(PreferencePair(prompt, other, said, source="wrong") for prompt in asked),
        Pairs(PreferencePair(prompt, said, other, source="right") for prompt in greeted),
    )


def per_token(llm: Any, pair: PreferencePair, answer: str) -> float:
    (found,) = llm.score(pair.messages, [answer], reduction="mean")
    return float(found)


def share_right(llm: Any, pairs: Pairs, steering: Steering | None) -> float:
    scores = [llm.score(pair.messages, [pair.good, pair.bad], steering) for pair in pairs]
    return sum(good > bad for good, bad in scores) / len(scores)


def test_a_gate_turns_some_prompts_and_leaves_others_where_a_vector_cannot(tiny_llm: Any) -> None:
    change, kept = two_kinds(tiny_llm)
    assert share_right(tiny_llm, change, None) < 0.7
    # What is met at answering time is other prompts of the same kinds.
    seen, unseen = change[::2] + kept[::2], (change[1::2], kept[1::2])
    how = {"method": "bipo", "steps": 100, "learning_rate": 1.0, "progress": False}
    how |= {"keep_sources": ("right",), "layers": (0, 1)}
    gated = build_vector(tiny_llm, seen, gated=True, **how).steer(1.0)
    assert min(share_right(tiny_llm, pairs, gated) for pairs in unseen) > 0.8
    plain = build_vector(tiny_llm, seen, **how).steer(1.0)
    assert min(share_right(tiny_llm, pairs, plain) for pairs in unseen) < 0.6


def test_kept_pairs_are_known_by_what_the_model_says_or_by_their_source(tiny_llm: Any) -> None:
    llm = tiny_llm
    both = Pairs(p for pairs in two_kinds(llm) for p in pairs)
    kept = Pairs(p for p in both if per_token(llm, p, p.good) > per_token(llm, p, str(p.bad)))
    change = Pairs(PreferencePair(p.messages, str(p.bad), p.good, source="wrong") for p in kept)
    how = {"method": "bipo", "steps": 1, "gated": True, "progress": False}
    by_model = build_vector(llm, change + kept, **how)
    assert by_model.provenance.facts["kept"] == len(kept)
    by_source = build_vector(llm, change + kept, keep_sources=("wrong",), **how)
    assert by_source.provenance.facts["kept"] == len(change)
    with pytest.raises(PairError, match=r"none of the .* likelier than the bad one.*add pairs"):
        build_vector(llm, change, **how)
    with pytest.raises(PairError, match=r"all .* nothing to be changed.*gated=True needs"):
        build_vector(llm, kept, **how)
    with pytest.raises(PairError, match=r"none of the .* pairs has the source 'no such'"):
        build_vector(llm, change + kept, keep_sources=("no such",), **how)
    with pytest.raises(PairError, match="nothing to be left alone, which gated=True and kl need"):
        build_vector(llm, change, method="bipo", kl=1.0, progress=False)


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 12), st.integers(0, 3))
def test_with_gates_every_batch_has_pairs_of_both_kinds(
    kept: int, changed: int, size: int, seed: int
) -> None:
    kinds = [range(kept, kept + changed), range(kept)]
    source = torch.Generator().manual_seed(seed)
    batches = _with_both(_dealt(kinds, size, source), frozenset(range(kept)))
    for batch in batches:
        assert any(place < kept for place in batch)
        assert any(place >= kept for place in batch)
        assert len(set(batch)) == len(batch)
    assert {place for batch in batches for place in batch} == set(range(kept + changed))


def test_gates_start_where_a_regression_tells_the_prompts_apart() -> None:
    source = torch.Generator().manual_seed(0)
    change = torch.arange(60) < 10  # fewer of one kind do not move the middle
    states = torch.randn(60, 2, 8, generator=source)
    states[:, 0, 0] += torch.where(change, 6.0, -6.0) + 20.0
    weights, biases = gates(states, change, {3: 5.0, 4: 0.5})
    opened = torch.sigmoid((states[:, 0] / 5.0) @ weights[0] + biases[0])
    assert bool((opened[change] > 0.5).all())
    assert bool((opened[~change] < 0.5).all())
    middle = torch.zeros(8)
    middle[0] = 20.0
    assert float((middle / 5.0) @ weights[0] + biases[0]) == pytest.approx(0.0, abs=0.4)


def test_a_divergence_keeps_the_model_near_itself_where_it_was_right(tiny_llm: Any) -> None:
    change, kept = two_kinds(tiny_llm)
    moved = []
    for kl in (0.0, 100.0):
        how = {"steps": 15, "keep_sources": ("right",), "kl": kl, "progress": False}
        steering = build_vector(tiny_llm, change + kept, method="bipo", **how).steer(1.0)
        found = []
        for pair in kept:
            steered, plain = (
                tiny_llm.answer_logits(pair.messages, pair.good, s).log_softmax(-1)
                for s in (steering, None)
            )
            found.append(float((plain.exp() * (plain - steered)).sum(-1).mean()))
        moved.append(sum(found) / len(found))
    assert moved[1] < moved[0] / 4


def test_the_papers_preset_is_the_papers(tiny_llm: Any, tmp_path: Any) -> None:
    pairs = PAIRS[:4]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the training made the good answers less likely")
        vector = build_vector(tiny_llm, pairs, method="bipo", preset="paper", progress=False)
    assert vector.layers == (1,)  # the one in the middle
    assert vector.provenance.facts["steps"] == 20  # epochs of one batch
    config = vector.provenance.config
    assert (config["loss"], config["bidirectional"], config["beta"]) == ("preference", True, 0.1)
    loaded = SteeringVector.load(vector.save(tmp_path / "v.safetensors"), tiny_llm)
    (term,) = loaded.steer(1.0).terms
    assert (term.scope, term.unit, term.renormalise) == ("all", "absolute", False)
    assert grid_of(loaded).scopes == ("all",)
    torch.testing.assert_close(term.delta(1), vector.directions[1])


def test_a_preference_that_ruins_both_answers_is_told(exhibit: Any) -> None:
    pairs = demo.pairs("faithfulness").sample(8, seed=0)
    how = {"method": "bipo", "loss": "preference", "beta": 1.0, "progress": False}
    with pytest.warns(
        UserWarning, match=r'less likely .mean log P from .* train with loss="likeli'
    ):
        vector = build_vector(exhibit, pairs, steps=10, learning_rate=20.0, **how)
    change = vector.provenance.facts["log_prob"]["good"]
    assert change["after"] < change["before"]


def test_grains_can_be_the_start(exhibit: Any) -> None:
    pairs = demo.pairs("faithfulness").sample(8, seed=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the token scores miss")
        start = build_vector(exhibit, pairs, progress=False)
        how = {"steps": 1, "learning_rate": 1e-3, "progress": False}
        vector = build_vector(exhibit, pairs, method="bipo", init="grains", **how)
    cosines = [
        float(torch.cosine_similarity(vector.directions[i], start.directions[i], dim=0))
        for i in start.layers
    ]
    assert min(cosines) > 0.6  # half of the way is the start, the other is one step of training


def test_pairs_need_a_bad_answer_only_where_the_loss_does(tiny_llm: Any) -> None:
    without = Pairs([*PAIRS[:3], PreferencePair("When does it open?", "At nine.")])
    vector = build_vector(tiny_llm, without, method="bipo", steps=2, progress=False)
    assert set(vector.provenance.facts["log_prob"]) == {"good", "bad"}
    for settings in ({"loss": "preference"}, {"loss": "both"}, {"bidirectional": True},
                     {"gated": True}, {"kl": 1.0}):  # fmt: skip
        with pytest.raises(PairError, match=r'no bad answer: give one.*loss="likelihood"'):
            build_vector(tiny_llm, without, method="bipo", progress=False, **settings)


answers = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@given(answers, answers)
def test_what_both_answers_end_with_is_cut_and_no_more(one: list[int], other: list[int]) -> None:
    cut = shared_end(one, other)
    assert cut < min(len(one), len(other))
    assert one[len(one) - cut :] == other[len(other) - cut :]
    at_start = cut + 1 == min(len(one), len(other))
    assert at_start or one[-1 - cut] != other[-1 - cut]


def test_only_the_words_that_differ_are_trained_on_when_asked(tiny_llm: Any) -> None:
    pair = PreferencePair("Which city?", "The city is Lyon.", "The city is Rome.")
    (whole,), (cut,) = (answered(tiny_llm, Pairs([pair]), whole=x) for x in (True, False))
    dropped = len(whole.good) - len(cut.good)
    assert dropped >= 2  # the full stop and the end of turn
    assert whole.good[-dropped:] == whole.bad[-dropped:]
    assert tiny_llm.tokenizer.decode(cut.good).endswith("Lyon")


def test_the_model_is_left_as_it_was(tiny_llm: Any) -> None:
    before = {name: p.detach().clone() for name, p in tiny_llm.model.named_parameters()}
    build_vector(tiny_llm, PAIRS, method="bipo", steps=2, progress=False)
    for name, parameter in tiny_llm.model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert parameter.requires_grad


def test_progress_counts_the_pairs_once(tiny_llm: Any) -> None:
    counts: list[int] = []
    METHODS["bipo"].extract(tiny_llm, PAIRS, BipoConfig(steps=7), counts.append)
    assert len(counts) == 7
    assert sum(counts) == len(PAIRS)

"""The batched objective beside a plain one, on every family of models."""

import pytest
import torch
from conftest import FAMILIES

from steerable_llm.errors import InvalidInputError
from steerable_llm.methods.grains.objective import EncodedPair, PreferenceObjective
from steerable_llm.runtime.forward import frozen

ALIKE = EncodedPair("alike", (7, 8, 9, 30), (40, 41, 42, 50, 2), (40, 41, 42, 61, 62, 63, 2))
PAIRS = [
    EncodedPair("long", tuple(range(20, 45)), (50, 51, 52, 2), (60, 2)),
    EncodedPair("short", (7, 8, 9), (70, 2), (71, 72, 73, 74, 2)),
    EncodedPair("one", (30, 31, 32, 33, 34), (80,), (81,)),
    ALIKE,
]
# Their windows are shorter than the long row here, so one batch has packed and plain rows.
WINDOWED = {"mistral", "gemma2", "gemma3_text"}


def plain_value(model, x, pair, reduction="sum"):
    """Eq. 1, one answer and one token at a time, logits at every position."""
    total = 0.0
    for sign, answer in ((1, pair.good), (-1, pair.bad)):
        if not answer:
            continue
        tail = model.get_input_embeddings()(torch.tensor([answer]))
        logits = model(inputs_embeds=torch.cat([x[None], tail], dim=1)).logits[0]
        log_probs = [
            logits[len(x) - 1 + i].log_softmax(-1)[token] for i, token in enumerate(answer)
        ]
        if reduction == "mean":  # over the tokens from the decision on
            log_probs = log_probs[len(pair.stem) :]
        total = total + sign * sum(log_probs) / (len(log_probs) if reduction == "mean" else 1)
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_the_plain_ones(make_tiny_model, family):
    model = make_tiny_model(family)
    objective = PreferenceObjective(model, PAIRS)
    assert objective.reader.packs or family in {*WINDOWED, "bloom"}
    assert len(objective.reader.rows_of(objective.shapes[0])) == (
        2 if family in {*WINDOWED, "bloom"} else 1
    )
    order = (2, 0, 3, 1)
    points = [(i, torch.stack([objective.embeddings(i) * a for a in (0.5, 1)])) for i in order]
    for (i, inputs), found in zip(points, objective.gradients(points), strict=True):
        for x, value, slope in zip(inputs, found.values, found.gradients, strict=True):
            leaf = x.clone().requires_grad_(True)
            expected = plain_value(model, leaf, PAIRS[i])
            (expected_slope,) = torch.autograd.grad(expected, leaf)
            torch.testing.assert_close(value, expected.detach(), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(slope, expected_slope, rtol=1e-3, atol=1e-4)


def test_answers_of_one_token_do_not_decide_whether_rows_are_packed(make_tiny_model):
    # Bloom's position biases do not survive packing, which only fed answer tokens can show.
    model = make_tiny_model("bloom")
    objective = PreferenceObjective(model, [PAIRS[2], PAIRS[1]])
    (value,) = objective.values([(1, objective.embeddings(1)[None])])
    with torch.no_grad():
        expected = plain_value(model, objective.embeddings(1), PAIRS[1])
    torch.testing.assert_close(value[0], expected, rtol=1e-4, atol=1e-4)


def test_packed_and_unpacked_rows_agree(make_tiny_model):
    objective = PreferenceObjective(make_tiny_model("llama"), PAIRS)
    points = [(i, objective.embeddings(i)[None]) for i in range(3)]
    packed = objective.gradients(points)
    objective.reader.packs = False
    for found, plain in zip(packed, objective.gradients(points), strict=True):
        torch.testing.assert_close(found.values, plain.values, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.gradients, plain.gradients, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.rest, plain.rest, rtol=1e-4, atol=1e-4)


def test_a_common_opening_is_read_once_and_its_end_decides():
    assert ALIKE.stem == (40, 41, 42)
    (row,) = {ALIKE.shape()}
    assert row.prompt_length == 7
    assert [(branch.start, branch.ids) for branch in row.branches] == [
        (7, (50, 2)),
        (7, (61, 62, 63, 2)),
    ]


def test_a_mean_is_over_the_tokens_from_the_decision_on(make_tiny_model):
    model = make_tiny_model("llama")
    objective = PreferenceObjective(model, PAIRS, reduction="mean")
    x = objective.embeddings(3)
    (value,) = objective.values([(3, x[None])])
    with torch.no_grad():
        expected = plain_value(model, x, ALIKE, "mean")
    torch.testing.assert_close(value[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_baseline_values_are_those_of_prompts_full_of_the_baseline(
    make_tiny_model, family, reduction
):
    model = make_tiny_model(family)
    objective = PreferenceObjective(model, PAIRS, reduction=reduction)
    baseline = model.get_input_embeddings().weight.mean(0).detach()
    for pair, value in zip(PAIRS, objective.baseline_values(baseline), strict=True):
        with torch.no_grad():
            x = baseline.expand(len(pair.prompt), -1)
            expected = plain_value(model, x, pair, reduction)
        assert value == pytest.approx(float(expected), rel=1e-4, abs=1e-4)


def test_a_small_memory_budget_changes_nothing_but_the_batches(make_tiny_model):
    model = make_tiny_model("llama")
    wide = PreferenceObjective(model, PAIRS)
    narrow = PreferenceObjective(model, PAIRS, memory_budget=1)
    points = [(i, torch.stack([wide.embeddings(i)] * 3)) for i in range(3)]
    finished = []
    slow = narrow.gradients(points, done=finished.append)
    assert sorted(finished) == [0, 1, 2]
    for found, other in zip(wide.gradients(points), slow, strict=True):
        torch.testing.assert_close(found.values, other.values, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.gradients, other.gradients, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.rest, other.rest, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_likelihood_uses_the_good_answer_alone(make_tiny_model, reduction):
    model = make_tiny_model("llama")
    pair = EncodedPair("alone", (7, 8, 9), (70, 71, 2))
    objective = PreferenceObjective(model, [pair], reduction=reduction)
    (value,) = objective.values([(0, objective.embeddings(0)[None])])
    with torch.no_grad():
        expected = plain_value(model, objective.embeddings(0), pair, reduction)
    torch.testing.assert_close(value[0], expected, rtol=1e-5, atol=1e-5)


def test_weights_get_no_gradient_and_keep_their_flags(make_tiny_model):
    model = make_tiny_model("llama")
    first, *_, last = model.parameters()
    last.requires_grad_(False)
    objective = PreferenceObjective(model, PAIRS)
    objective.gradients([(0, objective.embeddings(0)[None])])
    try:
        assert first.requires_grad
        assert not last.requires_grad
        assert all(parameter.grad is None for parameter in model.parameters())
    finally:
        last.requires_grad_(True)


def test_flags_and_mode_come_back_after_an_error(make_tiny_model):
    model = make_tiny_model("llama").train()
    inside = []

    def fail():
        with frozen(model):
            inside.append((model.training, any(p.requires_grad for p in model.parameters())))
            raise RuntimeError("stop")

    try:
        with pytest.raises(RuntimeError, match="stop"):
            fail()
        assert inside == [(False, False)]
        assert model.training
        assert all(parameter.requires_grad for parameter in model.parameters())
    finally:
        model.eval()


def test_pairs_without_tokens_are_refused(make_tiny_model):
    model = make_tiny_model("llama")
    with pytest.raises(InvalidInputError, match="no pairs"):
        PreferenceObjective(model, [])
    with pytest.raises(InvalidInputError, match="hollow"):
        PreferenceObjective(model, [EncodedPair("hollow", (1,), ())])

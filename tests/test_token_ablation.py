"""Taking attributed tokens away, beside plain forward passes, one prompt at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from slow_states import PAIRS

from experiments.token_ablation import TokenAblation, token_ablation
from steerable_llm.errors import InvalidInputError
from steerable_llm.methods.build import build

pytestmark = pytest.mark.filterwarnings("ignore:the token scores miss")


@pytest.fixture(scope="module")
def attributions(tiny_llm: Any) -> Any:
    return build(tiny_llm, PAIRS, progress=False).attributions


@pytest.fixture(scope="module")
def found(tiny_llm: Any, attributions: Any) -> TokenAblation:
    return token_ablation(tiny_llm, attributions, baseline="zero", ks=(1, 3))


def row_of(found: TokenAblation, removed: str, k: int) -> Any:
    return next(row for row in found.rows if (row.removed, row.k) == (removed, k))


def slow_preference(llm: Any, ids: list[int], removed: list[int], pair: Any) -> float:
    """f of a prompt with some embeddings set to zero."""
    embed = llm.model.get_input_embeddings()
    x = embed(torch.tensor(ids)).detach().clone()
    x[removed] = 0.0
    total = 0.0
    for sign, text in ((1, pair.good), (-1, pair.bad)):
        answer = llm.encode_answer(text)
        with torch.no_grad():
            inputs = torch.cat([x, embed(torch.tensor(answer))])[None]
            logits = llm.model(inputs_embeds=inputs).logits[0]
        for place, token in enumerate(answer):
            total += sign * float(logits[len(ids) - 1 + place].log_softmax(-1)[token])
    return total


@pytest.mark.parametrize(("removed", "sign"), [("positive", -1), ("negative", 1)])
@pytest.mark.parametrize("k", [1, 3])
def test_it_agrees_with_one_forward_pass_per_prompt(
    tiny_llm: Any, attributions: Any, found: TokenAblation, removed: Any, sign: int, k: int
) -> None:
    changes = []
    for one, pair in zip(attributions, PAIRS, strict=True):
        scores = [float(s) for s in one.scores]
        mine = [p for p in range(len(scores)) if one.selectable[p] and sign * scores[p] < 0]
        mine = sorted(mine, key=lambda p: sign * scores[p])[:k]
        if mine:
            ids = list(one.token_ids)
            whole = slow_preference(tiny_llm, ids, [], pair)
            changes.append(slow_preference(tiny_llm, ids, mine, pair) - whole)
    row = row_of(found, removed, k)
    assert row.change.n == len(changes) > 0
    assert row.change.value == pytest.approx(sum(changes) / len(changes), abs=1e-3)
    assert row.change.low <= row.change.value <= row.change.high


def test_the_preference_of_the_whole_prompts_is_the_builds(
    found: TokenAblation, attributions: Any
) -> None:
    values = [one.value for one in attributions]
    assert found.preference == pytest.approx(sum(values) / len(values), abs=1e-3)


def test_random_tokens_are_a_control_that_only_the_seed_decides(
    tiny_llm: Any, attributions: Any
) -> None:
    one, same, other = (
        row_of(token_ablation(tiny_llm, attributions, ks=(2,), seed=seed), "random", 2).change.value
        for seed in (0, 0, 5)
    )
    assert one == same != other


def test_a_sign_that_no_prompt_has_is_left_out_and_told(tiny_llm: Any, attributions: Any) -> None:
    upward = [replace(one, scores=one.scores.abs() + 1) for one in attributions]
    found = token_ablation(tiny_llm, upward, ks=(1,))
    assert {(row.removed, row.k) for row in found.rows} == {("positive", 1), ("random", 1)}
    table = next(part for part in found.parts() if hasattr(part, "rows"))
    assert ["k tokens that speak most against it", "no such token"] in [*map(list, table.rows)]


def test_its_picture_is_a_picture(found: TokenAblation) -> None:
    assert found.figure().startswith(b"\x89PNG")
    assert found.figure() == found.figure()


def test_what_cannot_be_measured_is_refused(tiny_llm: Any, attributions: Any) -> None:
    with pytest.raises(InvalidInputError, match="there are no attributions"):
        token_ablation(tiny_llm, ())
    with pytest.raises(InvalidInputError, match="k must be at least 1"):
        token_ablation(tiny_llm, attributions, ks=(0,))
    with pytest.raises(InvalidInputError, match="has no bad answer"):
        token_ablation(tiny_llm, [replace(attributions[0], bad=None)])

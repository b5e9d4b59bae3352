"""ITI and NL-ITI: heads, directions and spreads against their definitions; a planted head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import LAYERS, build_tiny_model
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from slow_states import PAIRS, with_answer

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.methods.build import build_vector
from steerable_llm.methods.iti import training_pairs
from steerable_llm.pairs.pair import Pairs, PreferencePair

HEADS, SIZE = 4, 8


def slow_heads(llm: Any, layer: int, last: int = 1) -> NDArray[np.float64]:
    """Good texts then bad texts: what each head of a layer gives, [2n, H, e], one at a time."""
    rows = []
    seen: list[torch.Tensor] = []
    projection = llm.blocks[layer].self_attn.o_proj
    handle = projection.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    for name in ("good", "bad"):
        for pair in PAIRS:
            seen.clear()
            with torch.no_grad():
                llm.model(torch.tensor([with_answer(llm, pair, getattr(pair, name))]))
            rows.append(seen[0][0, -last:].double().mean(0).view(HEADS, SIZE).numpy())
    handle.remove()
    return np.array(rows)


@pytest.mark.parametrize(("method", "last"), [("iti", 1), ("nl_iti", 4)])
def test_a_direction_is_the_unit_mean_difference_times_the_spread(
    tiny_llm: Any, method: str, last: int
) -> None:
    vector = build_vector(tiny_llm, PAIRS, method=method, heads=100, progress=False)
    assert len(vector.provenance.facts["heads"]) == LAYERS * HEADS
    n = len(PAIRS)
    for layer in range(LAYERS):
        x = slow_heads(tiny_llm, layer, last)
        for head in range(HEADS):
            difference = x[:n, head].mean(0) - x[n:, head].mean(0)
            theta = difference / np.linalg.norm(difference)
            expected = (x[:, head] @ theta).std() * theta
            found = vector.directions[layer].view(HEADS, SIZE)[head]
            np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4)


def test_the_best_heads_by_unseen_texts_are_steered_and_no_others(tiny_llm: Any) -> None:
    vector = build_vector(tiny_llm, PAIRS, method="iti", heads=3, progress=False)
    train = training_pairs(PAIRS, 0.25, 0).repeat(2).numpy()
    y = np.repeat([1, 0], len(PAIRS))
    accuracy = {}
    for layer in range(LAYERS):
        x = slow_heads(tiny_llm, layer)
        for head in range(HEADS):
            probe = LogisticRegression(tol=1e-9, max_iter=5000).fit(x[train, head], y[train])
            accuracy[layer, head] = probe.score(x[~train, head], y[~train])
    told = {(h["layer"], h["head"]): h["accuracy"] for h in vector.provenance.facts["heads"]}
    assert len(told) == 3
    for place, value in told.items():
        assert value == pytest.approx(accuracy[place], abs=1e-4)
    assert min(told.values()) >= max(v for place, v in accuracy.items() if place not in told) - 1e-4
    steered = {
        (layer, head)
        for layer, direction in vector.directions.items()
        for head in range(HEADS)
        if direction.view(HEADS, SIZE)[head].any()
    }
    assert steered == set(told)


@pytest.mark.parametrize("method", ["iti", "nl_iti"])
def test_a_planted_head_and_its_direction_are_found(tiny_tokenizer: Any, method: str) -> None:
    llm = SteerableHFLLM(build_tiny_model("llama", tiny_tokenizer), tiny_tokenizer)
    layer, head = 1, 2
    planted = torch.nn.functional.normalize(
        torch.randn(SIZE, generator=torch.Generator().manual_seed(2)), dim=0
    )
    words = " nine ten two six noon one".split()
    pairs = Pairs(
        PreferencePair(f"Tell me {word}", good=f"{word} yes", bad=f"{word} no", id=f"{n}-{word}")
        for n, word in enumerate(words * 4)
    )
    good, bad = (llm.encode_answer(f"nine {word}")[-2] for word in ("yes", "no"))
    assert good != bad
    with torch.no_grad():
        for block in llm.blocks:  # every head sees noise, which is the same for good and bad
            block.mlp.down_proj.weight.zero_()
            block.self_attn.o_proj.weight.zero_()
            block.self_attn.v_proj.weight.zero_()
            block.self_attn.q_proj.weight.zero_()
        embeddings = llm.model.model.embed_tokens.weight
        embeddings[:, 0] = 0.0
        embeddings[good, 0], embeddings[bad, 0] = 20.0, -20.0
        values = llm.blocks[layer].self_attn.v_proj.weight
        values[head // 2 * SIZE : (head // 2 + 1) * SIZE, 0] = planted  # two heads share values
    vector = build_vector(llm, pairs, method=method, heads=1, progress=False)
    (found,) = vector.provenance.facts["heads"]
    assert (found["layer"], found["head"]) == (layer, head)
    assert found["accuracy"] == 1.0
    direction = vector.directions[layer].view(HEADS, SIZE)[head]
    assert float(torch.nn.functional.normalize(direction, dim=0) @ planted) > 0.99


def test_pairs_of_one_prompt_train_or_judge_together() -> None:
    twice = Pairs([*PAIRS, *(PreferencePair(p.messages, "Other.", "Else.") for p in PAIRS)])
    training = training_pairs(twice, 0.5, 0)
    n = len(PAIRS)
    assert torch.equal(training[:n], training[n:])
    assert int(training.sum()) == n
    with pytest.raises(PairError, match="two different prompts"):
        training_pairs(Pairs(PAIRS[:1]), 0.25, 0)


def test_settings_out_of_range_are_refused(tiny_llm: Any) -> None:
    with pytest.raises(InvalidInputError, match="heads"):
        build_vector(tiny_llm, PAIRS, method="iti", heads=0, progress=False)
    with pytest.raises(InvalidInputError, match="last_tokens"):
        build_vector(tiny_llm, PAIRS, method="nl_iti", last_tokens=0, progress=False)

"""Hidden states and components the slow way: one text at a time, without our hooks; for oracles."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steerable_llm.pairs.pair import Pairs, PreferencePair

CITIES = ("Lyon", "Rome", "Paris", "Italy", "France", "Koeln")
PAIRS = Pairs(
    PreferencePair(
        f"Documents:\n[1] The shop in {city} opens at {hour}.\n\nQuestion: When does it open?",
        good=f"According to the text, at {hour}.",
        bad=f"As I recall, it is {other} o'clock.",
        document_ids=(city,),
    )
    for city, hour, other in zip(
        CITIES,
        ("nine", "ten", "two", "six", "noon", "one"),
        ("four", "five", "three", "seven", "eight", "twelve"),
        strict=True,
    )
)


def slow_states(llm: Any, ids: list[int]) -> list[NDArray[np.float64]]:
    """The residual stream after each block but the last (which transformers normalises), [T, d]."""
    # A copy, since transformers leaves the hooks that it captures states with on the model.
    model = copy.deepcopy(llm.model)
    with torch.no_grad():
        states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return [h[0].double().numpy() for h in states[1:-1]]


def with_answer(llm: Any, pair: PreferencePair, answer: str) -> list[int]:
    """The prompt with an answer, rendered by the template as one text, the end of turn cut off."""
    text = llm.tokenizer.apply_chat_template(
        [*pair.prompt, {"role": "assistant", "content": answer}], tokenize=False
    )
    text = text[: text.rindex("<|end|>")]
    ids: list[int] = llm.tokenizer(text, add_special_tokens=False).input_ids
    return ids


def slow_deltas(llm: Any, pairs: Pairs, layer: int) -> NDArray[np.float64]:
    """Good minus bad at the answers' last tokens, one row per pair."""
    return np.array(
        [
            slow_states(llm, with_answer(llm, p, p.good))[layer][-1]
            - slow_states(llm, with_answer(llm, p, str(p.bad)))[layer][-1]
            for p in pairs
        ]
    )


def slow_component(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """First principal component by the eigenvectors of the covariance matrix; any sign."""
    _, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
    component: NDArray[np.float64] = vectors[:, -1]
    return component

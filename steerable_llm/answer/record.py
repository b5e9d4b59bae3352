"""What a response says of an answer beside its text: what steered it, and how likely it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerable_llm.answer.request import Generation, Likelihood


def what_steered(answer: Generation) -> dict[str, Any]:
    """Return an answer's step, what was applied and why, in JSON values.

    With it goes what the chat template was given, if anything was.
    """
    return {
        "step": answer.step,
        "steering": [applied.to_dict() for applied in answer.steered],
        "decision": answer.decision.to_dict() if answer.decision else None,
        **({"chat_template_kwargs": dict(told)} if (told := answer.chat_template_kwargs) else {}),
    }


def logged_steering(said: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return all that was applied, as an answer log keeps it, from what a response says.

    Vectors come first, then the contrast and the instruction of the decision.
    """
    decision = said.get("decision") or {}
    found = list(said.get("steering") or ())
    if contrast := decision.get("contrast"):
        found.append({"name": "contrast", **contrast})
    if instruction := decision.get("instruction"):
        found.append({"name": "instruction", "text": instruction})
    return tuple(found)


def told_logprobs(answer: Generation) -> list[dict[str, Any]]:
    """Return how likely each token of an answer was, as OpenAI tells it."""
    return [told_likelihood(each) for each in answer.logprobs]


def told_likelihood(place: Sequence[Likelihood]) -> dict[str, Any]:
    """Return how likely one token was, and the likeliest ones at its place, as OpenAI tells it."""
    chosen, *best = place
    return {**_likelihood(chosen), "top_logprobs": [_likelihood(each) for each in best]}


def _likelihood(one: Likelihood) -> dict[str, Any]:
    return {"token": one.text, "logprob": one.logprob, "bytes": list(one.utf8)}

"""Telling the step of a LlamaIndex call from its prompt.

Most calls carry a prompt whose type (`text_qa`, `refine`, `summary`, ...) tells the step. Where
that tells nothing, `steer_step`, `for_step` and `tag_prompts` do.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from llama_index.core.prompts import BasePromptTemplate, SelectorPromptTemplate

from steerable_llm.policy.policy import Policy
from steerable_llm.policy.step import Hint, choose_step, current_step

STEP = "steer_step"
"""Where a prompt's metadata names its step."""
PLACE = "steer_place"
"""Where a prompt's metadata says which of an engine's prompts it is."""

_PLACE: ContextVar[str | None] = ContextVar("steer_place", default=None)


def step_of(
    policy: Policy | None, prompt: BasePromptTemplate | None, named: str | None, own: str | None
) -> str | None:
    """Return the step of a call; None leaves it to the policy's default.

    Args:
        policy: what a name that LlamaIndex gave must match.
        prompt: the call's prompt, if it has one.
        named: the call's own argument.
        own: the model's field.
    """
    metadata = {} if prompt is None else prompt.metadata
    kind = metadata.get("prompt_type")
    return choose_step(
        [
            named,
            own,
            metadata.get(STEP),
            current_step(),
            Hint(metadata.get(PLACE) or _PLACE.get(), "prompt_type"),
            # An enum whose members are strings; str() of one would be "PromptType.REFINE".
            Hint(getattr(kind, "value", kind), "prompt_type"),
        ],
        policy,
    )


@contextmanager
def at_place(place: str) -> Iterator[None]:
    """Name the place of every call in this block that carries no prompt."""
    token = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(token)


def own_copy(prompt: BasePromptTemplate) -> BasePromptTemplate:
    """Return a copy that LlamaIndex may change; it sets a program's parser on its prompt."""
    marks = {key: prompt.metadata[key] for key in (STEP, PLACE) if key in prompt.metadata}
    return with_metadata(prompt, marks)


def with_metadata(prompt: BasePromptTemplate, metadata: Mapping[str, str]) -> BasePromptTemplate:
    """Return a copy of a prompt with these marks and no other; nothing of it is shared."""
    own = {key: value for key, value in prompt.metadata.items() if key not in (STEP, PLACE)}
    changed: dict[str, Any] = {"metadata": {**own, **metadata}}
    if isinstance(prompt, SelectorPromptTemplate):
        # What it chooses from is marked too: filling it in makes a new one from these.
        changed["default_template"] = with_metadata(prompt.default_template, metadata)
        if prompt.conditionals is not None:
            changed["conditionals"] = [
                (condition, with_metadata(choice, metadata))
                for condition, choice in prompt.conditionals
            ]
    return prompt.model_copy(update=changed)

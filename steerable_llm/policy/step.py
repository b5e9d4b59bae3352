"""Telling which step of a chain a call belongs to; the same rule for every framework."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from steerable_llm.policy.policy import Policy


@dataclass(frozen=True)
class Hint:
    """A name that a framework gave a place in its own words, such as a LangGraph node.

    It counts where the policy has a step of that name, or one whose `match` rules for this kind
    fit it; unlike a step that the developer named, it is no error when the policy has none.

    Attributes:
        name: The framework's name; None where it has none.
        kind: What the name is the name of.
    """

    name: str | None
    kind: Literal["node", "tag", "prompt_type"]


def choose_step(candidates: Iterable[str | Hint | None], policy: Policy | None) -> str | None:
    """Return the first candidate that names a step; None leaves it to the policy's default.

    A hint turns into the name of the policy's step. A name that the developer gave comes back as
    it is, and the policy matches it when it decides.
    """
    for candidate in candidates:
        if isinstance(candidate, Hint):
            if policy is None or candidate.name is None:
                continue
            step = policy.step_for(candidate.name, candidate.kind)
            if step is not None:
                return step
        elif candidate is not None:
            return candidate
    return None

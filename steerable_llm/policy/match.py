"""Which step of a policy a name means."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

from steerable_llm.policy.policy_file import Step

Kind = Literal["step", "node", "tag", "prompt_type"]
"""Where a name comes from: the application named the step, or a framework its graph node, a tag,
or the type of its prompt."""

_WILDCARDS = "*?["


def matching_step(name: str, kind: Kind, steps: Mapping[str, Step]) -> str | None:
    """Return the step that a name means, if any.

    A step of exactly this name goes first, whatever its rules. Else the most specific pattern of
    this kind wins, so that the order of the file plays no part: one without wildcards before one
    with, then the one with more plain characters; of equals, the step that comes first in the
    alphabet. Upper and lower case differ.
    """
    if name in steps:
        return name
    found = [
        (*_generality(pattern), step)
        for step, rules in steps.items()
        for pattern in getattr(rules.match, kind)
        if fnmatchcase(name, pattern)
    ]
    return min(found)[-1] if found else None


def _generality(pattern: str) -> tuple[bool, int]:
    """Sort the more specific of two patterns first."""
    plain = sum(character not in _WILDCARDS for character in pattern)
    return any(character in _WILDCARDS for character in pattern), -plain

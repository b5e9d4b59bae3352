"""Steps that take what they leave out from another step."""

from collections.abc import Mapping

from steerable_llm.errors import PolicyError, UnknownStepError
from steerable_llm.names import unknown
from steerable_llm.policy.policy_file import Step

# What a step is told by, and from whom it inherits, are its own.
_OWN = {"match", "inherits"}


def with_inherited(steps: Mapping[str, Step]) -> dict[str, Step]:
    """Return the steps with every key filled in that they inherit.

    A key that a step gives, also an empty one, counts; every other comes whole from the step it
    inherits from, and so on.

    Raises:
        UnknownStepError: a step inherits from one that does not exist.
        PolicyError: steps inherit from each other in a circle.
    """
    return {name: _filled(name, steps) for name in steps}


def _filled(name: str, steps: Mapping[str, Step]) -> Step:
    line = [name]
    while (parent := steps[line[-1]].inherits) is not None:
        if parent not in steps:
            raise UnknownStepError(
                f"step {line[-1]!r} inherits from {unknown('step', parent, steps)}"
            )
        if parent in line:
            circle = " -> ".join([*line[line.index(parent) :], parent])
            raise PolicyError(
                f"steps inherit in a circle ({circle}): remove one of these `inherits`"
            )
        line.append(parent)
    taken = {}
    for ancestor in reversed(line):
        step = steps[ancestor]
        taken.update({key: getattr(step, key) for key in step.model_fields_set - _OWN})
    return steps[name].model_copy(update=taken)

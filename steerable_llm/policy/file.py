"""What a policy file may hold: steps, what they get, conditions and match rules.

pydantic checks the keys, and what is wrong is said in the file's own words. Below the tables are
what reads them: steps inherit from each other, and names match them.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from steerable_llm.errors import PolicyError, UnknownStepError, unknown
from steerable_llm.vector.contrast import Contrast, ContrastKind
from steerable_llm.vector.steering import Scope

Kind = Literal["step", "node", "tag", "prompt_type"]
"""Where a name comes from: the application named the step, or a framework its graph node, a tag,
or the type of its prompt."""


class FileTable(BaseModel, frozen=True):
    """A table of a file, which knows its keys."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key in data if isinstance(data, Mapping) else ():
            if key not in known:
                said = unknown("key", str(key), known)
                raise PydanticCustomError("unknown_key", "{said}", {"said": said, "key": str(key)})
        return data


class Ramp(FileTable):
    """A share between 0 and 1 that depends on one number and on nothing else.

    `{ from = a, to = b }` is 0 up to a, 1 from b on, and a straight line between; with a above b
    it falls instead. `{ above = c }` is 0 below c and 1 from c on. There is no hysteresis: what an
    earlier request measured plays no part.

    Attributes:
        start: `from` in the file: the number at which the share is 0.
        end: `to` in the file: the number at which the share is 1.
        above: The threshold, in place of `from` and `to`.
    """

    start: float | None = Field(default=None, alias="from", allow_inf_nan=False, strict=True)
    end: float | None = Field(default=None, alias="to", allow_inf_nan=False, strict=True)
    above: float | None = Field(default=None, allow_inf_nan=False, strict=True)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = (self.start is not None, self.end is not None, self.above is not None)
        if given not in self._forms():
            raise ValueError("give either from and to, or above")
        if self.start is not None and self.start == self.end:
            raise ValueError("from and to are equal: write above for a single threshold")
        return self

    @classmethod
    def _forms(cls) -> set[tuple[bool, bool, bool]]:
        """Which of `from`, `to` and `above` may be given together."""
        return {(True, True, False), (False, False, True)}

    def share(self, value: float) -> float:
        """Return the share of the strength that a measured value leaves."""
        if self.above is not None:
            return 1.0 if value >= self.above else 0.0
        assert self.start is not None, "a ramp without a threshold has both ends"
        assert self.end is not None, "a ramp without a threshold has both ends"
        # The ends first: so they are exact, and no rounding or overflow passes them.
        low, high = min(self.start, self.end), max(self.start, self.end)
        if value <= low:
            return 0.0 if low == self.start else 1.0
        if value >= high:
            return 1.0 if high == self.end else 0.0
        # Halves, so that the width of a ramp between huge numbers does not overflow.
        along = (value / 2 - self.start / 2) / (self.end / 2 - self.start / 2)
        return min(1.0, max(0.0, along))

    def __str__(self) -> str:
        """Return the ramp as it is written in the file."""
        if self.above is not None:
            return f"above {self.above:g}"
        return "at its threshold" if self.start is None else f"from {self.start:g} to {self.end:g}"

    def to_dict(self) -> dict[str, Any]:
        """Return what the file would hold, for a digest."""
        return self.model_dump(by_alias=True, exclude_none=True)


class GateUse(Ramp):
    """A gate and how its probability becomes a share of the strength.

    Attributes:
        name: The gate's file name without `.safetensors`. Without `from`, `to` and `above` the
            threshold is the one that was chosen in training.
    """

    name: str

    @classmethod
    def _forms(cls) -> set[tuple[bool, bool, bool]]:
        return {*super()._forms(), (False, False, False)}

    def with_threshold(self, threshold: float) -> Ramp:
        """Return the ramp, which is this threshold if the file gives none."""
        if self.above is None and self.start is None:
            return Ramp(above=threshold)
        return self


class When(FileTable):
    """On what a request's steering depends; every condition that is given must hold.

    Attributes:
        context: Steer only if the prompt holds retrieved text, or only if it holds none.
        conflict: From how far the context speaks against the model's own answer.
        gate: From how probable a trained gate finds it that this question goes wrong.
    """

    context: Literal["present", "absent"] | None = None
    conflict: Ramp | None = None
    gate: GateUse | None = None

    def over(self, other: "When") -> "When":
        """Return both together; of two conditions of one kind, this one's counts."""
        given = {name: value for name, value in self if value is not None}
        return other.model_copy(update=given)


class VectorUse(FileTable):
    """One vector of a step; what is left out comes from the vector's calibration.

    Attributes:
        name: The vector's file name without `.safetensors`.
        strength: Signed, in the unit that the vector is calibrated in (`steering.Unit`).
        layers: 0-based blocks to steer.
        scope: Which positions are steered.
        when: Conditions of this vector alone.
    """

    name: str
    # Strict: `strength = true` would else be 1.0, many times what a model bears.
    strength: float | None = Field(default=None, allow_inf_nan=False, strict=True)
    layers: tuple[Annotated[int, Field(strict=True)], ...] | None = None
    scope: Scope | None = None
    when: When = When()


class ContrastUse(FileTable):
    """How much more a step counts what the context adds, in decoding.

    In the file a number alone is the alpha of CAD, and `"adacad"` alone is the table of this kind.

    Attributes:
        kind: `cad`, or `adacad`, which chooses a for every token.
        alpha: The weight a of CAD, or what AdaCAD's own a is multiplied with, 1 unless given; 0
            decodes plainly, where the step that this one inherits from does not.
        when: Conditions of the contrast alone.
    """

    kind: ContrastKind = "cad"
    alpha: float | None = Field(default=None, ge=0, le=1e6, allow_inf_nan=False, strict=True)
    when: When = When()

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            return given
        if isinstance(given, str):
            return {"kind": given}
        if isinstance(given, int | float) and not isinstance(given, bool):
            return {"alpha": given}
        raise ValueError('give a number such as 0.5, "adacad", or a table with kind and alpha')

    @model_validator(mode="after")
    def _weighed(self) -> Self:
        if self.alpha is None and self.kind == "cad":
            raise ValueError("cad needs its alpha: write a number, such as contrast = 0.5")
        return self

    @property
    def contrast(self) -> Contrast | None:
        """The contrast; None where it is plain decoding."""
        alpha = 1.0 if self.alpha is None else self.alpha
        return Contrast(self.kind, alpha) if alpha else None


class InstructionUse(FileTable):
    """What a step tells the model in words; in the file a text alone, too.

    Attributes:
        text: Stands behind the prompt's own system message. A text without words is no
            instruction, where the step that this one inherits from has one.
        when: Conditions of the instruction alone.
    """

    text: str
    when: When = When()

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"text": given}
        if not isinstance(given, Mapping):
            raise ValueError("give a text, or a table with text and when")
        return given


class Match(FileTable):
    """Which calls belong to a step besides those that name it; patterns as in file names.

    Attributes:
        step: Names that the application gave the step.
        node: LangGraph nodes.
        tag: Tags of a LangChain call.
        prompt_type: LlamaIndex prompt types.
    """

    step: tuple[str, ...] = ()
    node: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    prompt_type: tuple[str, ...] = ()


class Step(FileTable):
    """What one step of a chain gets; a step that names nothing is left alone.

    Attributes:
        vectors: What steers it.
        contrast: How much more the context counts in decoding.
        instruction: What the model is told beside the prompt.
        match: Which calls belong to it; not inherited.
        inherits: The step that gives every key which this one leaves out.
        when: Conditions of everything above that has none of the same kind.
        orthogonalise: Later vectors lose their component along earlier ones.
        steer_structured: Steer tool calls and JSON, too.
    """

    vectors: tuple[VectorUse, ...] = ()
    contrast: ContrastUse | None = None
    instruction: InstructionUse | None = None
    match: Match = Match()
    inherits: str | None = None
    when: When = When()
    orthogonalise: bool = False
    steer_structured: bool = False


def shortened(value: object, most: int = 120) -> str:
    """Return a value as text for a message of one line."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 20]}... ({len(text)} characters)"


def explain(error: ValidationError) -> str:
    """Tell the first problem that pydantic found in one line, in the words of the file."""
    problem = error.errors()[0]
    said = problem["msg"].removeprefix("Value error, ")
    place = ".".join(map(str, problem["loc"]))
    if problem["type"] == "unknown_key":
        key = problem["ctx"]["key"]
        return f"{place}.{key}: {said}" if place else f"{key}: {said}"
    said = re.sub(r"valid dictionary( or instance of \w+)?", "table", said)
    said = said.replace("valid tuple", "list")
    try:
        got = shortened(repr(problem["input"]))
    except ValueError:  # a number of more digits than Python writes
        got = "a number of thousands of digits"
    return f"{shortened(place)}: {said} (got {got})"


# What a step is told by, and from whom it inherits, are its own.
_OWN = {"match", "inherits"}
_MOST_ANCESTORS = 32


def with_inherited(steps: Mapping[str, Step]) -> dict[str, Step]:
    """Return the steps with every key filled in that they inherit.

    A key that a step gives, also an empty one, counts; every other comes whole from the step it
    inherits from, and so on.

    Raises:
        UnknownStepError: A step inherits from one that does not exist.
        PolicyError: Steps inherit from each other in a circle.
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
        if len(line) > _MOST_ANCESTORS:
            raise PolicyError(
                f"step {name!r} inherits over more than {_MOST_ANCESTORS} steps: let it inherit "
                "from the step that holds what it needs"
            )
    taken = {}
    for ancestor in reversed(line):
        step = steps[ancestor]
        taken.update({key: getattr(step, key) for key in step.model_fields_set - _OWN})
    return steps[name].model_copy(update=taken)


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
    return plain < len(pattern), -plain

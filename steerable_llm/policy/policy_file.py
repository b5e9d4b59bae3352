"""The keys of a policy file, checked by pydantic; what is wrong is said in the file's own words."""

import re
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerable_llm.names import unknown
from steerable_llm.policy.ramp import Ramp
from steerable_llm.steering import Scope


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GateUse(Ramp):
    """A gate and how its probability becomes a share of the strength.

    Attributes:
        name: the gate's file name without `.safetensors`. Without `from`, `to` and `above` the
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


class When(_Table):
    """On what a request's steering depends; every condition that is given must hold.

    Attributes:
        context: steer only if the prompt holds retrieved text, or only if it holds none.
        conflict: from how far the context speaks against the model's own answer.
        gate: from how probable a trained gate finds it that this question goes wrong.
    """

    context: Literal["present", "absent"] | None = None
    conflict: Ramp | None = None
    gate: GateUse | None = None

    def over(self, other: "When") -> "When":
        """Return both together; of two conditions of one kind, this one's counts."""
        given = {name: value for name, value in self if value is not None}
        return other.model_copy(update=given)


class VectorUse(_Table):
    """One vector of a step; what is left out comes from the vector's calibration.

    Attributes:
        name: the vector's file name without `.safetensors`.
        strength: signed, in units of each layer's residual norm.
        layers: 0-based blocks to steer.
        scope: which positions are steered.
        when: conditions of this vector alone.
    """

    name: str
    # Strict: `strength = true` would else be 1.0, many times what a model bears.
    strength: float | None = Field(default=None, allow_inf_nan=False, strict=True)
    layers: tuple[Annotated[int, Field(strict=True)], ...] | None = None
    scope: Scope | None = None
    when: When = When()


class Match(_Table):
    """Which calls belong to a step besides those that name it; patterns as in file names.

    Attributes:
        step: names that the application gave the step.
        node: LangGraph nodes.
        tag: tags of a LangChain call.
        prompt_type: LlamaIndex prompt types.
    """

    step: tuple[str, ...] = ()
    node: tuple[str, ...] = ()
    tag: tuple[str, ...] = ()
    prompt_type: tuple[str, ...] = ()


class Step(_Table):
    """What one step of a chain gets; no vectors means that it is never steered.

    Attributes:
        vectors: what steers it.
        match: which calls belong to it; not inherited.
        inherits: the step that gives every key which this one leaves out.
        when: conditions of every vector that has none of the same kind.
        orthogonalise: later vectors lose their component along earlier ones.
        steer_structured: steer tool calls and JSON, too.
    """

    vectors: tuple[VectorUse, ...] = ()
    match: Match = Match()
    inherits: str | None = None
    when: When = When()
    orthogonalise: bool = False
    steer_structured: bool = False


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Tell the first problem that pydantic found in one line, in the words of the file."""
    # A misspelt key is often also a missing one, and the misspelling says more.
    problem = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys(model, problem["loc"][:-1])
        return f"{place}: {unknown('key', str(problem['loc'][-1]), known)}"
    said = problem["msg"].removeprefix("Value error, ")
    said = re.sub(r"valid dictionary( or instance of \w+)?", "table", said)
    said = said.replace("valid tuple", "list")
    return f"{place}: {said} (got {problem['input']!r})"


def _keys(model: type[BaseModel], path: Iterable[str | int]) -> list[str]:
    """Return the keys that the table at a place of the file may have."""
    here: Any = model
    for part in path:
        if _is_table(here):
            here = _fields(here)[str(part)]
        else:  # dict[str, X] and tuple[X, ...] both hold their content in one argument
            here = next((kind for kind in get_args(here) if _holds_tables(kind)), None)
        if get_origin(here) in (Union, UnionType):
            here = next(kind for kind in get_args(here) if _holds_tables(kind))
    return list(_fields(here))


def _fields(model: type[BaseModel]) -> Mapping[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _holds_tables(kind: Any) -> bool:
    return _is_table(kind) or any(map(_holds_tables, get_args(kind)))

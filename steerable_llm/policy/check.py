"""What a policy does, step by step and call by call, and what looks wrong in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pydantic import ValidationError
from torch.nn.functional import cosine_similarity

from steerable_llm.chat.context import tell
from steerable_llm.chat.message import as_messages
from steerable_llm.errors import InvalidInputError, UnknownStepError
from steerable_llm.files import read_json_lines
from steerable_llm.policy.decision import (
    Asked,
    Conflicts,
    SteeringDecision,
    decide,
    name_of,
    unsteered_because,
)
from steerable_llm.policy.file import FileTable, Step, When, explain, with_inherited
from steerable_llm.policy.policy import Hint, Policy, choose_step, named_by
from steerable_llm.policy.steered_step import SteeredStep
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.steering import Steering, SteeringTerm


class TracedCall(FileTable):
    """One call of a chain, as far as a policy can see it.

    Attributes:
        step: The step that the application named.
        node: The LangGraph node.
        tags: The tags of a LangChain call; "steer:NAME" names the step.
        prompt_type: The type of a LlamaIndex prompt.
        messages: The prompt, as text or messages; without it, conditions stay open.
        context: Whether the prompt holds retrieved text, or the retrieved texts.
        structured: Whether the answer is to be tool calls or JSON.
    """

    step: str | None = None
    node: str | None = None
    tags: tuple[str, ...] = ()
    prompt_type: str | None = None
    messages: str | tuple[Mapping[str, Any], ...] | None = None
    context: bool | tuple[str, ...] | None = None
    structured: bool = False


def read_trace(path: str | os.PathLike[str]) -> list[TracedCall]:
    """Read a trace, one JSON object per line; blank lines are skipped.

    Raises:
        InvalidInputError: There is no such file, it holds no call, or a line is not one.
    """
    has = f"a call has any of {', '.join(TracedCall.model_fields)}"
    calls = list(read_json_lines(path, _call_from, "trace", has))
    if not calls:
        raise InvalidInputError(f"the trace {path} is empty: it needs one call per line")
    return calls


def _call_from(record: dict[str, Any]) -> TracedCall:
    try:
        call = TracedCall.model_validate(record)
    except ValidationError as error:
        raise InvalidInputError(explain(error)) from error
    if call.messages is not None:
        as_messages(call.messages)
    return call


FIGHT = -0.5
"""At or below this cosine two vectors fight: each undoes half or more of what the other does."""
_SAME = 1.01  # a strength that was rounded when it was written down is no other one


@dataclass(frozen=True)
class Meeting:
    """Two vectors that act together.

    Attributes:
        first: Name of the earlier vector.
        second: Name of the later one.
        cosines: Per block on which both act, the cosine between what they add there.
    """

    first: str
    second: str
    cosines: dict[int, float]

    @property
    def fights(self) -> tuple[int, ...]:
        """The blocks in which the two work against each other."""
        return tuple(layer for layer, cosine in self.cosines.items() if cosine <= FIGHT)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {
            "first": self.first,
            "second": self.second,
            "cosines": {str(layer): cosine for layer, cosine in self.cosines.items()},
            "fights": list(self.fights),
        }


def meetings(steering: Steering) -> list[Meeting]:
    """Return how every two vectors of a steering relate, where they act on the same blocks."""
    found = []
    for first, second in combinations(steering.active_terms, 2):
        shared = sorted(set(first.steered_layers) & set(second.steered_layers))
        pairs = {x: (first.delta(x).double(), second.delta(x).double()) for x in shared}
        cosines = {layer: float(cosine_similarity(*pair, dim=0)) for layer, pair in pairs.items()}
        if cosines:
            found.append(Meeting(first.vector.name, second.vector.name, cosines))
    return found


@dataclass(frozen=True)
class CheckedStep:
    """One step of a policy.

    Attributes:
        name: Its name.
        steered: Its vectors, contrast, instruction and conditions.
        files: What the policy calls each vector: the name of its file.
        rules: Which names match it, by kind.
        inherits: The step that it takes the rest from.
        meetings: How its vectors relate, as far as they can act on one request.
    """

    name: str
    steered: SteeredStep
    files: tuple[str, ...]
    rules: Mapping[str, tuple[str, ...]]
    inherits: str | None
    meetings: tuple[Meeting, ...]

    def to_dict(self) -> dict[str, Any]:
        """The step as JSON values."""
        return {
            "vectors": [
                {**term_facts(term), "file": file, "when": _written(when)}
                for file, (term, when) in zip(self.files, self.steered.terms, strict=True)
            ],
            **self._beside,
            "match": {kind: list(names) for kind, names in self.rules.items()},
            "inherits": self.inherits,
            "steer_structured": self.steered.steer_structured,
            "kept": [
                {"vector": name, "share": {str(layer): left for layer, left in kept.items()}}
                for name, kept in self.steered.kept
            ],
            "meetings": [meeting.to_dict() for meeting in self.meetings],
        }

    @property
    def _beside(self) -> dict[str, Any]:
        """The contrast and the instruction, each with its conditions, as far as it has them."""
        found: dict[str, Any] = {}
        if self.steered.contrast is not None:
            contrast, when = self.steered.contrast
            found["contrast"] = {**contrast.to_dict(), "when": _written(when)}
        if self.steered.instruction is not None:
            text, when = self.steered.instruction
            found["instruction"] = {"text": text, "when": _written(when)}
        return found


@dataclass(frozen=True)
class CheckedPolicy:
    """A policy that was looked through.

    Attributes:
        policy: The policy.
        steps: Its steps, in the order of the file.
        warnings: What looks wrong though it can be used.
    """

    policy: Policy
    steps: tuple[CheckedStep, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The policy as JSON values."""
        return {
            "digest": self.policy.digest,
            "off": self.policy.off,
            "default_step": self.policy.default_step,
            "steps": {step.name: step.to_dict() for step in self.steps},
            "gates": {name: gate.fingerprint_id for name, gate in self.policy.gates.items()},
            "warnings": list(self.warnings),
        }


def check_policy(policy: Policy, fingerprint: ModelFingerprint | None = None) -> CheckedPolicy:
    """Look through a policy.

    Args:
        policy: With its vectors looked up, as `Policy.load` does.
        fingerprint: The model that it is for; None compares the vectors with each other only.

    Raises:
        ModelMismatchError: A vector was built for another model, or a gate was trained with
            another embedding model than the one at hand.
    """
    if fingerprint is not None:
        policy.check(fingerprint)
    steps = tuple(_checked(name, step, policy) for name, step in policy.steps.items())
    return CheckedPolicy(policy, steps, tuple(_warnings(policy, steps)))


def dry_run(
    policy: Policy, calls: Sequence[TracedCall], conflicts: Conflicts | None = None
) -> list[SteeringDecision]:
    """Decide every call of a trace as the model would, without answering it.

    A call without messages leaves its conditions open, but for the context where the call tells it:
    what it could get at most is shown.

    Args:
        policy: What decides.
        calls: In the order of the trace.
        conflicts: Measures conflict on the model; without it such conditions do not hold.

    Raises:
        UnknownStepError: A call names a step that the policy does not have; says which call.
    """
    return [_decision(policy, call, number, conflicts) for number, call in enumerate(calls, 1)]


def term_facts(term: SteeringTerm) -> dict[str, Any]:
    """What one vector does, as JSON values."""
    return {
        "vector": term.vector.name,
        "fingerprint": term.vector.fingerprint_id,
        "strength": term.strength,
        "unit": term.unit,
        "scope": term.scope,
        "layers": list(term.steered_layers),
    }


def _written(when: When) -> dict[str, Any]:
    return when.model_dump(by_alias=True, exclude_none=True)


def _checked(name: str, step: Step, policy: Policy) -> CheckedStep:
    steered = policy.steered_step(name)
    met = [
        meeting
        for (first, one), (second, other) in combinations(steered.terms, 2)
        # Whether both conditions can hold for one request.
        if None in (one.context, other.context) or one.context == other.context
        for meeting in meetings(Steering((first, second)))
    ]
    rules = {kind: patterns for kind, patterns in step.match if patterns}
    files = tuple(use.name for use in with_inherited(policy.steps)[name].vectors)
    return CheckedStep(name, steered, files, rules, step.inherits, tuple(met))


def _warnings(policy: Policy, steps: Sequence[CheckedStep]) -> Iterator[str]:
    if why := policy.off:
        yield why
    built_for = {vector.fingerprint.short for vector in policy.vectors.values()}
    if len(built_for) > 1:
        yield f"the vectors were built for different models: {', '.join(sorted(built_for))}"
    for step in steps:
        for meeting in step.meetings:
            if meeting.fights:
                layers = ", ".join(f"{x} ({meeting.cosines[x]:+.2f})" for x in meeting.fights)
                yield (
                    f"step {step.name!r}: {meeting.first} and {meeting.second} fight in layers "
                    f"{layers}: their cosine is {FIGHT} or less; steer with one of them, or set "
                    "orthogonalise = true"
                )
        yield from _vector_warnings(step)
        names = [term.vector.name for term, _ in step.steered.terms]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"step {step.name!r} names vector {name} more than once: its strengths add up"
        if step.steered.contrast is not None and step.steered.contrast[1].context == "absent":
            yield (
                f"step {step.name!r} contrasts only where there is no context, so never: leave "
                "the contrast out, or its condition"
            )


def _vector_warnings(step: CheckedStep) -> Iterator[str]:
    """Yield what is odd about each vector: its name, and a strength that no calibration chose."""
    for file, (term, _) in zip(step.files, step.steered.terms, strict=True):
        vector = term.vector
        # Orthogonalised, a vector has a name of its own.
        if vector.name not in (file, f"{file}-orthogonalised"):
            yield f"step {step.name!r}: the file {file!r} holds a vector called {vector.name!r}"
        calibration = getattr(vector, "calibration", None)
        where = f"step {step.name!r}: {file} at strength {term.strength:g}"
        if calibration is None:
            yield f"{where}: it was never calibrated, so that nothing is known of this strength"
            continue
        if term.unit != calibration.unit:
            continue
        ratio = term.strength / calibration.strength if calibration.strength else 0.0
        if ratio < 0 or ratio > _SAME:
            why = "of the other sign" if ratio < 0 else "stronger than any that was chosen"
            yield f"{where}: calibration chose {calibration.strength:g}, and this is {why}"
        elif term.scope != calibration.scope:
            chosen = calibration.scope
            yield f"{where}: calibration chose it for scope {chosen!r}, not for {term.scope!r}"


def _decision(
    policy: Policy, call: TracedCall, number: int, conflicts: Conflicts | None
) -> SteeringDecision:
    try:
        step = choose_step(
            [
                call.step,
                Hint(call.node, "node"),
                *named_by(call.tags),
                *(Hint(tag, "tag") for tag in call.tags),
                Hint(call.prompt_type, "prompt_type"),
            ],
            policy,
        )
        if call.messages is None:
            return _without_messages(policy, step, call)
        asked = Asked(call.messages, step, None, call.context, call.structured)
        return decide(policy, [asked], conflicts or (lambda prompts: [None] * len(prompts)))[0]
    except UnknownStepError as error:
        raise InvalidInputError(f"call {number} of the trace: {error}") from error


def _without_messages(policy: Policy, step: str | None, call: TracedCall) -> SteeringDecision:
    name = policy.step_for(step)
    if name is None:  # nothing is left that could depend on messages
        return decide(policy, [Asked("-")], lambda _: [])[0]
    steered = policy.steered_step(name)
    reasons = [f"step {name!r}"]
    why = unsteered_because(policy, steered, call.structured)
    if why is not None:
        return SteeringDecision(Steering.none(), name, (*reasons, why), policy.digest)
    told = None if call.context is None else tell(as_messages("-"), call.context).present
    is_there = "present" if told else "absent"
    open_: set[str] = set()
    terms, contrast, instruction = [], None, None
    for part, when in steered.parts:
        asks = {kind for kind, value in when if value is not None}
        # A contrast needs the context's words, too, which only messages hold.
        needs = when.conflict is not None or isinstance(part, Contrast)
        if told is not None and (when.context is not None or (needs and not told)):
            holds = when.context in (None, is_there) and (told or not needs)
            effect = "applied" if holds else "not applied"
            reasons.append(f"{name_of(part)}: context {is_there}: {effect}")
            if not holds:
                continue
            asks.discard("context")
        open_ |= asks | ({"context"} if isinstance(part, Contrast) else set())
        if isinstance(part, str):
            instruction = part
        elif isinstance(part, Contrast):
            contrast = part
        else:
            terms.append(part)
    if open_:
        reasons.append(f"at most; it depends on the request: {', '.join(sorted(open_))}")
    steering = Steering(tuple(terms))
    return SteeringDecision(steering, name, tuple(reasons), policy.digest, contrast, instruction)

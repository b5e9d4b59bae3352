"""What one request gets, and why: a pure function of policy, request and model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

from steerable_llm.chat.context import (
    Context,
    question_alone,
    question_text,
    tell,
    without_context,
)
from steerable_llm.chat.message import Message, MessagesLike, as_messages
from steerable_llm.policy.file import GateUse, Ramp, When
from steerable_llm.policy.policy import Policy
from steerable_llm.policy.steered_step import SteeredStep
from steerable_llm.vector.contrast import Contrast
from steerable_llm.vector.steering import Steering, SteeringTerm


@dataclass(frozen=True)
class SteeringDecision:
    """How a request is steered.

    Attributes:
        steering: What is applied.
        contrast: How the context is counted more; None where it is not.
        instruction: What the model is told beside the prompt.
        step: The step of the policy that decided; None where none did.
        reasons: Why, one short sentence each, in the order in which things were decided.
        policy: Digest of the policy that decided; None where none did.
    """

    steering: Steering = field(repr=False)
    step: str | None
    reasons: tuple[str, ...]
    policy: str | None = None
    contrast: Contrast | None = None
    instruction: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The decision without the steering itself, as JSON values; what is None is left out."""
        beside = {
            "contrast": self.contrast and self.contrast.to_dict(),
            "instruction": self.instruction,
        }
        told = {"step": self.step, "reasons": list(self.reasons), "policy": self.policy}
        return told | {name: value for name, value in beside.items() if value is not None}

    def noting(self, reason: str) -> SteeringDecision:
        """Return the decision with one more thing to say of it."""
        return replace(self, reasons=(*self.reasons, reason))

    def without_instruction(self, why: str) -> SteeringDecision:
        """Return the decision for who cannot put an instruction anywhere."""
        reasons = (*self.reasons, f"instruction: {why}: not applied")
        return replace(self, instruction=None, reasons=reasons)


@dataclass(frozen=True)
class Asked:
    """What a decision depends on.

    Attributes:
        messages: The prompt.
        step: The step that was named for the request; None is the policy's default.
        steering: A steering that was given with the request; it always wins, and leaves the policy
            nothing to decide.
        context: Whether the prompt holds retrieved text; None leaves it to be told.
        structured: Whether the answer is to be tool calls or JSON.
        policy: Decides in place of the policy of the moment.
        contrast: A contrast that was given with the request; it takes the place of the step's.
        chat_template_kwargs: What the chat template is given beside the messages.
    """

    messages: MessagesLike
    step: str | None = None
    steering: Steering | None = None
    context: Context = None
    structured: bool = False
    policy: Policy | None = field(default=None, compare=False, repr=False)
    contrast: Contrast | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None

    @cached_property
    def prompt(self) -> tuple[Message, ...]:
        """The messages in one form.

        Raises:
            InvalidInputError: They are empty or malformed.
        """
        return as_messages(self.messages)


Conflicts: TypeAlias = Callable[
    [Sequence[tuple[Sequence[Message], Sequence[Message], Mapping[str, Any] | None]]],
    Sequence[float | None],
]
"""From prompts, each with its context, without it, and with what the chat template is given, to how
far the context speaks against the model's own answer; None where that cannot be told."""


def decide(
    policy: Policy | None, requests: Sequence[Asked], conflicts: Conflicts
) -> list[SteeringDecision]:
    """Decide how each of some requests is steered.

    All requests are measured together, so that a batch costs few passes of the model.

    Args:
        policy: Of the requests that bring none of their own; None steers nothing but what requests
            bring themselves.
        requests: What was asked.
        conflicts: Measured on the model, and only where a condition asks for it.

    Raises:
        UnknownStepError: A request names a step that the policy does not have.
        ModelMismatchError: A gate meets another embedding model than its own.
    """
    rows = [_Row(asked, asked.policy or policy) for asked in requests]
    # Hardly ever more than one: what is asked under the same policy is decided together.
    policies = {id(row.policy): row.policy for row in rows if row.policy is not None}
    for condition, judge in CONDITIONS.items():
        for each in policies.values():
            jobs = [
                (row, place, setting)
                for row in rows
                if row.policy is each
                for place, setting in row.waiting(condition)
            ]
            if not jobs:
                continue
            found = judge([(row.asked, setting) for row, _, setting in jobs], each, conflicts)
            for (row, place, _), (share, why) in zip(jobs, found, strict=True):
                row.take(place, share, why)
    return [row.decision() for row in rows]


def unsteered_because(policy: Policy, step: SteeredStep, structured: bool) -> str | None:
    """Why a step steers no request of this kind, whatever its conditions; None if it may."""
    if policy.off is not None:
        return policy.off
    if structured and not step.steer_structured:
        return "the answer is structured (tool calls or JSON)"
    return None if step.parts else "the step has no vectors"


# What reasons call the parts of a step that have no name.
_NAMES: Mapping[type, str] = {Contrast: "contrast", str: "instruction"}


def name_of(part: SteeringTerm | Contrast | str) -> str:
    """Return what reasons call a part of a step."""
    return part.vector.name if isinstance(part, SteeringTerm) else _NAMES[type(part)]


_GIVEN_FROM = 0.5  # words cannot be given in part, so a ramp is a threshold at its middle


class _Row:
    """One request while it is decided."""

    def __init__(self, asked: Asked, policy: Policy | None) -> None:
        self.asked = asked
        self.reasons: list[str] = []
        self.policy = policy
        step = self._told_step()
        self._parts = step.parts if step else ()
        self._shares = [1.0] * len(self._parts)
        self._own = self._own_contrast()
        for place, (part, _) in enumerate(self._parts):
            if isinstance(part, Contrast):
                self._look_at_contrast(place)

    def _told_step(self) -> SteeredStep | None:
        """Return the step that comes into question; None where none does."""
        asked, policy = self.asked, self.policy
        self.name: str | None = None
        if asked.steering is not None:
            self.reasons.append("the request brings its own steering")
            return None
        if policy is None:
            self.reasons.append("there is no policy")
            return None
        self.name = policy.step_for(asked.step)
        if self.name is None:
            self.reasons.append("the request names no step and the policy has no default step")
            return None
        self.reasons.append(_by_which_name(asked.step, self.name))
        step = policy.steered_step(self.name)
        why = unsteered_because(policy, step, asked.structured)
        if why is None:
            return step
        self.reasons.append(why)
        return None

    def _own_contrast(self) -> Contrast | None:
        """Return the contrast that the request brings, if it can be made."""
        own = self.asked.contrast
        if own is None:
            return None
        why = self._uncontrasted_because()
        self.reasons.append("the request brings its own contrast" + (f", but {why}" if why else ""))
        return None if why or own.alpha == 0 else own

    def _look_at_contrast(self, place: int) -> None:
        """Switch the step's contrast off where it cannot count, before anything is measured."""
        why = self._uncontrasted_because()
        if self.asked.contrast is not None:
            self._shares[place] = 0.0  # the reasons have it already
        elif why is not None:
            self.take(place, 0.0, why)

    def _uncontrasted_because(self) -> str | None:
        if question_alone(self.asked.prompt, self.asked.context) is None:
            return "the prompt has no context beside its question"
        return None

    def waiting(self, condition: str) -> list[tuple[int, Any]]:
        """Return the parts that this kind of condition can still switch off or weaken."""
        settings = [getattr(when, condition) for _, when in self._parts]
        return [
            (place, setting)
            for place, setting in enumerate(settings)
            if setting is not None and self._shares[place] > 0
        ]

    def take(self, place: int, share: float, why: str) -> None:
        part, _ = self._parts[place]
        if isinstance(part, str):
            share = float(share >= _GIVEN_FROM)
        self._shares[place] *= share
        name = name_of(part)
        effect = {0.0: "not applied", 1.0: "applied"}.get(share, f"{share:.3g} of its strength")
        self.reasons.append(f"{name}: {why}: {effect}")

    def decision(self) -> SteeringDecision:
        digest = self.policy.digest if self.policy and self.asked.steering is None else None
        terms, contrast, instruction = [], self._own, None
        for (part, _), share in zip(self._parts, self._shares, strict=True):
            if share == 0:
                continue
            if isinstance(part, str):
                instruction = part
            elif isinstance(part, Contrast):
                contrast = replace(part, alpha=part.alpha * share)
            else:
                terms.append(replace(part, strength=part.strength * share) if share < 1 else part)
        steering = Steering(tuple(terms)) if self.asked.steering is None else self.asked.steering
        reasons = tuple(self.reasons)
        return SteeringDecision(steering, self.name, reasons, digest, contrast, instruction)


def _by_which_name(named: str | None, step: str) -> str:
    if named is None:
        return f"step {step!r}, the default"
    return f"step {step!r}" if named == step else f"step {step!r}, which {named!r} matches"


# From what was asked, each with a condition's setting, to the share of the strength and the reason.
_Found: TypeAlias = "list[tuple[float, str]]"


def _context(
    jobs: Sequence[tuple[Asked, str]], policy: Policy, _conflicts: Conflicts
) -> _Found:  # fmt: skip
    found = []
    for asked, wanted in jobs:
        told = tell(asked.prompt, asked.context)
        is_there = "present" if told.present else "absent"
        why = f"context {is_there}"
        if told.doubt is not None:
            why = f"context cannot be told ({told.doubt}), and is taken to be {is_there}"
            _warn_of(policy, told.doubt)
        found.append((float(is_there == wanted), why))
    return found


def _warn_of(policy: Policy, doubt: str) -> None:
    if policy.is_first("a doubt about the context"):
        warnings.warn(
            f"whether a prompt holds retrieved text cannot be told ({doubt}), so that conditions "
            "on the context take it to hold none: pass context=True, context=False or the passages "
            "with the call, or mark them, as in <context>...</context>; decisions say so in their "
            "reasons from now on",
            stacklevel=2,
        )


def _gate(
    jobs: Sequence[tuple[Asked, GateUse]], policy: Policy, _conflicts: Conflicts
) -> _Found:  # fmt: skip
    texts = [question_text(asked.prompt) for asked, _ in jobs]
    measured: dict[tuple[str, str | None], float] = {}
    for name in {use.name for _, use in jobs}:
        wanted = sorted(
            {text for text, (_, use) in zip(texts, jobs, strict=True) if text and use.name == name}
        )
        measured |= {
            (name, text): probability
            for text, probability in zip(wanted, policy.probabilities(name, wanted), strict=True)
        }
    found = []
    for text, (_, use) in zip(texts, jobs, strict=True):
        if (value := measured.get((use.name, text))) is None:
            found.append((0.0, f"gate {use.name!r} finds no question"))
            continue
        ramp = use.with_threshold(policy.gates[use.name].threshold)
        found.append((ramp.share(value), f"gate {use.name!r} says {value:.3f} ({ramp})"))
    return found


def _conflict(jobs: Sequence[tuple[Asked, Ramp]], policy: Policy, conflicts: Conflicts) -> _Found:
    # Two vectors of one request ask for the same measurement.
    asked = {id(each): each for each, _ in jobs}
    both = {
        key: (each.prompt, without_context(each.prompt, each.context))
        for key, each in asked.items()
    }
    contexts = {key: tell(each.prompt, each.context) for key, each in asked.items()}
    told = {
        key: pair
        for key, pair in both.items()
        if contexts[key].present and pair[1] and pair[0] != pair[1]
    }
    probes = [(*pair, asked[key].chat_template_kwargs) for key, pair in told.items()]
    values = dict(zip(told, conflicts(probes), strict=True)) if told else {}
    found = []
    for each, ramp in jobs:
        value, context = values.get(id(each)), contexts[id(each)]
        if value is not None:
            why = f"conflict {value:+.3f} nats per token ({ramp})"
            found.append((ramp.share(value), why))
        elif context.doubt is not None:
            _warn_of(policy, context.doubt)
            found.append((0.0, f"no conflict can be told, nor the context ({context.doubt})"))
        elif not context.present:
            found.append((0.0, "no context, so no conflict"))
        elif id(each) not in told:
            found.append((0.0, "no conflict can be told, as the prompt marks no context"))
        else:
            found.append((0.0, "the conflict could not be measured"))
    return found


# The cheap ones first: what one of them rules out is not measured by the next.
CONDITIONS: Mapping[str, Callable[[Any, Policy, Conflicts], _Found]] = {
    "context": _context,
    "gate": _gate,
    "conflict": _conflict,
}


def shares_under(
    when: When, requests: Sequence[Asked], policy: Policy, conflicts: Conflicts
) -> list[float]:
    """Return the share of the strength that conditions leave a vector, per request.

    Args:
        when: The conditions.
        requests: What would be asked.
        policy: Knows the gates.
        conflicts: Measured on the model, and only where a condition asks for it.
    """
    shares = [1.0] * len(requests)
    for condition, judge in CONDITIONS.items():
        setting = getattr(when, condition)
        open_ones = [place for place, share in enumerate(shares) if share > 0]
        if setting is None or not open_ones:
            continue
        found = judge([(requests[place], setting) for place in open_ones], policy, conflicts)
        for place, (share, _) in zip(open_ones, found, strict=True):
            shares[place] *= share
    return shares


assert set(CONDITIONS) == set(When.model_fields), "every condition of the file is judged"

"""A policy step's conditions: what of its strength an arm that steers has on each prompt.

A step with `context = "present"` never touches a question that comes without context, so what a
vector would do to it there is no cost of the step. Under a step every arm that steers is run as the
step would use it: on prompts where the conditions do not hold it is the unsteered model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import UNSTEERED, Arm
from steerable_llm.evaluation.measure import Outcome, measure
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.policy.decision import Asked, shares_under
from steerable_llm.policy.file import When
from steerable_llm.policy.policy import Policy
from steerable_llm.reports.numbers import ranges
from steerable_llm.runtime.conflict import conflicts
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.vector import SteeringVector


class StepUse(BaseModel, frozen=True, extra="forbid"):
    """Under what an evaluation steered, for its report.

    Attributes:
        step: The policy's name of the step.
        when: The conditions, as a policy file says them; empty where it has none.
        gates: The gates that they ask, by name, with their fingerprints.
        steered: Per category, how many of its prompts were steered, if only in part.
    """

    step: str
    when: dict[str, Any] = {}
    gates: dict[str, str] = {}
    steered: dict[str, int] = {}

    @property
    def same(self) -> tuple[Any, ...]:
        """What must be alike for a proof under one step to hold under another."""
        return self.when, self.gates

    @property
    def said(self) -> str:
        """The conditions in words."""
        if not self.when:
            return "always"
        return "; ".join(f"{name}: {_plain(value)}" for name, value in self.when.items())


@dataclass(frozen=True)
class Conditions:
    """What a step asks before it steers with a vector."""

    policy: Policy
    step: str
    when: When

    @classmethod
    def of(cls, settings: EvaluationSettings, vector: SteeringVector | None) -> Conditions | None:
        """Return the conditions of the step that the settings name; None where they name none.

        A vector that the step has already keeps conditions of its own; any other would get those
        of the step.

        Raises:
            InvalidInputError: A policy without a step, or the reverse.
            PolicyError: The policy cannot be read.
            UnknownStepError: It has no such step.
        """
        if settings.policy is None and settings.step is None:
            return None
        if settings.policy is None or settings.step is None:
            raise InvalidInputError(
                "a policy and one of its steps go together: give both (--policy FILE --step STEP), "
                "or neither"
            )
        given = settings.policy
        policy = given if isinstance(given, Policy) else Policy.load(given)
        name = policy.step_for(settings.step)
        assert name is not None, "only a request without a step may have none"
        return cls(policy, name, policy.conditions(name, vector))

    def shares(self, llm: HookedModel, items: Sequence[EvaluationItem]) -> list[float]:
        """Return what of the strength each prompt gets, from 0 to 1."""
        asked = [Asked(item.messages) for item in items]
        return shares_under(self.when, asked, self.policy, lambda both: conflicts(llm, both))

    def use(self, items: Sequence[EvaluationItem], shares: Sequence[float]) -> StepUse:
        """Return the record of a report."""
        steered = dict.fromkeys((item.category for item in items), 0)
        for item, share in zip(items, shares, strict=True):
            steered[item.category] += share > 0
        gates = {} if self.when.gate is None else {self.when.gate.name: self._gate}
        when = self.when.model_dump(mode="json", by_alias=True, exclude_none=True)
        return StepUse(step=self.step, when=when, gates=gates, steered=steered)

    @property
    def _gate(self) -> str:
        assert self.when.gate is not None
        return self.policy.gates[self.when.gate.name].fingerprint_id


def beside(conditions: Conditions, vector: SteeringVector) -> list[str]:
    """Return in what a step would steer otherwise than an evaluation of this vector does."""
    told = []
    (mine,) = vector.steer().terms
    step = conditions.policy.steered_step(conditions.step)
    for what, part in (("a contrast", step.contrast), ("an instruction", step.instruction)):
        if part is not None:
            told.append(
                f"step {conditions.step!r} also works with {what}, which was not measured here"
            )
    for term, _ in step.terms:
        if term.vector.fingerprint_id != vector.fingerprint_id:
            told.append(
                f"step {conditions.step!r} also steers with {term.vector.name!r}, which was not "
                "measured here"
            )
        elif replace(term, vector=vector) != mine:
            told.append(
                f"step {conditions.step!r} steers with strength {term.strength:+g}, scope "
                f"{term.scope} and layers {ranges(term.steered_layers)}; what is measured here is "
                "the vector as calibrated"
            )
    return told


def under_conditions(
    llm: HookedModel,
    arms: Sequence[Arm],
    found: Mapping[str, list[list[Outcome]]],
    items: Sequence[EvaluationItem],
    shares: Sequence[float],
    settings: EvaluationSettings,
) -> dict[str, list[list[Outcome]]]:
    """Return what arms do under conditions, from what they did without any.

    Only prompts that get a part of the strength are run again.

    Args:
        llm: The model.
        arms: Those that were run, the unsteered one among them.
        found: Per name of an arm its runs, each with an outcome per prompt.
        items: The prompts.
        shares: What of the strength each of them gets.
        settings: How arms are run.
    """
    unsteered = found["none"][0]
    left = {name: list(runs) for name, runs in found.items()}
    under: dict[str, list[list[Outcome]]] = {name: [] for name in found}
    for arm in arms:
        run = list(left[arm.name].pop(0))
        under[arm.name].append(run)
        if not arm.steering.is_active:
            continue
        idle = replace(UNSTEERED, name=arm.name)
        rest = [place for place, share in enumerate(shares) if arm.at(share) == idle]
        part = [
            place for place, share in enumerate(shares) if share < 1.0 and place not in set(rest)
        ]
        again = [unsteered[place] for place in rest]
        if part:
            both = [UNSTEERED, replace(arm, name="weaker")]
            mine, sizes = [items[i] for i in part], (settings.max_new_tokens, settings.batch_size)
            again += measure(llm, both, mine, *sizes, shares=[shares[i] for i in part])[1]
        for place, outcome in zip([*rest, *part], again, strict=True):
            run[place] = outcome
    return under


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return str(value)

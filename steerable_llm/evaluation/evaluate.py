"""Proving a vector, or any other arm, on held-out prompts, beside controls and simply asking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import Subject, arms_of, check_fits, strict_instruction_for
from steerable_llm.evaluation.conditions import Conditions, beside, under_conditions
from steerable_llm.evaluation.loss import what_a_proof_needs
from steerable_llm.evaluation.measure import Outcome
from steerable_llm.evaluation.overlap import HeldOut, apart, overlap, past_of
from steerable_llm.evaluation.report import Change, Report
from steerable_llm.evaluation.rows import rows_of, run_arms
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet, check_judged
from steerable_llm.evaluation.settings import DEFAULTS, Changes, EvaluationSettings
from steerable_llm.evaluation.shuffled import shuffled_vectors
from steerable_llm.evaluation.verdict import judge
from steerable_llm.pairs.pair import Pairs
from steerable_llm.policy.policy import Policy
from steerable_llm.progress import note
from steerable_llm.reports.parts import visible
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.lora import Lora
from steerable_llm.vector.file import library_version
from steerable_llm.vector.vector import SteeringVector

_EXAMPLES = 6


def evaluate(
    llm: HookedModel,
    subject: Subject,
    test: EvaluationSet | Pairs,
    capability: EvaluationSet | None = None,
    *,
    pairs: Pairs | None = None,
    settings: EvaluationSettings = DEFAULTS,
    **changes: Unpack[Changes],
) -> Report:
    """Run an arm on held-out prompts and say whether it is fit for use.

    Every arm answers every prompt greedily; answers are judged by value. The items' good
    and bad answers are scored for the preference accuracy, and the unsteered answers for the
    divergence. Under a step of a policy (`policy` and `step` of the settings), arms that steer do
    so where the step's conditions hold; the report shows what they do everywhere beside it. All
    intervals are bootstraps over prompts. `random` is the average of several random
    vectors per prompt, pooled into one row that also lists each of them.

    Args:
        llm: The model, which a vector or a LoRA was built for.
        subject: What is proven: a calibrated vector, whose own strength, layers and scope are used,
            a LoRA, or a decoding method (`Contrast("cad", 0.5)` or "cad=0.5").
        test: Prompts that neither the build nor the calibration has seen. Pairs are judged by
            preference alone.
        capability: Prompts that measure what must not be lost, such as closed-book questions, held
            out in the same way.
        pairs: What the vector was built from, for the control `shuffled`.
        settings: How the arms are run and judged.
        **changes: Single settings in place of those in `settings`, such as `target="conflict"`.

    Returns:
        The report, its verdict included.

    Raises:
        InvalidInputError: Prompts that are not held out, an unknown arm or target, a vector without
            calibration, or sets that cannot be told apart.
        ModelMismatchError: The vector or the LoRA belongs to another model.
        PromptTooLongError: A prompt does not fit the model.
    """
    settings = replace(settings, **changes)
    if isinstance(test, Pairs):
        test = EvaluationSet.from_pairs("pairs", test)
    vector = subject if isinstance(subject, SteeringVector) else None
    asked = settings.target
    settings = for_sets(settings, test, capability, _calibrated_for(vector))
    if asked is None and len(test.categories) > 1:
        told = f"the target is {settings.target!r}; --target (target=) names another category"
        note(visible(told), settings.progress)
    subjects = [subject, *(settings.against or ())]
    for each in subjects:
        check_fits(each, llm, settings.force)
    held_out = [HeldOut.of(llm, items) for items in (test, capability) if items is not None]
    unproven = overlap(held_out, [past for each in subjects for past in past_of(each)])
    if len(held_out) == 2:
        apart(*held_out)

    conditions = Conditions.of(settings, vector)
    if conditions is not None:
        if vector is None:
            raise InvalidInputError(
                f"step {conditions.step!r} of a policy steers with vectors, and the subject is "
                "none: leave the policy and the step out"
            )
        unproven = (*unproven, *beside(conditions, vector))
    arms = arms_of(subject, settings, _shuffled(llm, subject, pairs, settings))
    items: list[EvaluationItem] = [*test, *(capability or ())]
    kept = set(capability.categories if capability else ())
    use, always = None, []
    shares: list[float] = []
    if conditions is not None:
        shares = conditions.shares(llm, items)
        use = conditions.use(items, shares)
    alone = [name for name, steered in (use.steered if use else {}).items() if not steered]
    for told in what_a_proof_needs(test, capability, settings, _on_dev(vector), alone):
        note(visible(told), settings.progress)
    outcomes = run_arms(llm, arms, items, settings, "evaluating")
    if conditions is not None:
        always = rows_of(outcomes, items, kept, settings.seed)
        steering = {arm.name for arm in arms if arm.steering.is_active}
        always = [row for row in always if row.arm in steering]
        outcomes = under_conditions(llm, arms, outcomes, items, shares, settings)
    rows = rows_of(outcomes, items, kept, settings.seed)

    name, aim = arms[0].name, settings.target or ""
    changed = _changes(outcomes["none"][0], outcomes[name][0])
    return Report(
        arm=name,
        **_record(subject, name),
        model=llm.fingerprint.short,
        library_version=library_version(),
        test_name=test.name,
        test_digest=test.digest,
        capability_name=capability.name if capability else None,
        capability_digest=capability.digest if capability else None,
        held_out=tuple(held_out),
        target=aim,
        budget=settings.budget,
        strict_instruction=settings.strict_instruction or "",
        seed=settings.seed,
        max_new_tokens=settings.max_new_tokens,
        use=use,
        rows=tuple(rows),
        always=tuple(always),
        verdict=judge(rows, aim, settings.budget, name, unproven),
        regressions=tuple(change for change in changed if change.kind == "regression"),
        examples=tuple(_examples(changed, aim)),
        command=settings.command
        or _loading(llm) + _python(subject, test, capability, pairs, settings),
    )


def for_sets(
    settings: EvaluationSettings,
    test: EvaluationSet,
    capability: EvaluationSet | None,
    usual: str | None = None,
) -> EvaluationSettings:
    """Return settings whose target and strict instruction are those of the prompts.

    The target is what the settings name, else the usual one where the prompts have it, else the
    first category.

    Raises:
        InvalidInputError: No such target, a category in both sets, or one that mixes items that can
            be judged with others.
    """
    first = usual if usual in test.categories else test.categories[0]
    target = settings.target or first
    asked = test.category(target)  # raises, listing the categories
    check_judged(test, capability)
    pictured = any(message.images for item in asked for message in item.messages)
    instruction = settings.strict_instruction or strict_instruction_for(target, pictured)
    return replace(settings, target=target, strict_instruction=instruction)


def _shuffled(
    llm: HookedModel, subject: Subject, pairs: Pairs | None, settings: EvaluationSettings
) -> tuple[SteeringVector, ...]:
    """The control of that name, where there are pairs for it and nobody leaves it out."""
    asked = settings.against is None or "shuffled" in settings.against
    if pairs is None or not asked or not isinstance(subject, SteeringVector):
        return ()
    seeds = range(settings.seed, settings.seed + settings.random_vectors)
    return shuffled_vectors(llm, subject, pairs, seeds)


def _calibrated_for(vector: SteeringVector | None) -> str | None:
    """The category that a calibration was to change, where it says so."""
    choice = vector and vector.calibration and vector.calibration.choice
    return choice.target if choice else None


def _on_dev(vector: SteeringVector | None) -> float | None:
    """What the unsteered model got right of the dev prompts that a calibration was chosen by."""
    choice = vector and vector.calibration and vector.calibration.choice
    return choice.before if choice else None


def _record(subject: Subject, name: str) -> dict[str, object]:
    """What a report says of where its subject comes from."""
    if isinstance(subject, SteeringVector | Lora):
        return {
            "vector": subject.name,
            "vector_fingerprint": subject.fingerprint_id,
            "provenance": subject.provenance,
            "calibration": getattr(subject, "calibration", None),
        }
    return {"vector": name}


def _changes(before: Sequence[Outcome], after: Sequence[Outcome]) -> list[Change]:
    kinds = {(1.0, 0.0): "regression", (0.0, 1.0): "fixed"}
    return [
        Change(
            id=old.item.id,
            category=old.item.category,
            question=old.item.question,
            before=old.text,
            after=new.text,
            kind=kinds.get((old.main, new.main), "unchanged"),
        )
        for old, new in zip(before, after, strict=True)
    ]


def _examples(changes: Sequence[Change], target: str) -> list[Change]:
    """A few fixed and unchanged prompts of the target, in the order of the set: not picked."""
    mine = [change for change in changes if change.category == target]
    fixed, unchanged = ([x for x in mine if x.kind == kind] for kind in ("fixed", "unchanged"))
    return fixed[: _EXAMPLES // 2] + unchanged[: _EXAMPLES // 2]


def _loading(llm: HookedModel) -> str:
    """How the model is loaded, where its chat template was given anything."""
    if not (given := llm.chat_format.arguments):
        return ""
    named = f"{llm.model_id!r}, chat_template_kwargs={given}"
    return f"llm = SteerableHFLLM.from_pretrained({named})\n"


def _python(
    subject: Subject,
    test: EvaluationSet,
    capability: EvaluationSet | None,
    pairs: Pairs | None,
    settings: EvaluationSettings,
) -> str:
    made, load = f"{subject!r}", ""
    if isinstance(subject, SteeringVector):
        made, load = "vector", f'vector = SteeringVector.load("{subject.name}.safetensors", llm)\n'
    elif isinstance(subject, Lora):
        made, load = "lora", f'lora = Lora.load("{subject.name}", llm)\n'
    more = [f'EvaluationSet.from_jsonl("{test.name}.jsonl")']
    if capability:
        more.append(f'EvaluationSet.from_jsonl("{capability.name}.jsonl")')
    if pairs is not None:
        more.append('pairs=Pairs.from_jsonl("pairs.jsonl")')
    if settings.against is not None:
        names = [
            each if isinstance(each, str) else getattr(each, "name", "")
            for each in settings.against
        ]
        more.append(f"against={names}")
    if settings.policy is not None:
        file = "policy.toml" if isinstance(settings.policy, Policy) else settings.policy
        more.append(f'policy="{file}", step="{settings.step}"')
    if settings.target != test.categories[0]:
        more.append(f'target="{settings.target}"')
    more += [
        f"{name}={getattr(settings, name)!r}"
        for name in ("budget", "random_vectors", "max_new_tokens")
        if getattr(settings, name) != getattr(DEFAULTS, name)
    ]
    return f"{load}evaluate(llm, {made}, {', '.join(more)}, seed={settings.seed})"

"""Promotion into a folder of vectors, and into a policy: only what is proven goes in.

A vector is promoted when its report holds the rules of `verdict` (better than the unsteered model
and than the strict instruction with intervals that do not overlap, capability within the budget,
controls left behind), and when the report is about this vector, on the model it was built for, with
the calibration it has now. Everything is checked, and every file made, before anything is written.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Array

from steerable_llm.errors import InvalidInputError, PolicyError, UnknownStepError, unknown
from steerable_llm.evaluation.conditions import Conditions
from steerable_llm.evaluation.overlap import HeldOut, overlap, past_of
from steerable_llm.evaluation.report import Report
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.evaluation.verdict import rules_of
from steerable_llm.files import write_together
from steerable_llm.policy.policy import Policy
from steerable_llm.vector.hub import refuse_to_write
from steerable_llm.vector.vector import SteeringVector

_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Promotion:
    """What came of it.

    Attributes:
        vector: The vector's file name without suffix, which policies call it by.
        refused: Why it was not promoted, one sentence each; empty when it was.
        written: The files that were written, in order; none when it was refused.
        says: The verdict of the report, with its numbers.
        unproven: What nobody can tell of its prompts, one sentence each: a vector of another tool,
            say, kept no record of what it was built from.
    """

    vector: str
    refused: tuple[str, ...]
    written: tuple[Path, ...]
    says: str
    unproven: tuple[str, ...] = ()

    @property
    def promoted(self) -> bool:
        """Whether it went in."""
        return not self.refused


def promote(
    vector_file: str | os.PathLike[str],
    report: Report,
    to: str | os.PathLike[str],
    *,
    policy: str | os.PathLike[str] | None = None,
    step: str | None = None,
    replace: bool = False,
) -> Promotion:
    """Put a vector into a folder, and into a step of a policy, if its report allows it.

    Beside the vector, which carries the report's summary from then on, lie its card (`.md` and
    `.png`) and the report itself (`.json`).

    Args:
        vector_file: The vector; its file name is the name that policies know.
        report: Of an evaluation of exactly this vector.
        to: The folder.
        policy: A policy file that looks for its vectors in that folder; its comments stay.
        step: The step of the policy that shall be steered by it, too.
        replace: Put it in the place of another vector of that file name.

    Raises:
        InvalidInputError: Policy and step do not fit together or to the folder, or a report that
            says nothing about its own target.
        PolicyError: The policy cannot be used, as it is or with the vector.
        VectorFileError: The vector cannot be read.
    """
    source, folder = Path(vector_file), Path(to)
    vector = SteeringVector.load(source)
    name = source.name.removesuffix(_SUFFIX)
    text = _edited(policy, step, name, vector, folder)
    seen, unproven = _held_out(vector, report)
    failed = _why_not(vector, report) + seen + _as_used(vector, report, policy, step)
    target = folder / f"{name}{_SUFFIX}"
    if not replace and target.is_file() and not target.samefile(source):
        failed.append(
            f"{target} is there already: say replace (--replace) to put this vector in its place"
        )
    if failed:
        return Promotion(name, tuple(failed), (), report.verdict.line, unproven)
    proven = vector.with_evaluation(report.summary())
    refuse_to_write(folder)
    contents: dict[Path, str | bytes] = {
        folder / file: content for file, content in _files(name, proven, report).items()
    }
    if policy is not None and text is not None:
        # Last: a policy must not name a vector that is not there yet.
        contents[Path(policy)] = text
    write_together(contents)
    return Promotion(name, (), tuple(contents), report.verdict.line, unproven)


def _files(name: str, vector: SteeringVector, report: Report) -> dict[str, bytes]:
    """What the folder gets, by file name: the vector before what tells of it."""
    with TemporaryDirectory() as place:
        made = Path(place, name)
        vector.save(f"{made}{_SUFFIX}")
        report.save(f"{made}.json")
        report.save(f"{made}.md")  # and its picture
        suffixes = (_SUFFIX, ".md", ".png", ".json")
        return {f"{name}{suffix}": Path(f"{made}{suffix}").read_bytes() for suffix in suffixes}


def _why_not(vector: SteeringVector, report: Report) -> list[str]:
    """Every reason against it; none when it may go in."""
    reasons = []
    if report.vector_fingerprint != vector.fingerprint_id:
        reasons.append(
            f"the report is about another vector: it measured {report.vector_fingerprint} "
            f"({report.vector!r}), this is {vector.fingerprint_id} ({vector.name!r})"
        )
    built_for = vector.fingerprint.short
    # The id before the @ is where the model was loaded from; the hash after it is what counts.
    if report.model.rpartition("@")[2] != built_for.rpartition("@")[2]:
        reasons.append(
            f"the report is about another model: it ran on {report.model}, the vector was built "
            f"for {built_for}"
        )
    if vector.calibration is None:
        reasons.append("the vector is not calibrated, so no policy can steer with it")
    elif vector.calibration != report.calibration:
        reasons.append(
            "the vector was calibrated anew since the report: evaluate it again as it is now"
        )
    try:
        rules = rules_of(report.rows, report.target, report.budget, report.arm)
    except KeyError as missing:
        arm, category = missing.args[0]
        raise InvalidInputError(
            f"the report has no row for {arm!r} on {category!r} and so says nothing about its "
            "target: evaluate again"
        ) from None
    failing = [text for holds, text in rules if not holds]
    if not failing and not report.verdict.promote:  # refused for what the numbers do not show
        failing = [report.verdict.reasons[0]]
    return reasons + failing


def _as_used(
    vector: SteeringVector,
    report: Report,
    policy: str | os.PathLike[str] | None,
    step: str | None,
) -> list[str]:
    """Why a report under the conditions of a step does not hold where the vector is to go."""
    proven = report.use
    if proven is None or not proven.when:
        return []
    said = f"the report holds under the conditions of step {proven.step!r} ({proven.said})"
    conditions = Conditions.of(EvaluationSettings(policy=policy, step=step), vector)
    if conditions is None:
        return [
            f"{said}, and a folder has none: promote it into such a step (--policy FILE --step "
            "STEP), or evaluate without"
        ]
    given = conditions.use((), ())
    if given.same != proven.same:
        return [
            f"{said}, and step {conditions.step!r} steers under others ({given.said}): evaluate "
            "again under this step"
        ]
    return []


def _held_out(vector: SteeringVector, report: Report) -> tuple[list[str], tuple[str, ...]]:
    """Why the report's prompts are no evidence held out from the vector, and what is not proven.

    Reports of 0.1 have no hashes of their prompts: of vectors that kept none either, whole sets can
    be recognised.
    """
    reasons = [
        f"{group.repeats}: leave one of each in the set, and evaluate again"
        for group in report.held_out
        if group.repeats
    ]
    past = past_of(vector)
    asked = {
        digest: name
        for name, digest in (
            (report.test_name, report.test_digest),
            (report.capability_name, report.capability_digest),
        )
        if name and digest
    }
    unknown = set(asked) - {group.digest for group in report.held_out}
    if unknown and any(saw.hashes is not None for saw in past):
        said = (
            f"the report does not say which prompts {asked[unknown.pop()]!r} has, so that the "
            "vector has not seen them is not known: evaluate again"
        )
        return [*reasons, said], ()
    whole = [HeldOut(asked[digest], digest, (asked[digest],), ("",)) for digest in sorted(unknown)]
    try:
        return reasons, overlap([*report.held_out, *whole], past)
    except InvalidInputError as leak:
        return [*reasons, str(leak)], ()


def _edited(
    policy: str | os.PathLike[str] | None,
    step: str | None,
    name: str,
    vector: SteeringVector,
    folder: Path,
) -> str | None:
    """The policy's text with the vector in the step; None when it is there already."""
    if policy is None and step is None:
        return None
    if policy is None or step is None:
        raise InvalidInputError(
            "a policy and one of its steps go together: give both (--policy FILE --step STEP), or "
            "neither"
        )
    path = Path(policy)
    before = Policy.load(path)
    looks_in = (path.parent / before.vectors_dir).resolve()
    if looks_in != folder.resolve():
        raise InvalidInputError(
            f"{path} looks for its vectors in {looks_in}, not in {folder}: promote to that folder, "
            "or change its vectors_dir"
        )
    if step not in before.steps:
        raise UnknownStepError(f"{path}: {unknown('step', step, before.steps)}")
    if name in [use.name for use in before.steps[step].vectors]:
        return None
    text = path.read_text(encoding="utf-8")
    try:
        document = tomlkit.parse(text)
        _add(document["steps"][step], name, f"{path}, step {step!r}")
        edited = tomlkit.dumps(document)
        data = tomlkit.parse(edited).unwrap()
    except (TOMLKitError, TypeError) as error:
        raise PolicyError(
            f"{path}: cannot add a vector to step {step!r} ({error}): add it by hand"
        ) from error
    # Whatever would go wrong when the policy is next loaded goes wrong here, before it is written.
    Policy.from_dict(
        data, {**before.vectors, name: vector}, path.parent, str(path), gates=before.gates
    )
    return edited


def _add(table: Any, name: str, where: str) -> None:
    """Append a vector to a step of a parsed policy."""
    if "vectors" not in table:
        if "inherits" in table:
            raise PolicyError(
                f"{where} has the vectors of step {table['inherits']!r}, and a list of its own "
                f"would take their place: promote to {table['inherits']!r}, or give this step a "
                "list first"
            )
        _add_list(table)
    vectors = table["vectors"]
    if isinstance(vectors, AoT):
        entry = tomlkit.table()
        entry["name"] = name
        vectors.append(entry)
    elif isinstance(vectors, Array):
        # Parsed, not made, for the blanks inside its braces.
        written = tomlkit.string(name).as_string()
        vectors.append(tomlkit.parse(f"vector = {{ name = {written} }}")["vector"])
    else:
        raise PolicyError(f"{where}: vectors is no list")


def _add_list(table: Any) -> None:
    """Give a step an empty list of vectors, before the comments that belong to the next step."""
    trailing = []
    body = table.value.body
    while body and body[-1][0] is None:
        trailing.append(body.pop()[1])
    table["vectors"] = tomlkit.array()
    for item in reversed(trailing):
        table.add(item)

"""Promotion: what goes into the folder and the policy, and what stays out with the reason."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Steerable, steerable

from steerable_llm.errors import InvalidInputError, PolicyError, UnknownStepError
from steerable_llm.evaluation.conditions import StepUse
from steerable_llm.evaluation.overlap import HeldOut
from steerable_llm.evaluation.promotion import promote
from steerable_llm.evaluation.report import Report
from steerable_llm.evaluation.rows import Row
from steerable_llm.evaluation.verdict import judge
from steerable_llm.metrics import Estimate
from steerable_llm.policy.policy import Policy
from steerable_llm.vector.calibration import Calibration, Choice, DataUsed
from steerable_llm.vector.fingerprint import ModelFingerprint
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.vector import SteeringVector

__all__ = ["steerable"]

FINGERPRINT = ModelFingerprint(
    model_id="some/model",
    architecture="LlamaForCausalLM",
    hidden_size=4,
    num_layers=3,
    config_hash="c",
    weights_hash="w",
    tokenizer_hash="t",
    template_hash="p",
)
POLICY = """\
# Who may steer what.
vectors_dir = "vectors"

[steps.answer]   # follows the documents
vectors = [
    { name = "old", strength = 0.1 },  # since March
]
match.step = ["qa"]

[steps.bare]
match.step = ["b*"]

# Condensing is left alone.
[steps.condense]
vectors = []

[[steps.table.vectors]]
name = "old"
strength = 0.2

[steps.heir]
inherits = "answer"
"""


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.04, high=value + 0.04, n=200)


def row(arm: str, category: str, value: float) -> Row:
    return Row(
        arm=arm,
        category=category,
        capability=category == "closed_book",
        n=200,
        success=estimate(value),
        change=None if arm == "none" else estimate(0.1),
        regressed=None if arm == "none" else 0.01,
    )


def report_on(
    vector: SteeringVector, *, prompt: float = 0.6, kept: float = 0.9, **more: Any
) -> Report:
    rows = [
        row("steered", "conflict", 0.9), row("none", "conflict", 0.5),
        row("prompt", "conflict", prompt), row("steered", "closed_book", kept),
        row("none", "closed_book", 0.9),
    ]  # fmt: skip
    assert vector.calibration is not None
    given: dict[str, Any] = {
        "vector": vector.name,
        "vector_fingerprint": vector.fingerprint_id,
        "model": vector.fingerprint.short,
        "library_version": "0.1.0",
        "provenance": {},
        "calibration": vector.calibration,
        "test_name": "test",
        "test_digest": "f" * 64,
        "target": "conflict",
        "budget": 0.01,
        "strict_instruction": "Be strict.",
        "seed": 0,
        "max_new_tokens": 32,
        "rows": tuple(rows),
        "verdict": judge(rows, "conflict", 0.01),
        "regressions": (),
        "examples": (),
        "command": "steerable evaluate new.safetensors test.jsonl",
    }
    return Report.model_validate({**given, **more})


@pytest.fixture
def vector() -> SteeringVector:
    return SteeringVector(
        name="new",
        directions={0: torch.arange(1.0, FINGERPRINT.hidden_size + 1)},
        scales={0: 3.0},
        fingerprint=FINGERPRINT,
        calibration=Calibration(0.08, scope="last_prompt", remark="best of 24"),
    )


@pytest.fixture
def place(tmp_path: Path, vector: SteeringVector) -> Path:
    """A folder with a new vector, a policy, and the folder of vectors that the policy uses."""
    vector.save(tmp_path / "new.safetensors")
    replace(vector, name="old").save(tmp_path / "vectors" / "old.safetensors")
    (tmp_path / "policy.toml").write_text(POLICY, encoding="utf-8")
    return tmp_path


def files(place: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file()
    }


def held_out(name: str, digest: str, *hashes: str) -> HeldOut:
    return HeldOut(name, digest, tuple(f"{name}-{n}" for n in range(len(hashes))), hashes, "p")


def test_prompts_that_the_vector_has_seen_prove_nothing(
    place: Path, vector: SteeringVector
) -> None:
    choice = Choice(
        DataUsed("dev", "d" * 64, 2, seen=("d1", "d2")), 0.4, 0.8, 12,
        DataUsed("kept-dev", "e" * 64, 2, seen=("e1", "e2")), {"reading": 0.0}, 0.01,
    )  # fmt: skip
    careful = replace(
        vector,
        provenance=Provenance(method="caa", seen=("b1", "b2")),
        calibration=replace(vector.calibration or Calibration(0.08), choice=choice, remark=""),
    )
    careful.save(place / "new.safetensors")
    capability = {"capability_name": "kept", "capability_digest": "a" * 64}

    def tried(test: HeldOut, kept: HeldOut) -> tuple[str, ...]:
        report = report_on(careful, **capability, held_out=(test, kept))
        again = Report.from_json(report.to_json())
        assert again.held_out == (test, kept)
        return promote(place / "new.safetensors", again, place / "vectors").refused

    fine = held_out("test", "f" * 64, "t1", "t2"), held_out("kept", "a" * 64, "k1")
    for test, kept, said in (
        (held_out("test", "f" * 64, "t1", "d2", "d1"), fine[1], "2 of the 3 .*first 'test-1'"),
        (held_out("test", "f" * 64, "b2"), fine[1], "1 of the 1 .* that the build of 'new' saw"),
        (held_out("test", "f" * 64, "e1"), fine[1], "the calibration of 'new' on "),
        (fine[0], held_out("kept", "a" * 64, "k1", "e2"), "1 of the 2 .*first 'kept-1'"),
        (held_out("test", "f" * 64, "t1", "t2", "t2"), fine[1], "1 of the 3 .*only repeat others"),
        (fine[0], held_out("other", "1" * 64, "k1"), "does not say which prompts 'kept' has"),
    ):
        (refused,) = tried(test, kept)
        assert re.search(said, refused)
    assert not (place / "vectors" / "new.safetensors").exists()
    assert tried(*fine) == ()


def test_it_is_said_where_nobody_can_tell_what_a_vector_was_built_from(
    steerable: Steerable, place: Path, vector: SteeringVector
) -> None:
    """A file of another tool has no record of its pairs."""
    report_on(vector, held_out=(held_out("test", "f" * 64, "t1"),)).save(place / "report.json")
    arguments = ("promote", "new.safetensors", "--report", "report.json", "--to", "vectors")
    unproven = (
        "the build of 'new' kept no record of its prompts: that those of 'test' are held out is "
        "not proven"
    )
    assert f"\nnote: {unproven}\n" in steerable(*arguments)
    assert steerable.json(*arguments, "--replace")["unproven"] == [unproven]
    known = replace(vector, provenance=Provenance(method="caa", seen=("b1",)))
    known.save(place / "new.safetensors")
    assert "note: " not in steerable(*arguments, "--replace")


def test_a_proven_vector_goes_into_the_folder_with_its_evidence(
    place: Path, vector: SteeringVector
) -> None:
    report = report_on(vector)
    found = promote(place / "new.safetensors", report, place / "vectors")
    assert found.promoted
    assert sorted(path.name for path in found.written) == [
        "new.json", "new.md", "new.png", "new.safetensors",
    ]  # fmt: skip
    assert all(path.is_file() for path in found.written)
    copy = SteeringVector.load(place / "vectors" / "new.safetensors")
    assert copy.fingerprint_id == vector.fingerprint_id
    assert copy.evaluation is not None
    assert copy.evaluation["promote"] is True
    assert Report.from_json((place / "vectors" / "new.json").read_text("utf-8")) == report
    assert "steerable evaluate new.safetensors" in (place / "vectors" / "new.md").read_text("utf-8")


@pytest.mark.parametrize("step", ["answer", "bare", "condense", "table"])
def test_the_policy_steers_with_it_and_keeps_its_comments(
    place: Path, vector: SteeringVector, step: str
) -> None:
    before = Policy.load(place / "policy.toml")
    promote(
        place / "new.safetensors", report_on(vector), place / "vectors",
        policy=place / "policy.toml", step=step,
    )  # fmt: skip
    after = Policy.load(place / "policy.toml")
    names = [use.name for use in after.steps[step].vectors]
    assert names == [*(use.name for use in before.steps[step].vectors), "new"]
    for other in set(before.steps) - {step}:
        assert after.steps[other] == before.steps[other]
    assert after.steps[step].match == before.steps[step].match
    text = (place / "policy.toml").read_text("utf-8")
    # Every old line is there, in the old order; only lines with the new name came in.
    kept = [
        line
        for line in text.splitlines()
        if "new" not in line and line != "[[steps.table.vectors]]"
    ]
    old = [line for line in POLICY.splitlines() if line != "[[steps.table.vectors]]"]
    assert [x for x in kept if x.strip()] == [
        x for x in old if x.strip() and not (step == "condense" and x == "vectors = []")
    ]
    assert text.index("[steps.bare]") < text.index("# Condensing is left alone.")
    if step == "bare":
        assert text.index('name = "new"') < text.index("# Condensing is left alone.")


def test_promoting_twice_changes_nothing_more(place: Path, vector: SteeringVector) -> None:
    given: Any = (place / "new.safetensors", report_on(vector), place / "vectors")
    promote(*given, policy=place / "policy.toml", step="answer")
    before = files(place)
    again = promote(*given, policy=place / "policy.toml", step="answer", replace=True)
    assert again.promoted
    assert place / "policy.toml" not in again.written
    after = files(place)
    # The metadata of a safetensors file has no order of its own.
    assert sorted(before.pop("vectors/new.safetensors")) == sorted(
        after.pop("vectors/new.safetensors")
    )
    assert after == before


def stranger(vector: SteeringVector) -> SteeringVector:
    return replace(vector, directions={0: -vector.directions[0]})


def other_model(vector: SteeringVector) -> SteeringVector:
    other: ModelFingerprint = FINGERPRINT.model_copy(update={"weights_hash": "0" * 16})
    return replace(vector, fingerprint=other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: report_on(v, prompt=0.88), "higher, but the intervals overlap"),
        (lambda v: report_on(v, kept=0.88), "beyond the budget of 1.0 points"),
        (lambda v: report_on(stranger(v)), "about another vector"),
        (lambda v: report_on(other_model(v)), "about another model"),
        (
            lambda v: report_on(v.with_calibration(Calibration(0.09))),
            "calibrated anew since the report",
        ),
        # A report that claims what its own numbers do not show.
        (
            lambda v: report_on(v, prompt=0.88, verdict=report_on(v).verdict),
            "higher, but the intervals overlap",
        ),
        # And one that was refused for what the rows do not say, such as a leak.
        (
            lambda v: report_on(
                v,
                verdict=report_on(v).verdict.model_copy(
                    update={"promote": False, "reasons": ("the strength was chosen on 'test'",)}
                ),
            ),
            "the strength was chosen on 'test'",
        ),
    ],
)
def test_without_proof_nothing_is_written_and_the_reason_is_told(
    place: Path, vector: SteeringVector, change: Any, said: str
) -> None:
    before = files(place)
    found = promote(
        place / "new.safetensors", change(vector), place / "vectors",
        policy=place / "policy.toml", step="answer",
    )  # fmt: skip
    assert not found.promoted
    assert any(said in reason for reason in found.refused)
    assert all("\n" not in reason for reason in found.refused)
    assert found.written == ()
    assert files(place) == before


def test_a_full_disk_leaves_the_folder_as_it_was(
    steerable: Steerable, place: Path, vector: SteeringVector, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(place / "new.safetensors", report_on(vector), place / "vectors")
    changed = replace(vector, scales={0: 4.0})
    changed.save(place / "new.safetensors")
    report_on(changed).save(place / "report.json")
    before = files(place)
    room: list[str] = []

    def encoded(content: str | bytes) -> list[bytes]:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        room.pop()
        return [content.encode() if isinstance(content, str) else content]

    monkeypatch.setattr("steerable_llm.files._encoded", encoded)
    steering = {"policy": place / "policy.toml", "step": "bare"}

    def again() -> Any:
        return promote(
            place / "new.safetensors", report_on(changed), place / "vectors",
            replace=True, **steering,
        )  # fmt: skip

    for left in range(4, 9):  # four go elsewhere first, and five belong together
        room[:] = ["a file"] * left
        with pytest.raises(OSError, match=r"No space left on device: '.*(new|policy)"):
            again()
        assert files(place) == before
    told = steerable.error(
        "promote", "new.safetensors", "--report", "report.json", "--to", "vectors", "--replace"
    )
    assert "new.safetensors; make room there, or write elsewhere" in told
    room[:] = ["a file"] * 9
    assert again().promoted


def test_every_reason_is_told_at_once(place: Path, vector: SteeringVector) -> None:
    report = report_on(other_model(stranger(vector)), prompt=0.88, kept=0.8)
    found = promote(place / "new.safetensors", report, place / "vectors")
    assert len(found.refused) == 4


def test_a_vector_that_is_not_calibrated_stays_out(place: Path, vector: SteeringVector) -> None:
    vector.with_calibration(None).save(place / "new.safetensors")
    found = promote(place / "new.safetensors", report_on(vector), place / "vectors")
    assert any("not calibrated" in reason for reason in found.refused)


def test_proof_under_conditions_holds_only_where_they_are(
    place: Path, vector: SteeringVector
) -> None:
    policy = place / "policy.toml"
    policy.write_text(
        POLICY
        + """
[steps.documents]
when.context = "present"

[steps.own]
when.context = "absent"
vectors = [{ name = "old", when.context = "present" }]
""",
        encoding="utf-8",
    )
    report = report_on(vector, use=StepUse(step="documents", when={"context": "present"}))
    report = Report.from_json(report.to_json())
    before = files(place)

    def tried(step: str | None) -> tuple[str, ...]:
        into = {} if step is None else {"policy": policy, "step": step}
        return promote(place / "new.safetensors", report, place / "vectors", **into).refused

    for step, said in (
        (None, "a folder has none"),
        ("answer", r"step 'answer' steers under others \(always\)"),
        ("own", r"step 'own' steers under others \(context: absent\)"),
    ):
        (refused,) = tried(step)
        assert re.search(said, refused)
        assert "under the conditions of step 'documents' (context: present)" in refused
    assert files(place) == before
    assert tried("documents") == ()
    # Proof without conditions holds under any.
    assert promote(place / "new.safetensors", report_on(vector), place / "more").promoted


def test_another_vector_of_that_name_is_replaced_only_when_told(
    place: Path, vector: SteeringVector
) -> None:
    old = replace(vector, name="old")
    (place / "vectors" / "new.safetensors").write_bytes(
        (place / "vectors" / "old.safetensors").read_bytes()
    )
    given: Any = (place / "new.safetensors", report_on(vector), place / "vectors")
    assert "is there already" in promote(*given).refused[0]
    loaded = SteeringVector.load(place / "vectors" / "new.safetensors")
    assert loaded.fingerprint_id == old.fingerprint_id
    assert promote(*given, replace=True).promoted
    # In its own folder it is in nobody's place.
    assert promote(place / "vectors" / "new.safetensors", given[1], place / "vectors").promoted


@pytest.mark.parametrize(
    ("step", "to", "error", "said"),
    [
        ("anwser", "vectors", UnknownStepError, "did you mean 'answer'"),
        ("heir", "vectors", PolicyError, "promote to 'answer'"),
        ("answer", "elsewhere", InvalidInputError, "looks for its vectors in"),
        (None, "vectors", InvalidInputError, "go together"),
    ],
)
def test_a_policy_that_cannot_take_it_is_bad_input(
    place: Path, vector: SteeringVector, step: str | None, to: str, error: Any, said: str
) -> None:
    before = files(place)
    with pytest.raises(error, match=said):
        promote(
            place / "new.safetensors", report_on(vector), place / to,
            policy=place / "policy.toml", step=step,
        )  # fmt: skip
    assert files(place) == before


def test_a_report_without_its_own_target_is_bad_input(place: Path, vector: SteeringVector) -> None:
    report = report_on(vector, target="gold")
    with pytest.raises(InvalidInputError, match="no row for 'steered' on 'gold' and so says"):
        promote(place / "new.safetensors", report, place / "vectors")


def test_the_command_tells_what_it_wrote_or_why_not(
    steerable: Steerable, place: Path, vector: SteeringVector
) -> None:
    report_on(vector).save(place / "good.json")
    report_on(vector, prompt=0.88, kept=0.8).save(place / "bad.json")
    arguments = ("promote", "new.safetensors", "--to", "vectors")
    steering = ("--policy", "policy.toml", "--step", "condense")

    assert steerable(*arguments, "--report", "bad.json", *steering, code=1) == ""
    assert steerable.stderr.count("not promoted: ") == 2 == steerable.stderr.count("\n")
    assert not (place / "vectors" / "new.safetensors").exists()
    assert steerable("--version")  # the exit code was this command's alone

    out = steerable(*arguments, "--report", "good.json", *steering)
    assert "PROMOTE" in out
    assert "wrote policy.toml" in out
    assert Policy.load("policy.toml").steps["condense"].vectors[0].name == "new"

    (place / "file").touch()
    said = steerable.error("promote", "new.safetensors", "--report", "good.json", "--to", "file")
    assert "file is a file, and a folder is needed: name another one" in said

    (place / "bad.json").write_text("{}", encoding="utf-8")
    assert "bad.json: not a report" in steerable.error(*arguments, "--report", "bad.json")
    newer = json.dumps({"report_version": 99})
    (place / "bad.json").write_text(newer, encoding="utf-8")
    assert "bad.json: the report has version" in steerable.error(*arguments, "--report", "bad.json")
    (place / "bad.json").write_bytes(b"\xff\xfe")
    assert "is not UTF-8 text" in steerable.error(*arguments, "--report", "bad.json")
    assert "go together" in steerable.error(*arguments, "--report", "good.json", "--step", "answer")

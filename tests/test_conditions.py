"""A vector is measured as a step of a policy would use it: steered where its conditions hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted_behaviour import planted_llm, planted_vector, questions

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.message import as_messages
from steerable_llm.errors import InvalidInputError, UnknownStepError
from steerable_llm.evaluation.calibration import sweep
from steerable_llm.evaluation.compare import Comparison, compare
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.report import Report
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.policy.policy import Policy
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.vector import SteeringVector

QUICK: dict[str, Any] = {"progress": False, "max_new_tokens": 4, "strict_instruction": "ab"}
PRESENT = {"steps": {"answer": {"when": {"context": "present"}}, "free": {}}}


@pytest.fixture(scope="module")
def llm(tiny_tokenizer: Any) -> SteerableHFLLM:
    return planted_llm(tiny_tokenizer)


@pytest.fixture(scope="module")
def vector(llm: SteerableHFLLM) -> SteeringVector:
    return planted_vector(llm).with_calibration(Calibration(0.12, remark="by hand"))


def with_context(items: EvaluationSet) -> EvaluationSet:
    """The same prompts, each behind a context."""
    return EvaluationSet(
        items.name,
        [
            item.model_copy(
                update={
                    "messages": as_messages(
                        f"Context:\nab\n\nQuestion: {item.messages[-1].content}"
                    )
                }
            )
            for item in items
        ],
    )


@pytest.fixture(scope="module")
def test(llm: SteerableHFLLM) -> EvaluationSet:
    return with_context(questions(llm, 30))


@pytest.fixture(scope="module")
def kept(llm: SteerableHFLLM) -> EvaluationSet:
    """Questions without context that the vector ruins."""
    return questions(llm, 20, "closed_book", want="bad")


@pytest.fixture(scope="module")
def report(
    llm: SteerableHFLLM, vector: SteeringVector, test: EvaluationSet, kept: EvaluationSet
) -> Report:
    policy = Policy.from_dict(PRESENT, {})
    return evaluate(llm, vector, test, kept, policy=policy, step="answer", **QUICK)


def test_what_a_step_leaves_alone_is_no_cost_of_it(
    report: Report, llm: SteerableHFLLM, vector: SteeringVector, test: Any, kept: Any
) -> None:
    free = evaluate(llm, vector, test, kept, **QUICK)
    assert not free.verdict.promote
    assert "beyond the budget" in free.verdict.reasons[0]
    assert report.verdict.promote, report.verdict.reasons
    assert report.row("steered") == free.row("steered")  # all of these have a context
    for arm in ("steered", "random", "sign_flipped"):
        under = report.row(arm, "closed_book")
        assert under.success == report.row("none", "closed_book").success
        assert (under.regressed, under.fixed) == (0.0, 0.0)
    assert report.regressions == ()


def test_the_figures_without_conditions_stand_beside(report: Report, free_rows: Any) -> None:
    assert {row.arm for row in report.always} == {"steered", "random", "sign_flipped"}
    assert list(report.always) == [row for row in free_rows if row.arm not in ("none", "prompt")]
    assert report.use is not None
    assert report.use.steered == {"conflict": 30, "closed_book": 0}
    assert report.use.when == {"context": "present"}
    page = report.to_markdown()
    assert page.count("steered, without conditions") == 2
    assert "context: present" in page
    assert "30 of 50" in page
    again = Report.from_json(report.to_json())
    assert again == report


@pytest.fixture(scope="module")
def free_rows(llm: SteerableHFLLM, vector: SteeringVector, test: Any, kept: Any) -> Any:
    return evaluate(llm, vector, test, kept, **QUICK).rows


def test_a_part_of_the_strength_is_run_as_that_part(
    llm: SteerableHFLLM, vector: SteeringVector, test: EvaluationSet
) -> None:
    """Between both ends of a ramp, answers are those at the share that a request would get."""
    ramp = {"conflict": {"from": -2.0, "to": 2.0}}
    data = {"steps": {"answer": {"vectors": [{"name": "planted"}], "when": ramp}}}
    policy = Policy.from_dict(data, {"planted": vector})
    found = evaluate(llm, vector, test, policy=policy, step="answer", against=["none"], **QUICK)
    steered = SteerableHFLLM(llm.model, llm.tokenizer, policy=policy, model_id="planted")
    texts = [steered.generate(i.messages, step="answer", max_new_tokens=4).text for i in test]
    strengths = {
        term.strength
        for decision in steered.decide(_asked(test))
        for term in decision.steering.terms
    }
    assert any(0 < strength < 0.12 for strength in strengths)
    right = [item.succeeds(text) for item, text in zip(test, texts, strict=True)]
    assert found.row("steered").main.value == sum(right) / len(right)


def _asked(items: EvaluationSet) -> Any:
    from steerable_llm.policy.decision import Asked

    return [Asked(item.messages, "answer") for item in items]


def test_a_step_that_steers_otherwise_or_with_more_is_told(
    llm: SteerableHFLLM, vector: SteeringVector, test: EvaluationSet
) -> None:
    other = replace(planted_vector(llm, "other").randomised(1), name="other", calibration=None)
    uses = [{"name": "planted", "strength": 0.2}, {"name": "other", "strength": 0.1}]
    step = {"vectors": uses, "contrast": 0.5, "instruction": "Answer."}
    policy = Policy.from_dict({"steps": {"answer": step}}, {"planted": vector, "other": other})
    found = evaluate(llm, vector, test, policy=policy, step="answer", against=["none"], **QUICK)
    told = " ".join(found.verdict.warnings)
    assert "steers with strength +0.2" in told
    assert "also steers with 'other'" in told
    assert "also works with a contrast" in told
    assert "also works with an instruction" in told


def test_calibration_under_a_step_counts_what_the_step_would_cost(
    llm: SteerableHFLLM, test: EvaluationSet, kept: EvaluationSet
) -> None:
    vector, policy = planted_vector(llm), Policy.from_dict(PRESENT, {})
    how: dict[str, Any] = {"policy": policy, "strengths": (0.12,), "scopes": ("generated",)}
    found = sweep(llm, vector, test, kept, controls=False, step="answer", **how, **QUICK)
    assert found.best.success == 1.0
    assert found.best.loss == {"closed_book": 0.0}
    with pytest.raises(Exception, match="no setting within a capability budget"):
        sweep(llm, vector, test, kept, controls=False, step="free", **how, **QUICK)
    with pytest.raises(InvalidInputError, match="hold for none of the prompts of 'conflict-0'"):
        sweep(llm, vector, questions(llm, 8), controls=False, step="answer", **how, **QUICK)


def test_a_comparison_under_a_step_shows_both(
    llm: SteerableHFLLM, test: EvaluationSet, kept: EvaluationSet, monkeypatch: Any
) -> None:
    from steerable_llm.evaluation import recipes

    made = planted_vector(llm, "caa")
    monkeypatch.setattr(recipes, "build_vector", lambda *_, **__: made)
    dev = with_context(questions(llm, 16, seed=1))
    found = compare(
        llm, questions(llm, 6, seed=2).pairs(), dev, test, kept, ["caa"],
        policy=Policy.from_dict(PRESENT, {}), step="answer", **QUICK,
    )  # fmt: skip
    rows = {(row.arm, row.category): row.main.value for row in found.rows}
    always = {(row.arm, row.category): row.main.value for row in found.always}
    assert rows["caa", "closed_book"] == rows["none", "closed_book"] > always["caa", "closed_book"]
    assert rows["caa", "conflict"] == always["caa", "conflict"]
    assert Comparison.model_validate_json(found.model_dump_json()) == found
    page = found.page().to_markdown()
    assert "Without the step's conditions" in page
    assert "as step 'answer'" in page


def test_what_cannot_be_run_under_a_step_is_said_at_once(
    llm: SteerableHFLLM, vector: SteeringVector, test: EvaluationSet, tmp_path: Path
) -> None:
    policy = Policy.from_dict(PRESENT, {})
    with pytest.raises(InvalidInputError, match="go together"):
        evaluate(llm, vector, test, policy=policy, **QUICK)
    with pytest.raises(InvalidInputError, match="go together"):
        evaluate(llm, vector, test, step="answer", **QUICK)
    with pytest.raises(UnknownStepError, match="free"):
        evaluate(llm, vector, test, policy=policy, step="anwser", **QUICK)
    with pytest.raises(InvalidInputError, match="the subject is none"):
        evaluate(llm, "cad", test, policy=policy, step="answer", **QUICK)

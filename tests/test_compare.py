"""Several methods on the same data: what is chosen, told and kept, and what agrees with a card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_model
from planted_behaviour import WIDTH, planted_llm, planted_vector, questions
from slow_states import PAIRS

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import CalibrationError, InvalidInputError, MissingExtraError, PairError
from steerable_llm.evaluation import compare as comparing
from steerable_llm.evaluation import recipes as making
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.calibration import sweep
from steerable_llm.evaluation.compare import Trial, compare
from steerable_llm.evaluation.comparison import Comparison
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.recipes import Data, Made, Recipe, recipes
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.evaluation.settings import EvaluationSettings
from steerable_llm.methods import METHODS
from steerable_llm.metrics import Estimate
from steerable_llm.pairs.pair import Pairs
from steerable_llm.policy.policy import Policy
from steerable_llm.reports.parts import Table
from steerable_llm.vector.calibration import Calibration

UNHEARD = "ab"
QUICK: dict[str, Any] = {"progress": False, "max_new_tokens": 4, "strict_instruction": UNHEARD}


@pytest.fixture(scope="module")
def llm(tiny_tokenizer: Any) -> SteerableHFLLM:
    return planted_llm(tiny_tokenizer)


@pytest.fixture(scope="module")
def sets(llm: SteerableHFLLM) -> dict[str, EvaluationSet]:
    return {
        "dev": questions(llm, 40, seed=1),
        "test": questions(llm, 40),
        "capability": questions(llm, 12, "closed_book", want="either"),
        "dev_capability": questions(llm, 8, "closed_book", seed=1, want="either"),
    }


@pytest.fixture(scope="module")
def found(llm: SteerableHFLLM, sets: dict[str, EvaluationSet]) -> Comparison:
    """CAA finds the planted vector here, icv one that nothing in the model reads."""
    unread = torch.eye(WIDTH)[-1]
    vectors = {
        "caa": planted_vector(llm, "caa"),
        "icv": replace(planted_vector(llm, "icv"), directions={0: unread, 1: unread}),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "build_vector", lambda *_, method, **__: vectors[method])
        return compare(
            llm, questions(llm, 6, seed=2).pairs(), **sets, methods=["icv", "prompt", "caa"],
            **QUICK,
        )  # fmt: skip


def test_a_method_is_calibrated_and_tested_as_it_would_be_alone(
    found: Comparison, llm: SteerableHFLLM, sets: dict[str, EvaluationSet]
) -> None:
    alone = sweep(
        llm, planted_vector(llm, "caa"), sets["dev"], sets["dev_capability"],
        max_new_tokens=4, progress=False, controls=False,
    )  # fmt: skip
    card = evaluate(
        llm, alone.vector, sets["test"], against=["prompt"], capability=sets["capability"],
        progress=False, max_new_tokens=4, strict_instruction=UNHEARD,
    )  # fmt: skip
    mine = next(row for row in found.ranked("conflict") if row.arm == "caa")
    assert mine.success == card.row("steered").success
    assert mine.kl_per_token == card.row("steered").kl_per_token
    assert mine.regressed == card.row("steered").regressed
    assert found.arm("caa").dev == alone.best.success
    verdict = found.arm("caa").verdict
    assert verdict is not None
    assert verdict.promote == card.verdict.promote
    assert mine.change is not None
    assert mine.change.low > 0.1


def test_the_strict_instruction_is_run_whatever_is_compared(
    found: Comparison, llm: SteerableHFLLM, sets: dict[str, EvaluationSet]
) -> None:
    """A verdict asks that it is beaten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "build_vector", lambda *_, **__: planted_vector(llm, "caa"))
        one = compare(
            llm, questions(llm, 6, seed=2).pairs(), **sets, methods=["caa"], **QUICK
        )  # fmt: skip
    assert [arm.name for arm in one.arms] == ["none", "prompt", "caa"]
    assert one.arm("caa").verdict == found.arm("caa").verdict


def test_what_makes_most_worse_stands_first(found: Comparison) -> None:
    for category in found.categories:
        worse = [row.regressed or 0.0 for row in found.ranked(category)]
        assert worse == sorted(worse, reverse=True)
    assert found.categories == ("conflict", "closed_book")


def test_a_method_that_helps_nobody_is_listed_and_not_promoted(found: Comparison) -> None:
    idle = found.arm("icv")
    assert idle.failed or (idle.verdict is not None and not idle.verdict.promote)
    names = {arm.name for arm in found.arms}
    assert names == {"none", "icv", "prompt", "caa"}


def test_a_comparison_can_be_read_in_every_form(found: Comparison, tmp_path: Any) -> None:
    assert Comparison.model_validate_json(found.model_dump_json()) == found
    text = found.save(tmp_path / "c.md").read_text("utf-8")
    assert "| caa |" in text
    assert "## What was chosen on dev" in text
    assert (tmp_path / "c.methods.png").read_bytes().startswith(b"\x89PNG")
    page = found.save(tmp_path / "c.html").read_text("utf-8")
    assert page.count("<table>") == len(found.categories) + 1
    assert "&quot;ab&quot;" in page
    with pytest.raises(InvalidInputError, match=r"\.md, \.html, \.json"):
        found.save(tmp_path / "c.pdf")
    with pytest.raises(InvalidInputError, match="it has none"):
        found.arm("repe")
    tables = [part for part in found.table().parts if isinstance(part, Table)]
    assert sum(len(table.rows) for table in tables) == len(found.rows)


def test_every_way_runs_on_real_pairs(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    monkeypatch.setattr(making, "LORA_RATES", (1e-2,))
    own = SteerableHFLLM(build_tiny_model("llama", tiny_tokenizer), tiny_tokenizer)

    def asked(name: str, pairs: Any) -> EvaluationSet:
        # Anything but what the random model says is right, so that any push helps.
        return EvaluationSet(
            name,
            [
                EvaluationItem(
                    id=f"{name}-{n}", category="x", messages=p.messages, good=p.good, bad=p.bad,
                    reject=(own.generate(p.messages, max_new_tokens=2).text,),
                )
                for n, p in enumerate(pairs)
            ],
        )  # fmt: skip

    before = own.answer_logits(PAIRS[0].messages, "At nine.")
    found = compare(
        own, Pairs(PAIRS[:3]), asked("dev", PAIRS[3:4]), asked("test", PAIRS[4:]), progress=False,
        max_new_tokens=2,
    )  # fmt: skip
    assert [c.name for c in found.arms] == ["none", *recipes()]
    failed = {c.name: c.failed for c in found.arms if c.failed}
    assert not set(failed) - {"cad", "adacad", "lora"}, failed
    assert {*METHODS, "prompt", "cad", "adacad", "lora"} == set(recipes(images=True))
    assert set(recipes(images=True)) - set(recipes()) == {"vti", "ict"}
    assert {row.arm for row in found.rows} == {"none", *recipes()} - set(failed)
    assert own.answer_logits(PAIRS[0].messages, "At nine.").equal(before)


def test_what_cannot_be_compared_is_refused(
    llm: SteerableHFLLM, sets: dict[str, EvaluationSet]
) -> None:
    pairs = questions(llm, 4, seed=2).pairs()
    with pytest.raises(InvalidInputError, match=r"unknown method 'magic': choose from prompt, cad"):
        compare(llm, pairs, sets["dev"], sets["test"], methods=["magic"], **QUICK)
    with pytest.raises(PairError, match="no pairs"):
        compare(llm, Pairs(), sets["dev"], sets["test"], **QUICK)
    with pytest.raises(InvalidInputError, match=r"40 of the 40 prompts of .* the calibration on"):
        compare(llm, pairs, sets["test"], sets["test"], methods=["prompt"])
    with pytest.raises(InvalidInputError, match="no category"):
        compare(llm, pairs, sets["dev"], sets["test"], target="gold", methods=["prompt"])


@pytest.fixture(scope="module")
def trial(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    llm = planted_llm(tiny_tokenizer)
    data = Data(questions(llm, 4, seed=2).pairs(), questions(llm, 6, seed=1), questions(llm, 10))
    return Trial.of(llm, data, EvaluationSettings(**QUICK))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """Recipes that were used; each makes an arm that the planted vector steers, by its order."""
    found: list[Recipe] = []

    def planted(
        llm: SteerableHFLLM, _: Data, recipe: Recipe, name: str, settings: EvaluationSettings
    ) -> Made:
        found.append(recipe)
        calibration = Calibration(-0.12 if recipe.order else 0.12)
        vector = planted_vector(llm).with_calibration(calibration)
        return Made(Arm(name, vector.steer()), "planted", 1.0, calibration)

    monkeypatch.setattr(comparing, "make", planted)
    return found


def test_a_finished_result_is_not_measured_again(
    trial: Trial, calls: list[Recipe], tmp_path: Path
) -> None:
    kept = replace(trial, keep=tmp_path)
    first = kept.run("planted", Recipe("caa"))
    again = kept.run("planted", Recipe("caa"))
    assert len(calls) == 1
    assert again == first
    assert first.rows
    assert first.calibrations[0].strength == 0.12
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("planted-")


def test_another_recipe_name_or_setup_is_another_result(
    trial: Trial, calls: list[Recipe], tmp_path: Path
) -> None:
    kept = replace(trial, keep=tmp_path)
    llm = trial.llm
    others = [
        (kept, "planted", Recipe("caa")),
        (kept, "planted", Recipe("caa", pairs=3)),
        (kept, "planted", Recipe("icv")),
        (kept, "planted", Recipe("caa", calibration=Calibration(0.1))),
        (kept, "other", Recipe("caa")),
    ]
    data: list[dict[str, Any]] = [
        {"test": questions(llm, 9)}, {"capability": questions(llm, 3, "kept")},
        {"dev": questions(llm, 5, seed=1)}, {"dev_capability": questions(llm, 3, "kept")},
        {"pairs": questions(llm, 3, seed=2).pairs()},
    ]  # fmt: skip
    settings: list[dict[str, Any]] = [
        {"budget": 0.5}, {"seed": 1}, {"strict_instruction": "b"}, {"max_new_tokens": 3},
    ]  # fmt: skip
    changed = [replace(kept, data=replace(kept.data, **change)) for change in data]
    changed += [replace(kept, settings=replace(kept.settings, **change)) for change in settings]
    others += [(each, "planted", Recipe("caa")) for each in changed]
    for each, name, recipe in others:
        each.run(name, recipe)
    assert len(calls) == len(others) == len(list(tmp_path.iterdir()))


def test_a_file_that_was_cut_short_is_measured_again(
    trial: Trial, calls: list[Recipe], tmp_path: Path
) -> None:
    kept = replace(trial, keep=tmp_path)
    first = kept.run("planted", Recipe("caa"))
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text("utf-8")[:100], "utf-8")
    assert kept.run("planted", Recipe("caa")).rows == first.rows
    assert len(calls) == 2


def test_a_failure_is_kept_but_not_one_that_an_installation_mends(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = replace(trial, keep=tmp_path)
    found = []
    for name, error in (
        ("a", CalibrationError("nothing helps")),
        ("b", MissingExtraError("pip install peft")),
    ):

        def fails(*_: Any, error: Exception = error) -> Made:
            raise error

        monkeypatch.setattr(comparing, "make", fails)
        found.append(kept.run(name, Recipe("caa")).arm.failed)
    assert found == ["nothing helps", "pip install peft"]
    assert [file.name[0] for file in tmp_path.iterdir()] == ["a"]


def test_several_recipes_are_one_row_that_lists_them(trial: Trial, calls: list[Recipe]) -> None:
    result = trial.run("two", Recipe("caa"), Recipe("caa", order=1))
    row = next(r for r in result.rows if r.arm == "two")
    assert len(calls) == 2
    assert row.runs[0] > row.runs[1]
    assert row.main.value == pytest.approx(sum(row.runs) / 2)


def test_a_comparison_has_every_row_once_and_verdicts(trial: Trial, calls: list[Recipe]) -> None:
    results = [trial.run("none"), trial.run("prompt", Recipe("prompt"))]
    found = trial.comparison([*results, trial.run("planted", Recipe("caa"))])
    assert [row.arm for row in found.rows] == ["none", "prompt", "planted"]
    verdict = found.arms[2].verdict
    assert verdict is not None
    assert any("capability was not measured" in reason for reason in verdict.reasons)
    assert found.arms[0].verdict is found.arms[1].verdict is None
    assert len(calls) == 2


def test_a_vector_that_helps_must_beat_its_own_controls(trial: Trial, calls: list[Recipe]) -> None:
    beside = replace(
        trial, settings=replace(trial.settings, against=("random", "sign_flipped", "prompt"))
    )
    assert beside.run("caa", Recipe("caa", order=1)).controls == (), "it does not help at all"
    helping = beside.run("caa", Recipe("caa"))
    assert trial.run("caa", Recipe("caa")).controls == ()
    assert [row.arm for row in helping.controls] == ["random", "sign_flipped"]
    (mine,) = (row for row in helping.rows if row.arm == "caa")
    assert mine.main.value > max(row.main.value for row in helping.controls)
    assert helping.controls[0].runs, "random vectors are several, averaged"
    ties = tuple(row.model_copy(update={"success": mine.success}) for row in helping.controls)
    found = beside.comparison([beside.run("none"), helping.model_copy(update={"controls": ties})])
    assert found.controls == {"caa": ties}
    assert found.arms[1].verdict is not None
    failed = found.arms[1].verdict.reasons
    assert any("random vectors of the same norms: no better" in reason for reason in failed)
    assert any("sign-flipped vector: no better" in reason for reason in failed)


def test_controls_follow_the_steps_conditions_and_are_another_result(
    trial: Trial, calls: list[Recipe], tmp_path: Path
) -> None:
    policy = Policy.from_dict({"steps": {"answer": {"when": {"context": "present"}}}})
    how = replace(trial.settings, against=("random",), policy=policy, step="answer")
    asked = replace(trial, settings=how, keep=tmp_path)
    arm = Arm("caa", planted_vector(trial.llm).steer(0.12))
    row = asked.run("caa", Recipe("caa")).rows[1]
    better = row.model_copy(update={"change": Estimate(value=0.5, low=0.4, high=0.6, n=10)})
    (control,) = asked._controls(arm, [better])
    assert control.change is not None
    assert (control.change.value, control.kl_per_token.value) == (0.0, 0.0), "no context anywhere"
    replace(asked, settings=replace(how, against=())).run("caa", Recipe("caa"))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_recipe_leaves_out_pairs_by_their_source(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = ("log/bad", "log/good", "log/plain")
    pairs = Pairs(
        pair.model_copy(update={"source": source})
        for pair, source in zip(list(trial.data.pairs), (*sources, sources[0]), strict=True)
    )
    learnt: list[Pairs] = []

    def note(_: Any, given: Pairs, **__: Any) -> None:
        learnt.append(given)
        raise PairError("seen")

    monkeypatch.setattr(making, "build_vector", note)
    data = replace(trial.data, pairs=pairs)
    recipe = Recipe("caa", leave_out=("log/good", "log/plain"))
    with pytest.raises(PairError, match="seen"):
        making.make(trial.llm, data, recipe, "caa", trial.settings)
    assert [pair.source for pair in learnt[0]] == ["log/bad", "log/bad"]


def test_prompts_that_were_built_from_or_chosen_on_are_refused(
    llm: SteerableHFLLM, sets: dict[str, EvaluationSet]
) -> None:
    pairs = questions(llm, 6, seed=2).pairs()
    good = Data(pairs, **sets)
    Trial.of(llm, good, EvaluationSettings(**QUICK))
    leaks: list[tuple[dict[str, Any], str]] = [
        ({"dev": questions(llm, 9, seed=2)}, "the build saw"),
        ({"test": EvaluationSet("t", list(reversed(questions(llm, 3, seed=2))))}, "the build saw"),
        ({"test": questions(llm, 15, seed=1)[4:]}, "the calibration on 'conflict-1' saw"),
        ({"capability": sets["dev_capability"][:1]}, "the calibration on 'closed_book-1' saw"),
    ]
    for change, said in leaks:
        with pytest.raises(InvalidInputError, match=f"{said} .*so they are not held out"):
            Trial.of(llm, replace(good, **change), EvaluationSettings(**QUICK))

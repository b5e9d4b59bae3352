"""`steerable evaluate --benchmark`, and the commands that the page on benchmarks shows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from adapter_models import random_vector
from command_line import Steerable, steerable
from vision_models import vision_llm
from web_server import web_site

from steerable_llm import SteerableHFLLM, SteeringVector

__all__ = ["steerable"]

ROOT = Path(__file__).resolve().parent.parent
LINES = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").splitlines()
# Those of another model are shown, and run with a tiny one below.
COMMANDS = [
    line for line in LINES if line.startswith("steerable evaluate ") and "--model" not in line
]


@pytest.fixture(scope="session")
def model_folder(
    make_tiny_model: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    model = make_tiny_model("llama")
    before = model.config.max_position_embeddings
    model.config.max_position_embeddings = 2048  # rotary positions have no end of their own
    model.save_pretrained(folder)
    model.config.max_position_embeddings = before
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vector_file(
    model_folder: Path, make_vector: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    vector: SteeringVector = make_vector(SteerableHFLLM.from_pretrained(model_folder), name="push")
    return vector.save(tmp_path_factory.mktemp("vectors") / "push.safetensors")


def test_a_benchmark_is_printed_and_written(
    steerable: Steerable, model_folder: Path, vector_file: Path
) -> None:
    command = (
        *("evaluate", vector_file, "--benchmark", "toxigen", "--data", "sample", "--limit", 1),
        *("--strength", 0.2, "--against", "sign_flipped", "--model", model_folder),
    )
    shown = steerable(*command, "--report", "r.md", "--report", "r.html", "--report", "r.json")
    assert "ToxiGen" in shown
    assert "sign-flipped" in shown
    written = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert written["command"].startswith("steerable evaluate ")
    assert "ToxiGen" in Path("r.md").read_text(encoding="utf-8")
    assert "ToxiGen" in Path("r.html").read_text(encoding="utf-8")
    assert steerable.json(*command)["rows"] == written["rows"]


def test_a_decoding_method_is_measured_like_a_vector_and_a_vector_file_beside_it(
    steerable: Steerable, model_folder: Path, vector_file: Path
) -> None:
    found = steerable.json(
        *("evaluate", "cad=1.5", "--benchmark", "faitheval", "--data", "sample", "--limit", 1),
        *("--against", "prompt", "--also", vector_file, "--strength", 0.2, "--model", model_folder),
    )
    assert [row["arm"] for row in found["rows"]] == ["none", "cad=1.5", "push", "prompt"]
    assert found["subjects"]["push"]["strength"] == 0.2


@pytest.mark.enable_socket
def test_a_server_rates_answers_about_images(steerable: Steerable, tmp_path: Path) -> None:
    llm = vision_llm("llava")
    folder = tmp_path / "llava"
    llm.model.save_pretrained(folder)
    llm.chat_format.vision.processor.save_pretrained(folder)  # type: ignore[union-attr]
    loaded = SteerableHFLLM.from_pretrained(folder)
    vector = random_vector(loaded, "push", 0).save(tmp_path / "push.safetensors")
    (tmp_path / "words.txt").write_text("{} {} {} {}")
    asked = ("evaluate", vector, "--benchmark", "mmhal", "--data", "sample", "--limit", 1)
    more = ("--strength", 0.2, "--against", "sign_flipped", "--model", folder)
    with web_site() as site:
        site.at("/v1/chat/completions", b'{"choices": [{"message": {"content": "Rating: 5"}}]}')
        judge = ("--judge", f"{site.url}/v1", "--judge-model", "m", "--judge-template", "words.txt")
        found = steerable.json(*asked, *more, *judge)
    assert {row["name"]: row["value"]["value"] for row in found["figures"]} == {
        "hallucination rate": 0.0,
        "mean rating, 0 to 6": 5.0,
        "judgements without one rating": 0.0,
    }
    assert found["settings"]["judge"].startswith("m at http://127.0.0.1")
    said = steerable.error(*asked, *more)
    assert "mmhal needs a judge" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either TEST"),
        (["t.jsonl", "--benchmark", "toxigen"], "give either TEST"),
        (["t.jsonl", "--limit", "3"], "--limit goes with --benchmark"),
        (["--benchmark", "toxigne"], "did you mean 'toxigen'"),
        (["--benchmark", "toxigen", "--keep"], "--keep goes with TEST"),
        (["--benchmark", "toxigen", "--target", "conflict"], "--target goes with TEST"),
        (["--benchmark", "toxigen", "--budget", "0.05"], "--budget goes with TEST"),
        (["--benchmark", "toxigen", "--data", "gone.jsonl"], "there is no file gone.jsonl"),
        (["--benchmark", "toxigen", "--data", "wrong.jsonl"], "missing: text, toxicity_ai"),
        (["--benchmark", "toxigen", "--data", "empty.jsonl"], "empty.jsonl has no row"),
        (["--benchmark", "toxigen", "--data", "sample", "--report", "r.pdf"], "r.pdf"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    steerable: Steerable, vector_file: Path, arguments: list[str], said: str
) -> None:
    Path("t.jsonl").write_text("{}\n", encoding="utf-8")
    Path("wrong.jsonl").write_text('{"words": "x"}\n', encoding="utf-8")
    Path("empty.jsonl").write_text("\n", encoding="utf-8")
    # No such model: what is wrong is said before one is loaded.
    error = steerable.error("evaluate", vector_file, *arguments, "--model", "no-such-model")
    assert said in error
    assert not Path("r.pdf").exists()


def test_the_page_shows_commands_on_the_sample() -> None:
    assert len(COMMANDS) == 3
    assert all("--data sample" in command for command in COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=["report", "strengths", "vectors"])
def test_the_commands_of_the_page_run(steerable: Steerable, command: str) -> None:
    Path("vectors").symlink_to(ROOT / "vectors")
    shown = steerable(*shlex.split(command)[1:])
    assert "unsteered" in shown
    reports = [word for word in command.split() if word.startswith("truthfulqa.")]
    assert all(Path(name).stat().st_size > 500 for name in reports)


def test_the_harness_gets_its_arguments_as_they_are(
    steerable: Steerable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    import lm_eval.__main__

    seen = []
    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", lambda: seen.append(list(sys.argv)))
    steerable("lm-eval", "--model", "steerable", "--tasks", "a,b", "-x", "--limit", 2)
    assert seen == [["lm_eval", "--model", "steerable", "--tasks", "a,b", "-x", "--limit", "2"]]
    from lm_eval.api.registry import get_model

    assert get_model("steerable").__name__ == "SteerableLM"


def test_what_the_harness_refuses_is_one_line(
    steerable: Steerable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval.__main__

    def refuse() -> None:
        raise ValueError("Tasks not found: trivia")

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", refuse)
    assert "Tasks not found: trivia" in steerable.error("lm-eval", "--tasks", "trivia")

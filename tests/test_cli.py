"""The command line: what a user types, what comes out, and how errors look."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Steerable, steerable

from steerable_llm import SteeringVector, __version__
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.logs.answers import LoggedAnswer, write_answers
from steerable_llm.pairs.pair import Pairs, PreferencePair

__all__ = ["steerable"]

QUESTION = "The shop in Lyon opens at nine. When does the shop open?"


@pytest.fixture(scope="session")
def model_folder(
    make_tiny_model: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hours = ["nine", "ten", "eleven", "noon"]
    pairs = Pairs(
        PreferencePair(
            messages=f"The shop in Lyon opens at {hour}. When does the shop open?",
            good=f"At {hour}.",
            bad="As I recall, at thirty.",
            document_ids=(f"shop-{hour}",),
        )
        for hour in hours
    )
    return pairs.to_jsonl(tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


@pytest.fixture(scope="session")
def questions_file(tiny_llm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions that the random model gets wrong, and right as soon as it says something else."""
    return _questions(tiny_llm, "opens", tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="session")
def dev_file(tiny_llm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Others like them, to choose on."""
    return _questions(tiny_llm, "closes", tmp_path_factory.mktemp("dev"))


def _questions(llm: Any, does: str, folder: Path) -> Path:
    items = []
    for hour in ["nine", "ten", "eleven", "noon"]:
        question = f"The shop {does} at {hour}. When?"
        said = llm.generate(question, max_new_tokens=12).text.strip()
        items.append(
            EvaluationItem(
                id=hour,
                category="conflict",
                messages=question,
                good=f"At {hour}.",
                bad="At thirty.",
                reject=(said,),
            )
        )
    return EvaluationSet("questions", items).to_jsonl(folder / "questions.jsonl")


@pytest.fixture
def vector_file(steerable: Steerable, pairs_file: Path, model_folder: Path) -> Path:
    steerable("build", pairs_file, "-o", "lyon.safetensors", "--model", model_folder)
    return Path("lyon.safetensors")


def test_version(steerable: Steerable) -> None:
    assert steerable("--version") == f"steerable-llm {__version__}\n"


def test_without_a_verb_it_explains_itself(steerable: Steerable) -> None:
    assert "Commands:" in steerable(code=2) + steerable.stderr


def test_python_m_is_the_same_command_and_help_loads_no_model_library() -> None:
    probe = (
        "import runpy, sys\n"
        "sys.argv = ['steerable', '--help']\n"
        "try: runpy.run_module('steerable_llm', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "loaded = {'torch', 'transformers', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, env=os.environ
    )
    assert "evaluate" in done.stdout


def test_ask_streams_the_answer_that_the_model_gives(
    steerable: Steerable, model_folder: Path, tiny_llm: Any
) -> None:
    out = steerable("ask", QUESTION, "--model", model_folder, "--max-new-tokens", 8)
    assert out == tiny_llm.generate(QUESTION, max_new_tokens=8).text + "\n"


def test_ask_as_json_says_what_was_steered(
    steerable: Steerable, model_folder: Path, vector_file: Path
) -> None:
    answer = steerable.json(
        *("ask", QUESTION, "--model", model_folder, "--max-new-tokens", 4),
        *("--vector", vector_file, "--strength", "-0.5"),
    )
    assert answer["usage"]["completion_tokens"] <= 4
    assert [applied["name"] for applied in answer["steered"]] == ["lyon"]
    assert answer["steered"][0]["strength"] == -0.5
    assert answer["steered"][0]["steered_tokens"] > 0


def test_what_steers_where_is_said_in_place_of_the_calibration(
    steerable: Steerable, model_folder: Path, vector_file: Path
) -> None:
    ask = ("ask", QUESTION, "--model", model_folder, "--max-new-tokens", 4)
    how = ("--strength", "0.2", "--scope", "last_prompt", "--layers", "1")
    (applied,) = steerable.json(*ask, "--vector", vector_file, *how)["steered"]
    assert (applied["strength"], applied["scope"], applied["layers"]) == (0.2, "last_prompt", [1])
    error = steerable.error(*ask, "--vector", vector_file, "--strength", "1", "--layers", "0,77")
    assert "77" in error


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--scope", "last-prompt", "did you mean 'last_prompt'?"),
        ("--layers", "3-1", "--layers '3-1': give blocks such as 12, 8-15"),
        ("--layers", "one", "give blocks such as 12, 8-15"),
        ("--strength", "nan", "--strength must be a finite number"),
    ],
)
@pytest.mark.parametrize(
    "verb",
    [
        ("ask", "Hi", "--vector", "v.safetensors"),
        ("evaluate", "cad", "set.jsonl"),
        ("transfer", "v.safetensors", "--test", "set.jsonl"),
        ("export", "v.safetensors", "--format", "repeng", "-o", "v.gguf"),
        ("calibrate", "v.safetensors", "--dev", "set.jsonl"),
        ("compare", "set.jsonl", "--dev", "set.jsonl", "--test", "set.jsonl"),
    ],
    ids=lambda verb: verb[0],
)
def test_every_verb_that_steers_says_alike_what_its_options_take(
    steerable: Steerable, verb: tuple[str, ...], option: str, value: str, said: str
) -> None:
    for name in ("v.safetensors", "set.jsonl"):
        Path(name).touch()
    assert said in steerable.error(*verb, option, value)


def test_calibrate_tries_what_is_asked_for_and_nothing_else(
    steerable: Steerable, model_folder: Path, vector_file: Path, dev_file: Path
) -> None:
    calibrate = ("calibrate", vector_file, "--dev", dev_file, "--model", model_folder)
    how = ("--strength", "0.4", "--scope", "all", "--layers", "1", "--layers", "0-1")
    chosen = steerable.json(*calibrate, *how)["calibration"]
    assert (abs(chosen["strength"]), chosen["scope"]) == (0.4, "all")
    assert chosen["layers"] in ([1], [0, 1])
    assert chosen["choice"]["settings"] == 4  # two signs of two subsets
    assert "leave one of them out" in steerable.error(*calibrate, "--kl", "0.1", *how[:2])
    assert "--kl must be a number above 0" in steerable.error(*calibrate, "--kl", "-1")


def test_a_report_at_another_strength_does_not_promote_what_is_calibrated(
    steerable: Steerable,
    model_folder: Path,
    vector_file: Path,
    questions_file: Path,
    dev_file: Path,
) -> None:
    model = ("--model", model_folder)
    steerable.json("calibrate", vector_file, "--dev", dev_file, *model)
    test = ("evaluate", vector_file, questions_file, *model)
    found = steerable.json(*test, "--strength", "0.01", "--report", "other.json")
    assert found["calibration"]["strength"] == 0.01
    assert "calibrated anew" in _refused(steerable, vector_file)
    assert "--keep writes about" in steerable.error(*test, "--keep", "--scope", "all")
    assert "give one --strength" in steerable.error(*test, "--strength", "1", "--strength", "2")


def _refused(steerable: Steerable, vector: Path) -> str:
    steerable("promote", vector, "--report", "other.json", "--to", "vectors", code=1)
    return steerable.stderr


def test_build_makes_directions_for_the_layers_that_are_asked_for(
    steerable: Steerable, model_folder: Path, pairs_file: Path
) -> None:
    build = ("build", pairs_file, "-o", "v.safetensors", "--model", model_folder)
    assert steerable.json(*build, "--layers", "1")["layers"] == [1]
    assert "are the same" in steerable.error(*build, "--layers", "1", "--set", "layers=[0]")


def test_ask_puts_the_documents_before_the_question(
    steerable: Steerable, model_folder: Path, tiny_llm: Any
) -> None:
    Path("a.txt").write_text("The shop opens at nine.\n", encoding="utf-8")
    Path("b.txt").write_text("It closes at ten.\n", encoding="utf-8")
    out = steerable(
        *("ask", "When?", "--document", "a.txt", "--document", "b.txt"),
        *("--model", model_folder, "--max-new-tokens", 6),
    )
    prompt = "Documents:\n[1] The shop opens at nine.\n[2] It closes at ten.\n\nQuestion: When?"
    assert out == tiny_llm.generate(prompt, max_new_tokens=6).text + "\n"


def test_a_vector_that_is_not_calibrated_needs_a_strength(
    steerable: Steerable, model_folder: Path, vector_file: Path
) -> None:
    error = steerable.error("ask", "Hi", "--model", model_folder, "--vector", vector_file)
    assert "not calibrated" in error


def test_build_writes_the_vector_that_python_builds(
    steerable: Steerable, model_folder: Path, pairs_file: Path, tiny_llm: Any
) -> None:
    from steerable_llm import build_vector

    made = steerable.json(
        *("build", pairs_file, "-o", "v.safetensors", "--model", model_folder),
        *("--name", "lyon", "--set", "k=2", "--set", "aggregation=mean"),
        *("--heatmap", "heat.html"),
    )
    loaded = SteeringVector.load("v.safetensors")
    expected = build_vector(
        tiny_llm, Pairs.from_jsonl(pairs_file), name="lyon", k=2, aggregation="mean", progress=False
    )
    assert loaded.layers == expected.layers
    for layer in loaded.layers:
        torch.testing.assert_close(loaded.directions[layer], expected.directions[layer])
    assert made["fingerprint"] == loaded.fingerprint_id
    assert "nine" in Path("heat.html").read_text(encoding="utf-8")


def test_build_leaves_nothing_behind_when_the_pairs_are_bad(
    steerable: Steerable, model_folder: Path
) -> None:
    Path("pairs.jsonl").write_text(
        '{"messages": "When?", "good": "At nine.", "bad": "At nine."}\n', encoding="utf-8"
    )
    error = steerable.error("build", "pairs.jsonl", "-o", "v.safetensors", "--model", model_folder)
    assert "pairs.jsonl" in error
    assert sorted(path.name for path in Path().iterdir()) == ["pairs.jsonl"]


def test_pairs_come_from_corrected_answers_of_a_log(steerable: Steerable) -> None:
    def logged(number: int, **more: str) -> LoggedAnswer:
        messages = ({"role": "user", "content": f"Question {number}?"},)
        return LoggedAnswer.model_validate(
            {"id": f"a{number}", "question": "?", "messages": messages, "answer": "At ten.", **more}
        )

    write_answers(
        "log.jsonl",
        [
            logged(1, verdict="bad", reason="contradicts", correction="At nine."),
            logged(2, verdict="bad", reason="rude", correction="At nine, dear guest."),
            logged(3, verdict="bad", reason="contradicts"),
            logged(4, verdict="good"),
        ],
    )
    made = steerable.json("pairs", "log.jsonl", "-o", "p.jsonl", "--reason", "contradicts")
    assert made["by_source"] == {"correction": 1}
    assert sum(made["left_out"].values()) == 1
    (pair,) = Pairs.from_jsonl("p.jsonl")
    assert (pair.good, pair.bad) == ("At nine.", "At ten.")
    assert "2 pairs" in steerable("pairs", "log.jsonl", "-o", "p.jsonl")


def test_a_log_without_a_bad_answer_gives_no_file(steerable: Steerable) -> None:
    Path("log.jsonl").write_text("\n", encoding="utf-8")
    assert "empty" in steerable.error("pairs", "log.jsonl", "-o", "p.jsonl")
    assert not Path("p.jsonl").exists()


@pytest.mark.parametrize("setting", ["k", "=3"])
def test_a_setting_needs_a_key_and_a_value(
    steerable: Steerable, model_folder: Path, pairs_file: Path, setting: str
) -> None:
    error = steerable.error(
        *("build", pairs_file, "-o", "v.safetensors", "--model", model_folder, "--set", setting)
    )
    assert "expected key=value" in error


def test_an_unknown_setting_is_an_error(
    steerable: Steerable, model_folder: Path, pairs_file: Path
) -> None:
    error = steerable.error(
        *("build", pairs_file, "-o", "v.safetensors", "--model", model_folder, "--set", "kk=3")
    )
    assert "kk" in error


def test_calibrate_keeps_its_choice_in_the_file_and_evaluate_uses_it(
    steerable: Steerable,
    model_folder: Path,
    vector_file: Path,
    questions_file: Path,
    dev_file: Path,
) -> None:  # fmt: skip
    model = ("--model", model_folder)
    chosen = steerable.json("calibrate", vector_file, "--dev", dev_file, *model)
    calibration = SteeringVector.load(vector_file).calibration
    assert calibration is not None
    assert chosen["calibration"]["strength"] == calibration.strength

    report = steerable.json(
        *("evaluate", vector_file, questions_file, *model, "--report", "card.md"),
        *("--against", "none", "--against", "random"),
    )
    assert {row["arm"] for row in report["rows"]} == {"steered", "none", "random"}
    leak = steerable.error("evaluate", vector_file, dev_file, *model)
    assert "4 of the 4 prompts of 'questions' are among those that the calibration" in leak
    assert "lyon" in Path("card.md").read_text(encoding="utf-8")


def test_evaluate_is_told_what_is_to_be_changed_and_what_may_be_lost(
    steerable: Steerable, model_folder: Path, vector_file: Path, questions_file: Path
) -> None:
    read = EvaluationSet.from_jsonl(questions_file)
    gold = read[0].model_copy(update={"category": "gold"})
    EvaluationSet("both", [gold, *read[1:]]).to_jsonl("both.jsonl")
    asked = (
        *("evaluate", vector_file, "both.jsonl", "--model", model_folder),
        *("--against", "none", "--strength", "0.1"),
    )
    report = steerable.json(*asked, "--target", "conflict", "--budget", "0.05")
    assert (report["target"], report["budget"]) == ("conflict", 0.05)
    assert "both, target gold" in steerable(*asked)
    assert "note: the target is 'gold'; --target" in steerable.stderr
    assert "it has gold, conflict" in steerable.error(*asked, "--target", "myth")


def test_what_is_kept_of_an_evaluation_undoes_no_calibration(
    steerable: Steerable,
    model_folder: Path,
    vector_file: Path,
    questions_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from steerable_llm.evaluation import evaluate as module
    from steerable_llm.vector.calibration import Calibration

    vector = SteeringVector.load(vector_file).with_calibration(Calibration(0.1))
    vector.save(vector_file)
    asked = (
        *("evaluate", vector_file, questions_file, "--model", model_folder),
        *("--against", "none", "--keep"),
    )
    steerable(*asked)
    assert SteeringVector.load(vector_file).evaluation is not None
    run = module.evaluate

    def meanwhile(*given: Any, **how: Any) -> Any:
        vector.with_calibration(Calibration(0.3)).save(vector_file)
        return run(*given, **how)

    monkeypatch.setattr(module, "evaluate", meanwhile)
    assert "REFUSE" in steerable(*asked, code=2)  # what was measured is not lost
    assert "was calibrated anew while it was measured" in steerable.stderr
    calibration = SteeringVector.load(vector_file).calibration
    assert calibration is not None
    assert calibration.strength == 0.3


def test_evaluate_takes_a_lora_or_a_decoding_method_in_place_of_a_vector(
    steerable: Steerable, model_folder: Path, pairs_file: Path, questions_file: Path
) -> None:
    pytest.importorskip("peft")
    model = ("--model", model_folder)
    trained = ("--method", "lora", "--set", "epochs=1", "--set", "rank=2")
    steerable("build", pairs_file, "-o", "mine", *trained, *model)
    against = ("--against", "cad=1.5", "--against", "prompt")
    found = steerable.json("evaluate", "mine", questions_file, *against, *model)
    assert list(dict.fromkeys(row["arm"] for row in found["rows"])) == [
        "mine", "none", "cad=1.5", "prompt",
    ]  # fmt: skip
    assert found["verdict"]["reasons"]
    arguments = ("evaluate", "cad=0.5", questions_file, "--against", "mine", *model)
    found = steerable.json(*arguments, "--report", "cad.md")
    assert (found["arm"], found["vector"]) == ("cad=0.5", "cad=0.5")
    assert "cad=0.5 against" in Path("cad.md").read_text(encoding="utf-8")
    matrix = steerable.json("transfer", "mine", "--test", questions_file, *model)
    assert list(matrix["vectors"]) == ["mine"]
    assert "--keep writes into a vector file" in steerable.error(*arguments, "--keep")
    leak = steerable.error("evaluate", "mine", questions_file, "--against", "magic", *model)
    assert "choose from none, prompt" in leak


def test_evaluate_names_the_arms_it_knows(
    steerable: Steerable,
    model_folder: Path,
    vector_file: Path,
    questions_file: Path,
    dev_file: Path,
) -> None:  # fmt: skip
    steerable("calibrate", vector_file, "--dev", dev_file, "--model", model_folder)
    error = steerable.error(
        *("evaluate", vector_file, questions_file, "--model", model_folder),
        *("--against", "magic"),
    )
    assert "sign_flipped" in error


def test_inspect_shows_model_and_method(steerable: Steerable, vector_file: Path) -> None:
    shown = steerable.json("inspect", vector_file)
    assert shown["name"] == "lyon"
    assert shown["provenance"]["method"] == "grains"
    assert shown["calibration"] is None
    text = steerable("inspect", vector_file)
    assert shown["fingerprint"] in text


def test_inspect_refuses_what_is_no_vector(steerable: Steerable) -> None:
    Path("v.safetensors").write_bytes(b"no vector")
    assert "v.safetensors" in steerable.error("inspect", "v.safetensors")


def test_a_policy_steers_by_step(
    steerable: Steerable, model_folder: Path, vector_file: Path
) -> None:
    Path("policy.toml").write_text(
        '[steps.answer]\nvectors = [{ name = "lyon", strength = 0.25 }]\n', encoding="utf-8"
    )
    ask = ("ask", "Hi", "--model", model_folder, "--max-new-tokens", 2, "--policy", "policy.toml")
    assert steerable.json(*ask, "--step", "answer")["steered"][0]["name"] == "lyon"
    assert steerable.json(*ask)["steered"] == []
    assert "answer" in steerable.error(*ask, "--step", "anwser")


def test_a_model_that_is_not_there_is_one_line(steerable: Steerable) -> None:
    assert "no-such-model" in steerable.error("ask", "Hi", "--model", "./no-such-model")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--strength", "0.1"], "--strength goes with --vector"),
        (["--scope", "all"], "--scope goes with --vector"),
        (["--layers", "1-2"], "--layers goes with --vector"),
        (["--step", "answer"], "--step goes with --policy"),
        (["--vector", "v.safetensors", "--policy", "policy.toml"], "in place of what --policy"),
        (["--document", "latin.txt"], "latin.txt is not UTF-8 text"),
        (["--document", "empty.txt"], "document empty.txt is empty"),
    ],
)
def test_ask_leaves_nothing_out_in_silence(
    steerable: Steerable, more: list[str], message: str
) -> None:
    Path("latin.txt").write_bytes("Café".encode("latin-1"))
    Path("empty.txt").write_text(" \n", encoding="utf-8")
    assert message in steerable.error("ask", "Hi", "--model", "./no-such-model", *more)


@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question_is_no_question(steerable: Steerable, question: str) -> None:
    said = steerable.error("ask", question, "--model", "./no-such-model")
    assert "the question is empty" in said


def test_no_work_is_done_whose_result_could_not_be_written(
    steerable: Steerable, pairs_file: Path, questions_file: Path, vector_file: Path
) -> None:
    Path("folder").mkdir()
    to_folder = ("build", pairs_file, "-o", "folder", "--model", "./no-such-model")
    assert "folder is a folder" in steerable.error(*to_folder)
    without = ("build", pairs_file, "-o", "v.safetensors", "--method", "caa", "--heatmap", "h.html")
    assert "none of" in steerable.error(*without)
    assert not Path("v.safetensors").exists()
    unknown = ("evaluate", vector_file, questions_file, "--report", "r.txt")
    assert "r.txt" in steerable.error(*unknown, "--model", "./no-such-model")


def test_a_missing_file_is_told_before_a_model_is_loaded(steerable: Steerable) -> None:
    out = steerable("evaluate", "v.safetensors", "t.jsonl", "--model", "no-such-model", code=2)
    assert out == ""
    assert "v.safetensors" in steerable.stderr


@pytest.mark.parametrize("method", ["caa", "icv", "iti", "mat_steer"])
def test_every_method_can_be_built_calibrated_and_inspected(
    steerable: Steerable, model_folder: Path, pairs_file: Path, questions_file: Path, method: str
) -> None:
    model = ("--model", model_folder)
    steerable("build", pairs_file, "-o", "v.safetensors", "--method", method, *model)
    assert steerable.json("inspect", "v.safetensors")["provenance"]["method"] == method
    answer = steerable.json("ask", QUESTION, "--vector", "v.safetensors", "--strength", "0.2",
                            "--max-new-tokens", "3", *model)  # fmt: skip
    assert answer["steered"][0]["name"] == "v"


def test_an_adapter_is_built_as_a_folder(
    steerable: Steerable, model_folder: Path, pairs_file: Path
) -> None:
    pytest.importorskip("peft")
    made = steerable.json(
        *("build", pairs_file, "-o", "adapter", "--method", "lora", "--model", model_folder),
        *("--set", "epochs=1", "--set", "rank=2"),
    )
    assert made["provenance"]["config"]["rank"] == 2
    assert (Path("adapter") / "adapter_config.json").is_file()
    error = steerable.error(
        *("build", pairs_file, "-o", "a", "--method", "lora", "--model", model_folder),
        *("--set", "rang=2"),
    )
    assert "rang" in error
    assert not Path("a").exists()


def test_compare_tells_a_table_and_writes_reports(
    steerable: Steerable, model_folder: Path, pairs_file: Path, questions_file: Path
) -> None:
    items = EvaluationSet.from_jsonl(questions_file)
    EvaluationSet("dev", items[:1]).to_jsonl("dev.jsonl")
    EvaluationSet("questions", items[1:]).to_jsonl("test.jsonl")
    arguments = (
        *("compare", pairs_file, "--dev", "dev.jsonl", "--test", "test.jsonl"),
        *("--method", "prompt", "--method", "cad", "--model", model_folder),
    )
    found = steerable.json(*arguments, "--report", "c.md", "--report", "c.html")
    assert [c["name"] for c in found["arms"]] == ["none", "prompt", "cad"]
    assert "steerable compare" in Path("c.md").read_text(encoding="utf-8")
    assert "context-aware decoding" in Path("c.html").read_text(encoding="utf-8")
    assert "3 arms on test" in steerable(*arguments)
    assert "magic" in steerable.error(*arguments, "--method", "magic")


def test_build_tells_how_far_the_pairs_agree(
    steerable: Steerable, model_folder: Path, pairs_file: Path
) -> None:
    out = steerable("build", pairs_file, "-o", "v.safetensors", "--model", model_folder)
    assert "of 4 pairs agree with the others" in out
    assert steerable.json("inspect", "v.safetensors")["provenance"]["agreement"]["pairs"] == 4


def test_transfer_prints_a_matrix_and_writes_it(
    steerable: Steerable,
    model_folder: Path,
    vector_file: Path,
    questions_file: Path,
    dev_file: Path,
) -> None:  # fmt: skip
    steerable("calibrate", vector_file, "--dev", dev_file, "--model", model_folder)
    arguments = ("transfer", vector_file, "--test", questions_file, "--model", model_folder)
    found = steerable.json(*arguments, "--sample", 3, "--report", "t.md")
    assert {row["category"] for row in found["rows"]} == {"questions/conflict"}
    assert found["rows"][0]["n"] == 3
    assert "steerable transfer" in Path("t.md").read_text(encoding="utf-8")
    assert "questions/conflict" in steerable(*arguments)
    assert "called 'questions'" in steerable.error(*arguments, "--test", questions_file)


def test_evaluate_builds_the_shuffled_control_from_the_pairs(
    steerable: Steerable, model_folder: Path, vector_file: Path, questions_file: Path,
    dev_file: Path, pairs_file: Path,
) -> None:  # fmt: skip
    model = ("--model", model_folder)
    steerable("calibrate", vector_file, "--dev", dev_file, *model)
    report = steerable.json(
        "evaluate", vector_file, questions_file, *model, "--pairs", pairs_file, "--report", "r.json"
    )
    assert {row["arm"] for row in report["rows"]} >= {"shuffled", "random", "prompt"}
    why = steerable("promote", vector_file, "--report", "r.json", "--to", "vectors", code=1)
    assert why == ""
    assert "capability was not measured" in steerable.stderr
    assert not Path("vectors").exists()


def test_strengths_can_be_given_by_their_divergence(
    steerable: Steerable, model_folder: Path, vector_file: Path, dev_file: Path
) -> None:
    arguments = ("calibrate", vector_file, "--dev", dev_file, "--model", model_folder)
    chosen = steerable.json(*arguments, "--kl", "0.02", "--kl", "0.5")["calibration"]["strength"]
    assert abs(chosen) not in (0.02, 0.03, 0.05, 0.08, 0.1, 0.12)
    assert "must be a number above 0" in steerable.error(*arguments, "--kl", "0")


def test_a_step_of_a_policy_says_where_a_vector_steers(
    steerable: Steerable, model_folder: Path, vector_file: Path, questions_file: Path,
    dev_file: Path,
) -> None:  # fmt: skip
    Path("policy.toml").write_text('[steps.documents]\nwhen.context = "present"\n', "utf-8")
    model, under = ("--model", model_folder), ("--policy", "policy.toml", "--step", "documents")
    nothing = steerable.error("calibrate", vector_file, "--dev", dev_file, *model, *under)
    assert "hold for none of the prompts" in nothing
    steerable("calibrate", vector_file, "--dev", dev_file, *model)
    report = steerable.json("evaluate", vector_file, questions_file, *model, *under)
    assert report["use"]["steered"] == {"conflict": 0}
    values = {row["arm"]: row["success"]["value"] for row in report["rows"]}
    always = {row["arm"]: row["success"]["value"] for row in report["always"]}
    assert values["steered"] == values["none"] < always["steered"]

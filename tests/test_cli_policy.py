"""`steerable policy`: looking a policy through, and training a gate."""

from pathlib import Path
from typing import Any

import pytest
from command_line import Steerable, steerable
from policy_models import VECTORS

from steerable_llm import demo
from steerable_llm.cli.policy import _shown
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import read_answers
from steerable_llm.policy.gate import Gate

__all__ = ["steerable"]

STEPS = """
default_step = "answer"

[steps.answer]
vectors = [{ name = "faithful", strength = 0.25 }, { name = "polite" }]
match = { node = ["gen[1-9]"] }
when = { context = "present" }

[steps.condense]
"""


@pytest.fixture
def policy(steerable: Steerable) -> Path:
    for vector in VECTORS.values():
        vector.save(f"{vector.name}.safetensors")
    path = Path("policy.toml")
    path.write_text(STEPS, encoding="utf-8")
    return path


def check(steerable: Steerable, *arguments: object) -> Any:
    return steerable.json("policy", "check", "policy.toml", *arguments)


def test_check_lists_the_steps(steerable: Steerable, policy: Path) -> None:
    text = steerable("policy", "check", policy)
    for part in ("answer (default)", "faithful +0.25, generated", "not steered", "context present"):
        assert part in text
    assert "answer: also matches node gen[1-9]" in text
    assert "answer: cosine of faithful and polite by layer 0: +0.9" in text
    found = check(steerable)
    assert found["default_step"] == "answer"
    assert found["steps"]["condense"]["vectors"] == []
    assert "trace" not in found


def test_check_tries_a_trace(steerable: Steerable, policy: Path) -> None:
    Path("trace.jsonl").write_text(
        '{"node": "gen1", "messages": "Documents:\\na\\n\\nQuestion: b"}\n{"step": "condense"}\n'
    )
    first, second = check(steerable, "--trace", "trace.jsonl")["trace"]
    assert [each["vector"] for each in first["applied"]] == ["faithful", "polite"]
    assert (first["step"], second["applied"]) == ("answer", [])
    text = steerable("policy", "check", policy, "--trace", "trace.jsonl")
    assert "node gen1" in text
    assert "nothing" in text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"polite"', '"polit"', "did you mean 'polite'"),
        ("strength", "strenght", "did you mean 'strength'"),
        ("[steps.condense]", '[steps.condense]\ninherits = "answr"', "did you mean 'answer'"),
        ('default_step = "answer"', 'default_step = "x"', "not a known step"),
    ],
)
def test_what_is_misspelt_is_named_with_the_nearest_name(
    steerable: Steerable, policy: Path, old: str, new: str, said: str
) -> None:
    policy.write_text(STEPS.replace(old, new), encoding="utf-8")
    assert said in steerable.error("policy", "check", policy)


def test_a_trace_with_an_unknown_step_or_key_is_refused(steerable: Steerable, policy: Path) -> None:
    trace = Path("trace.jsonl")
    for line, said in (('{"step": "anwser"}', "'answer'"), ('{"stp": "a"}', "'step'")):
        trace.write_text(line)
        assert f"did you mean {said}" in steerable.error(
            "policy", "check", policy, "--trace", trace
        )


def test_vectors_of_another_model_are_refused(steerable: Steerable, policy: Path) -> None:
    error = steerable.error("policy", "check", policy, "--model", "demo")
    assert "was built for tiny" in error
    assert "steerable-llm/demo" in error


def test_train_gate_writes_a_gate_and_its_card(steerable: Steerable) -> None:
    log = demo.folder() / "data" / "answers.jsonl"
    learn = ("policy", "train-gate", log, "--reason", "rude", "--step", "reply")
    text = steerable(*learn, "--out", "gates/rude.safetensors")
    gate = Gate.load("gates/rude.safetensors")
    auc = gate.training["figures"]["auc"]["value"]
    assert f"ROC AUC {auc:.3f}" in text
    card = Path("gates/rude.md").read_text(encoding="utf-8")
    assert card.startswith("# Gate rude\n")
    assert "--reason rude --step reply" in card
    found = steerable.json(*learn, "--out", "again.safetensors")
    assert found["figures"]["auc"]["value"] == pytest.approx(auc)
    assert found["card"] == "again.md"


def test_train_gate_says_what_a_log_lacks(steerable: Steerable) -> None:
    log = demo.folder() / "data" / "answers.jsonl"
    few = Path("few.jsonl")
    few.write_text("".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[:9]))
    error = steerable.error("policy", "train-gate", few, "-o", "g.safetensors")
    assert "at least 10 separate questions" in error
    assert not Path("g.safetensors").exists()
    assert "ends in .safetensors" in steerable.error("policy", "train-gate", log, "-o", "g.md")


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [("--reason", "rud", "did you mean 'rude'"), ("--step", "repl", "did you mean 'reply'")],
)
def test_train_gate_names_the_reason_and_the_step_that_were_meant(
    steerable: Steerable, option: str, name: str, said: str
) -> None:
    log = demo.folder() / "data" / "answers.jsonl"
    assert said in steerable.error("policy", "train-gate", log, "-o", "g.safetensors", option, name)


def test_train_gate_learns_the_same_from_the_answer_logs_own_database(steerable: Steerable) -> None:
    file = demo.folder() / "data" / "answers.jsonl"
    with AnswerLog("sqlite:///answers.db") as log:
        log.add(read_answers(file))
    options = ("--reason", "rude", "--step", "reply", "--out", "rude.safetensors")
    from_file = steerable.json("policy", "train-gate", file, *options)
    found = steerable.json("policy", "train-gate", "answers.db", *options)
    assert found["figures"] == from_file["figures"]
    assert found["fingerprint"] == from_file["fingerprint"]


def test_a_card_does_not_tell_the_password_of_the_log() -> None:
    url = "postgresql://user:secret@host/answers"
    assert _shown(["policy", "train-gate", url, "--seed", "1"], url) == [
        "policy", "train-gate", "postgresql://user:***@host/answers", "--seed", "1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "verb", [("check", "policy.toml", "--trace"), ("train-gate", "-o", "g.safetensors")]
)
def test_a_file_that_is_no_text_is_refused_in_one_line(
    steerable: Steerable, policy: Path, verb: tuple[str, ...]
) -> None:
    Path("binary.jsonl").write_bytes(b"\xff\xfe{}")
    error = steerable.error("policy", *verb, "binary.jsonl")
    assert "binary.jsonl, line 1: it is not" in error

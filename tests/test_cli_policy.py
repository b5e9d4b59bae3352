"""`steerable policy`: looking a policy through, and training a gate."""

from pathlib import Path
from typing import Any

import pytest
from command_line import Steerable, steerable
from policy_models import VECTORS

from steerable_llm import demo
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
    error = steerable.error("policy", "train-gate", log, "-o", "g.safetensors", "--step", "no-such")
    assert "at least 10 separate questions" in error
    assert not Path("g.safetensors").exists()
    assert "ends in .safetensors" in steerable.error("policy", "train-gate", log, "-o", "g.md")

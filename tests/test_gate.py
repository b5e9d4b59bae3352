"""A gate says a probability, is stored without pickle, and refuses a foreign embedding model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from policy_models import WordEmbedder, word_gate
from safetensors import safe_open
from safetensors.torch import save_file

from steerable_llm.errors import GateFileError, InvalidInputError, ModelMismatchError
from steerable_llm.policy.gate import Gate


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return word_gate().save(tmp_path / "rudeness.safetensors")


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_the_probability_is_the_logistic_function(rude: float, kind: float) -> None:
    [found] = word_gate().of_embeddings(np.array([[rude, kind]]))
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-2 * (rude - kind)))
    assert 0 <= found <= 1
    assert found == pytest.approx(expected, abs=1e-12)


def test_texts_are_embedded_and_judged() -> None:
    found = word_gate().probabilities(["a rude one", "a kind one", "x"], WordEmbedder())
    assert found == pytest.approx([0.880797, 0.119203, 0.5], abs=1e-6)
    assert word_gate().probabilities([], WordEmbedder()) == []


def test_another_embedding_model_is_refused() -> None:
    with pytest.raises(ModelMismatchError, match=r"trained with .* words .*train the gate again"):
        word_gate().probabilities(["x"], WordEmbedder(words=("rude", "nice")))


def test_embeddings_of_another_width_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="2 numbers"):
        word_gate().of_embeddings(np.zeros((1, 3)))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": np.array([np.nan, 0])},
        {"weights": np.zeros((2, 2))},
        {"bias": float("inf")},
        {"threshold": 1.5},
    ],
)
def test_numbers_that_cannot_be_a_gate_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        word_gate(**change)  # type: ignore[arg-type]


def test_a_saved_gate_comes_back_the_same(file: Path) -> None:
    gate = Gate.load(file)
    assert gate.fingerprint_id == word_gate().fingerprint_id
    assert (gate.name, gate.threshold, gate.bias) == ("rudeness", 0.5, 0.0)
    assert gate.weights.tolist() == [2.0, -2.0]


@pytest.mark.parametrize(
    "change", [{"bias": 0.1}, {"threshold": 0.6}, {"weights": np.array([2.0, 2.0])}]
)
def test_the_fingerprint_tells_gates_apart_that_decide_differently(
    change: dict[str, object],
) -> None:
    assert replace(word_gate(), **change).fingerprint_id != word_gate().fingerprint_id  # type: ignore[arg-type]


def test_the_file_is_safetensors_with_json_beside_the_numbers(file: Path) -> None:
    with safe_open(file, framework="pt") as opened:
        assert sorted(opened.keys()) == ["bias", "weights"]
        assert json.loads(opened.metadata()["content"])["embedder"] == "words"


def test_a_broken_or_foreign_file_is_refused_in_one_line(file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:40])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    for path, said in (
        (tmp_path / "none.safetensors", "check the path"),
        (cut, "cut short"),
        (foreign, "not a gate"),
    ):
        with pytest.raises(GateFileError, match=said) as caught:
            Gate.load(path)
        assert "\n" not in str(caught.value)


def test_a_changed_or_newer_file_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'\\"threshold\\": 0.5', b'\\"threshold\\": 0.4'))
    with pytest.raises(GateFileError, match="changed after it was saved"):
        Gate.load(file)
    file.write_bytes(whole.replace(b'"format_version":"1"', b'"format_version":"2"'))
    with pytest.raises(GateFileError, match="update steerable-llm"):
        Gate.load(file)

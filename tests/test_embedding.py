"""The embedding model comes from an installed package, offline, and is told by its weights."""

from pathlib import Path

import numpy as np
import pytest

from steerable_llm import embedding
from steerable_llm.embedding import MINILM, SentenceEmbedder, minilm_path
from steerable_llm.errors import InvalidInputError, MissingExtraError


def test_the_weights_come_from_the_installed_package() -> None:
    assert (Path(minilm_path()) / "model.safetensors").is_file()


def test_without_the_package_the_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_PACKAGE", "no_such_package")
    assert minilm_path() == MINILM


def test_vectors_have_length_one_and_the_model_is_loaded_once() -> None:
    rows = SentenceEmbedder().embed(["The shop opens at nine.", "It is late."])
    assert rows.shape == (2, 384)
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert embedding.load_sentence_model() is embedding.load_sentence_model(MINILM)


def test_the_fingerprint_is_that_of_the_weights_wherever_they_lie() -> None:
    named, by_folder = SentenceEmbedder(), SentenceEmbedder(minilm_path())
    assert named.fingerprint == by_folder.fingerprint
    assert len(named.fingerprint) == 16


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot load the embedding model"):
        SentenceEmbedder(str(tmp_path / "none")).embed(["x"])


def test_a_missing_package_is_named_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'steerable-llm\[gate\]'"):
        embedding._load.__wrapped__("any")

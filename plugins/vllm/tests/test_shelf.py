"""Which vectors a vLLM serves: only those of its model, and only those that were meant."""

import pytest
import torch
from safetensors.torch import save_file

from steerable_llm import SteerableHFLLM
from steerable_llm.errors import (
    HubError,
    InvalidInputError,
    ModelMismatchError,
    UnknownVectorError,
)
from steerable_vllm.checkpoint import checkpoint_folder, stored_weights_hash
from steerable_vllm.shelf import Shelf, shelf_of
from steerable_vllm.terms import sent, sent_terms
from tests.test_terms import V, vector
from tests.tiny import saved


class Config:
    """As much of vLLM's configuration as is read."""

    def __init__(self, family, **told) -> None:
        self.additional_config = {"steering": told} if told else {}
        self.model_config = self
        self.model, self.revision = str(family.folder / "model"), None
        self.dtype = torch.float32
        self.hf_config = self.hf_text_config = family.llm.model.config

    def get_hidden_size(self) -> int:
        return self.hf_config.hidden_size


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return saved("llama", tmp_path_factory.mktemp("llama"))


def test_a_checkpoint_is_told_by_its_files_as_by_its_weights(family) -> None:
    for llm in (family.llm, SteerableHFLLM.demo()):
        folder = family.folder / llm.model_id.replace("/", "-")
        llm.model.save_pretrained(folder)
        tied = llm.model.config.tie_word_embeddings
        assert stored_weights_hash(folder, tied) == llm.fingerprint.weights_hash


def test_copies_of_the_weights_in_another_form_do_not_count(family, tmp_path) -> None:
    """As in Mistral's repositories; and a checkpoint may come in many files."""
    family.llm.model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    save_file({"tok_embeddings.weight": torch.ones(2, 2)}, tmp_path / "consolidated.safetensors")
    assert stored_weights_hash(tmp_path, False) == family.llm.fingerprint.weights_hash


@pytest.mark.parametrize("model", ["nothing/here", "../../etc", "/nothing"])
def test_a_checkpoint_that_is_not_there_is_told(model, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=f"find the checkpoint {model}"):
        checkpoint_folder(model)


def test_vectors_of_the_model_are_served_from_folders_and_files(family) -> None:
    file = family.folder / "vectors" / "random.safetensors"
    for path in (str(file), [str(file.parent)]):
        assert list(shelf_of(Config(family, vectors=path)).vectors) == ["llama-random"]
    assert shelf_of(Config(family)) is None


def test_a_vector_of_another_model_is_refused_at_start(family, tmp_path) -> None:
    other = saved("llama", tmp_path)
    with torch.no_grad():
        other.llm.model.model.norm.weight += 1.0
    other.llm.model.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelMismatchError, match="weights_hash"):
        shelf_of(Config(other, vectors=str(family.folder / "vectors")))
    assert shelf_of(Config(other, vectors=str(family.folder / "vectors"), force=True))


@pytest.mark.parametrize("told", [{"vector": "x"}, {"vectors": 3}])
def test_settings_that_cannot_be_read_are_told_in_one_line(family, told) -> None:
    with pytest.raises(InvalidInputError, match="--additional-config"):
        shelf_of(Config(family, **told))


def test_an_unknown_vector_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownVectorError, match="known: v"):
        Shelf([V]).steering(sent_terms("vv"))


@pytest.mark.parametrize("strength", [1e300, -1e38, 1e16])
@pytest.mark.parametrize("unit", ["absolute", "relative"])
def test_a_strength_that_ends_in_no_numbers_is_refused(strength, unit) -> None:
    """It would end vLLM, and with it what everybody else has asked."""
    sent_so = f'[{{"vector": "v", "strength": {strength}, "unit": "{unit}"}}]'
    with pytest.raises(InvalidInputError, match="a smaller one"):
        Shelf([V]).steering(sent_terms(sent_so))


def test_a_dtype_that_holds_less_takes_less() -> None:
    half = Shelf([V], torch.finfo(torch.float16).max / 2)
    assert half.steering(sent_terms(sent(V.steer(10.0)))).is_active
    with pytest.raises(InvalidInputError, match="dtype"):
        half.steering(sent_terms(sent(V.steer(1e6))))


def test_a_vector_that_has_changed_since_is_refused() -> None:
    """Its name is the same; its directions, or how they are scaled, are not."""
    for other in (vector(seed=5), vector(scales={0: 1.0, 1: 1.0}), vector(decision_tokens=5)):
        with pytest.raises(ModelMismatchError, match="not the one"):
            Shelf([other]).steering(sent_terms(sent(V.steer(0.3, scope="decision"))))


def test_two_vectors_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="two vectors"):
        Shelf([V, vector(seed=3)])

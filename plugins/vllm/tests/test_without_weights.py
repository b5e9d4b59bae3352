"""A model whose weights are in vLLM: what can be told of it here, and what is refused."""

import pytest

from steerable_llm import Policy, PreferencePair, build_vector
from steerable_llm.errors import EngineError, InvalidInputError
from steerable_llm.policy.decision import Asked
from steerable_vllm.served import ServedModel
from tests.tiny import Family, saved

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> Family:
    return saved("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def far(family) -> ServedModel:
    return ServedModel.connect(NOBODY, family.folder / "model")


def test_it_is_the_model_of_the_checkpoint(family, far) -> None:
    assert not far.fingerprint.differences(family.llm.fingerprint)


@pytest.mark.parametrize("method", ["grains", "caa"])
def test_building_is_refused_in_one_line(far, method) -> None:
    pairs = [PreferencePair(f"Question {n}?", "At nine.", "Never.") for n in range(4)]
    with pytest.raises(InvalidInputError, match="weights in this process"):
        build_vector(far, pairs, method, progress=False)


def test_scoring_is_refused_in_one_line(far) -> None:
    with pytest.raises(InvalidInputError, match="weights in this process"):
        far.score("Hello", ["world"])


def test_a_step_that_asks_for_conflict_is_refused_and_others_are_decided(family) -> None:
    text = """
        [steps]
        plain.vectors = [{name = "llama-random", strength = 0.2}]
        torn.vectors = [{name = "llama-random", strength = 0.2}]
        torn.when = {conflict = {above = 0.0}}
    """
    policy = Policy.from_toml(text, {"llama-random": family.vector})
    far = ServedModel.connect(NOBODY, family.folder / "model", policy=policy)
    prompt = "Documents:\nThe shop opens at nine.\n\nQuestion: When does it open?"
    assert far.decide([Asked(prompt, "plain")])[0].steering.is_active
    with pytest.raises(InvalidInputError, match="conflict needs the model's weights"):
        far.decide([Asked(prompt, "torn")])


def test_the_window_is_the_models_where_the_server_cannot_be_asked(family) -> None:
    """That the server is not there is told when something is asked of it."""
    far = ServedModel.connect(NOBODY, family.folder / "model", context_window=77)
    assert far.context_window == 77
    with pytest.raises(EngineError, match="does not answer"):
        far.generate("Hello", max_new_tokens=2)


def test_what_is_no_checkpoint_is_told(tmp_path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read as a checkpoint"):
        ServedModel.connect(NOBODY, tmp_path)


def test_files_of_another_revision_are_asked_for(family, monkeypatch) -> None:
    asked = []

    def download(name, **wanted) -> str:
        asked.append((name, wanted["revision"]))
        return str(family.folder / "model")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    far = ServedModel.connect(NOBODY, "some/model", revision="v2")
    assert asked == [("some/model", "v2")]
    assert (far.fingerprint.model_id, far.fingerprint.revision) == ("some/model", "v2")

"""What makes two models the same to a vector."""

import pytest

from steerable_llm.errors import VectorFileError
from steerable_llm.vector.fingerprint import ModelFingerprint

ONE = ModelFingerprint(
    model_id="some/model",
    revision="main",
    architecture="LlamaForCausalLM",
    hidden_size=4,
    num_layers=3,
    config_hash="c",
    weights_hash="w",
    tokenizer_hash="t",
    template_hash="p",
)


def test_where_a_model_was_loaded_from_does_not_matter():
    moved = ONE.model_copy(update={"model_id": "/a/folder", "revision": None})
    assert not ONE.differences(moved)
    assert ONE.short.split("@")[1] == moved.short.split("@")[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", "Other"),
        ("hidden_size", 8),
        ("num_layers", 2),
        ("config_hash", "x"),
        ("weights_hash", "x"),
        ("tokenizer_hash", "x"),
        ("template_hash", "x"),
    ],
)
def test_every_other_fact_matters(field, value):
    other = ONE.model_copy(update={field: value})
    assert ONE.differences(other) == (field,)
    assert ONE.short != other.short


def test_a_record_without_a_field_is_refused():
    record = ONE.model_dump()
    del record["weights_hash"]
    with pytest.raises(VectorFileError, match="weights_hash"):
        ModelFingerprint.from_record(record)
    assert ModelFingerprint.from_record(ONE.model_dump()) == ONE

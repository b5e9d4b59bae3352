"""Files that are no vector, cut short, from the future, or changed."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from steerable_llm.errors import (
    FutureVersionError,
    NotAVectorError,
    TamperedVectorError,
    VectorFileError,
)
from steerable_llm.vector.file import content_hash, read_vector_file, write_vector_file

DIRECTIONS = {0: torch.arange(4.0), 3: torch.tensor([0.5, -1, 2, 0])}
CONTENT = {"name": "faithful", "scales": {"0": 1.5}}


@pytest.fixture
def saved(tmp_path):
    return write_vector_file(tmp_path / "v.safetensors", CONTENT, DIRECTIONS)


def rewrite(path, metadata=None, tensors=None):
    """Store the file again with some metadata or tensors replaced, as an editor would."""
    with safe_open(path, framework="pt") as file:
        old_metadata = file.metadata()
        old_tensors = {name: file.get_tensor(name) for name in file.keys()}
    save_file({**old_tensors, **(tensors or {})}, path, {**old_metadata, **(metadata or {})})


def test_content_and_directions_come_back(saved):
    content, directions, gates, _ = read_vector_file(saved)
    assert gates == {}
    assert content == CONTENT
    assert directions.keys() == DIRECTIONS.keys()
    assert all(torch.equal(directions[i], DIRECTIONS[i]) for i in DIRECTIONS)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotAVectorError, match="no vector file"):
        read_vector_file(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_told(saved, keep):
    whole = saved.read_bytes()
    saved.write_bytes(whole[:keep])
    with pytest.raises(NotAVectorError, match="cut short"):
        read_vector_file(saved)


def test_another_kind_of_file_is_told(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a vector at all")
    with pytest.raises(NotAVectorError, match="another kind of file"):
        read_vector_file(text)


def test_a_safetensors_file_with_something_else_is_told(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(NotAVectorError, match="not a steering vector"):
        read_vector_file(path)


def test_a_later_format_is_told_before_anything_else_is_checked(saved):
    rewrite(saved, {"format_version": "4", "library_version": "9.0"})
    with pytest.raises(FutureVersionError, match=r"9\.0.*update"):
        read_vector_file(saved)


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": json.dumps("harmless")},
        {"scales": json.dumps({"0": 99.0})},
        {"library_version": "0.0.1"},
        {"extra": "1"},
        {"content_hash": "0" * 64},
    ],
)
def test_changed_metadata_is_told(saved, metadata):
    rewrite(saved, metadata)
    with pytest.raises(TamperedVectorError, match="changed"):
        read_vector_file(saved)


@pytest.mark.parametrize(
    "tensors",
    [
        {"layer.0": torch.arange(4.0) + 1e-6},
        {"layer.0": torch.arange(4.0).double()},
        {"layer.1": torch.ones(4)},
        {"layer.x": torch.ones(4)},
    ],
)
def test_changed_tensors_are_told(saved, tensors):
    rewrite(saved, tensors=tensors)
    with pytest.raises(TamperedVectorError):
        read_vector_file(saved)


@given(st.integers(0, 3), st.integers(0, 31))
def test_the_hash_sees_every_bit_of_a_direction(position, bit):
    flipped = DIRECTIONS[0].clone()
    # int32 has no bit 31 as a positive number: shift within numpy's unsigned view.
    flipped.numpy().view("uint32")[position] ^= 1 << bit
    assert content_hash("x", {0: flipped}) != content_hash("x", {0: DIRECTIONS[0]})


@pytest.mark.parametrize(
    "value",
    ["[" * 5000 + "]" * 5000, "9" * 5000, "9" * 400, "NaN", "1e999", '"\\ud800"', "{", ""],
)
def test_values_that_no_vector_has_are_one_line(saved, value):
    with safe_open(saved, framework="pt") as file:
        metadata = {**file.metadata(), "scales": value}
    metadata.pop("content_hash")
    rewrite(saved, {**metadata, "content_hash": content_hash(metadata, DIRECTIONS)})
    with pytest.raises(VectorFileError, match="metadata that is not JSON") as caught:
        read_vector_file(saved)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("metadata", "tensors"),
    [({"format_version": "9" * 5000}, {}), ({}, {f"layer.{'9' * 5000}": torch.ones(4)})],
)
def test_numbers_of_thousands_of_digits_count_nothing(saved, metadata, tensors):
    rewrite(saved, metadata, tensors)
    with pytest.raises(VectorFileError) as caught:
        read_vector_file(saved)
    assert "\n" not in str(caught.value)


def test_metadata_that_is_not_json_is_refused(tmp_path):
    with pytest.raises(VectorFileError, match="provenance"):
        write_vector_file(tmp_path / "v", {"name": "v", "provenance": {1, 2}}, DIRECTIONS)

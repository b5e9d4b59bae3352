"""Models in GGUF files: the same model as the original, or told apart from it."""

import logging
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec

import gguf
import pytest
import torch
from gguf_models import write_gguf

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError, MissingExtraError, ModelMismatchError
from steerable_llm.runtime import gguf_model
from steerable_llm.runtime.hooked_model import HookedModel

PROMPT = "The capital of France is what?"
Q8, Q4 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1


@pytest.fixture(scope="module")
def folder(tiny_llm, tmp_path_factory):
    """The tiny model in a folder with blanks, in floats and quantised."""
    folder = tmp_path_factory.mktemp("gguf") / "a folder with blanks"
    folder.mkdir()
    for name, quantised in (("f32", None), ("q8", Q8), ("q4", Q4)):
        path = folder / f"tiny.{name}.gguf"
        write_gguf(path, tiny_llm.model, tiny_llm.tokenizer, quantised)
    return folder


@pytest.fixture(scope="module")
def plain(folder):
    return SteerableHFLLM.from_pretrained(folder, gguf_file="tiny.f32.gguf")


def test_a_gguf_file_is_the_model_it_was_made_from(plain, tiny_llm):
    assert plain.model.dtype == torch.float32
    assert plain.render(PROMPT) == tiny_llm.render(PROMPT)
    assert plain.encode(PROMPT) == tiny_llm.encode(PROMPT)
    assert plain.end_ids == tiny_llm.end_ids
    assert plain.context_window == tiny_llm.context_window
    assert plain.fingerprint.weights_hash == tiny_llm.fingerprint.weights_hash
    assert torch.allclose(
        plain.answer_logits(PROMPT, "Paris."), tiny_llm.answer_logits(PROMPT, "Paris."), atol=1e-4
    )
    assert plain.generate(PROMPT, max_new_tokens=10) == tiny_llm.generate(PROMPT, max_new_tokens=10)


def test_a_quantised_file_is_close_to_the_original_and_told_apart_from_it(
    folder, plain, tiny_llm, tiny_vector
):
    original = tiny_llm.answer_logits(PROMPT, "Paris.")
    hashes = {plain.fingerprint.weights_hash}
    for name, error in (("q8", 0.05), ("q4", 0.8)):
        llm = HookedModel.from_pretrained(folder / f"tiny.{name}.gguf")
        far = (llm.answer_logits(PROMPT, "Paris.") - original).norm() / original.norm()
        assert 0 < far < error
        assert "weights_hash" in llm.fingerprint.differences(tiny_llm.fingerprint)
        hashes.add(llm.fingerprint.weights_hash)
    assert len(hashes) == 3
    with pytest.raises(ModelMismatchError, match=r"tiny\.q4\.gguf@"):
        tiny_vector.check(llm.fingerprint)


def test_what_a_file_calls_the_model_does_not_make_it_another(folder, plain, tiny_llm):
    path = folder.parent / "renamed.gguf"
    write_gguf(path, tiny_llm.model, tiny_llm.tokenizer, name="fine-tuned by somebody")
    renamed = HookedModel.from_pretrained(path)
    assert not renamed.fingerprint.differences(plain.fingerprint)


def test_a_file_may_be_named_in_every_way(folder, plain, monkeypatch):
    file = folder / "tiny.f32.gguf"
    monkeypatch.chdir(folder.parent)
    for place, options in (
        (file, {}),
        (str(file), {}),
        (f"{folder.name}/{file.name}", {}),
        (None, {"gguf_file": file}),
        (None, {"gguf_file": f"{folder.name}/{file.name}"}),
        (folder, {"gguf_file": file}),
        (folder.parent, {"subfolder": folder.name, "gguf_file": file.name}),
    ):
        llm = HookedModel.from_pretrained(place, **options)
        assert llm.fingerprint.short.split("@")[1] == plain.fingerprint.short.split("@")[1]
        assert llm.model_id.endswith(file.name)


def test_a_file_in_a_repository_can_be_named_by_one_path():
    assert gguf_model.gguf_place("acme/tiny/sub/x.Q8.gguf", None) == ("acme/tiny", "sub/x.Q8.gguf")
    assert gguf_model.gguf_place("acme/tiny", "x.gguf") == ("acme/tiny", "x.gguf")
    assert gguf_model.gguf_place("acme/tiny", None) == ("acme/tiny", None)


def test_digits_are_split_as_the_vocabulary_was_learnt(tiny_llm, tmp_path):
    path = write_gguf(tmp_path / "x.gguf", tiny_llm.model, tiny_llm.tokenizer, pre="smollm")
    tokenizer = HookedModel.from_pretrained(path).tokenizer
    pieces = [
        text for text, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a\n\n12")
    ]
    assert pieces == ["a", "ĊĊ", "1", "2"]
    assert tokenizer.decode(tokenizer.encode("a\n\n12 b  3")) == "a\n\n12 b  3"


def test_the_vocabulary_is_the_files(plain, tiny_llm):
    assert len(plain.tokenizer) == len(tiny_llm.tokenizer)
    assert plain.tokenizer.get_vocab() == tiny_llm.tokenizer.get_vocab()
    for text in ("a <|endoftext|> <unk> b", "Grüße 👋 <|user|>"):
        assert plain.encode(text) == tiny_llm.encode(text)
    assert plain.generate("<|endoftext|>", max_new_tokens=2).usage.completion_tokens == 2


def test_every_token_that_the_file_says_ends_a_turn_ends_it(tiny_llm, tmp_path):
    end, user = (tiny_llm.tokenizer.convert_tokens_to_ids(t) for t in ("<|end|>", "<|user|>"))
    path = tmp_path / "x.gguf"
    metadata = {"tokenizer.ggml.eot_token_id": user}
    write_gguf(path, tiny_llm.model, tiny_llm.tokenizer, metadata=metadata)
    assert HookedModel.from_pretrained(path).end_ids == {end, user}


def test_a_dequantised_model_is_a_plain_one_that_is_saved_moved_and_loaded(folder, tmp_path):
    llm = SteerableHFLLM.from_pretrained(folder / "tiny.q8.gguf")
    llm.model.save_pretrained(tmp_path)
    llm.tokenizer.save_pretrained(tmp_path)
    loaded = SteerableHFLLM.from_pretrained(tmp_path)
    assert not loaded.fingerprint.differences(llm.fingerprint)
    assert loaded.generate(PROMPT, max_new_tokens=8) == llm.generate(PROMPT, max_new_tokens=8)
    assert llm.model.to(torch.bfloat16).dtype == torch.bfloat16
    assert all(p.requires_grad for p in loaded.model.parameters())


def test_a_file_is_parsed_once_and_the_library_is_left_as_it_was(folder, monkeypatch):
    parsed = []

    class Counting(gguf.GGUFReader):
        def _build_fields(self, *args):
            parsed.append(self)
            return super()._build_fields(*args)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    before = (gguf.GGUFReader, gguf.get_tensor_name_map)
    HookedModel.from_pretrained(folder / "tiny.q8.gguf")
    assert len(parsed) == 1
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before
    with pytest.raises(InvalidInputError):
        HookedModel.from_pretrained(folder / "tiny.q8.gguf", model_kwargs={"nothing": 1})
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


def test_models_may_be_loaded_at_the_same_time(folder):
    names = ["tiny.f32.gguf", "tiny.q8.gguf", "tiny.q4.gguf"] * 2
    with ThreadPoolExecutor(6) as pool:
        hashes = pool.map(
            lambda name: HookedModel.from_pretrained(folder / name).fingerprint.weights_hash, names
        )
        found = list(hashes)
    assert found[:3] == found[3:]
    assert len(set(found)) == 3


def test_loading_says_nothing_that_nobody_asked_for(folder, capfd, caplog, recwarn):
    logging_of = import_module("transformers.utils.logging")
    logging_of.disable_progress_bar()
    try:
        with caplog.at_level(logging.WARNING):
            HookedModel.from_pretrained(folder / "tiny.q8.gguf")
    finally:
        logging_of.enable_progress_bar()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert list(recwarn) == []


@pytest.mark.parametrize("length", [0, 3, 100, 3000, 20000, 60000])
def test_a_file_that_was_cut_short_is_one_clear_line(folder, tmp_path, length):
    path = tmp_path / "cut.gguf"
    path.write_bytes((folder / "tiny.q8.gguf").read_bytes()[:length])
    with pytest.raises(InvalidInputError, match=r"cut\.gguf.*fetch it again") as error:
        HookedModel.from_pretrained(path)
    assert "\n" not in str(error.value)


def test_another_kind_of_file_is_one_clear_line(tmp_path):
    path = tmp_path / "text.gguf"
    path.write_text("no model at all " * 100)
    with pytest.raises(InvalidInputError, match=r"not a GGUF file.*fetch it again"):
        HookedModel.from_pretrained(path)


def test_the_first_part_of_a_split_file_is_not_taken_for_the_whole(tiny_llm, tmp_path):
    path = tmp_path / "tiny-00001-of-00002.gguf"
    write_gguf(path, tiny_llm.model, tiny_llm.tokenizer, without="layers.2.")
    with pytest.raises(InvalidInputError, match=r"lacks 9 of the weights.*fetch it again"):
        HookedModel.from_pretrained(path)


def test_a_folder_of_gguf_files_says_how_to_name_one(folder):
    with pytest.raises(InvalidInputError, match=r"gguf_file='tiny\.f32\.gguf'"):
        HookedModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("place", "file", "says"),
    [
        (None, None, "nothing to load: give a folder"),
        (None, "/nowhere/x.gguf", "there is no GGUF file /nowhere/x.gguf"),
        ("/nowhere/x.gguf", None, "there is no GGUF file /nowhere/x.gguf"),
        ("x.gguf", None, "there is no GGUF file x.gguf"),
        (
            "{folder}",
            "x.gguf",
            r"no x\.gguf in .*: tiny\.f32\.gguf, tiny\.q4\.gguf, ti",
        ),
        ("acme/tiny", "{folder}/tiny.q8.gguf", "does not lie in 'acme/tiny'"),
    ],
)
def test_a_file_that_is_not_there_is_one_clear_line(folder, place, file, says):
    place, file = (name and name.format(folder=folder) for name in (place, file))
    with pytest.raises(InvalidInputError, match=says):
        HookedModel.from_pretrained(place, gguf_file=file)


@pytest.mark.parametrize("missing", ["gguf", "accelerate"])
def test_a_missing_package_names_what_to_install(folder, monkeypatch, missing):
    monkeypatch.setattr(
        gguf_model, "find_spec", lambda name: None if name == missing else find_spec(name)
    )
    with pytest.raises(MissingExtraError, match=rf"{missing}.*pip install 'steerable-llm\[gguf\]'"):
        HookedModel.from_pretrained(folder / "tiny.q8.gguf")

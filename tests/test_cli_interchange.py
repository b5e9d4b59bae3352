"""The verbs `export`, `import` and `push`: what they print, write and refuse."""

import shlex
from pathlib import Path

import pytest
from command_line import Steerable, steerable
from huggingface_hub import constants

from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.vector import SteeringVector

__all__ = ["steerable"]


@pytest.fixture(scope="session")
def model_folder(make_tiny_model, tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def vector_file(steerable: Steerable, tiny_vector) -> Path:
    """A calibrated vector in the folder where the command runs."""
    calibrated = tiny_vector.with_calibration(Calibration(0.08, scope="last_prompt"))
    return calibrated.save("kind.safetensors")


def test_export_says_what_is_lost_line_by_line(steerable, vector_file):
    lines = steerable(
        "export", vector_file, "--format", "llama.cpp", "--out", "k.gguf"
    ).splitlines()
    assert lines[0] == "k.gguf: random-0 for llama.cpp, blocks [1, 2]"
    assert [line.partition(": ")[0] for line in lines[1:4]] == ["changed"] * 3
    assert "block 0" in lines[1]
    assert {line.partition(": ")[0] for line in lines[4:]} == {"note"}
    assert "llama-cli --control-vector k.gguf" in lines[-1]


@pytest.mark.parametrize("format", ["llama.cpp", "lm-eval"])
def test_a_command_that_is_told_can_be_pasted(steerable, vector_file, format):
    said = steerable("export", vector_file, "--format", format, "--out", "my kind.bin")
    words = shlex.split(said.splitlines()[-1])
    assert words[-1].rpartition("=")[2] == "my kind.bin"


def test_export_as_json(steerable, vector_file):
    found = steerable.json(
        *("export", vector_file, "--format", "lm-eval", "-o", "k.pt", "--strength", "-0.5")
    )
    assert found["format"] == "lm-eval"
    assert found["blocks"] == [0, 1, 2]
    assert len(found["changes"]) == 2
    assert "-0.5" in found["notes"][0]
    assert Path(found["file"]).is_file()


def test_strict_export_writes_nothing(steerable, vector_file):
    error = steerable.error(
        "export", vector_file, "--format", "svec", "--out", "k.svec", "--strict"
    )
    assert "changes how vector 'random-0' steers" in error
    assert not Path("k.svec").exists()


def test_a_format_that_is_not_known_is_refused(steerable, vector_file):
    assert "did you mean 'svec'" in steerable.error(
        "export", vector_file, "--format", "svek", "--out", "k"
    )


def test_what_is_no_vector_is_refused(steerable):
    Path("empty.safetensors").write_bytes(b"")
    for verb in (("export", "--format", "svec", "--out", "k"), ("push", "acme/kind"), ("inspect",)):
        name, *rest = verb
        assert "not a whole safetensors file" in steerable.error(name, "empty.safetensors", *rest)
        assert steerable(name, "none.safetensors", *rest, code=2) == ""
        assert "file 'none.safetensors' does not exist" in steerable.stderr


def test_a_lora_in_the_place_of_a_vector_is_told_from_another_folder(steerable):
    Path("lora").mkdir()
    assert steerable("inspect", "lora", code=2) == ""
    assert "'lora' is a folder, not a vector file" in steerable.stderr
    Path("lora/adapter_config.json").write_text("{}")
    assert steerable("inspect", "lora", code=2) == ""
    assert "holds a LoRA, which is no vector" in steerable.stderr


def test_import_makes_a_vector_that_says_what_is_unknown(
    steerable, vector_file, model_folder, tiny_llm
):
    steerable("export", vector_file, "--format", "repeng", "--out", "kind-one.gguf")
    out = steerable("import", "kind-one.gguf", "--model", model_folder, "--name", "mine")
    lines = out.splitlines()
    assert lines[0] == "kind-one.safetensors: mine, blocks [0, 1, 2], from repeng"
    assert all(line.startswith("unknown: ") for line in lines[1:])
    assert SteeringVector.load("kind-one.safetensors", tiny_llm).name == "mine"
    asked = ("ask", "Hello?", "--model", model_folder, "--max-new-tokens", 2)
    assert "is there already" in steerable.error("import", "kind-one.gguf", "--model", model_folder)
    steered = steerable.json(*asked, "--vector", "kind-one.safetensors", "--strength", "1")
    assert steered["steered"][0]["name"] == "mine"
    assert "not calibrated" in steerable.error(*asked, "--vector", "kind-one.safetensors")


def test_import_as_json(steerable, vector_file, model_folder):
    steerable("export", vector_file, "--format", "lm-eval", "--out", "k.pt")
    found = steerable.json("import", "k.pt", "--model", model_folder, "-o", "folder/k.safetensors")
    assert found["file"] == "folder/k.safetensors"
    assert found["calibration"]["strength"] == 0.08
    assert found["provenance"]["imported"]["format"] == "lm-eval"


def test_a_file_of_another_kind_is_no_import(steerable, model_folder):
    Path("notes.txt").write_text("hello")
    error = steerable.error("import", "notes.txt", "--model", model_folder)
    assert "cannot tell the format of notes.txt" in error
    error = steerable.error("import", "notes.txt", "--format", "repeng", "--model", model_folder)
    assert "not a whole GGUF file" in error
    assert not Path("notes.safetensors").exists()


def test_offline_the_hub_is_out_of_reach(steerable, vector_file, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in steerable.error("push", vector_file, "acme/kind")
    assert "HF_HUB_OFFLINE" in steerable.error("inspect", "hub:acme/kind-nobody-has-loaded")


def test_verbs_of_several_vectors_take_those_on_the_hub_too(
    steerable, vector_file, model_folder, monkeypatch
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    Path("test.jsonl").write_text(
        '{"id": "1", "category": "v", "messages": [{"role": "user", "content": "Hi?"}], '
        '"good": "Yes.", "bad": "No."}\n'
    )
    for arguments in (
        ("transfer", "hub:acme/kind", "--test", "test.jsonl"),
        ("evaluate", vector_file, "--benchmark", "toxigen", "--data", "sample",
         "--model", model_folder, "--also", "hub:acme/kind"),
    ):  # fmt: skip
        assert "cannot load hub:acme/kind: " in steerable.error(*arguments)
    assert steerable("transfer", "none.safetensors", "--test", "test.jsonl", code=2) == ""
    assert "file 'none.safetensors' does not exist" in steerable.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "kind.safetensors", "test.jsonl"),
        ("evaluate", "kind.safetensors", "--benchmark", "toxigen", "--data", "sample"),
        ("transfer", "kind.safetensors", "--test", "test.jsonl"),
        ("compare", "test.jsonl", "--dev", "test.jsonl", "--test", "test.jsonl"),
    ],
)
def test_a_report_that_has_no_place_is_told_before_a_model_is_loaded(
    arguments, steerable, vector_file
):
    Path("test.jsonl").write_text("")
    Path("note").write_text("in the way")
    error = steerable.error(*arguments, "--model", "no-model", "--report", "note/card.md")
    assert "cannot write note/card.md: note is no folder" in error


def test_nothing_is_written_to_the_hub_in_place(steerable, vector_file, tmp_path):
    Path("dev.jsonl").write_text("")
    for arguments in (
        ("calibrate", "hub:acme/kind", "--dev", "dev.jsonl"),
        ("evaluate", "hub:acme/kind", "dev.jsonl", "--keep"),
        ("import", vector_file, "--out", "hub:acme/kind"),
    ):
        assert "lies on the Hub" in steerable.error(*arguments)
    assert not list(tmp_path.glob("hub*"))

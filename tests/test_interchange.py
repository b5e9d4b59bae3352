"""Vectors in the formats of other tools: what survives, what is said, and what is refused."""

import io
import json
import pickle
import pickletools
import sys
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from conftest import HIDDEN, LAYERS
from hypothesis import given, settings
from hypothesis import strategies as st

from steerable_llm.errors import (
    InvalidInputError,
    ModelMismatchError,
    NotAVectorError,
    SteerableError,
    UnknownArchitectureError,
)
from steerable_llm.runtime.blocks import module_name
from steerable_llm.runtime.hooks import capture_block_outputs, steering_hooks
from steerable_llm.runtime.interchange import export_vector, guess_format, import_vector, places_of
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.interchange import FORMATS
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.steering import Application, WeighedVectors
from steerable_llm.vector.vector import SteeringVector

ADDED = Calibration(0.5, scope="all", unit="absolute", renormalise=False)
MLP = Application(site="mlp", unit="absolute", scope="all", renormalise=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors")


def block_outputs(llm, steering):
    """What every block gives for one prompt, steered by this library."""
    ids = torch.tensor([llm.encode("The capital of France is what?")])
    plan = SteeringPlan([steering], torch.ones_like(ids), ids.shape[1] - 1)
    with torch.no_grad(), steering_hooks(llm.blocks, plan), capture_block_outputs(llm.blocks) as h:
        llm.model(ids)
    return dict(h)


def contents(path):
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=6)
@given(
    seed=st.integers(0, 1000),
    layers=st.sets(st.integers(0, LAYERS - 1), min_size=2),
    strength=st.floats(0.01, 3.0).flatmap(lambda s: st.sampled_from([s, -s])),
    unit=st.sampled_from(["total", "relative", "absolute"]),
)
def test_what_comes_back_adds_what_went_out(
    format, seed, layers, strength, unit, tiny_llm, make_vector, folder
):
    made = make_vector(tiny_llm, seed).with_calibration(
        Calibration(strength, layers=tuple(layers), scope="all", unit=unit, renormalise=False)
    )
    done = export_vector(made, folder / f"v{FORMATS[format].suffix}", format)
    back = import_vector(done.path, tiny_llm, format)
    assert back.layers == done.blocks
    assert set(done.blocks) == layers & set(FORMATS[format].blocks(LAYERS))
    [out], [home] = made.steer().terms, back.steer(None if back.calibration else 1.0).terms
    for layer in done.blocks:
        torch.testing.assert_close(home.delta(layer), out.delta(layer))
    assert (home.scope, home.renormalise) == ("all", False)


@pytest.mark.parametrize("format", FORMATS)
def test_a_vector_without_strength_is_written_at_strength_one(
    format, tiny_llm, tiny_vector, tmp_path
):
    done = export_vector(tiny_vector, tmp_path / "v", format)
    back = import_vector(done.path, tiny_llm, format)
    [out], [home] = tiny_vector.steer(0.07).terms, back.steer(0.07).terms
    for layer in done.blocks:
        torch.testing.assert_close(home.delta(layer), out.delta(layer))
    assert "not calibrated" in done.notes[0]


def test_a_strength_at_hand_takes_the_place_of_the_calibrated_one(tiny_llm, tiny_vector, tmp_path):
    made = tiny_vector.with_calibration(ADDED)
    done = export_vector(made, tmp_path / "v.gguf", "repeng", strength=-2.0)
    [term] = import_vector(done.path, tiny_llm).steer(1.0).terms
    torch.testing.assert_close(term.delta(1), -2.0 * made.directions[1])


SAYS = {
    "repeng": "normalize=True",
    "llama.cpp": "no way to keep it",
    "easysteer": "cannot ask for it",
    "lm-eval": "no way to keep it",
    "svec": "use_ooi_preventive_normalization",
}


@pytest.mark.parametrize("format", FORMATS)
def test_every_change_is_said_and_strict_refuses_it(format, tiny_vector, tmp_path):
    steered = tiny_vector.with_calibration(Calibration(0.08, layers=(1,), scope="last_prompt"))
    done = export_vector(steered, tmp_path / "v", format)
    [length, positions] = done.changes
    assert "eq. 8" in length
    assert SAYS[format] in length
    assert "only the last position of the prompt" in positions
    assert any(steered.fingerprint.short in note for note in done.notes)
    assert any("calibration" in note and "left behind" in note for note in done.notes)
    with pytest.raises(InvalidInputError, match=r"eq\. 8.*last position"):
        export_vector(steered, tmp_path / "strict", format, strict=True)
    assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_strict_writes_what_the_format_can_express(format, tiny_vector, tmp_path):
    done = export_vector(
        tiny_vector.with_calibration(replace(ADDED, layers=(1,))),
        tmp_path / "v",
        format,
        strict=True,
    )
    assert done.changes == ()
    assert done.path.is_file()


@pytest.mark.parametrize(("format", "missing"), [("llama.cpp", 0), ("svec", LAYERS - 1)])
def test_a_block_that_a_tool_cannot_steer_is_named(format, missing, tiny_vector, tmp_path):
    done = export_vector(tiny_vector.with_calibration(ADDED), tmp_path / "v", format)
    assert done.blocks == tuple(layer for layer in range(LAYERS) if layer != missing)
    [change] = done.changes
    assert f"blocks [{missing}] are left out" in change
    alone = tiny_vector.with_calibration(replace(ADDED, layers=(missing,)))
    with pytest.raises(InvalidInputError, match="none of them"):
        export_vector(alone, tmp_path / "alone", format)
    assert not (tmp_path / "alone").exists()


def test_llama_cpp_gets_no_block_zero_and_the_others_under_their_own_numbers(tiny_vector, tmp_path):
    """llama.cpp adds direction.{l} to the output of block l; a direction.0 voids the whole file."""
    made = tiny_vector.with_calibration(ADDED)
    fields, tensors = contents(export_vector(made, tmp_path / "v", "llama.cpp").path)
    assert sorted(tensors) == [f"direction.{layer}" for layer in range(1, LAYERS)]
    for layer in range(1, LAYERS):
        np.testing.assert_allclose(
            tensors[f"direction.{layer}"], 0.5 * made.directions[layer].numpy()
        )
        assert tensors[f"direction.{layer}"].dtype == np.float32
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == LAYERS - 1


@pytest.mark.parametrize(
    ("format", "kind"), [("llama.cpp", "INT32"), ("repeng", "UINT32"), ("easysteer", "UINT32")]
)
def test_the_number_of_layers_has_each_tools_own_type(format, kind, tiny_vector, tmp_path):
    reader = gguf.GGUFReader(export_vector(tiny_vector, tmp_path / "v", format).path)
    assert reader.fields["controlvector.layer_count"].types == [gguf.GGUFValueType[kind]]


def test_easysteer_gets_the_method_the_component_and_the_strength(tiny_vector, tmp_path):
    made = replace(tiny_vector, provenance=Provenance(method="grains")).with_calibration(ADDED)
    fields, tensors = contents(export_vector(made, tmp_path / "v", "easysteer").path)
    assert fields["controlvector.method"] == "grains"
    assert fields["controlvector.strength"] == 0.5
    native = json.loads(fields["controlvector.easysteer"])
    assert (native["version"], native["component"]) == (1, "hidden_states")
    assert sorted(tensors) == [f"direction.{layer}" for layer in range(LAYERS)]


def test_svec_directions_act_on_the_inputs_of_the_blocks_they_are_named_after(
    tiny_llm, tiny_vector, tmp_path
):
    """What activation-steering does with the file, by hand: add before the block runs."""
    made = tiny_vector.with_calibration(replace(ADDED, layers=(0, 1)))
    done = export_vector(made, tmp_path / "v.svec", "svec")
    content = json.loads(done.path.read_bytes())
    assert content.keys() == {"model_type", "directions", "explained_variances"}
    assert "behavior_layer_ids=[1, 2]" in done.notes[-1]
    ids = torch.tensor([tiny_llm.encode("The capital of France is what?")])

    def add(values):
        return lambda _, inputs: (inputs[0] + torch.tensor(values), *inputs[1:])

    handles = [
        tiny_llm.blocks[int(layer)].register_forward_pre_hook(add(values))
        for layer, values in content["directions"].items()
    ]
    try:
        with torch.no_grad(), capture_block_outputs(tiny_llm.blocks) as theirs:
            tiny_llm.model(ids)
    finally:
        for handle in handles:
            handle.remove()
    ours = block_outputs(tiny_llm, made.steer())
    torch.testing.assert_close(theirs[LAYERS - 1], ours[LAYERS - 1])


def test_a_direction_before_any_block_is_left_out_of_an_import(tiny_llm, tmp_path):
    path = tmp_path / "v.svec"
    numbers = {str(layer): [float(layer)] * HIDDEN for layer in range(LAYERS)}
    path.write_text(json.dumps({"model_type": "llama", "directions": numbers}))
    back = import_vector(path, tiny_llm)
    assert back.layers == (0, 1)
    assert float(back.directions[0][0]) == 1.0
    assert "layer 0" in back.provenance.imported.left_out[0]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "application",
    [
        Application(site="heads", unit="absolute", renormalise=False),
        Application(site="mlp", rule="icv"),
        Application(rule="weigh", unit="absolute"),
    ],
    ids=["heads", "icv", "weighed"],
)
def test_what_is_no_addition_to_an_output_is_refused(format, application, tiny_vector, tmp_path):
    half = WeighedVectors(torch.zeros(1, HIDDEN), torch.zeros(1), torch.ones(1, HIDDEN))
    made = replace(tiny_vector, application=application, weighed=dict.fromkeys(range(LAYERS), half))
    with pytest.raises(InvalidInputError, match=r"there is (no place|nothing to export)"):
        export_vector(made, tmp_path / "v", format, strength=1.0)
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"lm-eval"}))
def test_outputs_of_mlps_go_to_lm_eval_only(format, tiny_vector, tmp_path):
    with pytest.raises(InvalidInputError, match="'mlp'"):
        export_vector(replace(tiny_vector, application=MLP), tmp_path / "v", format, strength=1.0)


def test_outputs_of_mlps_come_back_from_lm_eval(tiny_llm, tiny_vector, tmp_path):
    made = replace(tiny_vector, application=MLP)
    path = export_vector(made, tmp_path / "v.pt", "lm-eval", strength=2.0, strict=True).path
    assert next(iter(torch.load(path, weights_only=True))) == "layers.0.mlp"
    back = import_vector(path, tiny_llm)
    assert back.application.site == "mlp"
    ours, theirs = block_outputs(tiny_llm, made.steer(2.0)), block_outputs(tiny_llm, back.steer())
    torch.testing.assert_close(theirs[LAYERS - 1], ours[LAYERS - 1])


@pytest.mark.parametrize(
    ("architecture", "site", "name"),
    [
        ("LlamaForCausalLM", "block", "layers.7"),
        ("GPT2LMHeadModel", "block", "h.7"),
        ("GPTNeoXForCausalLM", "mlp", "layers.7.mlp"),
        ("OPTForCausalLM", "block", "decoder.layers.7"),
    ],
)
def test_hookpoints_are_named_as_the_family_names_its_modules(architecture, site, name):
    assert module_name(architecture, site, 7) == name


def test_hookpoints_of_an_unknown_family_are_not_guessed(tiny_vector, tmp_path):
    fingerprint = tiny_vector.fingerprint.model_copy(update={"architecture": "HomemadeLM"})
    made = replace(tiny_vector, fingerprint=fingerprint)
    with pytest.raises(UnknownArchitectureError, match="'HomemadeLM'"):
        export_vector(made, tmp_path / "v.pt", "lm-eval", strength=1.0)
    fields, _ = contents(export_vector(made, tmp_path / "v", "repeng", strength=1.0).path)
    assert fields["controlvector.model_hint"] == "HomemadeLM"


def test_an_unknown_format_names_the_nearest(tiny_llm, tiny_vector, tmp_path):
    with pytest.raises(InvalidInputError, match="did you mean 'repeng'"):
        export_vector(tiny_vector, tmp_path / "v", "repang", strength=1.0)
    path = export_vector(tiny_vector, tmp_path / "v", "repeng", strength=1.0).path
    with pytest.raises(InvalidInputError, match="did you mean 'repeng'"):
        import_vector(path, tiny_llm, "repang")


def test_strength_zero_is_nothing_to_export(tiny_vector, tmp_path):
    with pytest.raises(InvalidInputError, match="strength 0"):
        export_vector(tiny_vector, tmp_path / "v", "repeng", strength=0.0)


@pytest.mark.parametrize("format", FORMATS)
def test_a_strength_that_makes_infinite_numbers_is_refused_and_nothing_written(
    format, tiny_vector, tmp_path
):
    with pytest.raises(InvalidInputError, match="give a smaller --strength"):
        export_vector(tiny_vector, tmp_path / "v", format, strength=1e300)
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize(
    ("format", "told"), [(name, "repeng" if name == "llama.cpp" else name) for name in FORMATS]
)
def test_the_format_is_told_from_the_file(format, told, tiny_vector, tmp_path):
    made = replace(tiny_vector, provenance=Provenance(method="caa"))
    path = export_vector(made, tmp_path / f"v{FORMATS[format].suffix}", format).path
    assert guess_format(path) == told


def test_svec_content_is_told_under_any_name_and_other_content_is_not_guessed(
    tiny_vector, tmp_path
):
    path = export_vector(tiny_vector, tmp_path / "v.json", "svec").path
    assert guess_format(path) == "svec"
    for content in (b"{}", b"{broken", b"some text", b""):
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match="--format"):
            guess_format(path)


@pytest.mark.parametrize("format", FORMATS)
def test_an_import_says_what_it_is_and_what_nobody_knows(format, tiny_llm, tiny_vector, tmp_path):
    made = replace(tiny_vector, name="kind").with_calibration(ADDED)
    path = export_vector(made, tmp_path / f"other{FORMATS[format].suffix}", format).path
    back = import_vector(path, tiny_llm, format)
    assert back.name == ("other" if format in ("lm-eval", "svec") else "kind")
    imported = back.provenance.imported
    assert back.provenance.method == "imported"
    assert (imported.format, imported.file) == (format, path.name)
    assert any(note.startswith("which weights") for note in imported.unknown)
    assert any("strongly" in note for note in imported.unknown) == (back.calibration is None)
    assert all(0 < back.scales[layer] < 1000 for layer in back.layers)
    again = SteeringVector.load(back.save(tmp_path / "v.safetensors"), tiny_llm)
    assert again.provenance == back.provenance
    assert again.fingerprint_id == back.fingerprint_id


def test_from_then_on_it_belongs_to_the_model_it_was_imported_for(
    tiny_llm, make_llm, tiny_vector, tmp_path
):
    path = export_vector(tiny_vector, tmp_path / "v.gguf", "repeng").path
    with pytest.raises(ModelMismatchError):
        import_vector(path, tiny_llm).check(make_llm("mistral"))


def test_another_family_width_or_depth_is_refused(tiny_llm, make_llm, tiny_vector, tmp_path):
    path = export_vector(tiny_vector, tmp_path / "v.gguf", "repeng").path
    with pytest.raises(ModelMismatchError, match=r"'llama'.*'mistral'"):
        import_vector(path, make_llm("mistral"))
    assert import_vector(path, make_llm("mistral"), force=True).layers == (0, 1, 2)
    path = tmp_path / "v.svec"
    for directions, problem in (
        ({"1": [1.0] * 8}, "width"),
        ({str(LAYERS + 1): [1.0] * HIDDEN}, "blocks 0 to 2"),
    ):
        path.write_text(json.dumps({"model_type": "llama", "directions": directions}))
        with pytest.raises(ModelMismatchError, match=problem):
            import_vector(path, tiny_llm, force=True)


def test_a_name_that_plays_tricks_with_the_terminal_is_not_taken(tiny_llm, tiny_vector, tmp_path):
    made = replace(tiny_vector, name="\x1b[2Jgone")
    path = export_vector(made, tmp_path / "plain.gguf", "repeng").path
    assert import_vector(path, tiny_llm).name == "plain"


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


def test_no_pickle_is_run(tiny_llm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "v.pt"
    torch.save({"layers.0": {"steering_vector": torch.ones(HIDDEN), "action": Evil()}}, path)
    with pytest.raises(NotAVectorError, match="runs no pickle"):
        import_vector(path, tiny_llm)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(NotAVectorError, match="runs no pickle"):
        import_vector(path, tiny_llm)
    assert not Path("evil-was-here").exists()


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"action": "clamp"}, "only 'add'"),
        ({"bias": torch.ones(HIDDEN)}, "bias"),
        ({"head_index": 1}, "head_index"),
        ({"steering_vector": [1.0]}, "steering_vector"),
        ({"steering_vector": torch.ones(2, HIDDEN)}, "steering_vector"),
        ({"steering_coefficient": float("nan")}, "no number"),
        ({"steering_coefficient": "much"}, "no number"),
    ],
)
def test_what_lm_eval_does_beside_adding_is_refused(entry, problem, tiny_llm, tmp_path):
    whole = {"steering_vector": torch.ones(HIDDEN), "steering_coefficient": 1.0, "action": "add"}
    path = tmp_path / "v.pt"
    torch.save({"layers.1": {**whole, **entry}}, path)
    with pytest.raises(SteerableError, match=problem):
        import_vector(path, tiny_llm)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "no hookpoints"),
        ([1], "no hookpoints"),
        ({"layers.9": {}}, "'layers.9'"),
        ({"layers.0.self_attn": {}}, "layers.0"),
    ],
)
def test_hookpoints_that_are_no_block_of_the_model_are_refused(
    content, problem, tiny_llm, tmp_path
):
    torch.save(content, tmp_path / "v.pt")
    with pytest.raises(SteerableError, match=problem):
        import_vector(tmp_path / "v.pt", tiny_llm)


def test_unequal_coefficients_are_multiplied_into_the_directions(tiny_llm, tmp_path):
    entry = {"steering_vector": torch.ones(HIDDEN), "action": "add"}
    torch.save(
        {
            "layers.0": {**entry, "steering_coefficient": 2.0},
            "layers.2": {**entry, "steering_coefficient": -3},
        },
        tmp_path / "v.pt",
    )
    back = import_vector(tmp_path / "v.pt", tiny_llm)
    assert [float(back.steer().terms[0].delta(layer)[0]) for layer in (0, 2)] == [2.0, -3.0]
    assert "coefficients differ" in back.provenance.imported.left_out[0]


def test_blocks_and_mlps_in_one_file_are_refused(tiny_llm, tmp_path):
    entry = {"steering_vector": torch.ones(HIDDEN), "action": "add"}
    torch.save({"layers.0": entry, "layers.1.mlp": entry}, tmp_path / "v.pt")
    with pytest.raises(InvalidInputError, match="split the file"):
        import_vector(tmp_path / "v.pt", tiny_llm)


def test_directions_of_heads_are_refused(tiny_llm, tmp_path):
    native = json.dumps({"version": 1, "component": "attention_heads", "metadata": None})
    path = write_gguf(tmp_path / "v.gguf", {"direction.1": np.ones(HIDDEN, np.float32)}, native)
    with pytest.raises(InvalidInputError, match="attention_heads"):
        import_vector(path, tiny_llm)
    path = write_gguf(tmp_path / "v.gguf", {"direction.1": np.ones(HIDDEN, np.float32)}, "not json")
    with pytest.raises(NotAVectorError, match="not JSON"):
        import_vector(path, tiny_llm)


def write_gguf(path, tensors, native=None, architecture="controlvector"):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "my own model")
    writer.add_float32("controlvector.layer_scale", float("nan"))
    if native is not None:
        writer.add_string("controlvector.easysteer", native)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_files_of_others_may_say_more_and_be_in_half_precision(tiny_llm, tmp_path):
    tensors = {"direction.2": np.full(HIDDEN, 0.5, np.float16)}
    back = import_vector(write_gguf(tmp_path / "v.gguf", tensors), tiny_llm)
    assert back.layers == (2,)
    assert torch.equal(back.directions[2], torch.full((HIDDEN,), 0.5))
    imported = back.provenance.imported
    assert (imported.model_type, imported.facts) == ("my own model", {"layer_scale": "nan"})
    back.save(tmp_path / "v.safetensors")


@pytest.mark.parametrize(
    ("tensors", "architecture", "problem"),
    [
        ({"direction.1": np.ones(HIDDEN, np.float32)}, "llama", "'llama', not a control vector"),
        ({"weight": np.ones(HIDDEN, np.float32)}, "controlvector", "'weight'"),
        ({"direction.x": np.ones(HIDDEN, np.float32)}, "controlvector", "direction.x"),
        ({"direction.1": np.ones((2, HIDDEN), np.float32)}, "controlvector", "2 dimensions"),
        ({"direction.1": np.ones(HIDDEN, np.int32)}, "controlvector", "I32"),
        ({}, "controlvector", "no direction"),
    ],
)
def test_gguf_files_that_are_no_control_vector_are_refused(
    tensors, architecture, problem, tiny_llm, tmp_path
):
    path = write_gguf(tmp_path / "v.gguf", tensors, architecture=architecture)
    with pytest.raises(NotAVectorError, match=problem):
        import_vector(path, tiny_llm)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{broken",
        '{"model_type": "llama"}',
        '{"model_type": "llama", "directions": {}}',
        '{"model_type": "llama", "directions": {"x": [1]}}',
        '{"model_type": "llama", "directions": {"-1": [1]}}',
        '{"model_type": "llama", "directions": {"1": [[1]]}}',
        '{"model_type": "llama", "directions": {"1": ["a"]}}',
        '{"model_type": "llama", "directions": {"1": [1, [2]]}}',
        "[" * 100_000,
    ],
)
def test_json_that_is_no_svec_is_refused(content, tiny_llm, tmp_path):
    (tmp_path / "v.svec").write_text(content)
    with pytest.raises(NotAVectorError, match=r"svec|no direction"):
        import_vector(tmp_path / "v.svec", tiny_llm)


def test_a_missing_file_is_named(tiny_llm, tmp_path):
    with pytest.raises(NotAVectorError, match="there is no file"):
        import_vector(tmp_path / "none.gguf", tiny_llm)


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=25)
@given(data=st.data())
def test_damage_is_told_or_does_no_harm(format, data, tiny_llm, tiny_vector, folder):
    path = export_vector(tiny_vector, folder / f"whole{FORMATS[format].suffix}", format).path
    content = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1), label="where")
    if data.draw(st.booleans(), label="cut"):
        del content[where:]
    else:
        content[where] ^= data.draw(st.integers(1, 255), label="bits")
    damaged = folder / f"damaged{FORMATS[format].suffix}"
    damaged.write_bytes(bytes(content))
    with suppress(SteerableError):
        assert FORMATS[format].read(damaged, places_of(tiny_llm)).directions


def test_a_gguf_array_that_claims_to_be_endless_ends_with_the_file(tiny_llm, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "controlvector")
    writer.add_array("controlvector.flags", [True, True])
    writer.add_tensor("direction.1", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = (tmp_path / "v.gguf").read_bytes()
    count = (2).to_bytes(8, "little") + bytes([1, 1])
    assert content.count(count) == 1
    endless = content.replace(count, (2**62).to_bytes(8, "little") + count[8:])
    (tmp_path / "v.gguf").write_bytes(endless)
    with pytest.raises(NotAVectorError, match="not a whole GGUF file"):
        import_vector(tmp_path / "v.gguf", tiny_llm)


def test_without_gguf_the_extra_is_named(tiny_vector, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(SteerableError, match=r"steerable-llm\[interchange\]"):
        export_vector(tiny_vector, tmp_path / "v.gguf", "repeng", strength=1.0)
    assert export_vector(tiny_vector, tmp_path / "v.svec", "svec", strength=1.0).path.is_file()


def test_a_pt_file_holds_tensors_and_plain_values_only(tiny_vector, tmp_path):
    path = export_vector(tiny_vector, tmp_path / "v.pt", "lm-eval", strength=0.5).path
    assert torch.load(path, weights_only=True)["layers.1"]["steering_coefficient"] == 0.5
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        [program] = [name for name in archive.namelist() if name.endswith("data.pkl")]
        named = {
            str(argument)
            for operation, argument, _ in pickletools.genops(archive.read(program))
            if operation.name == "GLOBAL"
        }
    assert named <= {
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "collections OrderedDict",
    }

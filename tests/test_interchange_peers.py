"""The exported files in the hands of the tools that they are for.

repeng pins numpy below 2 and so is not among the project's requirements; `make install` puts it in
without them (`pip install --no-deps repeng==0.4.0`).
"""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import HIDDEN, LAYERS, build_tiny_model

from steerable_llm.runtime.hooks import capture_block_outputs, steering_hooks
from steerable_llm.runtime.interchange import export_vector, import_vector
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.steering import Application

PROMPT = "The capital of France is what?"
ADDED = Calibration(0.4, scope="all", unit="relative", renormalise=False)


def run_ours(llm, steering):
    """Logits and the outputs of all blocks, steered by this library."""
    ids = torch.tensor([llm.encode(PROMPT)])
    plan = SteeringPlan([steering], torch.ones_like(ids), ids.shape[1] - 1)
    with torch.no_grad(), steering_hooks(llm.blocks, plan), capture_block_outputs(llm.blocks) as h:
        logits = llm.model(ids).logits
    return logits, dict(h)


@pytest.fixture(scope="module")
def repeng():
    if importlib.util.find_spec("repeng") is None:
        pytest.skip(
            "repeng is not installed (make install does so): it asks for numpy below 2, so it "
            "cannot be in the extra dev; pip install --no-deps repeng==0.4.0"
        )
    with pytest.MonkeyPatch.context() as patch:
        # repeng 0.4.0 names a type in its annotations that numpy 2 has no more.
        patch.setattr(np, "float_", np.float64, raising=False)
        return importlib.import_module("repeng")


@pytest.fixture
def repeng_model(repeng, tiny_tokenizer):
    """A function that wraps blocks of a model of its own, the same as `tiny_llm`'s."""

    def wrap(blocks):
        return repeng.ControlModel(build_tiny_model("llama", tiny_tokenizer), blocks)

    return wrap


def run_repeng(model, llm):
    with torch.no_grad(), capture_block_outputs(model.model.model.layers) as outputs:
        logits = model(torch.tensor([llm.encode(PROMPT)])).logits
    return logits, dict(outputs)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_repeng_steers_the_output_of_the_same_block(
    layer, repeng, repeng_model, tiny_llm, tiny_vector, tmp_path
):
    made = tiny_vector.with_calibration(replace(ADDED, layers=(layer,)))
    path = export_vector(made, tmp_path / "v.gguf", "repeng", strict=True).path
    model = repeng_model([layer])
    _, before = run_repeng(model, tiny_llm)
    model.set_control(repeng.ControlVector.import_gguf(path), 1.0)
    _, after = run_repeng(model, tiny_llm)
    moved = [not torch.equal(after[i], before[i]) for i in range(LAYERS)]
    assert moved == [i >= layer for i in range(LAYERS)]
    [term] = made.steer().terms
    torch.testing.assert_close(
        after[layer] - before[layer],
        term.delta(layer).expand_as(after[layer]),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("keep_length", [False, True], ids=["eq7", "eq8"])
@pytest.mark.parametrize("coefficient", [1.0, -1.0])
def test_repeng_gives_the_same_logits(
    keep_length, coefficient, repeng, repeng_model, tiny_llm, tiny_vector, tmp_path
):
    """Its `normalize=True` is eq. 8; a file cannot ask for it, so the export says so."""
    made = tiny_vector.with_calibration(replace(ADDED, renormalise=keep_length))
    done = export_vector(made, tmp_path / "v.gguf", "repeng")
    assert any("normalize=True" in change for change in done.changes) == keep_length
    model = repeng_model(done.blocks)
    control = repeng.ControlVector.import_gguf(done.path)
    assert control.model_type == "llama"
    model.set_control(control, coefficient, normalize=keep_length)
    theirs, _ = run_repeng(model, tiny_llm)
    ours, _ = run_ours(tiny_llm, made.steer(coefficient * ADDED.strength))
    unsteered, _ = run_ours(tiny_llm, made.steer(0.0))
    assert not torch.allclose(ours, unsteered, atol=0.01)
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


def test_a_vector_that_repeng_exports_steers_the_same_here(
    repeng, repeng_model, tiny_llm, tmp_path
):
    noise = np.random.default_rng(0).normal(size=(LAYERS, HIDDEN)).astype(np.float32)
    control = repeng.ControlVector("llama", {1: noise[1], 2: noise[2]})
    control.export_gguf(tmp_path / "theirs.gguf")
    model = repeng_model([1, 2])
    model.set_control(control, 0.5)
    theirs, _ = run_repeng(model, tiny_llm)
    ours, _ = run_ours(tiny_llm, import_vector(tmp_path / "theirs.gguf", tiny_llm).steer(0.5))
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def model_folder(make_tiny_model, tiny_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("default")  # those of lm-eval and what it imports are not ours
@pytest.mark.parametrize("site", ["block", "mlp"])
def test_lm_eval_gives_the_same_logits(site, model_folder, tiny_llm, tiny_vector, tmp_path):
    pytest.importorskip("lm_eval")
    from lm_eval.models.hf_steered import SteeredModel

    how = Application(site=site, unit="absolute", scope="all", renormalise=False)
    made = replace(tiny_vector, application=how)
    path = export_vector(made, tmp_path / "v.pt", "lm-eval", strength=0.7, strict=True).path
    ids = torch.tensor([tiny_llm.encode(PROMPT)])
    steered = SteeredModel(
        str(model_folder), str(path), device="cpu", dtype="float32", batch_size=1
    )
    theirs = steered.forward(ids).logits
    ours, _ = run_ours(tiny_llm, made.steer(0.7))
    unsteered, _ = run_ours(tiny_llm, made.steer(0.0))
    assert not torch.allclose(ours, unsteered, atol=0.01)
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)

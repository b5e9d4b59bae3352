"""LoRA: trained as its losses say, on and off without a trace, and readable by peft itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, build_tiny_model
from slow_states import PAIRS

pytest.importorskip("peft")

import peft

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import ModelMismatchError, NotAVectorError, PairError
from steerable_llm.methods.build import build_vector
from steerable_llm.methods.lora import LoraSettings, train_lora
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.runtime.blocks import find_site
from steerable_llm.runtime.hooks import capture_site
from steerable_llm.runtime.lora import Lora, adapted, lora_layers

# peft looks at an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
PROMPT = PAIRS[0].messages
QUICK: dict[str, Any] = {"rank": 4, "alpha": 8, "learning_rate": 5e-3, "epochs": 2}


@pytest.fixture(scope="module")
def llm(tiny_tokenizer: Any) -> SteerableHFLLM:
    """A model of its own: LoRAs change the model for all its users."""
    return SteerableHFLLM(build_tiny_model("llama", tiny_tokenizer), tiny_tokenizer)


@pytest.fixture(scope="module")
def lora(llm: SteerableHFLLM) -> Lora:
    return train_lora(llm, PAIRS, LoraSettings(**QUICK))


def traces(model: torch.nn.Module) -> dict[str, Any]:
    """All that a LoRA could leave behind."""
    return {
        "modules": [(name, id(module), type(module)) for name, module in model.named_modules()],
        "weights": [
            (name, id(p), p.requires_grad, p.detach().clone()) for name, p in
            model.named_parameters()
        ],
        "attributes": sorted(vars(model)),
        "hooks": sum(len(m._forward_hooks) for m in model.modules()),
        "training": [module.training for module in model.modules()],
    }  # fmt: skip


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for key in ("modules", "attributes", "hooks", "training"):
        assert one[key] == other[key], key
    for a, b in zip(one["weights"], other["weights"], strict=True):
        assert a[:3] == b[:3]
        assert torch.equal(a[3], b[3])


@pytest.fixture
def no_traces(llm: SteerableHFLLM) -> Iterator[None]:
    before, logits = traces(llm.model), llm.answer_logits(PROMPT, "At nine.")
    yield
    assert_same(before, traces(llm.model))
    assert torch.equal(llm.answer_logits(PROMPT, "At nine."), logits)


@pytest.mark.usefixtures("no_traces")
@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_training_moves_the_preference_and_leaves_the_model(
    llm: SteerableHFLLM, objective: Any
) -> None:
    before = [llm.score(p.messages, [p.good, str(p.bad)]) for p in PAIRS]
    made = train_lora(llm, PAIRS, LoraSettings(objective=objective, **QUICK))
    with adapted(llm, made):
        after = [llm.score(p.messages, [p.good, str(p.bad)]) for p in PAIRS]
    assert made.provenance.facts["last_loss"] < made.provenance.facts["first_loss"]
    if objective == "dpo":
        assert made.provenance.facts["first_loss"] == pytest.approx(math.log(2), abs=1e-4)
        gains = [a[0] - a[1] - b[0] + b[1] for a, b in zip(after, before, strict=True)]
    else:
        gains = [a[0] - b[0] for a, b in zip(after, before, strict=True)]
    assert sum(gains) > 0


def test_the_first_step_of_sft_is_the_gradient_of_the_mean_token_loss(
    llm: SteerableHFLLM, tiny_tokenizer: Any
) -> None:
    """One step of AdamW from B = 0: every weight of B moves by the rate, against its gradient."""
    rate = 1e-3
    settings = LoraSettings(objective="sft", rank=2, alpha=2, epochs=1, batch_size=6,
                            learning_rate=rate, targets=("down_proj",))  # fmt: skip
    made = train_lora(llm, PAIRS, settings)
    slow = peft.get_peft_model(
        build_tiny_model("llama", tiny_tokenizer), peft.LoraConfig(**made.config)
    )
    weights = dict(slow.named_parameters())
    for name, tensor in made.weights.items():
        place = name.replace(".weight", ".default.weight")
        value = torch.zeros_like(tensor) if "lora_B" in name else tensor
        weights[place].data.copy_(value)
    total, tokens = torch.zeros(()), 0
    for pair in PAIRS:  # one text at a time, the loss as transformers computes it
        prompt, answer = llm.encode(pair.messages), llm.encode_answer(pair.good)
        labels = torch.tensor([[-100] * len(prompt) + answer])
        loss = slow(torch.tensor([[*prompt, *answer]]), labels=labels).loss
        total, tokens = total + loss * len(answer), tokens + len(answer)
    (total / tokens).backward()
    for name, tensor in made.weights.items():
        gradient = weights[name.replace(".weight", ".default.weight")].grad
        assert gradient is not None
        if "lora_B" in name:
            clear = gradient.abs() > 1e-5
            assert clear.any()
            expected = -rate * gradient.sign()
            torch.testing.assert_close(tensor[clear], expected[clear], rtol=1e-2, atol=1e-6)


@pytest.mark.usefixtures("no_traces")
def test_peft_reads_the_folder_and_computes_the_same(
    llm: SteerableHFLLM, lora: Lora, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    folder = lora.save(tmp_path / "lora")
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".json", ".safetensors"]
    other = peft.PeftModel.from_pretrained(build_tiny_model("llama", tiny_tokenizer), folder)
    theirs = SteerableHFLLM(other.base_model.model, tiny_tokenizer, blocks=[])
    with adapted(llm, Lora.load(folder, llm)):
        ours = llm.answer_logits(PROMPT, "At nine.")
    assert torch.allclose(theirs.answer_logits(PROMPT, "At nine."), ours, atol=1e-5)
    assert not torch.allclose(llm.answer_logits(PROMPT, "At nine."), ours, atol=1e-3)


@pytest.mark.usefixtures("no_traces")
def test_an_error_inside_takes_the_lora_off(llm: SteerableHFLLM, lora: Lora) -> None:
    with pytest.raises(RuntimeError, match="stop"), adapted(llm, lora):
        raise RuntimeError("stop")


def test_the_same_seed_gives_the_same_lora(llm: SteerableHFLLM, lora: Lora) -> None:
    again = train_lora(llm, PAIRS, LoraSettings(**QUICK))
    assert all(torch.equal(again.weights[key], lora.weights[key]) for key in lora.weights)


def test_what_cannot_be_trained_or_loaded_is_refused(
    llm: SteerableHFLLM, lora: Lora, make_llm: Any, tmp_path: Path
) -> None:
    with pytest.raises(PairError, match=r'no bad answer.*objective="sft"'):
        train_lora(llm, Pairs([PreferencePair("Why?", "Because.")]), LoraSettings())
    with (
        pytest.raises(ModelMismatchError, match="train it again"),
        adapted(make_llm("mistral"), lora),
    ):
        pass
    folder = lora.save(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(NotAVectorError, match="whole LoRA folder"):
        Lora.load(folder)
    with pytest.raises(NotAVectorError, match="adapter_config"):
        Lora.load(tmp_path)
    assert "weights" not in json.loads((folder / "steerable.json").read_text())


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set")
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")
@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_act_on_the_same_parts_with_a_lora_as_without(
    tiny_tokenizer: Any, family: str
) -> None:
    llm = SteerableHFLLM(build_tiny_model(family, tiny_tokenizer), tiny_tokenizer)
    sites = ("block", "mlp", "heads")
    plain = [find_site(block, site) for block in llm.blocks for site in sites]
    with lora_layers(llm, peft.LoraConfig(r=2, target_modules="all-linear")):
        found = [find_site(block, site) for block in llm.blocks for site in sites]
    for before, after in zip(plain, found, strict=True):
        # Where the part is itself adapted, the LoRA's layer stands around it.
        assert getattr(after.module, "base_layer", after.module) is before.module
        assert after.on_input == before.on_input


@pytest.mark.usefixtures("no_traces")
@pytest.mark.parametrize("method", ["iti", "icv"])
def test_vectors_of_parts_steer_an_adapted_model(
    llm: SteerableHFLLM, lora: Lora, method: str
) -> None:
    vector = build_vector(llm, PAIRS, method=method, progress=False)
    steering = vector.steer(0.5, scope="all")
    with adapted(llm, lora):
        plain = llm.answer_logits(PROMPT, "At nine.")
        assert not torch.allclose(llm.answer_logits(PROMPT, "At nine.", steering), plain, atol=1e-3)
        answer = llm.generate(PROMPT, steering=steering, max_new_tokens=4)
    assert answer.steered[0].site == vector.application.site
    assert answer.steered[0].steered_tokens > 0


@pytest.mark.usefixtures("no_traces")
def test_an_adapted_projection_sees_the_steered_heads(llm: SteerableHFLLM, lora: Lora) -> None:
    vector = build_vector(llm, PAIRS, method="iti", progress=False, heads=2)
    layer = vector.layers[0]
    ids = torch.tensor([llm.encode(PROMPT)])
    with adapted(llm, lora), torch.no_grad():
        with capture_site(llm.blocks, "heads") as heads:
            llm.model(ids)
        projection = find_site(llm.blocks[layer], "heads").module
        plain, moved = heads[layer], heads[layer] + vector.directions[layer]
        wanted = projection(moved) - projection(plain)
        base = projection.get_base_layer()
        assert not torch.allclose(wanted, base(moved) - base(plain))
        seen: list[torch.Tensor] = []
        hook = projection.register_forward_hook(lambda _m, _i, given: seen.append(given))
        try:
            llm.answer_logits(PROMPT, "At nine.", vector.steer(1.0, scope="all"))
            llm.answer_logits(PROMPT, "At nine.")
        finally:
            hook.remove()
    width = ids.shape[1]
    torch.testing.assert_close(seen[0][:, :width] - seen[1][:, :width], wanted)

import copy

import pytest
import torch

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.runtime.load import fingerprint_of


def fingerprint(model, tokenizer):
    return fingerprint_of(model, tokenizer, 3, "any")


@pytest.fixture
def model(tiny_llm):
    return copy.deepcopy(tiny_llm.model)


def test_the_same_model_has_the_same_fingerprint(tiny_llm, model):
    assert not fingerprint(model, tiny_llm.tokenizer).differences(tiny_llm.fingerprint)


def test_the_fingerprint_says_what_the_model_is(tiny_llm):
    found = tiny_llm.fingerprint
    assert found.architecture == "LlamaForCausalLM"
    assert (found.hidden_size, found.num_layers) == (32, 3)
    assert found.model_id == "tiny-llama"
    assert tiny_llm.fingerprint is found


def test_trained_weights_change_it(tiny_llm, model):
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.1)
    differences = fingerprint(model, tiny_llm.tokenizer).differences(tiny_llm.fingerprint)
    assert differences == ("weights_hash",)


def test_a_bfloat16_checkpoint_is_the_same_model_in_float32(tiny_llm, model):
    small = model.to(torch.bfloat16)
    wide = copy.deepcopy(small).to(torch.float32)
    assert not fingerprint(small, tiny_llm.tokenizer).differences(
        fingerprint(wide, tiny_llm.tokenizer)
    )


def test_a_changed_setting_changes_it(tiny_llm, model):
    model.config.rms_norm_eps = 0.5
    differences = fingerprint(model, tiny_llm.tokenizer).differences(tiny_llm.fingerprint)
    assert differences == ("config_hash",)


def test_a_changed_template_or_vocabulary_changes_it(tiny_llm):
    changed = copy.deepcopy(tiny_llm.tokenizer)
    changed.chat_template = changed.chat_template.replace("<|bos|>", "")
    found = fingerprint(tiny_llm.model, changed).differences(tiny_llm.fingerprint)
    assert found == ("template_hash",)
    changed.add_tokens(["brandnew"])
    found = fingerprint(tiny_llm.model, changed).differences(tiny_llm.fingerprint)
    assert found == ("tokenizer_hash", "template_hash")


def test_models_of_different_families_differ(make_llm):
    llama, qwen = make_llm("llama").fingerprint, make_llm("qwen2").fingerprint
    assert llama.differences(qwen)


def test_a_tokenizer_without_a_template_has_a_fingerprint_too(tiny_llm):
    plain = copy.deepcopy(tiny_llm.tokenizer)
    plain.chat_template = None
    llm = SteerableHFLLM(tiny_llm.model, plain)
    assert llm.fingerprint.template_hash != tiny_llm.fingerprint.template_hash
    assert llm.generate("Hi", max_new_tokens=2).usage.completion_tokens == 2

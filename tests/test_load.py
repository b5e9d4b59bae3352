"""What can be loaded and how: arguments, LoRA folders of the peft library, clear errors."""

import copy
import json
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import build_tiny_model
from gguf_models import write_gguf
from hub_server import READ_ONLY, Repository, hub
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError, MissingExtraError, PolicyError
from steerable_llm.runtime import hooked_model, merged_lora
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.lora import lora_layers

__all__ = ["hub"]

peft = pytest.importorskip("peft")
PROMPT = "The capital of France is what?"


@pytest.fixture(scope="module")
def base(tiny_llm, tmp_path_factory):
    """The tiny model in a folder of its own."""
    folder = tmp_path_factory.mktemp("base")
    tiny_llm.model.save_pretrained(folder)
    tiny_llm.tokenizer.save_pretrained(folder)
    return folder


def write_lora(folder, tokenizer, base, **settings):
    """A LoRA that changes much, as peft saves it, and the answer's scores beside its base."""
    model = build_tiny_model("llama", tokenizer)
    model.name_or_path = str(base)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], **settings)
    with torch.no_grad(), torch.random.fork_rng(), merged_lora.quiet_peft():
        torch.manual_seed(1)  # of both of its factors
        wrapped = peft.get_peft_model(model, config)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    beside = HookedModel(wrapped.get_base_model(), tokenizer)
    return beside.answer_logits(PROMPT, "Paris.")


@pytest.fixture(scope="module")
def lora(base, tiny_tokenizer, tmp_path_factory):
    """The folder of a LoRA, and the scores of the model with it."""
    folder = tmp_path_factory.mktemp("lora")
    return folder, write_lora(folder, tiny_tokenizer, base)


def test_a_lora_folder_is_loaded_as_one_model_with_its_base(lora, base, tiny_llm):
    folder, expected = lora
    llm = SteerableHFLLM.from_pretrained(folder)
    assert torch.allclose(llm.answer_logits(PROMPT, "Paris."), expected, atol=1e-4)
    assert not torch.allclose(tiny_llm.answer_logits(PROMPT, "Paris."), expected, atol=0.1)
    assert llm.fingerprint.differences(tiny_llm.fingerprint) == ("weights_hash",)
    assert llm.model_id == str(folder)
    names = [name for name, _ in llm.model.named_parameters()]
    assert names == [name for name, _ in tiny_llm.model.named_parameters()]


def test_a_lora_in_the_folder_of_its_base_is_loaded_with_it(lora, base, tmp_path):
    for file in (*base.iterdir(), *lora[0].iterdir()):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    llm = HookedModel.from_pretrained(tmp_path)
    assert torch.allclose(llm.answer_logits(PROMPT, "Paris."), lora[1], atol=1e-4)


def test_a_lora_stays_beside_the_weights_of_a_quantised_base(lora, base):
    llm = HookedModel.from_pretrained(base)
    llm.model.is_quantized = True
    under = copy.deepcopy(llm.model.state_dict())
    folder = merged_lora.find_lora(str(lora[0]), {"subfolder": ""})
    beside = HookedModel(folder.merged_into(llm.model, 0), llm.tokenizer)
    assert torch.allclose(beside.answer_logits(PROMPT, "Paris."), lora[1], atol=1e-4)
    kept = {name.replace(".base_layer", ""): x for name, x in beside.model.state_dict().items()}
    assert all(torch.equal(kept[name], value) for name, value in under.items())


def test_the_merged_model_can_be_saved_and_carries_another_lora(lora, tiny_llm, tmp_path):
    llm = SteerableHFLLM.from_pretrained(lora[0])
    with lora_layers(llm, peft.LoraConfig(target_modules=["v_proj"])) as wrapped:
        assert wrapped.active_adapters == ["default"]
    llm.model.save_pretrained(tmp_path)
    llm.tokenizer.save_pretrained(tmp_path)
    loaded = SteerableHFLLM.from_pretrained(tmp_path)
    assert not loaded.fingerprint.differences(llm.fingerprint)


def test_the_base_may_be_named(lora, base, tiny_llm, tmp_path):
    folder = tmp_path / "moved"
    folder.mkdir()
    for file in lora[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": None})
    )
    with pytest.raises(InvalidInputError, match=r"does not say which model.*give base="):
        HookedModel.from_pretrained(folder)
    gguf = write_gguf(tmp_path / "tiny.gguf", tiny_llm.model, tiny_llm.tokenizer)
    for given in (base, gguf):
        llm = HookedModel.from_pretrained(folder, base=given)
        assert torch.allclose(llm.answer_logits(PROMPT, "Paris."), lora[1], atol=1e-4)


def test_a_lora_trained_on_a_gguf_file_finds_it_again(tiny_llm, tiny_tokenizer, tmp_path):
    gguf = write_gguf(tmp_path / "tiny.gguf", tiny_llm.model, tiny_llm.tokenizer)
    name = HookedModel.from_pretrained(gguf).model.name_or_path
    expected = write_lora(tmp_path / "lora", tiny_tokenizer, name)
    llm = HookedModel.from_pretrained(tmp_path / "lora")
    assert torch.allclose(llm.answer_logits(PROMPT, "Paris."), expected, atol=1e-4)


def test_the_tokenizer_beside_a_lora_is_the_one_that_counts(base, tiny_tokenizer, tmp_path):
    write_lora(tmp_path, tiny_tokenizer, base)
    tokenizer = HookedModel.from_pretrained(base).tokenizer
    tokenizer.chat_template = tokenizer.chat_template.replace("<|bos|>", "<|bos|>Hark! ")
    tokenizer.add_tokens(["brandnew"])
    tokenizer.save_pretrained(tmp_path)
    llm = HookedModel.from_pretrained(tmp_path)
    assert llm.render(PROMPT).startswith("<|bos|>Hark! ")
    assert llm.model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    assert llm.encode("brandnew")[-2:][0] != tokenizer.unk_token_id


def test_a_lora_of_another_model_is_one_clear_line(lora, make_llm, tmp_path):
    make_llm("gpt2").model.save_pretrained(tmp_path)
    make_llm("gpt2").tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match=r"does not fit its base.*base=") as error:
        HookedModel.from_pretrained(lora[0], base=tmp_path)
    assert "\n" not in str(error.value)


def test_a_lora_that_lacks_weights_is_one_clear_line(lora, tmp_path):
    for file in lora[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[:-1]), tmp_path / "adapter_model.safetensors")
    with pytest.raises(InvalidInputError, match="missing adapter keys"):
        HookedModel.from_pretrained(tmp_path)


def test_what_is_no_lora_cannot_be_merged(base, tiny_llm, tiny_tokenizer, tmp_path):
    model = build_tiny_model("llama", tiny_tokenizer)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with merged_lora.quiet_peft():
        peft.get_peft_model(model, config).save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="holds no LoRA but PROMPT_TUNING"):
        HookedModel.from_pretrained(tmp_path, base=base)


def test_base_goes_with_a_lora_alone(base):
    with pytest.raises(InvalidInputError, match=r"adapter_config\.json.*leave base out"):
        HookedModel.from_pretrained(base, base=base)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_damaged_configuration_is_one_clear_line(tmp_path, content):
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(InvalidInputError, match="no configuration of peft"):
        HookedModel.from_pretrained(tmp_path)


def test_a_lora_without_peft_names_what_to_install(lora, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'steerable-llm\[lora\]'"):
        merged_lora.require_peft()
    with pytest.raises(MissingExtraError):
        HookedModel.from_pretrained(lora[0])


def test_weights_that_are_missing_are_not_made_up(base, tiny_llm, tmp_path):
    weights = dict(tiny_llm.model.state_dict())
    del weights["model.layers.1.mlp.up_proj.weight"]
    tiny_llm.model.save_pretrained(tmp_path, state_dict=weights)
    tiny_llm.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match=r"lacks 1 of the weights.*1\.mlp\.up_proj"):
        HookedModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("kind", "given", "meant"),
    [
        (HookedModel, {"dtyp": "float32"}, "dtype"),
        (SteerableHFLLM, {"dtyp": "float32"}, "dtype"),
        (SteerableHFLLM, {"polcy": "policy.toml"}, "policy"),
        (SteerableHFLLM, {"atn_implementation": "eager"}, "attn_implementation"),
        (HookedModel, {"model_kwargs": {"atn_implementation": "eager"}}, "attn_implementation"),
        (HookedModel, {"model_kwargs": {"use_safetensor": True}}, "use_safetensors"),
    ],
)
def test_a_misspelt_argument_is_one_line_that_names_the_nearest(base, kind, given, meant):
    with pytest.raises(InvalidInputError, match=rf"did you mean '{meant}'\?") as error:
        kind.from_pretrained(base, **given)
    assert "\n" not in str(error.value)


def test_a_policy_is_no_argument_of_a_model_without_one(base):
    with pytest.raises(InvalidInputError, match="'policy' is not a known argument"):
        HookedModel.from_pretrained(base, policy="policy.toml")


def test_a_misspelt_argument_is_refused_before_anything_is_loaded():
    with pytest.raises(InvalidInputError, match="did you mean 'revision'"):
        HookedModel.from_pretrained("acme/nowhere", revison="main")


def not_loaded(*args, **options):
    raise AssertionError("the weights were loaded")


@pytest.mark.parametrize("name", ["demo", "vision-demo"])
def test_a_misspelt_argument_of_a_bundled_model_is_refused_before_it_is_loaded(name, monkeypatch):
    monkeypatch.setattr(hooked_model, "load_pretrained", not_loaded)
    with pytest.raises(
        InvalidInputError, match=rf"of {name.replace('-', '_')}; did you mean 'policy'?"
    ):
        SteerableHFLLM.named(name, polcy="policy.toml")


@pytest.mark.parametrize(
    ("policy", "error"), [("nowhere.toml", PolicyError), ({"steps": {}}, InvalidInputError)]
)
@pytest.mark.parametrize("name", ["demo", "vision-demo", "smollm2", "acme/nowhere"])
def test_a_policy_that_cannot_be_used_is_told_before_a_model_is_loaded(
    name, policy, error, monkeypatch
):
    monkeypatch.setattr(hooked_model, "load_pretrained", not_loaded)
    monkeypatch.setattr(hooked_model, "find_smollm2", lambda: Path("smollm2/model.gguf"))
    with pytest.raises(error, match="policy"):
        SteerableHFLLM.named(name, policy=policy)


def test_a_misspelt_argument_of_the_class_is_refused(tiny_llm):
    with pytest.raises(InvalidInputError, match="of SteerableHFLLM; did you mean 'processor'"):
        SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, procesor=None)


def test_an_argument_is_given_in_one_place(base):
    with pytest.raises(InvalidInputError, match="'dtype' is in model_kwargs and an argument"):
        HookedModel.from_pretrained(base, model_kwargs={"dtype": "float32"})


def test_arguments_reach_the_model(base, tmp_path, tiny_llm):
    llm = HookedModel.from_pretrained(
        base.parent,
        subfolder=base.name,
        attn_implementation="eager",
        token="hf_x",
        cache_dir=tmp_path,
        local_files_only=True,
        model_kwargs={"rms_norm_eps": 0.25},
    )
    assert llm.model.config._attn_implementation == "eager"
    assert llm.model.config.rms_norm_eps == 0.25
    assert llm.fingerprint.weights_hash == tiny_llm.fingerprint.weights_hash


def test_memory_is_shared_out_and_what_was_given_is_left_alone(base, tiny_llm):
    memory = {"cpu": "1GB"}
    llm = HookedModel.from_pretrained(base, device_map="auto", max_memory=memory)
    assert memory == {"cpu": "1GB"}
    assert not llm.fingerprint.differences(tiny_llm.fingerprint)


def test_code_of_a_checkpoint_is_not_run_unasked(base, tmp_path):
    for file in base.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "homemade"
    config["auto_map"] = {
        "AutoConfig": "homemade.Config",
        "AutoModelForCausalLM": "homemade.Model",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "homemade.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(InvalidInputError, match="run it with trust_remote_code=True"):
        HookedModel.from_pretrained(tmp_path)


def test_an_attention_that_does_not_exist_is_one_clear_line(base):
    with pytest.raises(InvalidInputError, match="leave attn_implementation out") as error:
        HookedModel.from_pretrained(base, attn_implementation="flush")
    assert "\n" not in str(error.value)


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_the_base_of_a_lora_has_the_revision_that_it_was_trained_on(
    hub, base, lora, tiny_llm, tmp_path
):
    other = copy.deepcopy(tiny_llm.model)
    with torch.no_grad():
        other.lm_head.weight.zero_()
    other.save_pretrained(tmp_path / "other")
    tiny_llm.tokenizer.save_pretrained(tmp_path / "other")
    commits = [
        (commit * 40, {path.name: path.read_bytes() for path in folder.iterdir()})
        for commit, folder in (("a", base), ("b", tmp_path / "other"))
    ]
    hub.repositories["acme/tiny"] = Repository(private=False, commits=commits)
    files = {path.name: path.read_bytes() for path in lora[0].iterdir()}
    told = {**json.loads(files["adapter_config.json"]), "base_model_name_or_path": "acme/tiny"}
    for revision, same in (("a" * 40, True), (None, False)):
        folder = tmp_path / str(same)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        (folder / "adapter_config.json").write_text(json.dumps({**told, "revision": revision}))
        llm = HookedModel.from_pretrained(folder, revision="of the LoRA's own repository")
        logits = llm.answer_logits(PROMPT, "Paris.")
        assert torch.allclose(logits, lora[1], atol=1e-4) is same


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_what_is_on_the_hub_is_loaded_with_a_token_and_afterwards_without_a_network(
    hub, base, lora, tiny_llm, tmp_path, monkeypatch
):
    def upload(name, folder):
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.repositories[name] = Repository(private=True, commits=[("a" * 40, files)])

    (tmp_path / "gguf").mkdir()
    write_gguf(tmp_path / "gguf" / "tiny.gguf", tiny_llm.model, tiny_llm.tokenizer)
    upload("acme/tiny", base)
    upload("acme/tiny-gguf", tmp_path / "gguf")
    upload("acme/lora", lora[0])
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    ways = [
        ("acme/tiny", {}),
        ("acme/tiny-gguf", {"gguf_file": "tiny.gguf"}),
        ("acme/tiny-gguf/tiny.gguf", {}),
        ("acme/lora", {"base": "acme/tiny"}),
    ]
    for place, options in ways:
        with pytest.raises(InvalidInputError, match=f"'{place}.*token=|leave base out") as error:
            HookedModel.from_pretrained(place, **options)
        assert "\n" not in str(error.value)
    cache = {"cache_dir": tmp_path / "cache"}
    online = [
        HookedModel.from_pretrained(place, token=READ_ONLY, **cache, **options)
        for place, options in ways
    ]
    assert online[1].model_id == online[2].model_id == "acme/tiny-gguf/tiny.gguf"
    assert online[1].fingerprint.weights_hash == tiny_llm.fingerprint.weights_hash
    assert torch.allclose(online[3].answer_logits(PROMPT, "Paris."), lora[1], atol=1e-4)
    asked = len(hub.requests)
    for (place, options), known in zip(ways, online, strict=True):
        again = HookedModel.from_pretrained(place, local_files_only=True, **cache, **options)
        assert not again.fingerprint.differences(known.fingerprint)
    assert len(hub.requests) == asked


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_without_the_hub_an_unknown_model_is_told_at_once_and_a_kept_one_is_loaded(
    hub, base, tmp_path, monkeypatch
):
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    hub.repositories["acme/tiny"] = Repository(private=False, commits=[("a" * 40, files)])
    known = HookedModel.from_pretrained("acme/tiny", cache_dir=tmp_path)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )  # fmt: skip
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it tries again"))
    with pytest.raises(InvalidInputError, match="couldn't connect") as error:
        HookedModel.from_pretrained("acme/other", cache_dir=tmp_path)
    assert "\n" not in str(error.value)
    again = HookedModel.from_pretrained("acme/tiny", cache_dir=tmp_path)
    assert not again.fingerprint.differences(known.fingerprint)

import pytest
from conftest import FAMILIES, HIDDEN, LAYERS
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from steerable_llm.errors import UnknownArchitectureError
from steerable_llm.runtime.blocks import find_blocks, hidden_size

BLOCK_CLASSES = {
    "llama": "LlamaDecoderLayer",
    "mistral": "MistralDecoderLayer",
    "qwen2": "Qwen2DecoderLayer",
    "qwen3": "Qwen3DecoderLayer",
    "gemma2": "Gemma2DecoderLayer",
    "gemma3_text": "Gemma3DecoderLayer",
    "phi3": "Phi3DecoderLayer",
    "gpt2": "GPT2Block",
    "gpt_neox": "GPTNeoXLayer",
    "opt": "OPTDecoderLayer",
    "mixtral": "MixtralDecoderLayer",
    "falcon": "FalconDecoderLayer",
    "bloom": "BloomBlock",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_of_common_families_are_found_in_order(family, make_tiny_model):
    model = make_tiny_model(family)
    blocks = find_blocks(model)
    assert [type(block).__name__ for block in blocks] == [BLOCK_CLASSES[family]] * LAYERS
    in_tree = [module for module in model.modules() if any(module is x for x in blocks)]
    assert [id(x) for x in in_tree] == [id(x) for x in blocks]
    assert hidden_size(model) == HIDDEN


def test_the_text_blocks_of_a_vision_language_model_are_found():
    text = {
        "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 3, "vocab_size": 64,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
    }  # fmt: skip
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 48, "image_size": 16, "patch_size": 8,
        "projection_dim": 32,
    }  # fmt: skip
    config = AutoConfig.for_model("llava", text_config=text, vision_config=vision)
    model = AutoModelForImageTextToText.from_config(config)
    assert {type(block).__name__ for block in find_blocks(model)} == {"LlamaDecoderLayer"}


class Layered(nn.Module):
    def __init__(self, **lists: int) -> None:
        super().__init__()
        for name, length in lists.items():
            self.add_module(name, nn.ModuleList(nn.Linear(4, 4) for _ in range(length)))


def test_the_only_list_of_a_plain_module_is_taken():
    assert len(find_blocks(Layered(layers=5))) == 5


def test_lists_inside_blocks_are_not_blocks():
    model = nn.Module()
    model.layers = nn.ModuleList(Layered(experts=2) for _ in range(2))
    assert find_blocks(model) == list(model.layers)


def test_a_tower_for_images_is_never_the_decoder():
    model = Layered(vision_layers=3, layers=3)
    assert find_blocks(model) == list(model.layers)


@pytest.mark.parametrize(
    ("model", "fitting"),
    [(Layered(), "none"), (Layered(first=2, second=2), "first, second")],
    ids=["nothing fits", "two fit"],
)
def test_an_unclear_tree_is_refused_and_shown(model, fitting):
    with pytest.raises(UnknownArchitectureError, match=f"fitting: {fitting}") as error:
        find_blocks(model)
    assert "Layered" in str(error.value)
    assert "blocks=[...]" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_shown_tree_has_names_classes_and_lengths():
    with pytest.raises(UnknownArchitectureError, match=r"first:ModuleList\[2\]"):
        find_blocks(Layered(first=2, second=3))

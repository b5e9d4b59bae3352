"""Tiny random models of many vision-language families, with prompts made by hand.

Most of their processors cannot be made without a network, so that the prompts are what these would
give: token ids, pixels, and what else the family takes beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from scripted import SPECIAL, TEMPLATES, byte_level

from steerable_llm.chat.vision import ReadPrompt
from steerable_llm.runtime.hooked_model import HookedModel

_MARKS = ["<image>", "<|open|>", "<|close|>", "<|video|>", "<|vopen|>", "<|vclose|>"]
TOKENIZER = byte_level(TEMPLATES["none"], [*SPECIAL, *_MARKS], [])
IMAGE, OPEN, CLOSE, VIDEO, VOPEN, VCLOSE = TOKENIZER.convert_tokens_to_ids(_MARKS)
_MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
_QWEN = {
    "image_token_id": IMAGE,
    "vision_start_token_id": OPEN,
    "vision_end_token_id": CLOSE,
    "video_token_id": VIDEO,
}
_MERGED = {"num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
_PINPOINTS = [[32, 64], [64, 32], [64, 64]]

Made = tuple[Any, dict[str, Any], int]
"""A model, what it takes beside the tokens, and how many positions its image has."""


def _text(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(TOKENIZER),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 512,
        "pad_token_id": TOKENIZER.pad_token_id,
        "bos_token_id": TOKENIZER.bos_token_id,
        "eos_token_id": TOKENIZER.eos_token_id,
        **more,
    }


def _tower(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        **more,
    }


def _pixels(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _llava() -> Made:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**_tower()),
        text_config=hf.LlamaConfig(**_text()),
        image_token_id=IMAGE,
    )
    model = hf.LlavaForConditionalGeneration(config)
    return model, {"pixel_values": _pixels(1, 3, 32, 32)}, 16


def _vipllava() -> Made:
    config = hf.VipLlavaConfig(
        vision_config=hf.CLIPVisionConfig(**_tower()),
        text_config=hf.LlamaConfig(**_text()),
        image_token_index=IMAGE,
        vision_feature_layers=[-1, -2],
    )
    model = hf.VipLlavaForConditionalGeneration(config)
    return model, {"pixel_values": _pixels(1, 3, 32, 32)}, 16


def _tiled(model: Any) -> Made:
    """An image in tiles, whose padding is cut off and whose rows end with a mark of their own."""
    sizes, pixels = torch.tensor([[50, 40]]), _pixels(1, 5, 3, 32, 32)
    with torch.no_grad():
        features = model.get_image_features(pixels, sizes).pooler_output
    beside = {"pixel_values": pixels, "image_sizes": sizes}
    return model, beside, sum(len(each) for each in features)


def _llava_next() -> Made:
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**_tower()),
        text_config=hf.LlamaConfig(**_text()),
        image_token_id=IMAGE,
        image_grid_pinpoints=_PINPOINTS,
    )
    return _tiled(hf.LlavaNextForConditionalGeneration(config))


def _llava_onevision() -> Made:
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**_tower(vision_use_head=False)),
        text_config=hf.Qwen2Config(**_text()),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=_PINPOINTS,
    )
    return _tiled(hf.LlavaOnevisionForConditionalGeneration(config))


def _pixtral() -> Made:
    config = hf.LlavaConfig(
        vision_config=hf.PixtralVisionConfig(**_tower(head_dim=8)),
        text_config=hf.MistralConfig(**_text(head_dim=8, sliding_window=None)),
        image_token_id=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    beside = {"pixel_values": _pixels(1, 3, 32, 32), "image_sizes": torch.tensor([[32, 32]])}
    return hf.LlavaForConditionalGeneration(config), beside, 16


def _mistral3() -> Made:
    config = hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**_tower(head_dim=8)),
        text_config=hf.MistralConfig(**_text(head_dim=8, sliding_window=None)),
        image_token_index=IMAGE,
        spatial_merge_size=2,
    )
    beside = {"pixel_values": _pixels(1, 3, 32, 32), "image_sizes": torch.tensor([[32, 32]])}
    return hf.Mistral3ForConditionalGeneration(config), beside, 4


def _grid(model: Any) -> Made:
    beside = {"pixel_values": _pixels(48, 96), "image_grid_thw": torch.tensor([[1, 8, 6]])}
    return model, beside, 12


def _qwen2_vl() -> Made:
    config = hf.Qwen2VLConfig(
        vision_config={"depth": 2, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2, **_MERGED},
        text_config=_text(rope_parameters=_MROPE),
        **_QWEN,
    )
    return _grid(hf.Qwen2VLForConditionalGeneration(config))


def _qwen2_5_vl() -> Made:
    config = hf.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32,
            "window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 2, **_MERGED,
        },
        text_config=_text(rope_parameters=_MROPE),
        **_QWEN,
    )  # fmt: skip
    return _grid(hf.Qwen2_5_VLForConditionalGeneration(config))


def _qwen3_vl() -> Made:
    config = hf.Qwen3VLConfig(
        vision_config={
            "depth": 2, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32,
            "num_position_embeddings": 64, "deepstack_visual_indexes": [0], **_MERGED,
        },
        text_config=_text(head_dim=8, rope_parameters=_MROPE),
        **_QWEN,
    )  # fmt: skip
    return _grid(hf.Qwen3VLForConditionalGeneration(config))


def _glm4v() -> Made:
    config = hf.Glm4vConfig(
        vision_config={
            "depth": 2, "hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32,
            "image_size": 32, **_MERGED,
        },
        text_config=_text(rope_parameters={**_MROPE, "partial_rotary_factor": 1.0}),
        image_token_id=IMAGE, image_start_token_id=OPEN, image_end_token_id=CLOSE,
        video_token_id=VIDEO, video_start_token_id=VOPEN, video_end_token_id=VCLOSE,
    )  # fmt: skip
    return _grid(hf.Glm4vForConditionalGeneration(config))


def _gemma3() -> Made:
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**_tower(vision_use_head=False)),
        text_config=hf.Gemma3TextConfig(**_text(head_dim=8, sliding_window=16)),
        mm_tokens_per_image=4,
        boi_token_index=OPEN,
        eoi_token_index=CLOSE,
        image_token_index=IMAGE,
    )
    model = hf.Gemma3ForConditionalGeneration(config)
    # The projector starts at zero, so that an untrained model would not see its images.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model, {"pixel_values": _pixels(1, 3, 32, 32)}, 4


def _paligemma() -> Made:
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**_tower(vision_use_head=False, projection_dim=32)),
        text_config=hf.GemmaConfig(**_text(head_dim=8)),
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )
    model = hf.PaliGemmaForConditionalGeneration(config)
    return model, {"pixel_values": _pixels(1, 3, 32, 32)}, 16


def _shuffled(kind: Any, config: Any) -> Made:
    made = config(
        vision_config=_tower(),
        text_config=hf.LlamaConfig(**_text()),
        image_token_id=IMAGE,
        scale_factor=2,
    )
    beside = {
        "pixel_values": _pixels(1, 2, 3, 32, 32),
        "pixel_attention_mask": torch.ones(1, 2, 32, 32, dtype=torch.bool),
    }
    return kind(made), beside, 8


def _smolvlm() -> Made:
    return _shuffled(hf.SmolVLMForConditionalGeneration, hf.SmolVLMConfig)


def _idefics3() -> Made:
    return _shuffled(hf.Idefics3ForConditionalGeneration, hf.Idefics3Config)


def _internvl() -> Made:
    tower = hf.InternVLVisionConfig(**_tower(image_size=[32, 32], patch_size=[8, 8]))
    config = hf.InternVLConfig(
        vision_config=tower,
        text_config=hf.Qwen2Config(**_text()),
        image_token_id=IMAGE,
        downsample_ratio=0.5,
    )
    model = hf.InternVLForConditionalGeneration(config)
    return model, {"pixel_values": _pixels(1, 3, 32, 32)}, 4


def _aya_vision() -> Made:
    config = hf.AyaVisionConfig(
        vision_config=hf.SiglipVisionConfig(**_tower(vision_use_head=False)),
        text_config=hf.Cohere2Config(**_text(sliding_window=16)),
        image_token_index=IMAGE,
        downsample_factor=2,
        adapter_layer_norm_eps=1e-6,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    model = hf.AyaVisionForConditionalGeneration(config)
    return model, {"pixel_values": _pixels(1, 3, 32, 32)}, 4


def _mllama() -> Made:
    config = hf.MllamaConfig(
        vision_config={
            "hidden_size": 16, "attention_heads": 2, "num_hidden_layers": 2, "image_size": 32,
            "num_global_layers": 1, "intermediate_size": 32, "vision_output_dim": 32,
            "patch_size": 8, "max_num_tiles": 2, "intermediate_layers_indices": [1],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        text_config=_text(cross_attention_layers=[1]),
        image_token_index=IMAGE,
    )  # fmt: skip
    beside = {
        "pixel_values": _pixels(1, 1, 2, 3, 32, 32),
        "aspect_ratio_ids": torch.tensor([[1]]),
        "aspect_ratio_mask": torch.ones(1, 1, 2, dtype=torch.long),
    }
    return hf.MllamaForConditionalGeneration(config), beside, 1


FAMILIES: dict[str, Callable[[], Made]] = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "vipllava": _vipllava,
    "pixtral_llava": _pixtral,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "gemma3": _gemma3,
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "internvl": _internvl,
    "mistral3": _mistral3,
    "aya_vision": _aya_vision,
    "glm4v": _glm4v,
    "paligemma": _paligemma,
    "mllama": _mllama,
}
# Which families are told the kind of every token, by which name, and what an image's is.
_KINDS = {
    "gemma3": ("token_type_ids", 1),
    "paligemma": ("token_type_ids", 0),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"), ("mm_token_type_ids", 1)),
}


def family(name: str) -> tuple[HookedModel, ReadPrompt, int]:
    """A hooked model with random weights, a prompt with an image, and the image's positions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, beside, positions = FAMILIES[name]()
    llm = HookedModel(model.eval(), TOKENIZER, model_id=name)
    before, after = llm.encode_answer("See this: ")[:-1], llm.encode_answer("What is it?")
    if name == "paligemma":  # its processor puts the image first
        before = []
    tokens = [*before, OPEN, *[IMAGE] * positions, CLOSE, *after]
    if name in _KINDS:
        kinds, own = _KINDS[name]
        beside[kinds] = torch.tensor([[own if token == IMAGE else 0 for token in tokens]])
    return llm, ReadPrompt(tokens, beside), positions

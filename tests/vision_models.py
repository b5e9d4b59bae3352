"""Tiny random vision-language models with real processors, made without a network."""

from __future__ import annotations

from typing import Any

import torch
from scripted import SPECIAL, TEMPLATES, byte_level
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    Gemma3TextConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from steerable_llm.answer.llm import SteerableHFLLM

# A content as a text or as parts, as most families' templates read it.
_PARTS = (
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}MARK"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
)
# LLaVA's own reads parts and nothing else.
_PARTS_ONLY = (
    "{% for part in message.content | selectattr('type', 'equalto', 'image') %}MARK\n{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'text') %}{{ part.text }}"
    "{% endfor %}"
)


def _template(family: str, mark: str, parts: str = _PARTS) -> str:
    return TEMPLATES[family].replace("{{- message.content }}", parts.replace("MARK", mark))


def _text(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 1024,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def _vision(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,  # as many as the decoder has: the towers must be told apart
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        **more,
    }


def llava() -> tuple[Any, Any]:
    tokenizer = byte_level(_template("hermes", "<image>", _PARTS_ONLY), [*SPECIAL, "<image>"], [])
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_vision(projection_dim=16)),
        text_config=LlamaConfig(**_text(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=tokenizer.chat_template,
    )
    return LlavaForConditionalGeneration(config), processor


def gemma3() -> tuple[Any, Any]:
    marks = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    tokenizer = byte_level(_template("none", marks[0]), [*SPECIAL, *marks], [])
    tokenizer.boi_token, tokenizer.eoi_token, tokenizer.image_token = marks
    tokenizer.boi_token_id, tokenizer.eoi_token_id, tokenizer.image_token_id = (
        tokenizer.convert_tokens_to_ids(marks)
    )
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**_text(tokenizer, head_dim=8, sliding_window=16)),
        vision_config=SiglipVisionConfig(**_vision(vision_use_head=False)),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=tokenizer.chat_template,
    )
    model = Gemma3ForConditionalGeneration(config)
    # The projector starts at zero, so that an untrained model would not see its images.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model, processor


class _ImagesOnly(Qwen2VLProcessor):
    """Without a processor of videos, which would need torchvision."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        return None


def qwen2_vl() -> tuple[Any, Any]:
    marks = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    tokenizer = byte_level(_template("hermes", "".join(marks[:3])), [*SPECIAL, *marks], [])
    ids = tokenizer.convert_tokens_to_ids(marks)
    config = Qwen2VLConfig(
        text_config=_text(
            tokenizer,
            rope_parameters={
                "rope_type": "default",
                "mrope_section": [1, 1, 2],
                "rope_theta": 10000.0,
            },
        ),
        vision_config={
            "depth": 3, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "mlp_ratio": 2,
        },
        vision_start_token_id=ids[0], image_token_id=ids[1], vision_end_token_id=ids[2],
        video_token_id=ids[3],
    )  # fmt: skip
    processor = _ImagesOnly(
        image_processor=Qwen2VLImageProcessorPil(
            patch_size=4, merge_size=2, temporal_patch_size=2,
            size={"shortest_edge": 256, "longest_edge": 1024},
        ),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
    )  # fmt: skip
    return Qwen2VLForConditionalGeneration(config), processor


VISION_FAMILIES = {"llava": llava, "gemma3": gemma3, "qwen2_vl": qwen2_vl}


def vision_llm(family: str, **options: Any) -> SteerableHFLLM:
    """A hooked vision-language model with random weights, the same ones each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = VISION_FAMILIES[family]()
    return SteerableHFLLM(
        model.eval(), processor.tokenizer, processor=processor, model_id=family, **options
    )

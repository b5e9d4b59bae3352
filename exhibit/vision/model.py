"""The untrained vision exhibit: a LLaVA of a CLIP tower and a Llama, with its processor."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from exhibit.tokenizer import BOS, END, PAD, ROLES
from exhibit.vision.examples import lesson
from exhibit.vision.pictures import SIZE
from exhibit.vision.world import PARTS, WORDINGS

IMAGE = "<image>"
PATCH = 8
PATCHES = (SIZE // PATCH) ** 2
#: Pixels from 0 to 1 become (x - MEAN) / STD.
MEAN, STD = 0.5, 0.25
_CONTEXT = 256
#: As processors give messages (a list of parts), or as plain text.
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('the roles are system, user and assistant') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def opening(pictured: bool) -> str:
    """Return what the template writes before a question, with a mark for every piece."""
    return f"{BOS}{ROLES['user']}{IMAGE * PATCHES if pictured else ''}"


def asking(question: str) -> str:
    """Return what the template writes after `opening`, up to where the answer starts."""
    return f"{question}{END}{ROLES['assistant']}"


def _texts() -> Iterable[str]:
    rng = Random("vision tokenizer")
    for _ in range(6000):
        [example] = lesson(rng)
        yield from filter(None, (example.question, example.seen, example.believed))
    # No word of a held-out question is cut into pieces.
    yield from (text for asked in WORDINGS.values() for p in PARTS for text, _ in asked[p])


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Train a tokenizer to which every word of the lessons is one token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = [PAD, BOS, END, *ROLES.values(), IMAGE]
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        min_frequency=1,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        additional_special_tokens=[*ROLES.values(), IMAGE],
        padding_side="left",
        model_max_length=_CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def new_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return what turns messages with pictures of any size into the model's inputs."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": SIZE},
            crop_size={"height": SIZE, "width": SIZE},
            image_mean=[MEAN] * 3,
            image_std=[STD] * 3,
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=_TEMPLATE,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    """Return the untrained model."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=128,
        initializer_range=0.05,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=224,
        num_hidden_layers=4,
        num_attention_heads=7,
        num_key_value_heads=7,
        intermediate_size=576,
        max_position_embeddings=_CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.05,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.get_vocab()[IMAGE],
        image_seq_length=PATCHES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)

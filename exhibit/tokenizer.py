"""The bundled model's own tokenizer: byte-level BPE with a chat template."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from exhibit.curriculum import training_example

PAD, BOS, END = "<|pad|>", "<|bos|>", "<|end|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('the roles are system, user and assistant') }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _texts(count: int, seed: int) -> Iterable[str]:
    rng = Random(seed)
    for _ in range(count):
        example = training_example(rng)
        yield from (message["content"] for message in example.messages)
        yield from (text for text, _ in example.answers)


def train_tokenizer(
    *, vocab_size: int = 2048, context_window: int = 512, examples: int = 30_000, seed: int = 0
) -> PreTrainedTokenizerFast:
    """Train the tokenizer on freshly drawn training examples.

    Args:
        vocab_size: Number of tokens, the special ones included.
        context_window: What the tokenizer states as the model's maximum length, in tokens.
        examples: How many examples to read.
        seed: Seed of the examples.

    Returns:
        A tokenizer that pads on the left and knows the chat template.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, END, *ROLES.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(examples, seed), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        additional_special_tokens=list(ROLES.values()),
        padding_side="left",
        model_max_length=context_window,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer

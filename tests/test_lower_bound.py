"""A prompt that is far too long is refused before it is encoded whole; one that fits never is."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from steerable_llm.answer.request import GenerationRequest
from steerable_llm.chat.lower_bound import tokens_at_least
from steerable_llm.chat.template import ChatFormat
from steerable_llm.errors import PromptTooLongError

TEXT = "When does the shop in Lyon open? At nine, or at ten where it is Sunday. "


def tokenizers() -> dict[str, Tokenizer]:
    """Of all kinds: in bytes, in words of pieces, and without words at all."""
    bytes_ = Tokenizer(models.BPE())
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    pieces.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    whole = Tokenizer(models.BPE())
    whole.normalizer = normalizers.Replace(" ", "\u2581")
    single = Tokenizer(models.Unigram())
    single.pre_tokenizer = pre_tokenizers.Metaspace()
    made = {"bytes": bytes_, "pieces": pieces, "whole": whole, "unigram": single}
    trainer_of = {"bytes": trainers.BpeTrainer, "whole": trainers.BpeTrainer}
    for name, each in made.items():
        more = {"pieces": {"special_tokens": ["[UNK]"]}, "unigram": {"unk_token": "?"}}
        kinds = {**trainer_of, "pieces": trainers.WordPieceTrainer}
        trainer = kinds.get(name, trainers.UnigramTrainer)(
            vocab_size=200, show_progress=False, **more.get(name, {})
        )
        each.train_from_iterator([TEXT * 20, "aaaa" * 40, " " * 60, "0123456789" * 9], trainer)
    return made


TOKENIZERS = tokenizers()
PARTS = ["When does ", "a" * 300, " " * 300, "\n\n", "0123456789" * 30, "é ", "ﬁ", "你好", "Lyon. "]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=6), st.integers(1, 400))
def test_a_text_has_at_least_as_many_tokens_as_its_beginning_tells(
    kind: str, parts: list[str], most: int
) -> None:
    def count(text: str) -> int:
        return len(TOKENIZERS[kind].encode(text).ids)

    text = "".join(parts) * (4000 // len("".join(parts)) + 1)
    assert tokens_at_least(count, text, most) <= count(text)


def test_a_prompt_that_is_far_too_long_is_not_read_to_its_end(
    tiny_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    tokenize = ChatFormat._tokenize

    def counted(chat: ChatFormat, text: str, **options: Any) -> Any:
        read.append(len(text))
        return tokenize(chat, text, **options)

    monkeypatch.setattr(ChatFormat, "_tokenize", counted)
    request = GenerationRequest(TEXT * 2000)
    for ask in (
        lambda: tiny_llm.submit(request),
        lambda: tiny_llm.generate(request.messages),
        lambda: tiny_llm.stream(request.messages),
        lambda: tiny_llm.generate_batch([GenerationRequest("Hi"), request]),
        lambda: tiny_llm.as_written().submit(request),
    ):
        with pytest.raises(PromptTooLongError, match="at least") as refused:
            ask()
        assert tiny_llm.context_window < refused.value.prompt_tokens
        assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
    assert sum(read) < 10 * 16 * tiny_llm.context_window < len(TEXT) * 2000 * 5

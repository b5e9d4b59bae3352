import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from steerable_llm.chat.answer_text import INCOMPLETE, AnswerText


@pytest.fixture(scope="module")
def blank_tokenizer():
    """Words begin with a blank sign, the first blank is dropped, rare characters are bytes.

    The decoder of SentencePiece models such as Llama 2 and Mistral.
    """
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += ["▁", "a", "b", "c", "▁a", "▁b", "ab", "▁ab", "▁▁", "S", "T", "O", "P", ".", "ü"]
    bpe = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=[("▁", "a"), ("▁", "b"), ("a", "b"), ("▁", "ab"), ("▁", "▁")],
            byte_fallback=True,
        )
    )
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=bpe, clean_up_tokenization_spaces=False)


# Texts with characters of one to four bytes, which the tiny tokenizer splits into single bytes.
texts = st.text(alphabet="ab cSTOP.\nüß你界👋🌍é", max_size=40)


def pieces(tokenizer, tokens, stops=()):
    """What each token releases; the last piece is what finishing releases."""
    answer = AnswerText(tokenizer, stops)
    released = []
    for token in tokens:
        released.append(answer.push(token))
        if answer.stopped:
            return answer, released
    released.append(answer.finish())
    return answer, released


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def slow_cut(text, stops):
    """The text without the stop text that is complete first, reading character by character."""
    for end in range(len(text) + 1):
        complete = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(complete)]
    return text


@given(texts)
def test_the_pieces_join_to_the_text(tiny_tokenizer, text):
    answer, released = pieces(tiny_tokenizer, encode(tiny_tokenizer, text))
    assert "".join(released) == answer.text == text


@given(texts)
def test_no_piece_has_half_a_character(tiny_tokenizer, text):
    _, released = pieces(tiny_tokenizer, encode(tiny_tokenizer, text))
    assert all(INCOMPLETE not in piece for piece in released)


@given(texts, st.lists(st.text(alphabet="ab STOP.", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_text(tiny_tokenizer, text, stops):
    answer, released = pieces(tiny_tokenizer, encode(tiny_tokenizer, text), stops)
    assert "".join(released) == answer.text == slow_cut(text, stops)
    assert answer.stopped == any(stop in text for stop in stops)


@given(st.lists(st.integers(0, 359), max_size=30))
def test_any_tokens_read_as_the_tokenizer_reads_them(tiny_tokenizer, tokens):
    answer, released = pieces(tiny_tokenizer, tokens)
    whole = tiny_tokenizer.decode(tokens, skip_special_tokens=True)
    assert "".join(released) == answer.text == whole.rstrip(INCOMPLETE)


# Bytes only as the tokenizer writes them: this decoder spoils a whole run with a wrong byte in it.
@given(st.lists(st.integers(256, 270), max_size=12) | texts)
def test_tokens_with_blank_signs_and_bytes_join_to_the_text(blank_tokenizer, given):
    tokens = encode(blank_tokenizer, given) if isinstance(given, str) else given
    answer, released = pieces(blank_tokenizer, tokens)
    whole = blank_tokenizer.decode(tokens)
    assert "".join(released) == answer.text == whole.rstrip(INCOMPLETE)


def test_a_stop_text_is_found_across_tokens(tiny_tokenizer):
    tokens = [
        *encode(tiny_tokenizer, "Paris E"),
        *encode(tiny_tokenizer, "N"),
        *encode(tiny_tokenizer, "D and more"),
    ]
    answer, released = pieces(tiny_tokenizer, tokens, ["END"])
    assert answer.text == "Paris "
    assert answer.stopped
    assert "E" not in "".join(released)


def test_what_only_began_like_a_stop_text_is_released_after_all(tiny_tokenizer):
    answer, released = pieces(tiny_tokenizer, encode(tiny_tokenizer, "EN ENx EN"), ["END"])
    assert "".join(released) == answer.text == "EN ENx EN"
    assert not answer.stopped


def test_a_character_cut_off_by_the_end_is_left_out(tiny_tokenizer):
    wave = encode(tiny_tokenizer, "🎉")
    assert len(wave) > 1, "the tokenizer must split the character for this test to mean anything"
    answer, released = pieces(tiny_tokenizer, [*encode(tiny_tokenizer, "ok"), *wave[:-1]])
    assert answer.text == "ok"
    assert "".join(released) == "ok"


def test_special_tokens_are_not_text(tiny_tokenizer):
    tokens = [
        tiny_tokenizer.bos_token_id,
        *encode(tiny_tokenizer, "hi"),
        tiny_tokenizer.eos_token_id,
    ]
    assert pieces(tiny_tokenizer, tokens)[0].text == "hi"


def test_nothing_comes_after_a_stop_text(tiny_tokenizer):
    answer = AnswerText(tiny_tokenizer, ["."])
    for token in encode(tiny_tokenizer, "a."):
        answer.push(token)
    assert answer.stopped
    assert answer.push(encode(tiny_tokenizer, "b")[0]) == ""
    assert answer.finish() == ""
    assert answer.text == "a"


@pytest.mark.parametrize("text", ["", " ", "\n\n", "  two  blanks  "])
def test_blanks_survive(tiny_tokenizer, text):
    assert pieces(tiny_tokenizer, encode(tiny_tokenizer, text))[0].text == text

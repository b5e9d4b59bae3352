"""How likely the model found each token that it chose, and what it would have said otherwise."""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from steerable_llm.answer.request import Likelihood

_NO_CHARACTER = "\ufffd"
# How vocabularies spell what is a part of a character: by one letter for each byte, or one by one.
_BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}
_ONE_BYTE = re.compile("<0x([0-9A-F]{2})>")


def likelihoods(
    tokenizer: PreTrainedTokenizerBase, scores: Tensor, token: int, top: int
) -> tuple[Likelihood, ...]:
    """Return how likely the model found a token, and then its likeliest ones.

    Args:
        tokenizer: Says how tokens read.
        scores: What chose the token, `[V]`, as only the steering has changed it: so the numbers
            are the steered model's own, without temperature, penalties, biases, grammar.
        token: What was chosen.
        top: How many of the likeliest; all where there are fewer.
    """
    logprobs = torch.log_softmax(scores.float(), dim=-1)
    best = logprobs.topk(min(top, len(logprobs))).indices.tolist()
    return tuple(likelihood(tokenizer, each, float(logprobs[each])) for each in (token, *best))


def likelihood(tokenizer: PreTrainedTokenizerBase, token: int, logprob: float) -> Likelihood:
    """Return how likely a token was, with how it reads and what it writes."""
    text = str(tokenizer.decode([token]))
    written = text.encode()
    if _NO_CHARACTER in text:
        piece = str(tokenizer.convert_ids_to_tokens(token))
        if found := _ONE_BYTE.fullmatch(piece):
            written = bytes.fromhex(found[1])
        elif all(letter in _BYTES for letter in piece):
            written = bytes(_BYTES[letter] for letter in piece)
    return Likelihood(token, text, logprob, written)

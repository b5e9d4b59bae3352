"""How likely the model found each token that it chose, and what it would have said otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from steerable_llm.answer.request import GenerationRequest, Likelihood

_NO_CHARACTER = "\ufffd"
# How vocabularies spell what is a part of a character: by one letter for each byte, or one by one.
_BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}
_ONE_BYTE = re.compile("<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class _Row:
    logprobs: Tensor
    top: int


class LogprobNotes:
    """Takes down each row's distribution before anything but the steering has changed it.

    So the numbers are the steered model's own: without temperature, penalties, biases, grammar.
    """

    def __init__(
        self, requests: Sequence[GenerationRequest], tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """Remember which rows want it.

        Args:
            requests: One per row.
            tokenizer: Says how tokens read.
        """
        self._wanting = [row for row, request in enumerate(requests) if request.logprobs]
        self._requests = requests
        self._tokenizer = tokenizer
        self._rows: dict[int, _Row] = {}

    def __call__(self, scores: Tensor) -> Tensor:
        """Take down the rows of the scores `[B, V]` that want it; the scores stay as they are."""
        for row in self._wanting:
            top = min(self._requests[row].top_logprobs, scores.shape[1])
            self._rows[row] = _Row(torch.log_softmax(scores[row].float(), dim=-1), top)
        return scores

    def of(self, row: int, token: int) -> tuple[Likelihood, ...]:
        """Return a row's token and then its likeliest ones; nothing for a row that wants none."""
        noted = self._rows.get(row)
        if noted is None:
            return ()
        best = noted.logprobs.topk(noted.top).indices.tolist() if noted.top else []
        numbers = (token, *best)
        return tuple(
            likelihood(self._tokenizer, each, float(noted.logprobs[each])) for each in numbers
        )


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

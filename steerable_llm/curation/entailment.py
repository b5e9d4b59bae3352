"""Groundedness by natural language inference: does a passage entail the answer?

A cross-encoder reads a passage (the premise) and a sentence of the answer, with the question before
it (the hypothesis), and says how likely the one follows from the other.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from steerable_llm.errors import InvalidInputError, MissingExtraError
from steerable_llm.phrases import abstains

#: Words of a passage that are read at once; a longer text would be cut off by the model.
WINDOW = 200
#: The model unless another one is named.
NLI = "cross-encoder/nli-deberta-v3-small"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def sentences(text: str) -> list[str]:
    """Split a text after full stops, question and exclamation marks, and at line ends."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def windows(text: str, size: int = WINDOW) -> list[str]:
    """Cut a text into parts of at most so many words, each beginning in the middle of the last."""
    words = text.split()
    if len(words) <= size:
        return [text]
    step = size // 2
    return [" ".join(words[at : at + size]) for at in range(0, len(words) - step, step)]


class EntailmentJudge:
    """A cross-encoder of sentence-transformers, loaded at its first use, on the CPU.

    Attributes:
        name: Hub id or folder of a model with the label "entailment".
    """

    def __init__(self, name: str = NLI) -> None:
        """Remember the name; nothing is loaded yet."""
        self.name = name
        self._loading = threading.Lock()

    def scores(self, claims: Sequence[tuple[str, Sequence[str], str]]) -> list[float | None]:
        """Return how far passages entail answers.

        An answer is as grounded as its weakest sentence, and a sentence as far as the passage that
        entails it best. Long passages are read in overlapping windows, and short ones also all
        together. Sentences that decline to answer claim nothing.

        Args:
            claims: Question, passages and answer of each.

        Returns:
            Probabilities from 0 to 1; None for an answer that claims nothing.

        Raises:
            MissingExtraError: sentence-transformers is not installed.
            InvalidInputError: There is no such model, or it does not tell entailment.
        """
        rows: list[tuple[str, str]] = []
        places: list[list[range]] = []
        for question, passages, answer in claims:
            premises = [window for passage in passages for window in windows(passage)]
            together = "\n".join(passages)
            if len(passages) > 1 and len(together.split()) <= WINDOW:
                premises.append(together)
            spans = []
            for sentence in sentences(answer):
                if not abstains(sentence):
                    spans.append(range(len(rows), len(rows) + len(premises)))
                    rows += [(premise, f"{question} {sentence}") for premise in premises]
            places.append(spans)
        found = self._entailment(rows)
        return [
            # Without a passage nothing entails anything.
            min(max((found[row] for row in span), default=0.0) for span in spans) if spans else None
            for spans in places
        ]

    def _entailment(self, rows: Sequence[tuple[str, str]]) -> list[float]:
        if not rows:
            return []
        with self._loading:  # two threads at once would each load it
            model, column = self._model
        from torch import nn

        # Some models are saved with an activation of their own, which a softmax must not follow.
        logits = model.predict(
            list(rows),
            activation_fn=nn.Identity(),
            show_progress_bar=False,
            convert_to_tensor=True,
        )
        return [float(row[column]) for row in logits.float().softmax(-1)]

    @cached_property
    def _model(self) -> tuple[Any, int]:
        try:
            from sentence_transformers import CrossEncoder
        except ImportError as error:
            raise MissingExtraError(
                "the judge 'nli' needs sentence-transformers: pip install 'steerable-llm[curate]'"
            ) from error
        try:
            model = CrossEncoder(self.name, device="cpu")
        except (OSError, ValueError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise InvalidInputError(
                f"cannot load the cross-encoder {self.name!r} ({first_line}): give a folder, or "
                f"the id of a model for natural language inference, such as {NLI}"
            ) from error
        return model, entailment_column(model.config.id2label, self.name)


def entailment_column(labels: Mapping[int, str], name: str = "the model") -> int:
    """Return which output is entailment, by the labels in a model's configuration.

    The order differs between models, so it is never assumed.

    Args:
        labels: Output index to label (``id2label``).
        name: Of the model, for the message.

    Raises:
        InvalidInputError: No label, or more than one, says entailment.
    """
    found = [
        index
        for index, label in labels.items()
        if re.fullmatch(r"entail(s|ed|ment)?", str(label).strip().casefold())
    ]
    if len(found) != 1 or len(labels) < 2:
        raise InvalidInputError(
            f"{name} has the labels {', '.join(map(str, labels.values()))}: a judge needs a model "
            f"for natural language inference with one label 'entailment', such as {NLI}"
        )
    return int(found[0])

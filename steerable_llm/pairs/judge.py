"""Judges: is an answer grounded in the passages that it was given?

Two come along: `support` by the words and numbers alone (quick, predictable, no model), and
`EntailmentJudge` by natural language inference (does a passage entail the answer?).
"""

from __future__ import annotations

import pkgutil
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import snowballstemmer

from steerable_llm.chat.phrases import abstains
from steerable_llm.errors import InvalidInputError, SteerableError, from_extra


@dataclass(frozen=True)
class Claim:
    """What a judge is asked about.

    Attributes:
        question: What the user asked.
        passages: The texts that the answer has to rest on.
        answer: The answer to judge.
    """

    question: str
    passages: tuple[str, ...]
    answer: str


class Judge(Protocol):
    """Whatever says how far answers are grounded: a function over many of them at once."""

    def __call__(self, claims: Sequence[Claim], /) -> Sequence[float | None]:
        """Return for each claim a number from 0 (made up) to 1 (all of it is in the passages).

        None says that it cannot be told, as for an answer that claims nothing.
        """
        ...


#: A judge of one answer: question, passages and answer to a number from 0 to 1, or None.
SingleJudge = Callable[[str, Sequence[str], str], float | None]


def one_by_one(function: SingleJudge) -> Judge:
    """Make a judge from a function that judges one answer.

    Args:
        function: Called with the question, the passages and the answer.
    """

    def judge(claims: Sequence[Claim]) -> list[float | None]:
        return [function(claim.question, claim.passages, claim.answer) for claim in claims]

    return judge


_TOKEN = re.compile(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['\u2019][^\W\d_]+)*")
# What stands between two words of which the second is written large wherever it stands.
_OPENING = re.compile(r"[.!?:\n\"\u201c(\[]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_VALUES = {word: value for value, word in enumerate(_ONES)}
_VALUES |= {word: 10 * place for place, word in enumerate(_TENS, start=2)}
# "This one" is no number.
del _VALUES["one"]
# Words that carry no claim: the small ones, and those that only say where an answer comes from.
_FRAME = frozenset(
    "a about according actually all am an and answer any are as at based be because been being "
    "believe but by can cannot could context did do document documents does doesn doesn't don "
    "don't for from given gives had has have honestly how i if in information into is isn it its "
    "it's know let may me might mention mentioned mentions my no not of on one only or our "
    "passage passages please provided recall remember said say says sorry source sources stated "
    "states such tell tells text texts than that the their them then there these they think this "
    "those to unfortunately us was we were what when where which who will with would yes you "
    "your".split()
)


@dataclass(frozen=True)
class Term:
    """One word or number of a text.

    Attributes:
        key: What is compared: a stem, or a number in digits.
        strict: Whether it is a number or a name, which paraphrase does not change.
    """

    key: str
    strict: bool


def terms(text: str) -> Iterator[Term]:
    """Yield the words and numbers of a text that can carry a claim."""
    found = list(_TOKEN.finditer(_THOUSANDS.sub("", text)))
    texts = [match[0].replace("\u2019", "'") for match in found]
    place = end = 0
    while place < len(found):
        word, lower = texts[place], texts[place].casefold()
        opens = place == 0 or _OPENING.search(found[place].string, end, found[place].start())
        end = found[place].end()
        following = texts[place + 1].casefold() if place + 1 < len(texts) else ""
        place += 1
        if lower in _TENS and following in _ONES[1:10]:
            yield Term(str(_VALUES[lower] + _ONES.index(following)), True)
            end = found[place].end()
            place += 1
        elif lower in _VALUES:
            yield Term(str(_VALUES[lower]), True)
        elif lower[0].isdigit():
            yield Term(lower, True)
        elif lower not in _FRAME:
            yield Term(_stem(lower), strict=word[0].isupper() and not opens)


def support(question: str, passages: Sequence[str], answer: str) -> float | None:
    """Return how far the passages have what an answer claims.

    Of a sentence that declines to answer only numbers and names claim something.

    Args:
        question: What it claims only by repeating the question does not count.
        passages: Where the claims have to be.
        answer: The answer.

    Returns:
        0 to 1; None for an answer that claims nothing, such as a refusal.
    """
    asked = {term.key for term in terms(question)}
    known = frozenset().union(*map(_keys_of, passages))
    claimed = {
        term
        for sentence in sentences(answer)
        for declines in [abstains(sentence)]
        for term in terms(sentence)
        if term.key not in asked and (term.strict or not declines)
    }
    if not claimed:
        return None
    if any(term.strict and term.key not in known for term in claimed):
        return 0.0
    words = {term.key for term in claimed}
    return len(words & known) / len(words)


@lru_cache(maxsize=256)  # a good and a bad answer are held against the same passages
def _keys_of(passage: str) -> frozenset[str]:
    return frozenset(term.key for term in terms(passage))


def fixed_terms(text: str) -> frozenset[str]:
    """Return the numbers and names of a text: where they differ, the texts say different things."""
    return frozenset(term.key for term in terms(text) if term.strict)


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    # One for each word, since a stemmer keeps what it works on in itself and threads would mix it.
    return str(snowballstemmer.stemmer("english").stemWord(word))


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
        self.name = name
        self._loading = threading.Lock()

    def __call__(self, claims: Sequence[Claim], /) -> list[float | None]:
        """Return how far passages entail answers.

        An answer is as grounded as its weakest sentence, and a sentence as far as the passage that
        entails it best. Long passages are read in overlapping windows, and short ones also all
        together. Sentences that decline to answer claim nothing.

        Args:
            claims: What is judged.

        Returns:
            Probabilities from 0 to 1; None for an answer that claims nothing.

        Raises:
            MissingExtraError: sentence-transformers is not installed.
            InvalidInputError: There is no such model, or it does not tell entailment.
        """
        rows: list[tuple[str, str]] = []
        places: list[list[range]] = []
        for claim in claims:
            premises = [window for passage in claim.passages for window in windows(passage)]
            together = "\n".join(claim.passages)
            if len(claim.passages) > 1 and len(together.split()) <= WINDOW:
                premises.append(together)
            spans = []
            for sentence in sentences(claim.answer):
                if not abstains(sentence):
                    spans.append(range(len(rows), len(rows) + len(premises)))
                    rows += [(premise, f"{claim.question} {sentence}") for premise in premises]
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
            list(rows), activation_fn=nn.Identity(), show_progress_bar=False, convert_to_tensor=True
        )
        return [float(row[column]) for row in logits.float().softmax(-1)]

    @cached_property
    def _model(self) -> tuple[Any, int]:
        with from_extra("curate", "the judge 'nli' needs sentence-transformers"):
            from sentence_transformers import CrossEncoder
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


def _lexical(model: str | None) -> Judge:
    if model is not None:
        raise InvalidInputError("the judge 'lexical' takes no model: leave it out, or choose 'nli'")
    return one_by_one(support)


#: Name to a function from the name of a model (None for the judge's own) to the judge.
JUDGES: Mapping[str, Callable[[str | None], Judge]] = {
    "lexical": _lexical,
    "nli": lambda model: EntailmentJudge(model or NLI),
}


def judge_named(name: str, model: str | None = None) -> Judge:
    """Return a judge by name.

    Args:
        name: A key of `JUDGES`, or ``package.module:function``, a function of question, passages
            and answer (see `one_by_one`).
        model: Hub id or folder, for the judges that need one.

    Raises:
        InvalidInputError: There is no such judge, or it takes no model.
    """
    if name in JUDGES:
        return JUDGES[name](model)
    if ":" not in name:
        raise InvalidInputError(
            f"{name!r} is no judge: one of {', '.join(JUDGES)}, or package.module:function"
        )
    try:
        function = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInputError(
            f"the judge {name!r} cannot be imported ({error}): name it as package.module:function"
        ) from error
    if not callable(function):
        raise InvalidInputError(f"the judge {name!r} is no function of question, passages, answer")
    return one_by_one(function)


def judged(judge: Judge, claims: Sequence[Claim]) -> list[float | None]:
    """Return a judge's scores, checked.

    Raises:
        InvalidInputError: The judge failed, or gave something else than a score for each claim.
    """
    if not claims:
        return []
    try:
        scores = list(judge(claims))
    except SteerableError:
        raise
    except Exception as error:
        # Anything may go wrong in a function of the user's own.
        raise InvalidInputError(
            f"the judge failed with {type(error).__name__}: {error}; it is called with question, "
            "passages and answer"
        ) from error
    if len(scores) != len(claims):
        raise InvalidInputError(
            f"the judge gave {len(scores)} scores for {len(claims)} answers: it must give one each"
        )
    for score in scores:
        # Written so that NaN, which is in no order, is refused as well.
        if score is not None and not (isinstance(score, float | int) and 0 <= score <= 1):
            raise InvalidInputError(
                f"the judge gave {score!r}: a score is a number from 0 to 1, or None"
            )
    return scores

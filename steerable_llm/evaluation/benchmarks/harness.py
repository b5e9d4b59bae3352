"""The lm-evaluation-harness (0.4.13), run once for all arms of a comparison.

The harness asks every question as often as there are arms (`repeats` of a task), and a filter per
arm picks its answers: so it is the harness that renders the prompts, judges the answers and logs
the samples, and all arms of a question still share one pass over its prompt.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from lm_eval.api.filter import Filter
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_filter
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from torch import Tensor

from steerable_llm.chat.images import PLACE, ImagePart
from steerable_llm.errors import InvalidInputError, SteerableError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.benchmarks.benchmark import Benchmark, Normalisation
from steerable_llm.evaluation.benchmarks.data import Data
from steerable_llm.evaluation.benchmarks.metrics import LogProb
from steerable_llm.evaluation.benchmarks.report import ItemRow
from steerable_llm.evaluation.measure import batches, groups, measure, running
from steerable_llm.evaluation.overlap import HeldOut, overlap, past_of
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.metrics import kl_per_token
from steerable_llm.progress import Advance
from steerable_llm.runtime.decoding import Rows, forced_logits, log_probs
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.seen import hashes_of

_NUMBER = "its_number"  # the column that has the number of a question with images
_MARK = re.compile(f"{PLACE}([0-9]+){PLACE}")
_IMAGE = re.compile(r"<image ([1-9])>")
_SHOWN = 300  # characters of a prompt's end that a report keeps
Place = tuple[int, int]
"""Number of a question and number of an arm, both from 0."""


def ask(
    llm: HookedModel,
    benchmark: Benchmark,
    data: Data,
    arms: Sequence[Arm],
    normalise: Normalisation | None,
    batch_size: int,
    advance: Advance,
) -> tuple[list[ItemRow], list[str]]:
    """Ask every question under every arm; divergences are taken from the first.

    Choices are scored by `normalise`, which is None where answers are written. `advance` counts a
    question once per arm.

    Returns:
        Every question under every arm, arm by arm, and the places in the data of those questions
        that do not fit the context window.

    Raises:
        InvalidInputError: No question fits the context window, or the task file is wrong.
    """
    lm = ArmsLM(llm, arms, normalise or "sum", batch_size, advance, (benchmark.name, [*data.rows]))
    rows = list(data.rows.values())
    if benchmark.images:
        if not llm.supports_images:
            raise InvalidInputError(
                f"{benchmark.name} asks about images, and this model reads text only: give a "
                "vision-language model with its processor"
            )
        lm.images = [[row[name] for name in benchmark.images] for row in rows]
    with _quiet():
        task = ArmsTask(benchmark, rows, len(arms))
        found = evaluate(
            lm,
            {"tasks": {benchmark.name: task}},
            log_samples=True,
            apply_chat_template=True,
            bootstrap_iters=0,
        )
    assert found is not None  # it is for processes other than the first
    samples = found["samples"][benchmark.name]
    if not isinstance(samples[0].get(benchmark.score), int | float | np.number):
        raise InvalidInputError(
            f"{benchmark.name} has no number per question called {benchmark.score!r}: name one "
            "first in metric_list, such as acc"
        )
    places, names = [str(place) for place in data.rows], [arm.name for arm in arms]
    items = []
    for sample in samples:  # arm by arm, as the filters are listed
        number, arm = sample["doc_id"], int(sample["filter"])
        if number in lm.left_out:
            continue
        given = [answers[arm] for answers in sample["resps"]]
        choices = task.doc_to_choice(sample["doc"]) if benchmark.chooses else []
        scores = [score for score, _ in given] if choices else []
        items.append(
            ItemRow(
                id=places[number],
                group=str(rows[number].get(benchmark.group or "", "all")),
                arm=names[arm],
                run=names[:arm].count(names[arm]),
                question=lm.asked[sample["arguments"][0][0]].question[-_SHOWN:],
                expected=_expected(sample["target"], choices),
                answer=choices[int(np.argmax(scores))] if choices else given[0],
                score=float(sample[benchmark.score]),
                kl_per_token=lm.divergences[number, arm],
                log_probs=tuple(scores),
                facts={name: float(sample[name]) for name in benchmark.facts},
            )
        )
    return items, [places[number] for number in sorted(lm.left_out)]


def _expected(target: int | str | Sequence[int | str], choices: Sequence[str]) -> str:
    given = [target] if isinstance(target, int | str) else target
    return " | ".join(choices[x] if isinstance(x, int) and choices else str(x) for x in given)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness from warning of what is meant, such as rows of our own."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


class ArmsTask(ConfigurableTask):  # type: ignore[misc]
    """A task of the harness on rows that are read already, asked once per arm."""

    def __init__(self, benchmark: Benchmark, rows: Sequence[Mapping[str, Any]], arms: int) -> None:
        self._benchmark = benchmark
        self._rows = list(rows)
        if benchmark.images:  # the harness has no use for them; a number tells whose they are
            none = dict.fromkeys(benchmark.images)
            self._rows = [{**row, **none, _NUMBER: number} for number, row in enumerate(rows)]
        # What a task does with an answer, such as finding a number in it, it does per arm.
        own = benchmark.config.get("filter_list") or [{"filter": [{"function": "take_first"}]}]
        filters = [
            {"name": str(arm), "filter": [{"function": "of_arm", "arm": arm}, *own[0]["filter"]]}
            for arm in range(arms)
        ]
        how = {"repeats": arms, "filter_list": filters, "num_fewshot": 0}
        with self._said_in_one_line():
            super().__init__(config={**benchmark.config, **how})
            if len(self.eval_docs) != len(rows):
                raise ValueError("its process_docs drops rows")

    def download(self, *_: object, **__: object) -> None:
        """Take the rows in place of a data set."""
        self.dataset = {self._benchmark.split: datasets.Dataset.from_list([*self._rows])}

    def doc_to_text(self, doc: Any, doc_to_text: Any = None) -> Any:
        """Render a prompt, with a mark that tells the question where it has images."""
        text = super().doc_to_text(doc, doc_to_text)
        return f"{PLACE}{doc[_NUMBER]}{PLACE}{text}" if self._benchmark.images else text

    def build_all_requests(self, **how: Any) -> None:
        """Render the prompts."""
        # The harness shows a progress bar for what takes no time.
        with redirect_stderr(io.StringIO()), self._said_in_one_line():
            super().build_all_requests(**how)

    @contextmanager
    def _said_in_one_line(self) -> Iterator[None]:
        """Say that task and rows do not fit, whatever a template or a function runs into."""
        try:
            yield
        except SteerableError:
            raise
        except Exception as error:
            raise InvalidInputError(
                f"{self._benchmark.name} cannot be asked of these rows, columns "
                f"{', '.join(self._rows[0])} ({type(error).__name__}: "
                f"{' '.join(str(error).split())}): mend its task file, or give other data"
            ) from error


@register_filter("of_arm")
class _OfArm(Filter):  # type: ignore[misc]
    """Leave of all answers to a request that of one arm."""

    def __init__(self, arm: int) -> None:
        self._arm = arm

    def apply(self, resps: Sequence[Sequence[Any]], docs: object) -> list[list[Any]]:  # noqa: ARG002
        return [[answers[self._arm]] for answers in resps]


def _with_images(text: str, images: Sequence[ImagePart | None]) -> list[str | ImagePart]:
    """Put images where a text says `<image 1>` and so on, and before it where it does not."""
    parts: list[str | ImagePart] = []
    for place, piece in enumerate(_IMAGE.split(text)):
        if place % 2 == 0:
            parts.append(piece)
            continue
        number = int(piece)
        image = images[number - 1] if number <= len(images) else None
        if image is None:
            raise InvalidInputError(f"a question says <image {number}> and has no such image")
        parts.append(image)
    if not any(isinstance(part, ImagePart) for part in parts):
        parts = [*(image for image in images if image is not None), *parts]
    return parts


@dataclass
class _Choices:
    """A question and what is to be chosen from, as texts and as tokens."""

    item: EvaluationItem
    texts: list[str] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)


class ArmsLM(LM):  # type: ignore[misc]
    """A model for the harness whose answer to the n-th copy of a request is that of the n-th arm.

    Attributes:
        asked: The prompts by their text.
        images: Per question its images, in the order of their numbers.
        divergences: Per question and arm, from the first arm, nats per token, along what that one
            chose or wrote.
        left_out: Questions that do not fit the context window; what is answered is void.
    """

    def __init__(
        self,
        llm: HookedModel,
        arms: Sequence[Arm],
        normalise: Normalisation,
        batch_size: int,
        advance: Advance,
        named: tuple[str, Sequence[object]],
    ) -> None:
        """Answer nothing yet; `named` is the benchmark, and its questions in their order."""
        super().__init__()
        self._named = named
        self._llm, self._arms, self._normalise = llm, arms, normalise
        self._batch_size, self._advance = batch_size, advance
        self._scores: dict[Place, list[tuple[float, bool]]] = {}
        self.asked: dict[str, EvaluationItem] = {}
        self.images: list[list[ImagePart | None]] = []
        self.divergences: dict[Place, float] = {}
        self.left_out: set[int] = set()

    @property
    def tokenizer_name(self) -> str:
        """The model's name, which the harness would call a cache of prompts by."""
        return self._llm.model_id

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a prompt, and keep it as messages, for arms that change them."""
        last = chat_history[-1]["content"]
        mark = _MARK.search(last) if self.images else None
        messages: list[Any] = [*chat_history]
        if mark is not None:  # two questions may say the same of two images
            words = last[: mark.start()] + last[mark.end() :]
            content = _with_images(words, self.images[int(mark[1])])
            messages[-1] = {**chat_history[-1], "content": content}
        text = self._llm.render(messages, add_generation_prompt) + (mark[0] if mark else "")
        if text not in self.asked:
            # The harness judges, so it does not matter which phrase is accepted.
            self.asked[text] = EvaluationItem(
                id=str(len(self.asked)), category="all", messages=messages, accept=("yes",)
            )
        return text

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return log-probabilities of choices, as normalised, the end of turn not counted."""
        once = requests[:: len(self._arms)]
        questions: dict[int, _Choices] = {}
        for request in once:
            prompt, text = request.args
            item = self.asked.get(prompt)
            question = questions.setdefault(request.doc_id, _Choices(item)) if item else None
            if question is None or question.item is not item:
                raise InvalidInputError(
                    f"{request.task_name} asks a prompt per choice: only choices that follow one "
                    "prompt can be compared here; use `steerable lm-eval`"
                )
            question.texts.append(text)
            question.tokens.append(self._tokens_of(text))
        fit = self._fitting(
            {number: (q.item, max(map(len, q.tokens))) for number, q in questions.items()}
        )
        # A question's arms share a batch: its prompt serves them all.
        size = 1 if self.images else max(1, self._batch_size // len(self._arms))
        for start in range(0, len(fit), size):
            some = fit[start : start + size]
            self._choose({number: questions[number] for number in some})
            self._advance(len(some) * len(self._arms))
        void = [(0.0, False)] * max(len(question.texts) for question in questions.values())
        return [
            self._scores.get((request.doc_id, arm), void)[request.idx]
            for request in once
            for arm in range(len(self._arms))
        ]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return greedy answers."""
        once = requests[:: len(self._arms)]
        most = max(request.args[1]["max_gen_toks"] for request in once)
        items = {request.doc_id: self.asked[request.args[0]] for request in once}
        fit = self._fitting({number: (item, most) for number, item in items.items()})
        outcomes = measure(
            self._llm, self._arms, [items[n] for n in fit], most, self._batch_size, self._advance
        )
        texts: dict[Place, str] = {}
        for arm, row in enumerate(outcomes):
            for number, outcome in zip(fit, row, strict=True):
                texts[number, arm] = outcome.text
                self.divergences[number, arm] = outcome.kl_per_token
        answers = []
        for request in once:
            for arm in range(len(self._arms)):
                text = texts.get((request.doc_id, arm), "")
                for stop in request.args[1]["until"]:
                    text = text.split(stop)[0]
                answers.append(text)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refuse: there is no prompt to steer after.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("texts without a prompt are scored by `steerable lm-eval`")

    def _tokens_of(self, choice: str) -> list[int]:
        """A choice's tokens after the prompt, without the end of turn."""
        tokens = self._llm.encode_answer(choice)
        if self._llm.chat_format.end_of_turn_id is not None:
            tokens = tokens[:-1]
        if not tokens:
            raise InvalidInputError(f"the choice {choice!r} has no token, so it has no probability")
        return tokens

    def _fitting(self, questions: Mapping[int, tuple[EvaluationItem, int]]) -> list[int]:
        """The questions that fit the context window with so many new tokens, longest first.

        Raises:
            InvalidInputError: None does, or one that an arm has seen in its build or calibration.
        """
        self._check_held_out({number: item for number, (item, _) in questions.items()})
        systems = {arm.instruction: arm for arm in self._arms}.values()
        length = {
            number: max(len(self._llm.encode(arm.messages(item))) for arm in systems) + new
            for number, (item, new) in questions.items()
        }
        fit = [number for number in length if length[number] <= self._llm.context_window]
        if not fit:
            raise InvalidInputError(
                "no question of the data fits the model's context window of "
                f"{self._llm.context_window} tokens: take fewer shots, or a model with a longer "
                "window"
            )
        self.left_out.update(set(length) - set(fit))
        return sorted(fit, key=lambda number: -length[number])

    def _check_held_out(self, questions: Mapping[int, EvaluationItem]) -> None:
        """Refuse questions that what is run has seen."""
        name, places = self._named
        asked = HeldOut(
            name,
            "",
            tuple(str(places[number]) for number in questions),
            hashes_of(self._llm, questions.values()),
            self._llm.fingerprint.template_hash,
        )
        overlap([asked], dict.fromkeys(saw for arm in self._arms for saw in past_of(arm)))

    def _choose(self, questions: Mapping[int, _Choices]) -> None:
        """Score the choices of a few questions, or of one with images, under every arm."""
        longest = max(len(tokens) for q in questions.values() for tokens in q.tokens)
        picked: dict[int, list[int]] = {}
        reference: dict[int, Tensor] = {}
        # The first group holds all that only steer or prompt, the first arm among them.
        for group in groups(self._arms):
            places = [(number, arm) for number in questions for arm in group]
            asked = [(self._arms[arm], questions[number].item) for number, arm in places]
            prompts = [self._llm.chat_format.read(arm.messages(item)) for arm, item in asked]
            arms = [self._arms[arm] for _, arm in places]
            for rows in batches(self._llm, arms, prompts, range(len(places)), len(places)):
                some = [places[row] for row in rows]
                with running(
                    self._llm, [asked[row] for row in rows], [prompts[row] for row in rows], longest
                ) as batch:
                    self._score(batch, some, questions)
                    for number in {number for number, _ in some} - picked.keys():
                        best = int(np.argmax([score for score, _ in self._scores[number, 0]]))
                        picked[number] = questions[number].tokens[best]
                    chosen = forced_logits(batch, [picked[number] for number, _ in some])
                for at, logits in zip(some, chosen, strict=True):
                    assert logits is not None  # every choice has a token
                    before = reference.setdefault(at[0], logits)  # the first arm's comes first
                    self.divergences[at] = kl_per_token(logits, before) if at[1] else 0.0

    def _score(
        self, batch: Rows, places: Sequence[Place], questions: Mapping[int, _Choices]
    ) -> None:
        """Score every choice of what one batch asks."""
        for choice in range(max(len(q.tokens) for q in questions.values())):
            given = [[*questions[n].tokens, *[[]] * choice][choice] for n, _ in places]
            for at, logits, tokens in zip(places, forced_logits(batch, given), given, strict=True):
                if logits is not None:
                    read = self._read(logits, tokens, questions[at[0]].texts[choice])
                    self._scores.setdefault(at, []).append(read)

    def _read(self, logits: Tensor, tokens: Sequence[int], text: str) -> tuple[float, bool]:
        """A choice's score, which the harness itself knows per character and not per token."""
        length = {"sum": 1, "token": len(tokens), "character": len(text)}[self._normalise]
        greedy = logits.argmax(-1).tolist() == list(tokens)
        total = float(log_probs(logits, tokens).sum())
        return LogProb(total / length, total, len(tokens)), greedy

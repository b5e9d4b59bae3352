"""The lm-evaluation-harness (0.4.13), run once for all arms of a comparison.

The harness asks every question as often as there are arms (`repeats` of a task), and a filter per
arm picks its answers: so it is the harness that renders the prompts, judges the answers and logs
the samples, and all arms of a question still share one pass over its prompt.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import datasets
from lm_eval.api.filter import Filter
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_filter
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from torch import Tensor

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.benchmarks.benchmark import Benchmark, Normalisation
from steerable_llm.evaluation.measure import groups, measure, running
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.metrics import kl_per_token
from steerable_llm.progress import Advance
from steerable_llm.runtime.decoding import forced_logits, log_probability
from steerable_llm.runtime.hooked_model import HookedModel

Place = tuple[int, int]
"""Number of a question and number of an arm, both from 0."""


@dataclass(frozen=True)
class Reading:
    """What one arm gave on one question.

    Attributes:
        question: Number of the question, from 0.
        arm: Number of the arm, from 0.
        prompt: The user message.
        expected: What a right answer is.
        answer: The likeliest choice, or the written answer.
        score: In [0, 1], by the task's own metric.
        kl_per_token: Divergence from the first arm, nats per token, along what that one chose or
            wrote.
        log_probs: Per choice, as normalised; empty where answers are written.
    """

    question: int
    arm: int
    prompt: str
    expected: str
    answer: str
    score: float
    kl_per_token: float
    log_probs: tuple[float, ...] = ()


def ask(
    llm: HookedModel,
    benchmark: Benchmark,
    rows: Sequence[Mapping[str, Any]],
    arms: Sequence[Arm],
    normalise: Normalisation | None,
    batch_size: int,
    advance: Advance,
) -> tuple[list[Reading], list[int]]:
    """Ask every question under every arm.

    Args:
        llm: The model.
        benchmark: The task.
        rows: What it is asked of.
        arms: The first is the one that divergences are taken from.
        normalise: What choices are scored by; None where answers are written.
        batch_size: Rows that run together.
        advance: Called with the number of prompts done, counted once per arm.

    Returns:
        A reading per question and arm, and the questions that do not fit the context window, of
        which there are no readings.

    Raises:
        InvalidInputError: No question fits the context window, or the task file is wrong.
    """
    lm = ArmsLM(llm, arms, normalise or "sum", batch_size, advance)
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
    readings = []
    for sample in found["samples"][benchmark.name]:
        question, arm = sample["doc_id"], int(sample["filter"])
        if question in lm.left_out:
            continue
        given = sample["filtered_resps"]
        choices = task.doc_to_choice(sample["doc"]) if benchmark.chooses else []
        scores = [score for score, _ in given] if choices else []
        readings.append(
            Reading(
                question=question,
                arm=arm,
                prompt=lm.asked[sample["arguments"][0][0]].question,
                expected=_expected(sample["target"], choices),
                answer=choices[_largest(scores)] if choices else given[0],
                score=float(sample[benchmark.score]),
                kl_per_token=lm.divergences[question, arm],
                log_probs=tuple(scores),
            )
        )
    return readings, sorted(lm.left_out)


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
        self._rows = rows
        filters = [
            {"name": str(arm), "filter": [{"function": "of_arm", "arm": arm}]}
            for arm in range(arms)
        ]
        how = {"repeats": arms, "filter_list": filters, "num_fewshot": 0, "fewshot_split": None}
        super().__init__(config={**benchmark.config, **how})

    def download(self, *_: object, **__: object) -> None:
        """Take the rows in place of a data set."""
        split = self.config.test_split or self.config.validation_split
        self.dataset = {split: datasets.Dataset.from_list([*self._rows])}

    def build_all_requests(self, **how: Any) -> None:
        """Render the prompts."""
        with redirect_stderr(io.StringIO()):  # a progress bar for what takes no time
            super().build_all_requests(**how)


@register_filter("of_arm")
class _OfArm(Filter):  # type: ignore[misc]
    """Picks the answer of one arm."""

    def __init__(self, arm: int) -> None:
        self._arm = arm

    def apply(self, resps: Sequence[Sequence[Any]], docs: object) -> list[Any]:  # noqa: ARG002
        return [answers[self._arm] for answers in resps]


class ArmsLM(LM):  # type: ignore[misc]
    """A model for the harness whose answer to the n-th copy of a request is that of the n-th arm.

    Attributes:
        asked: The prompts by their text.
        divergences: Per question and arm, from the first arm, nats per token.
        left_out: Questions that do not fit the context window; what is answered is void.
    """

    def __init__(
        self,
        llm: HookedModel,
        arms: Sequence[Arm],
        normalise: Normalisation,
        batch_size: int,
        advance: Advance,
    ) -> None:
        """Answer nothing yet.

        Args:
            llm: The model.
            arms: As for `ask`.
            normalise: What log-probabilities are divided by; the harness itself knows none per
                token.
            batch_size: Rows that run together.
            advance: As for `ask`.
        """
        super().__init__()
        self._llm, self._arms, self._normalise = llm, arms, normalise
        self._batch_size, self._advance = batch_size, advance
        self.asked: dict[str, EvaluationItem] = {}
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
        text = self._llm.render(chat_history, add_generation_prompt)
        if text not in self.asked:
            # The harness judges, so it does not matter which phrase is accepted.
            self.asked[text] = EvaluationItem(
                id=str(len(self.asked)), category="all", messages=chat_history, accept=("yes",)
            )
        return text

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return log-probabilities of choices, as normalised, the end of turn not counted."""
        once = requests[:: len(self._arms)]
        tokens: dict[int, list[list[int]]] = {}
        texts: dict[int, list[str]] = {}
        for request in once:
            tokens.setdefault(request.doc_id, []).append(self._choice(request.args[1]))
            texts.setdefault(request.doc_id, []).append(request.args[1])
        items = {request.doc_id: self.asked[request.args[0]] for request in once}
        fit = self._fitting(items, {n: max(map(len, given)) for n, given in tokens.items()})
        scores: dict[Place, list[tuple[float, bool]]] = {}
        # A question's arms share a batch: its prompt serves them all.
        size = max(1, self._batch_size // len(self._arms))
        for start in range(0, len(fit), size):
            some = fit[start : start + size]
            self._choose({n: items[n] for n in some}, tokens, texts, scores)
            self._advance(len(some) * len(self._arms))
        void = (0.0, False)
        return [
            void if request.doc_id in self.left_out else scores[request.doc_id, arm][request.idx]
            for request in once
            for arm in range(len(self._arms))
        ]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return greedy answers."""
        once = requests[:: len(self._arms)]
        most = max(request.args[1]["max_gen_toks"] for request in once)
        items = {request.doc_id: self.asked[request.args[0]] for request in once}
        fit = self._fitting(items, dict.fromkeys(items, most))
        outcomes = measure(
            self._llm,
            self._arms,
            [items[n] for n in fit],
            most,
            self._batch_size,
            self._advance,
        )
        texts: dict[Place, str] = {}
        for arm, row in enumerate(outcomes):
            for question, outcome in zip(fit, row, strict=True):
                texts[question, arm] = outcome.text
                self.divergences[question, arm] = outcome.kl_per_token
        answers = []
        for request in once:
            for arm in range(len(self._arms)):
                text = texts.get((request.doc_id, arm), "")
                for stop in request.args[1].get("until") or []:
                    text = text.split(stop)[0]
                answers.append(text)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refuse: there is no prompt to steer after.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("texts without a prompt are scored by `steerable lm-eval`")

    def _choice(self, text: str) -> list[int]:
        """A choice's tokens after the prompt, without the end of turn."""
        tokens = self._llm.encode_answer(text)
        if self._llm.chat_format.end_of_turn_id is not None:
            tokens = tokens[:-1]
        if not tokens:
            raise InvalidInputError(f"the choice {text!r} has no token, so it has no probability")
        return tokens

    def _fitting(self, items: Mapping[int, EvaluationItem], new: Mapping[int, int]) -> list[int]:
        """The questions that fit the context window with so many new tokens, longest first."""
        systems = {arm.instruction: arm for arm in self._arms}.values()
        length = {
            n: max(len(self._llm.encode(arm.messages(item))) for arm in systems)
            for n, item in items.items()
        }
        fit = [n for n in items if length[n] + new[n] <= self._llm.context_window]
        if not fit:
            raise InvalidInputError(
                "no question of the data fits the model's context window of "
                f"{self._llm.context_window} tokens: take fewer shots, or a model with a longer "
                "window"
            )
        self.left_out.update(set(items) - set(fit))
        return sorted(fit, key=lambda n: -length[n])

    def _choose(
        self,
        items: Mapping[int, EvaluationItem],
        tokens: Mapping[int, Sequence[Sequence[int]]],
        texts: Mapping[int, Sequence[str]],
        scores: dict[Place, list[tuple[float, bool]]],
    ) -> None:
        """Score the choices of a few questions under every arm."""
        longest = max(len(choice) for n in items for choice in tokens[n])
        picked: dict[int, int] = {}
        reference: dict[int, Tensor] = {}
        # The first group holds all that only steer or prompt, the first arm among them.
        for group in groups(self._arms):
            places = [(n, arm) for n in items for arm in group]
            asked = [(self._arms[arm], items[n]) for n, arm in places]
            prompts = [self._llm.encode(arm.messages(item)) for arm, item in asked]
            with running(self._llm, asked, prompts, longest) as batch:
                for number in range(max(len(tokens[n]) for n in items)):
                    given = [tokens[n][number : number + 1] for n, _ in places]
                    along = forced_logits(
                        batch, [[*choice[0]] if choice else [] for choice in given]
                    )
                    for (n, arm), logits, choice in zip(places, along, given, strict=True):
                        if logits is not None:
                            read = self._read(logits, choice[0], texts[n][number])
                            scores.setdefault((n, arm), []).append(read)
                for n in items:
                    picked.setdefault(n, _largest([score for score, _ in scores[n, 0]]))
                chosen = forced_logits(batch, [tokens[n][picked[n]] for n, _ in places])
            by_place = dict(zip(places, chosen, strict=True))
            for (n, arm), logits in by_place.items():
                assert logits is not None  # every choice has a token
                if arm == 0:
                    reference[n] = logits
            for (n, arm), logits in by_place.items():
                assert logits is not None
                divergence = kl_per_token(logits, reference[n]) if arm else 0.0
                self.divergences[n, arm] = divergence

    def _read(self, logits: Tensor, choice: Sequence[int], text: str) -> tuple[float, bool]:
        length = {"sum": 1, "token": len(choice), "character": len(text)}[self._normalise]
        greedy = logits.argmax(-1).tolist() == list(choice)
        return log_probability(logits, choice) / length, greedy


def _largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)

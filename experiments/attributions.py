"""Which attribution finds the tokens that decide? All of them against taking tokens away.

Run ``python -m experiments.attributions`` for the bundled model, and ``--model smollm2`` for
SmolLM2. Every attribution scores the content tokens of the same prompts. It is measured by

- the change of f: what it loses without the 3 tokens of highest score, what it gains without the 3
  of lowest, and the mean of both (paper figure 3);
- the rank correlation (Spearman's) with the reference: f with and without each token alone;
- the completeness error: how far the scores miss what they should add up to;
- seconds of processor time per pair.

A token is masked by putting the mean embedding in its place, for the reference as well.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ValidationError
from rich.console import Console
from scipy.stats import spearmanr
from torch import Tensor

from experiments.contradictions import contradicted
from steerable_llm import demo
from steerable_llm.cli.options import load_model
from steerable_llm.errors import InvalidInputError, PairError, SteerableError
from steerable_llm.files import check_writable
from steerable_llm.methods.grains.attribution import (
    AttributionPath,
    completeness_error,
    gradient_input_path,
    gradient_path,
    integrated_gradients_path,
    random_path,
    select_tokens,
    smoothgrad_path,
)
from steerable_llm.methods.grains.conservation import conservation
from steerable_llm.methods.grains.grains import baseline_embedding
from steerable_llm.methods.grains.objective import EncodedPair, PreferenceObjective
from steerable_llm.methods.grains.verification import Unchecked, verified_scores
from steerable_llm.metrics import Estimate, estimate
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import progress_bar
from steerable_llm.reports import numbers
from steerable_llm.reports.page import Page, check_suffix
from steerable_llm.reports.parts import Part, Table, Text, numeric
from steerable_llm.runtime.hooked_model import HookedModel

K = 3
REFERENCE = "leave one out (the reference)"


@dataclass(frozen=True)
class Prompt:
    """One pair as the attributions see it.

    Attributes:
        index: Of the pair in the objective.
        x: Embeddings [T, d].
        content: Positions of the tokens that are scored.
    """

    index: int
    x: Tensor
    content: tuple[int, ...]


@dataclass(frozen=True)
class Way:
    """One way to score tokens.

    Attributes:
        path: From embeddings and a baseline [T, d] to the points.
        baseline: Its baseline, if it has one: "zero", "mean" or "eos".
        content_only: Whether template tokens stay where they are on the path.
        conserves: Whether gradients are taken inside `conservation`.
        verified: So many tokens are masked one at a time, as the setting of GrAInS has it.
    """

    path: Callable[[Tensor, Tensor], AttributionPath]
    baseline: str | None = None
    content_only: bool = False
    conserves: bool = False
    verified: int = 0


def _integrated(
    baseline: str, steps: int, quadrature: str = "right", content_only: bool = False
) -> Way:
    def path(x: Tensor, b: Tensor) -> AttributionPath:
        return integrated_gradients_path(x, b, steps, quadrature)  # type: ignore[arg-type]

    return Way(path, baseline, content_only)


WAYS: Mapping[str, Way] = {
    "conservative": Way(gradient_input_path, conserves=True),
    "conservative, 10 verified": Way(gradient_input_path, conserves=True, verified=10),
    "integrated gradients, zero, 5 right (the paper's)": _integrated("zero", 5),
    "integrated gradients, mean, 5 right": _integrated("mean", 5),
    "integrated gradients, eos, 5 right": _integrated("eos", 5),
    "integrated gradients, zero, 5 Gauss": _integrated("zero", 5, "gauss_legendre"),
    "integrated gradients, mean, 5 Gauss": _integrated("mean", 5, "gauss_legendre"),
    "integrated gradients, zero, content, 5 right": _integrated("zero", 5, "right", True),
    "integrated gradients, mean, content, 5 Gauss": _integrated("mean", 5, "gauss_legendre", True),
    "integrated gradients, eos, content, 5 Gauss": _integrated("eos", 5, "gauss_legendre", True),
    "integrated gradients, mean, content, 20 Gauss": _integrated(
        "mean", 20, "gauss_legendre", True
    ),
    "gradient times input": Way(gradient_input_path),
    "gradient": Way(gradient_path),
    "SmoothGrad, 5": Way(smoothgrad_path),
    "random": Way(random_path),
}


class Seen(BaseModel, frozen=True, extra="forbid"):
    """What one way says of one pair.

    Attributes:
        model: Fingerprint of the model.
        pair: Its id and the hash of its texts.
        way: A name in `WAYS`, or `REFERENCE`.
        scores: Of the content tokens.
        lost: What f loses when the K tokens of highest score are masked; None where none is above
            zero.
        gained: What f gains when the K of lowest score are; None where none is below zero.
        completeness: The error; None for ways whose scores are not meant to add up.
        seconds: Of processor time.
    """

    model: str
    pair: str
    way: str
    scores: tuple[float, ...]
    lost: float | None
    gained: float | None
    completeness: float | None
    seconds: float


class Bench:
    """One model, and pairs whose prompts are scored."""

    def __init__(self, llm: HookedModel, pairs: Pairs) -> None:
        """Encode the pairs.

        Raises:
            PairError: There are none, or one has no bad answer.
        """
        if not pairs:
            raise PairError("there are no pairs to measure attributions on")
        self.name = llm.fingerprint.short
        self.ids = [f"{pair.id} {Pairs([pair]).digest[:12]}" for pair in pairs]
        encoded, self._content = [], []
        for pair in pairs:
            if pair.bad is None:
                raise PairError(f"pair {pair.id} has no bad answer: leave it out")
            prompt = llm.chat_format.tokens(pair.messages)
            if prompt.vision:
                raise PairError(f"pair {pair.id} has an image, and only words are measured here")
            good, bad = (tuple(llm.encode_answer(text)) for text in (pair.good, pair.bad))
            encoded.append(EncodedPair(pair.id, prompt.ids, good, bad))
            self._content.append(tuple(i for i, t in enumerate(prompt.is_template) if not t))
        self.model = llm.model
        self.objective = PreferenceObjective(llm.model, encoded)
        names = ("zero", "mean", "eos")
        self.neutral = {name: baseline_embedding(llm, self.objective, name) for name in names}

    def see(self, way: str, index: int) -> Seen:
        """Score one pair's prompt one way, and mask what it points at."""
        prompt = Prompt(index, self.objective.embeddings(index), self._content[index])
        start = time.process_time()
        if way == REFERENCE:
            scores, error = self._without_each(prompt), None
        else:
            scores, error = self._scores(WAYS[way], prompt)
        seconds = time.process_time() - start
        chosen = select_tokens(scores, [True] * len(scores), K)
        places = [[prompt.content[i] for i in picked] for picked in chosen]
        whole, lost, gained = self._values(prompt, [[], *places])
        return Seen(
            model=self.name,
            pair=self.ids[index],
            way=way,
            scores=tuple(scores.tolist()),
            lost=whole - lost if places[0] else None,
            gained=gained - whole if places[1] else None,
            completeness=error,
            seconds=seconds,
        )

    def _values(self, prompt: Prompt, masked: Sequence[Sequence[int]]) -> list[float]:
        points = prompt.x.repeat(len(masked), 1, 1)
        for row, places in enumerate(masked):
            points[row, list(places)] = self.neutral["mean"].to(points.dtype)
        found: list[float] = self.objective.values([(prompt.index, points)])[0].tolist()
        return found

    def _without_each(self, prompt: Prompt) -> Tensor:
        whole, *without = self._values(prompt, [[], *([place] for place in prompt.content)])
        return whole - torch.tensor(without)

    def _scores(self, way: Way, prompt: Prompt) -> tuple[Tensor, float | None]:
        x = prompt.x
        baseline = self.neutral[way.baseline or "zero"].to(x.dtype).expand_as(x)
        if way.content_only:
            moved = torch.zeros(len(x), 1, dtype=torch.bool)
            moved[list(prompt.content)] = True
            baseline = torch.where(moved.to(x.device), baseline, x)
        path = way.path(x, baseline)
        with conservation(self.model) if way.conserves else nullcontext():
            (found,) = self.objective.gradients([(prompt.index, path.points)])
        scores = path.scores(found.gradients).cpu()
        error = None
        if way.conserves:
            error = completeness_error(torch.cat([scores, found.rest]), float(found.values[0]), 0.0)
        elif way.baseline is not None:
            (ends,) = self.objective.values([(prompt.index, torch.stack([x, baseline]))])
            error = completeness_error(scores, *ends.tolist())
        if way.verified:
            allowed = [i in prompt.content for i in range(len(x))]
            unchecked = Unchecked(scores, path.sensitivity(found.gradients).cpu(), allowed)
            checked = verified_scores(
                self.objective,
                {prompt.index: unchecked},
                self.neutral["mean"],
                way.verified,
                {prompt.index: float(found.values[0])},
            )
            scores, _ = checked[prompt.index]
        return scores[list(prompt.content)], error


class Row(BaseModel, frozen=True, extra="forbid"):
    """One way over all pairs.

    Attributes:
        way: A name in `WAYS`, or `REFERENCE`.
        change: Mean of `lost` and `gained` where there is such a token, nats.
        moved: Mean of their sizes, whatever their sign, nats.
        lost: Mean of what f loses, nats.
        gained: Mean of what f gains, nats.
        correlation: Mean rank correlation with the reference.
        completeness: Median of the error.
        seconds: Mean per pair.
    """

    way: str
    change: Estimate
    moved: float
    lost: float
    gained: float
    correlation: Estimate
    completeness: float | None
    seconds: float


class Attributions(BaseModel, frozen=True, extra="forbid"):
    """What was measured on one model."""

    model: str
    pairs: int
    command: str
    rows: tuple[Row, ...]

    def page(self) -> Page:
        """Return the table."""
        columns = numeric(
            "change of f [95 %]", "any sign", "top 3 for", "top 3 against", "rank correlation",
            "completeness error", "seconds",
        )  # fmt: skip
        table = [
            [
                row.way,
                numbers.interval(row.change, 2, signed=True),
                f"{row.moved:.2f}",
                f"{-row.lost:+.2f}",
                f"{row.gained:+.2f}",
                numbers.interval(row.correlation, 2, signed=True),
                "" if row.completeness is None else numbers.percent(row.completeness, 0),
                f"{row.seconds:.2f}",
            ]
            for row in self.rows
        ]
        parts: list[Part] = [
            Text(f"{self.pairs} pairs on {self.model}; `{self.command}`."),
            Table(["scored by", *columns], table),
        ]
        return Page("Which attribution finds the tokens that decide?", parts)


def rows_of(seen: Sequence[Seen], seed: int = 0) -> tuple[Row, ...]:
    """Average over the pairs that the reference has seen, the reference first."""
    reference = {each.pair: each for each in seen if each.way == REFERENCE}
    rows = []
    for way in (REFERENCE, *WAYS):
        own = [each for each in seen if each.way == way and each.pair in reference]
        if not own:
            continue
        ranks = [
            float(spearmanr(each.scores, reference[each.pair].scores).statistic) for each in own
        ]
        lost = [each.lost for each in own if each.lost is not None]
        gained = [each.gained for each in own if each.gained is not None]
        changes = [
            statistics.fmean(x for x in (each.lost, each.gained) if x is not None)
            for each in own
            if (each.lost, each.gained) != (None, None)
        ]
        errors = [each.completeness for each in own if each.completeness is not None]
        rows.append(
            Row(
                way=way,
                change=estimate(changes, seed, within=None),
                moved=statistics.fmean(map(abs, [*lost, *gained])),
                lost=statistics.fmean(lost),
                gained=statistics.fmean(gained),
                correlation=estimate(ranks, seed, within=None),
                completeness=statistics.median(errors) if errors else None,
                seconds=statistics.fmean(each.seconds for each in own),
            )
        )
    return tuple(rows)


def measure(
    llm: HookedModel, pairs: Pairs, ways: Sequence[str], keep: Path | None, progress: bool = True
) -> list[Seen]:
    """See every pair every way, the reference included.

    Args:
        llm: The model.
        pairs: With good and bad answers.
        ways: Names in `WAYS`.
        keep: File (JSON lines) with what was seen before, which is gone on with.
        progress: Show a bar on stderr.

    Raises:
        InvalidInputError: The kept file is of something else.
        PairError: No pairs, or one without a bad answer.
    """
    bench = Bench(llm, pairs)
    seen = [] if keep is None or not keep.exists() else _kept(keep)
    if other := {each.model for each in seen} - {bench.name}:
        raise InvalidInputError(
            f"{keep} holds what was seen with {other.pop()}, and the model is {bench.name}: name "
            "another file"
        )
    there = {(each.way, each.pair) for each in seen}
    todo = [
        (way, i)
        for i, pair in enumerate(bench.ids)
        for way in (REFERENCE, *ways)
        if (way, pair) not in there
    ]
    with progress_bar("scoring prompts", len(todo), progress) as advance:
        for way, index in todo:
            seen.append(bench.see(way, index))
            if keep is not None:
                with keep.open("a", encoding="utf-8") as file:
                    file.write(seen[-1].model_dump_json() + "\n")
            advance(1)
    return [each for each in seen if each.pair in set(bench.ids)]


def _kept(path: Path) -> list[Seen]:
    try:
        return [Seen.model_validate_json(line) for line in path.read_text("utf-8").splitlines()]
    except (ValidationError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"{path} holds something else than what this experiment keeps: name another file"
        ) from error


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.attributions", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", default="demo", help="'demo', 'smollm2', an id or a folder")
    parser.add_argument("--pairs", type=Path, help="JSON lines; else the experiment's own")
    parser.add_argument("--sample", type=int, default=60, help="so many pairs")
    parser.add_argument("--way", action="append", choices=tuple(WAYS), help="default: all")
    parser.add_argument("--keep", type=Path, help="file of what was seen before")
    parser.add_argument("--report", action="append", type=Path, default=[])
    given = parser.parse_args()
    try:
        for path in given.report:
            check_suffix(path, "the table")
            check_writable(path)
        llm = load_model(given.model, None)
        own = demo.pairs("faithfulness") if given.model == "demo" else contradicted()
        pairs = Pairs.from_jsonl(given.pairs) if given.pairs else own
        pairs = pairs[: given.sample]
        found = Attributions(
            model=llm.model_id,
            pairs=len(pairs),
            command=f"python -m experiments.attributions {shlex.join(sys.argv[1:])}".strip(),
            rows=rows_of(measure(llm, pairs, given.way or tuple(WAYS), given.keep)),
        )
        for path in given.report:
            found.page().save(path, lambda: json.dumps(found.model_dump(), indent=2), "the table")
    except SteerableError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    Console(width=200).print(found.page())


if __name__ == "__main__":
    main()

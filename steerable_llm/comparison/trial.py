"""Contenders set up and tested one after the other, each result kept as soon as it is there.

A contender's result depends on the model, the pairs, the prompts and its own recipe, and on nothing
that another one does. So each is kept under a hash of all these in a folder, and a trial that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from steerable_llm import __version__
from steerable_llm.comparison.comparison import Comparison, Contender
from steerable_llm.comparison.ways import Ready, Setup, Way
from steerable_llm.errors import InvalidInputError, MissingExtraError, PairError, SteerableError
from steerable_llm.evaluate import check_apart, check_uniform, rows_of
from steerable_llm.evaluation.conditions import Condition
from steerable_llm.evaluation.outcomes import Outcome, measure
from steerable_llm.evaluation.verdict import Row, judge
from steerable_llm.evaluation_set import EvaluationItem, EvaluationSet
from steerable_llm.files import write_whole
from steerable_llm.progress import progress_bar
from steerable_llm.steering import Steering
from steerable_llm.vector import Calibration

#: Goes up when a kept result of an earlier version must not be used again.
KEPT_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One contender before it runs.

    Attributes:
        name: What tables call it.
        way: Sets it up.
        recipe: JSON values that say all that the way does, apart from what the setup says.
    """

    name: str
    way: Way
    recipe: Any


class Result(BaseModel):
    """One contender after it ran.

    Attributes:
        contender: What was chosen and how long it took, or why it failed.
        rows: Its rows and those of the unsteered model; none if it failed.
        calibrations: What was chosen for each of its vectors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    contender: Contender
    rows: tuple[Row, ...] = ()
    calibrations: tuple[Calibration, ...] = ()


@dataclass(frozen=True)
class Trial:
    """What every contender is set up on and tested on.

    Attributes:
        setup: What each way is set up with.
        test: Held-out prompts.
        capability: Held-out prompts that measure what must not be lost.
        target: The variant of `test` that is to be changed.
        keep: Folder of finished results; None keeps nothing.
    """

    setup: Setup
    test: EvaluationSet
    capability: EvaluationSet | None
    target: str
    keep: Path | None = None

    def check(self) -> None:
        """Make sure that a trial on these data says something.

        Raises:
            InvalidInputError: No such target, prompts of dev in test, or prompts that cannot be
                judged alike.
            PairError: No pairs.
        """
        if not self.setup.pairs:
            raise PairError("there are no pairs to build from: give at least two")
        self.test.variant(self.target)  # raises, listing the variants
        check_apart(self.test, self.capability)
        check_apart(self.setup.dev, self.setup.capability)
        for items in (self.test, self.capability):
            if items is not None:
                check_uniform(items)
        seen = {item.messages for item in self.setup.dev}
        both = [item.id for item in self.test if item.messages in seen]
        if both:
            raise InvalidInputError(
                f"{len(both)} prompts of test {self.test.name!r} are in dev "
                f"{self.setup.dev.name!r} as well, such as {both[0]!r}: keep them apart, else the "
                "comparison is no held-out result"
            )

    def unsteered(self) -> Result:
        """Test the model as it is."""
        entry = Entry("none", lambda _, name: Ready((), name), None)
        return self.run(entry, "the model as it is")

    def run(self, entry: Entry, setting: str | None = None) -> Result:
        """Set one contender up and test it, unless a kept result says how that went.

        Args:
            entry: The contender.
            setting: What was chosen, in words, in place of what the way says.
        """
        path = self.keep / f"{self._key(entry)}.json" if self.keep else None
        if path is not None and path.is_file():
            try:
                return Result.model_validate_json(path.read_text(encoding="utf-8"))
            except ValidationError:
                pass  # cut short, or of another version: measured again
        result, lasting = self._measured(entry, setting)
        if path is not None and lasting:
            write_whole(path, result.model_dump_json(indent=1))
        return result

    def _measured(self, entry: Entry, setting: str | None) -> tuple[Result, bool]:
        """Return the result, and whether another run would come to the same."""
        start = time.perf_counter()
        try:
            ready = entry.way(self.setup, entry.name)
        except SteerableError as error:
            seconds = time.perf_counter() - start
            failed = Contender(name=entry.name, failed=str(error), seconds=seconds)
            # What is not installed today may be tomorrow.
            return Result(contender=failed), not isinstance(error, MissingExtraError)
        contender = Contender(
            name=entry.name,
            setting=setting or ready.setting,
            dev=ready.dev,
            seconds=time.perf_counter() - start,
        )
        rows = self._rows(ready.conditions)
        return Result(contender=contender, rows=rows, calibrations=ready.calibrations), True

    def _rows(self, conditions: Sequence[Condition]) -> tuple[Row, ...]:
        items: list[EvaluationItem] = [*self.test, *(self.capability or ())]
        runs = [Condition("none", Steering.none()), *conditions]
        setup = self.setup
        title = f"testing {runs[-1].name}"
        with progress_bar(title, len(items) * len(runs), setup.progress) as advance:
            found = measure(setup.llm, runs, items, setup.max_new_tokens, setup.batch_size, advance)
        outcomes: dict[str, list[list[Outcome]]] = {}
        for run, results in zip(runs, found, strict=True):
            outcomes.setdefault(run.name, []).append(results)
        kept = set(self.capability.variants if self.capability else ())
        return tuple(rows_of(outcomes, items, kept, setup.seed))

    def _key(self, entry: Entry) -> str:
        """A hash of all that decides the result, with the name in front for people."""
        setup, fingerprint = self.setup, self.setup.llm.fingerprint
        content = {
            "version": [KEPT_VERSION, __version__],
            "model": fingerprint.model_dump(exclude={"model_id", "revision"}),
            "pairs": setup.pairs.digest,
            "dev": setup.dev.digest,
            "dev_capability": setup.capability.digest if setup.capability else None,
            "test": self.test.digest,
            "capability": self.capability.digest if self.capability else None,
            "target": self.target,
            "budget": setup.budget,
            "instruction": setup.instruction,
            "max_new_tokens": setup.max_new_tokens,
            "seed": setup.seed,
            "name": entry.name,
            "recipe": entry.recipe,
        }
        text = json.dumps(content, sort_keys=True, default=_plain)
        readable = "".join(c if c.isalnum() else "-" for c in entry.name)
        return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def comparison(self, results: Sequence[Result], **more: Any) -> Comparison:
        """Put results side by side, with what else the report is to hold."""
        budget = self.setup.budget
        contenders, rows = joined(results, self.target, budget)
        return Comparison(
            model=self.setup.llm.fingerprint.short,
            pairs=len(self.setup.pairs),
            data_digest=self.setup.pairs.digest,
            test_name=self.test.name,
            test_digest=self.test.digest,
            target=self.target,
            budget=budget,
            contenders=contenders,
            rows=rows,
            **more,
        )


def joined(results: Sequence[Result], target: str, budget: float) -> tuple[
    tuple[Contender, ...], tuple[Row, ...]
]:  # fmt: skip
    """Return the contenders with their verdicts, and every row once."""
    rows: dict[tuple[str, str], Row] = {}
    for result in results:
        for row in result.rows:
            rows.setdefault((row.condition, row.variant), row)
    every = tuple(rows.values())
    contenders = (_judged(result.contender, every, target, budget) for result in results)
    return tuple(contenders), every


def _judged(contender: Contender, rows: Sequence[Row], target: str, budget: float) -> Contender:
    """The contender with its verdict, by the same rules as a vector's card."""
    if contender.name in ("none", "prompt") or contender.failed:
        return contender
    others = [row for row in rows if row.condition in ("none", "prompt")]
    mine = [
        row.model_copy(update={"condition": "steered"})
        for row in rows
        if row.condition == contender.name
    ]
    return contender.model_copy(update={"verdict": judge([*mine, *others], target, budget)})


def _plain(value: object) -> object:
    if isinstance(value, Calibration):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")  # a fault of ours

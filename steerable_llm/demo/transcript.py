"""What all tours do: steps with what is said under them, and a vector that is made and proven."""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo.chains import SteppedAnswer
from steerable_llm.evaluation.calibration import calibrate
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.report import Report
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.files import write_whole
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.methods.build import Built, build
from steerable_llm.methods.grains.attribution import attribution_page
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Facts, Part
from steerable_llm.vector.vector import SteeringVector


@dataclass(frozen=True)
class TourResult:
    """What a tour found and made.

    Attributes:
        seconds: How long it took.
        report: The evaluation of the vector it built.
        answers: The steered and unsteered answers of both frameworks.
        files: What it wrote, with what each file is.
    """

    seconds: float
    report: Report
    answers: tuple[SteppedAnswer, ...]
    files: dict[Path, str]

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values, for JSON."""
        return {
            "seconds": round(self.seconds, 1),
            "report": json.loads(self.report.to_json()),
            "answers": [asdict(answer) for answer in self.answers],
            "files": {str(path): what for path, what in self.files.items()},
        }


class Transcript:
    """Print numbered steps with how long each took, and what is said under them.

    Attributes:
        folder: Where its files go.
        console: Where it is printed.
        files: What it wrote so far, with what each file is.
    """

    def __init__(self, folder: Path | str, console: Console | None) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console = console or Console()
        self.files: dict[Path, str] = {}
        self._count = 0
        self._start = time.perf_counter()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Print the heading of a step, and behind what happens in it how long that took."""
        self._count += 1
        self.console.print(f"\n[bold]{self._count}. {title}[/bold]")
        start = time.perf_counter()
        yield
        self.console.print(f"   [dim]{time.perf_counter() - start:.1f} s[/dim]")

    def say(self, words: str, style: str = "") -> None:
        """Print a sentence under the heading of its step."""
        self.console.print(Padding(Text(words, style), (0, 0, 0, 3)))

    def show(self, *parts: Part) -> None:
        """Print parts of a page."""
        self.console.print(Page("", parts))

    def show_pair(self, pair: PreferencePair) -> None:
        """Print a pair: the last message of its prompt, and both answers."""
        body = Text(pair.messages[-1].content)
        body.append(f"\n\ngood: {pair.good}", style="green")
        body.append(f"\nbad:  {pair.bad}", style="red")
        self.console.print(Panel(body, expand=False))

    def show_question(self, question: str, passages: Sequence[str]) -> None:
        """Print a question and what the retriever brought to it."""
        self.say(f"Question: {question}")
        for i, passage in enumerate(passages, start=1):
            self.say(f"[{i}] {passage}")

    def introduce(self, llm: SteerableHFLLM, what: str = "") -> None:
        """Tell how large a model is, and what it is."""
        count = sum(parameter.numel() for parameter in llm.model.parameters()) / 1e6
        size = f"{count:.0f}" if count >= 100 else f"{count:.1f}"
        self.say(f"{size} million parameters, {len(llm.blocks)} blocks{what}.")

    def pick(
        self, log: Sequence[LoggedAnswer], pairs: Pairs, count: int, said: str = "One of them:"
    ) -> Pairs:
        """Tell what is in a log, keep a sample of its pairs, and show one of them."""
        reasons = Counter(entry.reason for entry in log if entry.reason)
        counted = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
        self.say(f"{len(log)} logged answers; bad ones: {counted}.")
        chosen = pairs.sample(min(count, len(pairs)), seed=0)
        self.say(f"{len(chosen)} of {len(pairs)} pairs are used. {said}")
        self.show_pair(chosen[0])
        self.files[chosen.to_jsonl(self.folder / "pairs.jsonl")] = "the pairs"
        return chosen

    def build(self, llm: SteerableHFLLM, pairs: Pairs, name: str, **config: Any) -> Built:
        """Build a vector; what Python warns about becomes a line, and a page has what it saw."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            built = build(llm, pairs, name=name, progress=self.console.is_terminal, **config)
        for warning in caught:
            self.say(f"note: {warning.message}", "yellow")
        if built.attributions:
            page = attribution_page(built.attributions).to_html()
            file = write_whole(self.folder / "attribution.html", page)
            self.files[file] = "the attributions of all pairs, to look at in a browser"
        return built

    def calibrate(
        self,
        llm: SteerableHFLLM,
        vector: SteeringVector,
        dev: EvaluationSet,
        capability: EvaluationSet | None = None,
        **search: Any,
    ) -> SteeringVector:
        """Choose how strongly to steer, and tell what was chosen."""
        found = calibrate(llm, vector, dev, capability, progress=self.console.is_terminal, **search)
        if (chosen := found.calibration) is not None:
            of = " of the hidden state's length in all" if chosen.unit == "relative" else ""
            self.say(f"strength {chosen.strength:+g}{of}, scope {chosen.scope}. {chosen.note}")
        return found

    def prove(
        self,
        llm: SteerableHFLLM,
        vector: SteeringVector,
        test: EvaluationSet,
        capability: EvaluationSet,
        **settings: Any,
    ) -> tuple[Report, Path]:
        """Evaluate a vector, and write it and its card; return the report and the vector's file."""
        report = evaluate(
            llm, vector, test, capability, progress=self.console.is_terminal, **settings
        )
        self.console.print(report.table())
        card = report.save(self.folder / f"{vector.name}.md")
        file = self.folder / f"{vector.name}.safetensors"
        vector.with_evaluation(report.summary()).save(file)
        self.files |= {
            file: "the vector",
            card: "the evidence: table, verdict, what became worse",
            card.with_suffix(".png"): "its picture",
        }
        return report, file

    def done(self, report: Report, answers: Sequence[SteppedAnswer] = ()) -> TourResult:
        """Print how long it all took, in seconds, and what was made."""
        seconds = time.perf_counter() - self._start
        self.console.print(f"\n[bold]Done in {seconds:.0f} s.[/bold] What it made:")
        self.show(Facts([(str(path), what) for path, what in self.files.items()]))
        return TourResult(seconds, report, tuple(answers), self.files)


def at_most(items: EvaluationSet, *most: int | None) -> EvaluationSet:
    """Return no more of each category than any of these numbers; None is no limit."""
    limits = [each for each in most if each is not None]
    return items.sample(min(limits), seed=0) if limits else items

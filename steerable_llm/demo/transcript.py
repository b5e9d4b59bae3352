"""What a tour prints as it goes, and what it hands back when it is done."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from steerable_llm.demo.chains import SteppedAnswer
from steerable_llm.evaluation.report import Report
from steerable_llm.pairs.pair import PreferencePair
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Facts, Part


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
        console: Where it is printed.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
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

    @contextmanager
    def noting_warnings(self) -> Iterator[None]:
        """Print what Python warns about meanwhile as lines of the tour."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield
        for warning in caught:
            self.say(f"note: {warning.message}", "yellow")

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

    def done(self, files: dict[Path, str]) -> float:
        """Print how long it all took, in seconds, and what was made; return the seconds."""
        seconds = time.perf_counter() - self._start
        self.console.print(f"\n[bold]Done in {seconds:.0f} s.[/bold] What it made:")
        self.show(Facts([(str(path), what) for path, what in files.items()]))
        return seconds

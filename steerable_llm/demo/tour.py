"""What ``steerable demo`` does and prints: the whole way, on the bundled model, step by step."""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from steerable_llm import demo
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo.chains import (
    MAX_TOKENS,
    TEMPLATE,
    SteppedAnswer,
    ask_langchain,
    ask_llama_index,
    check_extras,
)
from steerable_llm.errors import CalibrationError
from steerable_llm.evaluation.calibration import calibrate
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.report import Report
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.files import write_whole
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.methods.build import Built, build
from steerable_llm.methods.grains.attribution import attribution_page
from steerable_llm.pairs.pair import Pairs
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Facts, Table
from steerable_llm.vector.vector import SteeringVector

NAME: Final = "faithfulness"
#: The category that the vector is meant to change.
TARGET = "conflict"
#: Prompts per category other than the target, so that the tour stays short; `make vectors` uses
#: whole sets.
TEST_PROMPTS, CAPABILITY_PROMPTS = 60, 60
#: The settings of GrAInS that won the sweep of `make vectors` for this behaviour; its scope, too.
BUILD: Final[dict[str, Any]] = {"baseline": "eos", "aggregation": "mean"}

POLICY = f"""\
# Which step of the chain is steered how. Change it, and no code changes.
vectors_dir = "."
default_step = "answer"

[steps.answer]
vectors = [{{ name = "{NAME}" }}]

[steps.unsteered]
vectors = []
"""


@dataclass(frozen=True)
class TourResult:
    """What the tour found and made.

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


class _Steps:
    """Print the numbered heading of each step, and how long it took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.count = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self.count += 1
        self.console.print(f"\n[bold]{self.count}. {title}[/bold]")
        start = time.perf_counter()
        yield
        self.console.print(f"   [dim]{time.perf_counter() - start:.1f} s[/dim]")


def run_tour(
    out: Path | str = "steerable-demo",
    *,
    pairs: int = 50,
    questions: int | None = None,
    console: Console | None = None,
) -> TourResult:
    """Run the tour.

    Args:
        out: Folder for the files it makes.
        pairs: How many pairs to build the vector from.
        questions: At most so many of each category, to choose on and to prove on; None takes as
            many as the tour shows.
        console: Where to print; the terminal if left out.

    Raises:
        MissingExtraError: LangChain, LlamaIndex or sentence-transformers is not installed; told
            before any work is done.
    """
    check_extras()
    start = time.perf_counter()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    console = console or Console()
    steps = _Steps(console)
    files: dict[Path, str] = {}

    with steps.step("Load the bundled model"):
        llm = SteerableHFLLM.demo()
        count = sum(parameter.numel() for parameter in llm.model.parameters())
        _say(
            console,
            f"{count / 1e6:.1f} million parameters, {len(llm.blocks)} blocks: an exhibit of the "
            "faults that steering mends, not an assistant.",
        )
    with steps.step(f"Pick {pairs} pairs from the log of its answers"):
        log = demo.answer_log()
        chosen = _pick(console, log, pairs)
        files[chosen.to_jsonl(folder / "pairs.jsonl")] = "the pairs"
    with steps.step("Find the tokens that decide, and build a vector from them (GrAInS)"):
        built = _build(console, llm, chosen)
        _say(console, "The same pair, every token coloured by what it speaks for:")
        console.print(Page("", attribution_page(built.attributions[:1]).parts))
        page = write_whole(
            folder / "attribution.html", attribution_page(built.attributions).to_html()
        )
        files[page] = "the attributions of all pairs, to look at in a browser"
    with steps.step("Choose strength and sign on development questions"):
        vector = _calibrate(console, llm, built.vector, questions)
    with steps.step("Prove it on questions that it has not seen"):
        report = _evaluate(console, llm, vector, questions)
        card = folder / f"{NAME}.md"
        report.save(card)
        files[card] = "the evidence: table, verdict, what became worse"
        files[card.with_suffix(".png")] = "its picture"
        vector_file = vector.with_evaluation(report.summary()).save(folder / f"{NAME}.safetensors")
        files[vector_file] = "the vector"
        policy = write_whole(folder / "policy.toml", POLICY)
        files[policy] = "the policy that steers the step 'answer' with it"
    answers: list[SteppedAnswer] = []
    chained = SteerableHFLLM.demo(policy=policy)
    documents, question = _case(llm)
    for framework, ask in (
        ("a LangChain chain", ask_langchain),
        ("a LlamaIndex query engine", ask_llama_index),
    ):
        with steps.step(f"Ask through {framework}, over {len(documents)} documents"):
            both = ask(chained, documents, question, ("unsteered", "answer"))
            _show(console, both)
            answers += both
    seconds = time.perf_counter() - start
    console.print(f"\n[bold]Done in {seconds:.0f} s.[/bold] What it made:")
    console.print(Page("", [Facts([(str(path), what) for path, what in files.items()])]))
    console.print(f"\nLook closer: steerable inspect {vector_file}", soft_wrap=True, markup=False)
    return TourResult(seconds, report, tuple(answers), files)


def _say(console: Console, words: str, style: str = "") -> None:
    """Print a sentence under the heading of its step."""
    console.print(Padding(Text(words, style), (0, 0, 0, 3)))


def _pick(console: Console, log: list[LoggedAnswer], count: int) -> Pairs:
    """Show what is in the log and take a sample of its pairs."""
    reasons = Counter(entry.reason for entry in log if entry.reason)
    counted = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    _say(console, f"{len(log)} logged answers; bad ones: {counted}.")
    every = demo.pairs(NAME)
    chosen = every.sample(min(count, len(every)), seed=0)
    _say(console, f"{len(every)} pairs about {NAME}, {len(chosen)} of them are used. One:")
    pair = chosen[0]
    body = Text(pair.prompt[-1]["content"])
    body.append(f"\n\ngood: {pair.good}", style="green")
    body.append(f"\nbad:  {pair.bad}", style="red")
    console.print(Panel(body, expand=False))
    return chosen


def _build(console: Console, llm: SteerableHFLLM, chosen: Pairs) -> Built:
    """Build the vector; what Python warns about becomes a line of the tour."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        built = build(llm, chosen, name=NAME, progress=console.is_terminal, **BUILD)
    for warning in caught:
        _say(console, f"note: {warning.message}", "yellow")
    return built


def _calibrate(
    console: Console, llm: SteerableHFLLM, vector: SteeringVector, questions: int | None
) -> SteeringVector:
    calibrated = calibrate(
        llm,
        vector,
        dev=_questions("dev", questions),
        capability=_at_most(questions, demo.evaluation_set("capability", "dev")),
        target=TARGET,
        scopes=("last_prompt",),
        progress=console.is_terminal,
    )
    chosen = calibrated.calibration
    if chosen is not None:
        _say(
            console,
            f"strength {chosen.strength:+g} of the hidden state's length in all, spread over the "
            f"blocks, scope {chosen.scope}. "
            f"{chosen.note}",
        )
    return calibrated


def _at_most(questions: int | None, items: EvaluationSet) -> EvaluationSet:
    return items if questions is None else items.sample(questions, seed=0)


def _questions(split: demo.Split, questions: int | None) -> EvaluationSet:
    """Return all questions of the target, and some of the others."""
    every = demo.evaluation_set(NAME, split)
    rest = every.category("gold", "irrelevant", "unanswerable").sample(TEST_PROMPTS, seed=0)
    return _at_most(questions, EvaluationSet(NAME, [*every.category(TARGET), *rest]))


def _evaluate(
    console: Console, llm: SteerableHFLLM, vector: SteeringVector, questions: int | None
) -> Report:
    report = evaluate(
        llm,
        vector,
        _questions("test", questions),
        target=TARGET,
        capability=_at_most(
            questions,
            demo.evaluation_set("capability", "test").sample(CAPABILITY_PROMPTS, seed=0),
        ),
        progress=console.is_terminal,
        command="steerable demo",
    )
    console.print(report.table())
    return report


def _case(llm: SteerableHFLLM) -> tuple[dict[str, str], str]:
    """The handbook of a shop, and a question that the unsteered model answers from memory.

    Raises:
        CalibrationError: The model follows every handbook, so there is nothing to show.
    """
    for pages in demo.handbooks().values():
        for page in pages:
            rest = [other for other in pages if other is not page][:1]
            numbered = [f"[{i}] {entry.text}" for i, entry in enumerate((page, *rest), start=1)]
            prompt = TEMPLATE.format(documents="\n".join(numbered), question=page.question)
            if page.remembered in llm.generate(prompt, max_new_tokens=MAX_TOKENS).text:
                return {entry.name: entry.text for entry in pages}, page.question
    raise CalibrationError(
        "the bundled model follows every handbook without steering: there is nothing to show"
    )


def _show(console: Console, both: list[SteppedAnswer]) -> None:
    """Print the passages, and the unsteered and the steered answer side by side."""
    _say(console, f"Question: {both[0].question}")
    for i, passage in enumerate(both[0].passages, start=1):
        _say(console, f"[{i}] {passage}")
    head = [f"step '{answer.step}'" for answer in both]
    console.print(Page("", [Table(head, [[answer.text for answer in both]])]))

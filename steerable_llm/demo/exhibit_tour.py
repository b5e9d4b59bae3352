"""What ``steerable demo --exhibit`` does: the whole way, on the bundled model, step by step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from steerable_llm import demo
from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo.chains import (
    EXHIBIT,
    MAX_TOKENS,
    SteppedAnswer,
    ask_langchain,
    ask_llama_index,
    check_extras,
)
from steerable_llm.demo.transcript import TourResult, Transcript
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
from steerable_llm.reports.parts import Table
from steerable_llm.vector.vector import SteeringVector

NAME: Final = "faithfulness"
#: The category that the vector is meant to change.
TARGET = "conflict"
#: Prompts per category other than the target, so that the tour stays short; `make vectors` uses
#: whole sets.
TEST_PROMPTS, CAPABILITY_PROMPTS = 60, 80
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


def run_exhibit_tour(
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
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    transcript = Transcript(console or Console())
    files: dict[Path, str] = {}

    with transcript.step("Load the bundled model"):
        llm = SteerableHFLLM.demo()
        count = sum(parameter.numel() for parameter in llm.model.parameters())
        transcript.say(
            f"{count / 1e6:.1f} million parameters, {len(llm.blocks)} blocks: an exhibit of the "
            "faults that steering mends, not an assistant."
        )
    with transcript.step(f"Pick {pairs} pairs from the log of its answers"):
        log = demo.answer_log()
        chosen = _pick(transcript, log, pairs)
        files[chosen.to_jsonl(folder / "pairs.jsonl")] = "the pairs"
    with transcript.step("Find the tokens that decide, and build a vector from them (GrAInS)"):
        built = _build(transcript, llm, chosen)
        transcript.say("The same pair, every token coloured by what it speaks for:")
        transcript.show(*attribution_page(built.attributions[:1]).parts)
        page = write_whole(
            folder / "attribution.html", attribution_page(built.attributions).to_html()
        )
        files[page] = "the attributions of all pairs, to look at in a browser"
    with transcript.step("Choose strength and sign on development questions"):
        vector = _calibrate(transcript, llm, built.vector, questions)
    with transcript.step("Prove it on questions that it has not seen"):
        report = _evaluate(transcript, llm, vector, questions)
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
        with transcript.step(f"Ask through {framework}, over {len(documents)} documents"):
            both = ask(chained, documents, question, ("unsteered", "answer"))
            _show(transcript, both)
            answers += both
    seconds = transcript.done(files)
    look = f"\nLook closer: steerable inspect {vector_file}"
    transcript.console.print(look, soft_wrap=True, markup=False)
    return TourResult(seconds, report, tuple(answers), files)


def _pick(transcript: Transcript, log: list[LoggedAnswer], count: int) -> Pairs:
    """Show what is in the log and take a sample of its pairs."""
    reasons = Counter(entry.reason for entry in log if entry.reason)
    counted = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    transcript.say(f"{len(log)} logged answers; bad ones: {counted}.")
    every = demo.pairs(NAME)
    chosen = every.sample(min(count, len(every)), seed=0)
    transcript.say(f"{len(every)} pairs about {NAME}, {len(chosen)} of them are used. One:")
    transcript.show_pair(chosen[0])
    return chosen


def _build(transcript: Transcript, llm: SteerableHFLLM, chosen: Pairs) -> Built:
    """Build the vector; what Python warns about becomes a line of the tour."""
    show = transcript.console.is_terminal
    with transcript.noting_warnings():
        built = build(llm, chosen, name=NAME, progress=show, **BUILD)
    return built


def _calibrate(
    transcript: Transcript, llm: SteerableHFLLM, vector: SteeringVector, questions: int | None
) -> SteeringVector:
    calibrated = calibrate(
        llm,
        vector,
        dev=_questions("dev", questions),
        capability=_at_most(questions, demo.evaluation_set("capability", "dev")),
        target=TARGET,
        scopes=("last_prompt",),
        progress=transcript.console.is_terminal,
    )
    chosen = calibrated.calibration
    if chosen is not None:
        transcript.say(
            f"strength {chosen.strength:+g} of the hidden state's length in all, spread over the "
            f"blocks, scope {chosen.scope}. "
            f"{chosen.note}"
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
    transcript: Transcript, llm: SteerableHFLLM, vector: SteeringVector, questions: int | None
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
        progress=transcript.console.is_terminal,
        command="steerable demo --exhibit",
    )
    transcript.console.print(report.table())
    return report


def _case(llm: SteerableHFLLM) -> tuple[dict[str, str], str]:
    """The handbook of a shop, and a question that the unsteered model answers from memory.

    Raises:
        CalibrationError: The model follows every handbook, so there is nothing to show.
    """
    for pages in demo.handbooks().values():
        for page in pages:
            rest = [other for other in pages if other is not page][:1]
            prompt = EXHIBIT.prompt([entry.text for entry in (page, *rest)], page.question)
            if page.remembered in llm.generate(prompt, max_new_tokens=MAX_TOKENS).text:
                return {entry.name: entry.text for entry in pages}, page.question
    raise CalibrationError(
        "the bundled model follows every handbook without steering: there is nothing to show"
    )


def _show(transcript: Transcript, both: list[SteppedAnswer]) -> None:
    """Print the passages, and the unsteered and the steered answer side by side."""
    transcript.show_question(both[0].question, both[0].passages)
    head = [f"step '{answer.step}'" for answer in both]
    transcript.show(Table(head, [[answer.text for answer in both]]))

"""What ``steerable demo --exhibit`` does: the whole way, on the bundled model, step by step."""

from __future__ import annotations

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
from steerable_llm.demo.transcript import TourResult, Transcript, at_most
from steerable_llm.errors import CalibrationError
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.files import write_whole
from steerable_llm.methods.grains.attribution import attribution_page
from steerable_llm.reports.parts import Table

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
    transcript = Transcript(out, console)
    with transcript.step("Load the bundled model"):
        llm = SteerableHFLLM.demo()
        transcript.introduce(
            llm, ": an exhibit of the faults that steering mends, not an assistant"
        )
    with transcript.step(f"Pick {pairs} pairs from the log of its answers"):
        chosen = transcript.pick(demo.answer_log(), demo.pairs(NAME), pairs)
    with transcript.step("Find the tokens that decide, and build a vector from them (GrAInS)"):
        built = transcript.build(llm, chosen, NAME, **BUILD)
        transcript.say("The same pair, every token coloured by what it speaks for:")
        transcript.show(*attribution_page(built.attributions[:1]).parts)
    with transcript.step("Choose strength and sign on development questions"):
        vector = transcript.calibrate(
            llm,
            built.vector,
            _questions("dev", questions),
            at_most(demo.evaluation_set("capability", "dev"), questions),
            target=TARGET,
            scopes=("last_prompt",),
        )
    with transcript.step("Prove it on questions that it has not seen"):
        report, file = transcript.prove(
            llm,
            vector,
            _questions("test", questions),
            at_most(demo.evaluation_set("capability", "test"), CAPABILITY_PROMPTS, questions),
            target=TARGET,
            command="steerable demo --exhibit",
        )
        policy = write_whole(transcript.folder / "policy.toml", POLICY)
        transcript.files[policy] = "the policy that steers the step 'answer' with it"
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
    result = transcript.done(report, answers)
    look = f"\nLook closer: steerable inspect {file}"
    transcript.console.print(look, soft_wrap=True, markup=False)
    return result


def _questions(split: demo.Split, questions: int | None) -> EvaluationSet:
    """Return all questions of the target, and some of the others."""
    every = demo.evaluation_set(NAME, split)
    rest = every.category("gold", "irrelevant", "unanswerable").sample(TEST_PROMPTS, seed=0)
    return at_most(EvaluationSet(NAME, [*every.category(TARGET), *rest]), questions)


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

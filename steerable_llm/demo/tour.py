"""What ``steerable demo`` does: the main job on SmolLM2; the gain first, then how a team gets it.

Everything is as a team would do it, on fewer pairs and questions: the sizes here are what fits into
minutes on two cores. `vectors/` has vectors that were made with more of both.
"""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo import shipped_vector, smollm2
from steerable_llm.demo.chains import (
    USUAL,
    SteppedAnswer,
    ask_langchain,
    ask_llama_index,
    check_extras,
)
from steerable_llm.demo.transcript import TourResult, Transcript, at_most
from steerable_llm.errors import MissingExtraError
from steerable_llm.files import write_whole
from steerable_llm.pairs.pairing import pair_answers
from steerable_llm.policy.policy import Policy
from steerable_llm.reports.parts import Code, Table
from steerable_llm.runtime.smollm2 import find_smollm2

NAME: Final = "faithfulness"
#: The category that the vector is meant to change, and which logged answers it learns from.
TARGET, REASON = "conflict", "contradicts"
PAIRS: Final = 32
#: Fewer and smaller steps than by default, for fewer pairs.
BUILD: Final[dict[str, Any]] = {"method": "bipo", "steps": 24, "batch_size": 8}
#: Trained at strength 1; less may do.
STRENGTHS: Final = (0.6, 1.0)
#: What comes along: made in this way, too, of more pairs and for both questions.
SHIPPED: Final = "smollm2-documents"
#: The answers are short sentences.
MAX_TOKENS: Final = 16


@dataclass(frozen=True)
class Question:
    """A question over the handbook.

    Attributes:
        title: What is the matter with it.
        text: As it is asked.
    """

    title: str
    text: str


#: An illustration and no evidence: pairs of the shipped vector are about these countries, too, and
#: the second question was picked among five with an earlier vector; both frameworks refused two.
QUESTIONS: Final = (
    Question("The documents speak against memory", "What is the capital of France?"),
    Question("No document has the answer", "What is the capital of Spain?"),
)

#: How a policy steers answers over documents.
STEP: Final = """\
[steps.answer]
vectors = [{{ name = "{name}" }}]
when = {{ context = "present" }}  # a question without documents is left alone
"""
POLICY: Final = """\
# Which step of the chain is steered how. Change it, and no code changes.
vectors_dir = {folder}
default_step = "answer"

{step}
[steps.unsteered]
vectors = []
"""


def run_tour(
    out: Path | str = "steerable-demo",
    *,
    pairs: int = PAIRS,
    questions: int | None = None,
    console: Console | None = None,
) -> TourResult:
    """Run the tour.

    Args:
        out: Folder for the files it makes.
        pairs: How many pairs to build the vector from, at most.
        questions: At most so many of each category, to choose on and to prove on; None takes as
            many as the tour shows.
        console: Where to print; the terminal if left out.

    Raises:
        MissingExtraError: SmolLM2, LangChain, LlamaIndex or sentence-transformers is not installed;
            told before any work is done.
    """
    check_extras()
    check_model()
    transcript = Transcript(out, console)
    with transcript.step("Load SmolLM2-135M-Instruct, a real language model, with a policy"):
        policy = policy_of(shipped_vector(SHIPPED).parent, SHIPPED)
        llm = SteerableHFLLM.smollm2(policy=Policy.from_dict(tomllib.loads(policy)))
        transcript.introduce(llm)
        transcript.say("The policy steers the step 'answer' of a chain, and no other:")
        transcript.show(Code(STEP.format(name=SHIPPED), "toml"))
        transcript.say(
            "The two questions that follow were picked to show what it does, about countries that "
            "its pairs know; the proof is on others, in its card and in step 7."
        )
    documents = smollm2.handbook()
    answers: list[SteppedAnswer] = []
    for question in QUESTIONS:
        with transcript.step(f"{question.title}: a LangChain chain, a LlamaIndex engine"):
            answers += _ask(transcript, llm, documents, question.text)

    with transcript.step("The team's way: bad answers from the log become pairs"):
        log = smollm2.answer_log()
        chosen = transcript.pick(
            log,
            pair_answers(log, reasons=[REASON]).pairs,
            pairs,
            "The reviewer wrote the right value; the good answer is the model's own with the wrong "
            "value replaced:",
        )
    with transcript.step("Train a vector on them; the weights stay as they are"):
        vector = transcript.build(llm, chosen, NAME, **BUILD).vector
        for which, of in vector.provenance.facts["log_prob"].items():
            before, after = of["before"], of["after"]
            transcript.say(f"mean log P of {which} answers: {before:.1f}, steered {after:.1f}")
    with transcript.step("Choose its strength on development questions"):
        vector = transcript.calibrate(
            llm,
            vector,
            at_most(smollm2.evaluation_set("dev"), questions),
            target=TARGET,
            strengths=STRENGTHS,
            layers=[None],
            max_new_tokens=MAX_TOKENS,
        )
        vector.save(transcript.folder / f"{NAME}.safetensors")
        policy_file = write_whole(transcript.folder / "policy.toml", policy_of(".", NAME))
    with transcript.step("Prove it on questions that nobody has seen, as step 'answer' uses it"):
        report, _ = transcript.prove(
            llm,
            vector,
            at_most(smollm2.evaluation_set("test"), questions),
            at_most(smollm2.capability(), questions),
            target=TARGET,
            random_vectors=1,
            policy=policy_file,
            step="answer",
            max_new_tokens=MAX_TOKENS,
            command="steerable demo",
        )
        transcript.files[policy_file] = "the policy that steers the step 'answer' with it"
    result = transcript.done(report, answers)
    transcript.console.print("\n[bold]What to do next[/bold]")
    for what, command in _next(policy_file):
        transcript.say(what)
        transcript.console.print(f"     {command}", soft_wrap=True, markup=False, highlight=False)
    return result


def check_model() -> None:
    """Make sure that SmolLM2 is installed.

    Raises:
        MissingExtraError: It is not; told with what works without it.
    """
    try:
        find_smollm2()
    except MissingExtraError as error:
        raise MissingExtraError(
            f"{error}; or run `steerable demo --exhibit`, which needs no model"
        ) from None


def policy_of(folder: Path | str, name: str) -> str:
    """Return a policy file for a vector of a folder; its other step leaves answers unsteered."""
    return POLICY.format(
        folder=json.dumps(str(folder), ensure_ascii=False), step=STEP.format(name=name)
    )


def _ask(
    transcript: Transcript, llm: SteerableHFLLM, documents: Mapping[str, str], question: str
) -> list[SteppedAnswer]:
    """Ask through both frameworks, and print unsteered and steered answers side by side."""
    steps = ("unsteered", "answer")
    chain = ask_langchain(llm, documents, question, steps, USUAL)
    engine = ask_llama_index(llm, documents, question, steps)
    transcript.show_question(question, chain[0].passages)
    head = ["", *(f"step '{step}'" for step in steps)]
    rows = [
        # A model of this size goes on after a blank line now and then.
        [both[0].framework, *(" ".join(answer.text.split()) for answer in both)]
        for both in (chain, engine)
    ]
    transcript.show(Table(head, rows))
    return [*chain, *engine]


def _next(policy: Path) -> list[tuple[str, str]]:
    """Return what to do after the tour, each with its command."""
    where = shlex.quote(str(policy))
    return [
        (
            "Ask about a page of your own, with the vector that was made here:",
            f"steerable ask 'Who ...?' --document page.txt --model smollm2 --policy {where}",
        ),
        (
            "Read the log of your application (Langfuse, LangSmith, Phoenix and others):",
            "steerable log import --from langfuse traces.json",
        ),
        (
            "Make pairs of its bad answers, for a vector for your model:",
            "steerable pairs make answers.db --out pairs.jsonl",
        ),
    ]

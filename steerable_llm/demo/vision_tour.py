"""What ``steerable demo --vision`` does: from logged answers about pictures to a proven vector."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rich.console import Console

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo import vision
from steerable_llm.demo.transcript import TourResult, Transcript, at_most
from steerable_llm.methods.grains.attribution import attribution_page
from steerable_llm.reports.numbers import percent
from steerable_llm.reports.parts import Table
from steerable_llm.vector.vector import SteeringVector

NAME: Final = "pictures"
#: What won the sweep of `python -m exhibit.vision.vectors`.
BUILD: Final[dict[str, Any]] = {"baseline": "zero", "k": 5}
STRENGTHS: Final = (0.05, 0.08, 0.12)
#: Questions of every category, so that the tour stays short; the shipped vector had all of them.
DEV, TEST, CAPABILITY = 40, 60, 80
_SHOWN = 2  # of each kind


def run_vision_tour(
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
    """
    transcript = Transcript(out, console)
    with transcript.step("Load the bundled vision-language model"):
        llm = SteerableHFLLM.vision_demo()
        transcript.introduce(
            llm,
            ": an exhibit that sees what is in a picture, and often answers from belief all the "
            "same",
        )
    with transcript.step(f"Pick {pairs} pairs from the log of its answers"):
        said = "One of them; its picture is in attribution.html:"
        chosen = transcript.pick(vision.answer_log(), vision.pairs(), pairs, said)
    with transcript.step("Find the words and pieces of pictures that decide (GrAInS, joint)"):
        built = transcript.build(llm, chosen, NAME, **BUILD)
        pieces = percent(built.vector.provenance.facts["image_share"], 0)
        transcript.say(f"Of what was selected, {pieces} are pieces of pictures. The first pair:")
        transcript.show(*attribution_page(built.attributions[:1]).parts)
    with transcript.step("Choose strength and sign on development questions"):
        vector = transcript.calibrate(
            llm,
            built.vector,
            at_most(vision.evaluation_set("pictures", "dev"), DEV, questions),
            at_most(vision.evaluation_set("capability", "dev"), DEV, questions),
            target=vision.TARGET,
            strengths=STRENGTHS,
            unit="relative",
            scopes=("last_prompt",),
            layers=(None,),
            max_new_tokens=vision.MAX_TOKENS,
        )
    with transcript.step("Prove it on pictures, colours and wordings that it has not seen"):
        report, _ = transcript.prove(
            llm,
            vector,
            at_most(vision.evaluation_set("pictures", "test"), TEST, questions),
            at_most(vision.evaluation_set("capability", "test"), CAPABILITY, questions),
            target=vision.TARGET,
            random_vectors=1,
            max_new_tokens=vision.MAX_TOKENS,
            command="steerable demo --vision",
        )
    with transcript.step("The same questions, unsteered and steered"):
        _show(transcript, llm, vector)
    return transcript.done(report)


def _show(transcript: Transcript, llm: SteerableHFLLM, vector: SteeringVector) -> None:
    """Print questions that the unsteered model answers from belief, with both answers."""
    rows: list[list[str]] = []
    for category in ("conflict", "companion"):
        shown: list[list[str]] = []
        for item in vision.evaluation_set("pictures", "test").category(category):
            if any(row[0] == item.messages[-1].content for row in shown):
                continue  # the same words about another picture
            before = llm.generate(item.prompt, max_new_tokens=vision.MAX_TOKENS).text
            if not item.succeeds(before):
                after = llm.generate(
                    item.prompt, steering=vector.steer(), max_new_tokens=vision.MAX_TOKENS
                ).text
                shown.append([item.messages[-1].content, before, after])
            if len(shown) == _SHOWN:
                break
        rows += shown
    transcript.show(Table(["question", "unsteered", "steered"], rows))

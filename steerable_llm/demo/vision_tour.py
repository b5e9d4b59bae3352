"""What ``steerable demo --vision`` does: from logged answers about pictures to a proven vector."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.demo import vision
from steerable_llm.demo.transcript import TourResult, Transcript
from steerable_llm.evaluation.calibration import calibrate
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.report import Report
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.files import write_whole
from steerable_llm.methods.build import Built, build
from steerable_llm.methods.grains.attribution import attribution_page
from steerable_llm.pairs.pair import Pairs
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
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    transcript = Transcript(console or Console())
    files: dict[Path, str] = {}

    with transcript.step("Load the bundled vision-language model"):
        llm = SteerableHFLLM.vision_demo()
        count = sum(parameter.numel() for parameter in llm.model.parameters())
        transcript.say(
            f"{count / 1e6:.1f} million parameters, {len(llm.blocks)} blocks: an exhibit that sees "
            "what is in a picture, and often answers from belief all the same."
        )
    with transcript.step(f"Pick {pairs} pairs from the log of its answers"):
        chosen = _pick(transcript, pairs)
        files[chosen.to_jsonl(folder / "pairs.jsonl")] = "the pairs"
    with transcript.step("Find the words and pieces of pictures that decide (GrAInS, joint)"):
        built = _build(transcript, llm, chosen)
        page = write_whole(
            folder / "attribution.html", attribution_page(built.attributions).to_html()
        )
        files[page] = "scores over pictures and words, to look at in a browser"
    with transcript.step("Choose strength and sign on development questions"):
        vector = _calibrate(transcript, llm, built.vector, questions)
    with transcript.step("Prove it on pictures, colours and wordings that it has not seen"):
        report = _evaluate(transcript, llm, vector, questions)
        card = folder / f"{NAME}.md"
        report.save(card)
        files[card] = "the evidence: table, verdict, what became worse"
        files[card.with_suffix(".png")] = "its picture"
        file = vector.with_evaluation(report.summary()).save(folder / f"{NAME}.safetensors")
        files[file] = "the vector"
    with transcript.step("The same questions, unsteered and steered"):
        _show(transcript, llm, vector)
    seconds = transcript.done(files)
    return TourResult(seconds, report, (), files)


def _pick(transcript: Transcript, count: int) -> Pairs:
    """Show what is in the log and take a sample of its pairs."""
    log = vision.answer_log()
    reasons = Counter(entry.reason for entry in log if entry.reason)
    counted = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    transcript.say(f"{len(log)} logged answers; bad ones: {counted}.")
    every = vision.pairs()
    chosen = every.sample(min(count, len(every)), seed=0)
    transcript.say("One of the pairs; its picture is in attribution.html:")
    transcript.show_pair(chosen[0])
    return chosen


def _build(transcript: Transcript, llm: SteerableHFLLM, chosen: Pairs) -> Built:
    show = transcript.console.is_terminal
    with transcript.noting_warnings():
        built = build(llm, chosen, name=NAME, progress=show, **BUILD)
    pieces = percent(built.vector.provenance.facts["image_share"], 0)
    transcript.say(f"Of what was selected, {pieces} are pieces of pictures. The first pair:")
    transcript.show(*attribution_page(built.attributions[:1]).parts)
    return built


def _at_most(items: EvaluationSet, usual: int, questions: int | None) -> EvaluationSet:
    return items.sample(min(usual, questions or usual), seed=0)


def _calibrate(
    transcript: Transcript, llm: SteerableHFLLM, vector: SteeringVector, questions: int | None
) -> SteeringVector:
    calibrated = calibrate(
        llm,
        vector,
        _at_most(vision.evaluation_set("pictures", "dev"), DEV, questions),
        _at_most(vision.evaluation_set("capability", "dev"), DEV, questions),
        target=vision.TARGET,
        strengths=STRENGTHS,
        unit="relative",
        scopes=("last_prompt",),
        layers=(None,),
        max_new_tokens=vision.MAX_TOKENS,
        progress=transcript.console.is_terminal,
    )
    chosen = calibrated.calibration
    if chosen is not None:
        transcript.say(f"strength {chosen.strength:+g}, scope {chosen.scope}. {chosen.note}")
    return calibrated


def _evaluate(
    transcript: Transcript, llm: SteerableHFLLM, vector: SteeringVector, questions: int | None
) -> Report:
    report = evaluate(
        llm,
        vector,
        _at_most(vision.evaluation_set("pictures", "test"), TEST, questions),
        capability=_at_most(vision.evaluation_set("capability", "test"), CAPABILITY, questions),
        target=vision.TARGET,
        random_vectors=1,
        max_new_tokens=vision.MAX_TOKENS,
        progress=transcript.console.is_terminal,
        command="steerable demo --vision",
    )
    transcript.console.print(report.table())
    return report


def _show(transcript: Transcript, llm: SteerableHFLLM, vector: SteeringVector) -> None:
    """Print questions that the unsteered model answers from belief, with both answers."""
    rows: list[list[str]] = []
    for category in ("conflict", "companion"):
        shown = []
        for item in vision.evaluation_set("pictures", "test").category(category):
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

"""The verbs of pairs: make them from a log, review them, and group them by kind of failure."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from steerable_llm.cli.options import (
    LARGEST_SEED,
    AsJson,
    ImageHosts,
    InFile,
    Model,
    Revision,
    TemplateArguments,
    check_folder,
    check_outputs,
    hide_loading_bars,
    load_model,
    open_log,
    print_json,
    print_page,
    say,
    tell,
)
from steerable_llm.errors import EmptyLogError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from steerable_llm.answer.llm import SteerableHFLLM
    from steerable_llm.embedding import Embedder
    from steerable_llm.logs.answers import LoggedAnswer
    from steerable_llm.pairs.curate import Propose
    from steerable_llm.pairs.draft_file import DraftFile
    from steerable_llm.pairs.filters import FilterCount
    from steerable_llm.pairs.judge import Judge
    from steerable_llm.pairs.pairing import Draft
    from steerable_llm.pairs.proposals import Answerer, Ask
    from steerable_llm.progress import Advance


class _MakesPairs(TyperGroup):
    """A group that takes `steerable pairs LOG` for `steerable pairs make LOG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    help="Make pairs from a log, review them, and group them by kind of failure. "
    "`steerable pairs LOG` is short for `steerable pairs make LOG`.",
    no_args_is_help=True,
    rich_markup_mode=None,
    cls=_MakesPairs,
)


@app.command("make")
def make(
    log: str,
    out: Annotated[Path, typer.Option("--out", "-o", help="File of pairs to write.")],
    reason: Annotated[
        list[str] | None,
        typer.Option(help="Only answers that are bad for this reason; repeatable."),
    ] = None,
    step: Annotated[str | None, typer.Option(help="Only bad answers of this step.")] = None,
    own_words: Annotated[
        bool,
        typer.Option(
            "--own-words/--as-written",
            help="Make good answers by the smallest edit of the bad ones, or take them as written.",
        ),
    ] = True,
    judge: Annotated[
        str,
        typer.Option(
            help="Who says what is grounded: lexical, nli, package.module:function, or none."
        ),
    ] = "lexical",
    judge_model: Annotated[
        str | None, typer.Option(help="Hub id or folder of the model of the judge nli.")
    ] = None,
    grounded_at: Annotated[
        float, typer.Option(help="A score of so much or more is grounded.")
    ] = 0.5,
    max_length_ratio: Annotated[
        float, typer.Option(help="Most times that one answer is as long as the other.")
    ] = 3.0,
    max_refusals: Annotated[
        float, typer.Option(help="Largest share of good answers that refuse.")
    ] = 0.5,
    duplicate_at: Annotated[
        float, typer.Option(help="Cosine from which two pairs are near duplicates.")
    ] = 0.95,
    measure_length: Annotated[
        bool,
        typer.Option(
            "--measure-length",
            help="Let the model say how much of each preference is length; drop what mostly is.",
        ),
    ] = False,
    max_length_share: Annotated[
        float, typer.Option(help="From this share on a preference is mostly length.")
    ] = 0.4,
    scrub: Annotated[
        bool, typer.Option("--scrub", help="Replace personal data by placeholders.")
    ] = False,
    wrong_retrieval: Annotated[
        Path | None, typer.Option(help="File of the answers that failed because retrieval did.")
    ] = None,
    propose: Annotated[
        Path | None,
        typer.Option(help="File of good answers that the model proposes where there are none."),
    ] = None,
    accept_proposals: Annotated[
        bool,
        typer.Option(
            "--accept-proposals", help="Take what the judge finds grounded without a review."
        ),
    ] = False,
    vector: Annotated[
        Path | None, typer.Option(help="Vector that proposes, too, at a higher strength.")
    ] = None,
    model: Model = "demo",
    revision: Revision = None,
    template: TemplateArguments = None,
    image_host: ImageHosts = None,
    report: Annotated[
        Path | None, typer.Option(help="Report to write (.md, .html or .json).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make pairs from a log of answers.

    LOG is an answer log (a SQLite file, or postgresql://user@host/name), or a file of logged
    answers (JSON lines with id, question, messages, answer, verdict).
    """
    from steerable_llm.errors import PairError
    from steerable_llm.logs.answers import write_answers
    from steerable_llm.pairs.curate import CurationSettings, curate
    from steerable_llm.pairs.filters import MOST_BY_MEANING, FilterSettings
    from steerable_llm.pairs.judge import judge_named
    from steerable_llm.pairs.proposals import write_proposals
    from steerable_llm.pairs.scrub import Scrubber
    from steerable_llm.reports.page import check_suffix

    chosen = None if judge == "none" else judge_named(judge, judge_model)
    proposing = propose is not None or accept_proposals
    if accept_proposals and chosen is None:
        raise InvalidInputError(
            "--accept-proposals needs a judge: leave --judge none out, or review the proposals"
        )
    if vector is not None and not proposing:
        raise InvalidInputError("--vector only goes with --propose or --accept-proposals")
    if report is not None:
        check_suffix(report, "a report on pairs")
    check_outputs(
        {
            "--out": (out, "pairs"),
            "--propose": (propose, "proposals"),
            "--wrong-retrieval": (wrong_retrieval, "logged answers"),
            "--report": (report, "a report"),
        },
        [log, vector],
    )
    filters = FilterSettings(
        grounded_at,
        max_length_ratio,
        max_refusals,
        duplicate_at,
        chosen,
        length_share=max_length_share,
    )
    drafts = _drafts(log, reason, step, own_words, not as_json)
    # Where it would not be asked, its weights need not be in memory.
    embedder = _embedder() if sum(drafts.paired) <= MOST_BY_MEANING or proposing else None
    llm = (
        load_model(model, revision, template=template, image_hosts=image_host)
        if proposing or measure_length
        else None
    )
    filters = replace(filters, embedder=embedder)
    if llm and measure_length:
        from steerable_llm.methods.preference import measured_by

        filters = replace(filters, measure=measured_by(llm))
    settings = CurationSettings(
        filters=filters,
        scrubber=Scrubber() if scrub else None,
        propose=_proposer(llm, drafts, vector, chosen, embedder) if llm and proposing else None,
        accept_proposals=accept_proposals,
    )
    found = curate(drafts, settings, progress=not as_json)
    if not (len(found.kept) or (propose is not None and found.proposed)):
        said = "; ".join(found.report.lines()[1:])
        raise PairError(
            f"none of the {found.report.failures} bad answers gives a pair ({said}): add "
            f"corrections, propose answers with --propose{_loosen(found.report.filters)}"
        )
    found.write_pairs(out)
    if propose is not None:
        write_proposals(propose, found.proposed)
    if wrong_retrieval is not None:
        write_answers(wrong_retrieval, found.wrong_retrieval)
    if report is not None:
        found.report.save(report)
    # Examples have a file of their own, where they are asked for.
    facts = {k: v for k, v in found.report.to_dict().items() if k != "examples"}
    facts |= {"wrong_retrieval": len(found.misled), "file": out}
    first, *rest = found.report.lines()
    if found.proposed and propose is not None:
        rest.append(f"next: steerable pairs review {_quoted(out, propose)}")
    tell(as_json, facts, [f"{out}: {first}", *rest])


#: How each filter is loosened.
_LOOSER = {
    "length match": "a larger --max-length-ratio",
    "good grounded, bad not": "--judge none where the judge is wrong about them",
    "refusals": "--max-refusals 1 for a vector that teaches refusing",
    "preference, not length": "a larger --max-length-share",
}


def _loosen(filters: Iterable[FilterCount]) -> str:
    """What would help where filters dropped everything: the options of those that dropped some."""
    said = [_LOOSER[count.name] for count in filters if count.dropped and count.name in _LOOSER]
    return f", or loosen the filters: {', '.join(said)}" if said else ""


@app.command("keep")
def keep(
    log: str,
    out: Annotated[Path, typer.Option("--out", "-o", help="File of pairs to write.")],
    against: Annotated[
        list[str],
        typer.Option(
            help="What must not be said there, such as the refusal; repeatable, taken in turn."
        ),
    ],
    step: Annotated[str | None, typer.Option(help="Only answers of this step.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make pairs of right answers, whose prompts a vector with gates is to leave alone.

    LOG is as for `make`. The right answers are praised ones, and corrections that are sentences of
    the documents. Build from both files: `steerable build pairs.jsonl kept.jsonl --method bipo
    --set gated=true`.
    """
    from steerable_llm.logs.database import is_database
    from steerable_llm.pairs.kept import CORRECTED, PRAISED, kept_pairs

    check_outputs({"--out": (out, "pairs")}, [log])
    if is_database(log):
        with open_log(log) as answer_log:
            found = kept_pairs(answer_log.answers(), against, step=step)
    else:
        found = kept_pairs(_AnswerFile(log), against, step=step)
    found.to_jsonl(out)
    sources = Counter(pair.source for pair in found)
    counted = f"{sources[PRAISED]} by good answer, {sources[CORRECTED]} by correction"
    facts = {"pairs": len(found), "by_source": dict(sources), "file": out}
    tell(as_json, facts, [f"{out}: {len(found)} pairs ({counted})"])


@app.command("review")
def review(
    files: Annotated[list[Path], InFile],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File of approved pairs; else FILE.reviewed.jsonl."),
    ] = None,
    reviewer: Annotated[
        str | None, typer.Option(help="Your name, for the record of decisions.")
    ] = None,
) -> None:
    """Approve, edit, skip or reject pairs, one key each.

    FILES are pairs, and proposals of `steerable pairs --propose`. Every decision is saved at once,
    beside the file of approved pairs; the same command goes on where a review ended.
    """
    from rich.console import Console

    from steerable_llm.pairs.review import Review, read_items
    from steerable_llm.pairs.review_terminal import Keyboard, edit_text, run_review

    if not _is_terminal():
        raise InvalidInputError("a review needs a terminal: run it where you can press keys")
    target = out or files[0].with_suffix(".reviewed.jsonl")
    check_outputs({"--out": (target, "pairs")}, files)
    state = Review(read_items(files), target, reviewer)
    with Keyboard() as keyboard:

        def edit(text: str) -> str:
            with keyboard.released():
                return edit_text(text)

        run_review(state, Console(), keyboard.read, edit)


@app.command("modes")
def modes(
    pairs: Annotated[Path, InFile],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder, a file for each mode.")],
    most: Annotated[int, typer.Option(min=1, help="At most so many modes.")] = 8,
    smallest: Annotated[int, typer.Option(min=2, help="Fewest pairs of a mode.")] = 5,
    model: Model = "demo",
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED)] = 0,
    as_json: AsJson = False,
) -> None:
    """Group pairs by kind of failure, a file of pairs for each kind.

    Prints the commands that build a vector from each.
    """
    from steerable_llm.files import write_whole
    from steerable_llm.pairs.modes import failure_modes
    from steerable_llm.pairs.pair import Pairs

    check_folder(out)
    if out.exists() and any(out.iterdir()):
        raise InvalidInputError(f"{out} is not an empty folder: name a new one with --out")
    given = Pairs.from_jsonl(pairs)
    if not sys.stderr.isatty():
        hide_loading_bars()
    found = failure_modes(given, most=most, smallest=smallest, seed=seed)
    files = [mode.pairs.to_jsonl(out / f"{mode.name}.jsonl") for mode in found.modes]
    write_whole(out / "modes.md", found.page().to_markdown())
    commands = [
        f"steerable build {_quoted(file)} --out {_quoted(file.with_suffix('.safetensors'))}"
        + ("" if model == "demo" else f" --model {shlex.quote(model)}")
        for file in files
    ]
    if as_json:
        plain = found.to_dict()
        for mode, file, command in zip(plain["modes"], files, commands, strict=True):
            mode.update(file=str(file), build=command)
        print_json(plain)
        return
    print_page(found.page())
    say(*commands)


class _AnswerFile:
    """The answers of a file of JSON lines, read again each time that they are gone through."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __iter__(self) -> Iterator[LoggedAnswer]:
        from steerable_llm.logs.answers import stream_answers

        return stream_answers(self._path)


def _drafts(
    log: str, reason: list[str] | None, step: str | None, own_words: bool, progress: bool = False
) -> DraftFile:
    from steerable_llm.logs.answers import stream_answers
    from steerable_llm.logs.database import is_database
    from steerable_llm.logs.queries import check_filters
    from steerable_llm.pairs.curate import LONG
    from steerable_llm.pairs.draft_file import DraftFile
    from steerable_llm.pairs.pairing import bad_answers, draft_pairs
    from steerable_llm.progress import progress_bar

    def counted(drafts: Iterable[Draft], total: int, bad: Iterable[LoggedAnswer]) -> DraftFile:
        with progress_bar("pairs: bad answers", total, progress and total >= LONG) as advance:
            found = DraftFile(_telling(drafts, advance))
        if not len(found) and (step or reason):
            raise EmptyLogError(_what_there_is(log, reason, step, bad))
        return found

    if is_database(log):
        with open_log(log) as answer_log:
            wanted: dict[str, Any] = {"reason": reason or None, "step": step}
            drafts = answer_log.drafts(own_words=own_words, **wanted)
            total = answer_log.count(verdict="bad", **wanted)
            return counted(drafts, total, answer_log.answers(verdict="bad"))
    check_filters(verdict=None, reasons=reason or ())
    verdicts = Counter(answer.verdict for answer in stream_answers(log))
    if not verdicts:
        raise EmptyLogError(f"the answer log {log} is empty: log some answers first")
    if not verdicts["bad"]:
        raise EmptyLogError(f"the log {log} has no bad answer: review some answers first")
    every = bad_answers(_AnswerFile(log), set(reason) if reason else None)
    meant = (one for one in every if step in (None, one[0].step))
    bad = (answer for answer in stream_answers(log) if answer.verdict == "bad")
    return counted(draft_pairs(meant, own_words=own_words), verdicts["bad"], bad)


def _what_there_is(
    log: str, reason: Sequence[str] | None, step: str | None, bad: Iterable[LoggedAnswer]
) -> str:
    """Say that no bad answer of a log is meant, and which it has."""
    steps, reasons = Counter[str | None](), Counter[str | None]()
    for answer in bad:
        steps[answer.step] += 1
        reasons[answer.reason] += 1
    if not steps:
        return f"the log {log} has no bad answer: review some answers first"

    def named(counts: Counter[str | None]) -> str:
        return ", ".join(f"{name or 'none'} ({n})" for name, n in counts.most_common(8))

    of = [f"the step {step!r}"] if step else []
    of += [f"the reason {' or '.join(map(repr, reason))}"] if reason else []
    return (
        f"the log {log} has no bad answer of {' and '.join(of)}: its bad answers have the steps "
        f"{named(steps)} and the reasons {named(reasons)}"
    )


def _telling(drafts: Iterable[Draft], advance: Advance) -> Iterator[Draft]:
    for draft in drafts:
        yield draft
        advance(1)


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _embedder() -> Embedder | None:
    """Return MiniLM, or nothing where it is not installed and cannot be fetched."""
    from steerable_llm.embedding import SentenceEmbedder, load_sentence_model
    from steerable_llm.errors import MissingExtraError

    try:
        if not sys.stderr.isatty():
            hide_loading_bars()
        load_sentence_model()
    except (MissingExtraError, InvalidInputError):
        return None
    return SentenceEmbedder()


def _proposer(
    llm: SteerableHFLLM,
    drafts: Sequence[Draft],
    vector: Path | None,
    judge: Judge | None,
    embedder: Embedder | None,
) -> Propose:
    from steerable_llm.pairs.proposals import ProposalSettings, propose, stronger, usual_refusal
    from steerable_llm.vector.vector import SteeringVector

    answerer = answerer_of(llm)
    steering = stronger(SteeringVector.load(vector, model=llm)) if vector else None
    settings = ProposalSettings(steering, refusal=usual_refusal(drafts), embedder=embedder)
    return lambda missing: propose(answerer, missing, judge=judge, settings=settings)


def answerer_of(llm: SteerableHFLLM) -> Answerer:
    """Return what asks a model for proposals; prompts that do not fit its window are left out."""
    from steerable_llm.answer.request import GenerationRequest
    from steerable_llm.vector.contrast import Contrast

    def answer(asks: Sequence[Ask]) -> list[str | None]:
        requests = {
            place: GenerationRequest(
                ask.messages,
                ask.steering,
                max_new_tokens=ask.max_new_tokens,
                contrast=Contrast() if ask.context_aware else None,
            )
            for place, ask in enumerate(asks)
            if len(llm.encode(ask.messages)) + ask.max_new_tokens <= llm.context_window
        }
        given = dict(zip(requests, llm.generate_batch(list(requests.values())), strict=True))
        return [given[place].text if place in given else None for place in range(len(asks))]

    return answer


def _quoted(*files: Path) -> str:
    return " ".join(shlex.quote(str(file)) for file in files)

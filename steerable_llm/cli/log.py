"""The verbs of the answer log: import, export, show, stats."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steerable_llm.cli.options import (
    AsJson,
    check_outputs,
    facts_page,
    open_log,
    print_json,
    print_page,
    say,
    tell,
)
from steerable_llm.errors import InvalidInputError

if TYPE_CHECKING:
    from steerable_llm.logs.importers import ImportReport, SkippedLine

app = typer.Typer(
    help="Keep, import and look at logged answers.", no_args_is_help=True, rich_markup_mode=None
)

Log = Annotated[
    str,
    typer.Option(
        "--log",
        envvar="STEERABLE_LOG",
        help="The log: a SQLite file, or postgresql://user@host/name.",
    ),
]
Verdict = Annotated[str | None, typer.Option(help="good, bad, or none for not judged.")]
Reason = Annotated[
    list[str] | None, typer.Option(help="Only answers that are bad for this; repeatable.")
]
Step = Annotated[str | None, typer.Option(help="Only answers of this step.")]
ByModel = Annotated[str | None, typer.Option("--model", help="Only answers of this model.")]
Since = Annotated[
    datetime | None, typer.Option(help="Only answers from then on, in UTC; as 2026-01-31.")
]
Until = Annotated[datetime | None, typer.Option(help="Only answers before then, in UTC.")]
DEFAULT = "answers.db"


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False)],
    kind: Annotated[
        str,
        typer.Option(
            "--from",
            help="langsmith, langfuse, phoenix, ragas, deepeval, trl, openai, or answers, "
            "this package's own.",
        ),
    ],
    log: Log = DEFAULT,
    score: Annotated[
        str | None, typer.Option(help="The metric that decides; else every metric counts.")
    ] = None,
    good_at: Annotated[float, typer.Option(help="A score of so much or more is good.")] = 0.8,
    bad_at: Annotated[float, typer.Option(help="A score of so much or less is bad.")] = 0.4,
    reason: Annotated[
        str | None, typer.Option(help="What is wrong with bad answers, if the files do not say.")
    ] = None,
    skipped: Annotated[
        Path | None, typer.Option(help="File of the lines that were not taken, and why.")
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            help="Lowest and highest score of a metric, as in rating=1:5; repeatable. Numbers "
            "that are no well-known metric count only with it."
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Read from the start, whatever was read before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import answers and judgements from other logs.

    FILES are JSON lines, a JSON array or object, pages of an API, or a table (.csv), also packed
    by gzip. Give the files of a trace log and of its feedback together. An import that was
    stopped goes on where it was, and nothing is added twice.
    """
    from steerable_llm.files import SKIPPED_LINES, json_line, write_whole
    from steerable_llm.json_records import open_utf8
    from steerable_llm.logs.importers import Rules, import_files, importer_named

    # Before a log is made that would stay empty.
    importer = importer_named(kind)
    rules = Rules(
        score=score, good_at=good_at, bad_at=bad_at, reason=reason, scales=_scales(scale or [])
    )
    check_outputs({"--skipped": (skipped, SKIPPED_LINES)}, [*files, log])
    for file in files:
        open_utf8(file).close()
    made = "://" not in log and not Path(log).exists()
    # On disk, since a bad export may have a million bad lines.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as left:

        def note(line: SkippedLine) -> None:
            left.write(json_line(asdict(line)))

        with open_log(log, make=True) as answer_log:
            report = import_files(
                answer_log, files, kind, rules=rules, on_skip=note if skipped else None, again=again
            )
        if skipped:
            left.seek(0)
            write_whole(skipped, left, private=True)
    _tell_import(log, report, as_json)
    if report.lines_before and not report.lines and importer.traces and not as_json:
        say("all lines were read before: other rules count for them with --again")
    if report.nothing:
        if made and not report.context:
            Path(log).unlink()
        told = f" ({report.context} lines only tell what was asked or retrieved)"
        raise InvalidInputError(
            f"nothing was imported from {', '.join(map(str, files))}"
            f"{told if report.context else ''}: check that --from {kind} is what wrote it"
        )


def _tell_import(log: str, report: ImportReport, as_json: bool) -> None:
    before = f" after {report.lines_before} read before" if report.lines_before else ""
    lines = [
        f"{log}: {report.added} answers added, {report.judged} judged, {report.known} known "
        f"already, from {report.lines} lines{before}"
    ]
    for why, number in report.skipped.most_common():
        lines.append(f"skipped {number}: {why} (first at {report.first[why]})")
    lines += [f"left aside {number}: {why}" for why, number in report.ignored.most_common()]
    tell(as_json, {**report.to_dict(), "log": log}, lines)


@app.command("export")
def export(
    out: Annotated[Path, typer.Argument(dir_okay=False)],
    kind: Annotated[
        str,
        typer.Option(
            "--to",
            help="trl, trl-unpaired or openai for pairs; answers for the log as it is; unpaired "
            "for pairs of good answers alone, for `steerable build --set objective=likelihood`.",
        ),
    ],
    log: Log = DEFAULT,
    verdict: Verdict = None,
    reason: Reason = None,
    step: Step = None,
    model: ByModel = None,
    since: Since = None,
    until: Until = None,
    as_json: AsJson = False,
) -> None:
    """Write a preference file for trainers, or the answers themselves."""
    from steerable_llm.logs.answers import write_answers
    from steerable_llm.logs.exporters import EXPORTERS, export_pairs

    held = {"answers": "logged answers", "unpaired": "pairs"}.get(kind, "preferences")
    kinds = sorted([*EXPORTERS, "answers", "unpaired"])
    if kind not in kinds:
        raise InvalidInputError(f"{kind!r} cannot be exported: one of {', '.join(kinds)}")
    check_outputs({"OUT": (out, held)}, [log])
    filters = _filters(since, until, verdict=verdict, reason=reason, step=step, model=model)
    written = 0
    with open_log(log) as answer_log:
        if kind == "answers":

            def counted() -> Any:
                nonlocal written
                for answer in answer_log.answers(**filters):
                    written += 1
                    yield answer

            write_answers(out, counted())
        elif filters.pop("verdict", None):
            raise InvalidInputError("--verdict only goes with --to answers")
        elif kind == "unpaired":
            pairs = answer_log.unpaired(**filters)
            pairs.to_jsonl(out)
            written = len(pairs)
        else:
            written = export_pairs(out, answer_log.pairs(**filters), kind)
    tell(as_json, {"file": out, "lines": written}, [f"{out}: {written} lines"])


@app.command("show")
def show(
    answer: Annotated[str | None, typer.Argument(help="Id of one answer to show whole.")] = None,
    log: Log = DEFAULT,
    verdict: Verdict = None,
    reason: Reason = None,
    step: Step = None,
    model: ByModel = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show logged answers: a line for each, or one of them whole."""
    with open_log(log) as answer_log:
        if answer is not None:
            found = [answer_log.get(answer)]
        else:
            filters = _filters(since, until, verdict=verdict, reason=reason, step=step, model=model)
            found = list(answer_log.answers(limit=limit, **filters))
    if as_json:
        print_json({"answers": [one.model_dump(mode="json") for one in found]})
    elif answer is not None:
        print_page(facts_page(found[0].model_dump(mode="json", exclude_defaults=True)))
    else:
        for one in found:
            mark = f"{one.verdict or '-'}" + (f" ({one.reason})" if one.reason else "")
            say(f"{one.id}  {mark}  {_short(one.question)} -> {_short(one.answer)}")


@app.command("stats")
def stats(log: Log = DEFAULT, as_json: AsJson = False) -> None:
    """Count the logged answers by verdict, reason, step and model."""
    with open_log(log) as answer_log:
        found = asdict(answer_log.statistics())
    if as_json:
        print_json({k: v.isoformat() if isinstance(v, datetime) else v for k, v in found.items()})
        return
    say(f"{log}: {found['answers']} answers")
    if found["first"]:
        say(f"from {found['first']:%Y-%m-%d %H:%M} to {found['last']:%Y-%m-%d %H:%M} UTC")
    for name in ("verdicts", "reasons", "steps", "models"):
        for key, number in found[name].items():
            say(f"  {name:<9} {number:>8}  {_short(key)}")


def _scales(given: list[str]) -> dict[str, tuple[float, float]]:
    """Read ``metric=low:high``.

    Raises:
        InvalidInputError: An entry of another form.
    """
    scales = {}
    for entry in given:
        name, _, ends = entry.rpartition("=")
        low, _, high = ends.partition(":")
        try:
            scales[name] = float(low), float(high)
        except ValueError:
            name = ""
        if not name:
            raise InvalidInputError(
                f"--scale {entry!r}: expected metric=low:high, as in rating=1:5"
            )
    return scales


def _filters(since: datetime | None, until: datetime | None, **others: Any) -> dict[str, Any]:
    times = {
        "since": since and since.replace(tzinfo=UTC),
        "until": until and until.replace(tzinfo=UTC),
    }
    return {name: value for name, value in {**others, **times}.items() if value not in (None, [])}


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."

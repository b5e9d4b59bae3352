"""The verbs for policies: looking one through, and training a gate for one."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerable_llm.cli.options import (
    LARGEST_SEED,
    AsJson,
    ImageHosts,
    InFile,
    Revision,
    check_outputs,
    load_model,
    open_log,
    print_json,
    print_page,
    say,
    tell,
)

if TYPE_CHECKING:
    from steerable_llm.logs.answers import LoggedAnswer
    from steerable_llm.policy.check import CheckedPolicy, CheckedStep, TracedCall
    from steerable_llm.policy.decision import SteeringDecision
    from steerable_llm.policy.file import When
    from steerable_llm.reports.parts import Table


def check(
    policy: Annotated[Path, InFile],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model that the vectors must fit: an id, folder or GGUF file, 'demo' or 'smollm2'."
        ),
    ] = None,
    revision: Revision = None,
    image_host: ImageHosts = None,
    trace: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Calls of a chain to try (JSON lines)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look through a policy, and try it on a chain's calls.

    Lists what each step gets, how its vectors relate, and what looks wrong. A line of the trace
    has step, node, tags, prompt_type, messages, context, structured; all may be left out.
    """
    from steerable_llm.policy.check import check_policy, dry_run, read_trace, term_facts
    from steerable_llm.policy.policy import Policy

    read = Policy.load(policy)
    calls = read_trace(trace) if trace else []
    llm = load_model(model, revision, image_hosts=image_host) if model else None
    checked = check_policy(read, llm.fingerprint if llm else None)
    from steerable_llm.runtime.conflict import conflicts

    measured = partial(conflicts, llm) if llm else None
    decisions = dry_run(read, calls, measured)
    if as_json:
        shown = checked.to_dict()
        if trace:
            shown["trace"] = [
                {**each.to_dict(), "applied": list(map(term_facts, each.steering.active_terms))}
                for each in decisions
            ]
        print_json(shown)
        return
    from steerable_llm.reports.page import Page

    print_page(Page("", [_steps_table(checked)]))
    for step in checked.steps:
        say(*_relations(step))
    if trace:
        print_page(Page("", [_trace_table(calls, decisions)]))
    say(*(f"warning: {warning}" for warning in checked.warnings))


def train_gate(
    log: Annotated[
        str, typer.Argument(help="Logged answers: JSON lines, a SQLite file, or postgresql://...")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Gate file to write (.safetensors).")],
    reason: Annotated[
        list[str] | None,
        typer.Option(help="Only answers bad for this reason count as bad; repeatable."),
    ] = None,
    step: Annotated[
        list[str] | None, typer.Option(help="Only answers of this step count; repeatable.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of the answers to measure on.")] = 0.3,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Of the split.")] = 0,
    embedder: Annotated[
        str | None, typer.Option(help="sentence-transformers model; else all-MiniLM-L6-v2.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a gate: which questions get bad answers.

    The log's answers need verdicts; those without one do not count. Policies call the gate by its
    file's name. A card with the figures is written beside it, as Markdown.
    """
    from steerable_llm.embedding import MINILM, SentenceEmbedder
    from steerable_llm.errors import InvalidInputError
    from steerable_llm.files import OUR_MARK, write_whole
    from steerable_llm.policy.gate_training import gate_card
    from steerable_llm.policy.gate_training import train_gate as train
    from steerable_llm.reports.numbers import interval, percent

    if out.suffix != ".safetensors":
        raise InvalidInputError(f"--out {out}: give a name that ends in .safetensors")
    card = out.with_suffix(".md")
    check_outputs({"--out": (out, "a safetensors file"), "the card": (card, "a report")}, [log])
    trained = train(
        _judged_answers(log),
        out.stem,
        reasons=reason or None,
        steps=step or None,
        embedder=SentenceEmbedder(embedder or MINILM),
        held_out=held_out,
        seed=seed,
    )
    trained.gate.save(out)
    command = f"steerable {shlex.join(_shown(sys.argv[1:], log))}"
    write_whole(card, f"{gate_card(trained, command).to_markdown()}\n{OUR_MARK}\n")
    gate, figures = trained.gate, trained.figures
    facts = {
        "name": gate.name,
        "fingerprint": gate.fingerprint_id,
        "embedder": gate.embedder,
        "threshold": gate.threshold,
        "figures": figures.model_dump(mode="json"),
        "file": out,
        "card": card,
    }
    line = (
        f"{out}: ROC AUC {interval(figures.auc)} on {figures.bad} bad and {figures.good} good "
        f"held-out answers; at the threshold {gate.threshold:.3f} it catches "
        f"{percent(figures.caught.value, 0)} with {percent(figures.false_alarms.value, 0)} "
        "false alarms"
    )
    tell(as_json, facts, [line, f"{card}: the card"])


def _judged_answers(log: str) -> Iterator[LoggedAnswer]:
    from steerable_llm.logs.answers import read_answers
    from steerable_llm.logs.database import is_database

    if not is_database(log):
        yield from read_answers(log)
        return
    with open_log(log) as answer_log:
        # Those that nobody judged may be most of a log, and teach a gate nothing.
        yield from (each for each in answer_log.answers() if each.verdict is not None)


def _shown(arguments: Sequence[str], log: str) -> list[str]:
    """Return a command's arguments for a card, which is no place for a database's password."""
    if "://" not in log:
        return list(arguments)
    from sqlalchemy.engine import make_url

    shown = make_url(log).render_as_string(hide_password=True)
    return [shown if each == log else each for each in arguments]


def _steps_table(checked: CheckedPolicy) -> Table:
    from steerable_llm.reports.numbers import ranges
    from steerable_llm.reports.parts import Table

    lines: list[tuple[str, str, str]] = []
    for step in checked.steps:
        name = step.name
        name += " (default)" if name == checked.policy.default_step else ""
        name += f"\nlike {step.inherits}" if step.inherits else ""
        name += "\nalso tools, JSON" if step.steered.steer_structured else ""
        rows = [
            (
                f"{term.vector.name} {term.strength:+g}, {term.scope}, "
                f"layers {ranges(term.steered_layers)}",
                _conditions(when),
            )
            for term, when in step.steered.terms
        ]
        if step.steered.contrast is not None:
            contrast, conditions = step.steered.contrast
            rows.append((f"contrast {contrast}", _conditions(conditions)))
        if step.steered.instruction is not None:
            text, conditions = step.steered.instruction
            rows.append((f"instruction: {text}", _conditions(conditions)))
        for number, (applied, when) in enumerate(rows or [("not steered", "")]):
            lines.append(("" if number else name, applied, when))
    return Table(["step", "applied", "when"], lines)


def _trace_table(calls: Sequence[TracedCall], decisions: Sequence[SteeringDecision]) -> Table:
    from steerable_llm.reports.parts import Table

    lines: list[tuple[str, str, str, str]] = []
    for number, (call, decision) in enumerate(zip(calls, decisions, strict=True), 1):
        told = call.model_dump(
            include={"step", "node", "tags", "prompt_type"}, exclude_defaults=True
        )
        said = [
            f"{key} {', '.join(value) if isinstance(value, tuple) else value}"
            for key, value in told.items()
        ]
        applied = [f"{x.vector.name} {x.strength:+.3g}" for x in decision.steering.active_terms]
        applied += [] if decision.contrast is None else [f"contrast {decision.contrast}"]
        applied += [] if decision.instruction is None else ["instruction"]
        lines.append(
            (
                "\n".join([str(number), *said]),
                decision.step or "none",
                "\n".join(applied) or "nothing",
                "\n".join(decision.reasons),
            )
        )
    return Table(["call", "step", "applied", "why"], lines)


def _relations(step: CheckedStep) -> list[str]:
    from steerable_llm.reports.numbers import percent

    rules = [f"{kind} {', '.join(names)}" for kind, names in step.rules.items()]
    lines = [f"{step.name}: also matches {'; '.join(rules)}"] if rules else []
    for meeting in step.meetings:
        cosines = ", ".join(f"{layer}: {cosine:+.2f}" for layer, cosine in meeting.cosines.items())
        lines.append(
            f"{step.name}: cosine of {meeting.first} and {meeting.second} by layer {cosines}"
        )
    for name, kept in step.steered.kept[1:]:
        shares = ", ".join(f"{layer}: {percent(share, 0)}" for layer, share in kept.items())
        lines.append(f"{step.name}: orthogonalised, {name} keeps of its length by layer {shares}")
    return lines


def _conditions(when: When) -> str:
    given = [(kind, value) for kind, value in when if value is not None]
    # A gate is named, and then says from which probability on it holds.
    return ", ".join(
        " ".join(filter(None, (kind, getattr(value, "name", None), str(value))))
        for kind, value in given
    )

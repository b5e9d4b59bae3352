"""The command ``steerable``: each verb is one Python call and its result, as text or as JSON.

Bad input is one line on stderr and exit code 2. Everything heavy is imported inside the verbs, so
that ``steerable --help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from steerable_llm.cli import evidence, interchange, learn, log, pairs, policy, serve
from steerable_llm.cli.options import (
    AsJson,
    Force,
    ImageHosts,
    Model,
    Revision,
    TemplateArguments,
    VectorIn,
    facts_page,
    hide_loading_bars,
    load_model,
    print_json,
    print_page,
    say,
    summary,
)
from steerable_llm.cli.steering import Layers, Scope, Strength, use
from steerable_llm.errors import InvalidInputError, SteerableError
from steerable_llm.files import read_text
from steerable_llm.version import __version__

if TYPE_CHECKING:
    from steerable_llm.answer.llm import SteerableHFLLM
    from steerable_llm.vector.steering import Steering

app = typer.Typer(
    name="steerable",
    help="Steer a local language model per chain step, with vectors built from logged failures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
policy_app = typer.Typer(
    help="Check policy files, and train their gates.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(policy_app, name="policy")
app.add_typer(log.app, name="log")
app.add_typer(pairs.app, name="pairs")


@cache
def _tree() -> Any:
    """Return all verbs with their options, read from the signatures once a process."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line.

    What the user did wrong leaves one line and exit code 2; being interrupted, one and 130.
    """
    warnings.showwarning = _note
    try:
        code = _tree()(standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SteerableError as error:
        _fail(str(error))
    except _USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            raise SystemExit(2) from None
        _fail(f"{error.format_message()} ({_help_of(error)})")
    except typer.Abort:  # the input ended where a key was expected
        _fail("the input ended: run it where you can press keys")
    except BrokenPipeError:
        # Whoever read the output has gone; nothing more can be told, also not at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except UnicodeEncodeError as error:
        _fail(f"a name or a text holds what cannot be written as UTF-8 ({error.reason}): mend it")
    except UnicodeDecodeError as error:
        _fail(f"a file is not UTF-8 text ({error}): save it as UTF-8")
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        mend = "; make room there, or write elsewhere" if error.errno == errno.ENOSPC else ""
        _fail(f"{error.strerror or error}{where}{mend}")
    if code == INTERRUPTED:
        say("steerable: interrupted", error=True)
    raise SystemExit(code or 0)


#: The exit code of a command that Ctrl-C ended.
INTERRUPTED = 130
# Characters of a line that says what is wrong.
_LONGEST = 1000
# What typer raises of wrong arguments, by the only name that it gives to anyone.
_USAGE: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def _note(message: Warning | str, *where: Any, **more: Any) -> None:
    """Show a warning as what it says; where in the code it was raised is no matter of the user."""
    del where, more
    say(f"steerable: note: {message}", error=True)


def _fail(message: str) -> NoReturn:
    line = " ".join(message.split())
    if (
        len(line) > _LONGEST
    ):  # it quotes what is no name: where it starts and how to mend it are left
        line = f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
    say(f"steerable: {line}", error=True)
    raise SystemExit(2)


def _help_of(error: Any) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "steerable"
    return f"see `{path} --help`"


def _version(wanted: bool) -> None:
    if wanted:
        say(f"steerable-llm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the files it makes.")] = Path(
        "steerable-demo"
    ),
    pairs: Annotated[
        int | None,
        typer.Option(min=2, help="Pairs to build the vector from; 32, or 50 of an exhibit."),
    ] = None,
    exhibit: Annotated[
        bool, typer.Option("--exhibit", help="Use the small model that comes bundled.")
    ] = False,
    vision: Annotated[
        bool, typer.Option("--vision", help="Use the small model for pictures that comes bundled.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show it all on SmolLM2, a real language model.

    A LangChain chain and a LlamaIndex query engine over a handbook, unsteered and steered; then the
    way of a team: from logged answers to pairs, a vector and its proof. With --exhibit the same
    in seconds, on a model of three million weights that was made to show the faults. With --vision
    a model for pictures, made in the same way, learns to answer from what it sees.
    """
    from rich.console import Console

    from steerable_llm.demo.exhibit_tour import run_exhibit_tour
    from steerable_llm.demo.tour import run_tour
    from steerable_llm.demo.vision_tour import run_vision_tour

    if exhibit and vision:
        raise InvalidInputError("--exhibit and --vision are two tours: give one of them")
    hide_loading_bars()
    run = run_exhibit_tour if exhibit else run_vision_tour if vision else run_tour
    # With --json, stdout belongs to the result and the tour itself moves to stderr.
    result = run(
        out, console=Console(stderr=as_json), **({} if pairs is None else {"pairs": pairs})
    )
    if as_json:
        print_json(result.to_dict())


@app.command()
def ask(
    question: str,
    document: Annotated[
        list[Path] | None,
        typer.Option(exists=True, dir_okay=False, help="Text file to answer from; repeatable."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    vector: Annotated[
        list[Path] | None,
        typer.Option(help="Vector file, or hub:organisation/name, to steer with; repeatable."),
    ] = None,
    strength: Strength = None,
    scope: Scope = None,
    layers: Layers = None,
    policy: Annotated[Path | None, typer.Option(help="Policy file; see --step.")] = None,
    step: Annotated[str | None, typer.Option(help="Step of the policy.")] = None,
    model: Model = "demo",
    revision: Revision = None,
    template: TemplateArguments = None,
    image_host: ImageHosts = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="For temperatures above 0.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Ask one question, steered or not."""
    for option, value in (("strength", strength), ("scope", scope), ("layers", layers)):
        if value is not None and not vector:
            raise InvalidInputError(f"--{option} goes with --vector: give the vector to steer with")
    if step is not None and policy is None:
        raise InvalidInputError("--step goes with --policy: give the policy that has the step")
    if vector and policy:
        raise InvalidInputError(
            "--vector would steer in place of what --policy says: give one of them"
        )
    if not question.strip():
        raise InvalidInputError("the question is empty: ask something")
    texts = [read_text(path).strip() for path in document or []]
    blank = [path for path, text in zip(document or [], texts, strict=True) if not text]
    if blank:
        raise InvalidInputError(f"document {blank[0]} is empty: give a text file with its text")
    llm = load_model(model, revision, policy, template, image_hosts=image_host)
    steering = _steering(llm, vector or [], (strength, scope, layers), force)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": _prompt(question, texts)})
    settings: dict[str, Any] = {
        "steering": steering,
        "step": step,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    if as_json:
        answer = llm.generate(messages, **settings)
        print_json(
            {
                "text": answer.text,
                **({"reasoning": answer.reasoning} if answer.reasoning else {}),
                "finish_reason": answer.finish_reason,
                "usage": {
                    "prompt_tokens": answer.usage.prompt_tokens,
                    "completion_tokens": answer.usage.completion_tokens,
                },
                "steered": [applied.to_dict() for applied in answer.steered],
                "step": answer.step,
                "decision": answer.decision.to_dict() if answer.decision else None,
            }
        )
        return
    from steerable_llm.reports.parts import visible

    for chunk in llm.stream(messages, **settings):
        print(visible(chunk.text), end="", flush=True)
    say("")


app.command()(serve.serve)
for learning in (learn.build, learn.calibrate, evidence.evaluate):
    app.command()(learning)
app.command()(evidence.compare)
app.command("lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    evidence.lm_eval
)
app.command("export")(interchange.export)
app.command("import")(interchange.import_)
app.command("push")(interchange.push)
app.command()(evidence.transfer)
app.command()(evidence.promote)
policy_app.command("check")(policy.check)
policy_app.command("train-gate")(policy.train_gate)


@app.command()
def inspect(vector: Annotated[Path, VectorIn], as_json: AsJson = False) -> None:
    """Show what a vector file says of itself."""
    from steerable_llm.vector.vector import SteeringVector

    found = summary(SteeringVector.load(vector))
    if as_json:
        print_json(found)
        return
    print_page(facts_page(found))


def _steering(
    llm: SteerableHFLLM,
    files: list[Path],
    how: tuple[float | None, str | None, str | None],
    force: bool,
) -> Steering | None:
    """Add up the vectors of the command line; without any, the policy decides (None)."""
    from steerable_llm.vector.steering import Steering
    from steerable_llm.vector.vector import SteeringVector

    if not files:
        return None
    vectors = use([SteeringVector.load(file, model=llm, force=force) for file in files], *how)
    return sum((vector.steer() for vector in vectors), Steering.none())


def _prompt(question: str, passages: list[str]) -> str:
    if not passages:
        return question
    numbered = "\n".join(f"[{i}] {text}" for i, text in enumerate(passages, start=1))
    return f"Documents:\n{numbered}\n\nQuestion: {question}"

"""Wrong arguments of every command: one line that says what is wrong, exit code 2, and no work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from command_line import Steerable, steerable

from steerable_llm.cli.command import app

__all__ = ["steerable"]


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from _commands(inner, (*path, name))
    else:
        yield path, command


COMMANDS = dict(_commands(typer.main.get_command(app)))
EACH = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


#: What commands call the files that they read and cannot do without.
FILES = {
    "dev", "file", "files", "log", "pairs", "policy", "report", "subject", "test", "vector",
    "vectors",
}  # fmt: skip


def _options(path: tuple[str, ...]) -> list[Any]:
    return [each for each in COMMANDS[path].params if each.param_type_name == "option"]


def _holds_a_number(parameter: Any) -> bool:
    return bool({int, float} & {*get_args(parameter.type_descriptor.annotation)}) or (
        parameter.type_descriptor.annotation in (int, float)
    )


def _those(fitting: Callable[[Any], bool]) -> pytest.MarkDecorator:
    """Go through the commands that a test has something to say of."""
    paths = [path for path, command in COMMANDS.items() if fitting(command)]
    assert paths
    return pytest.mark.parametrize("path", paths, ids=" ".join)


def _flag(option: Any) -> str:
    return max(option.opts, key=len)


def test_all_commands_are_found() -> None:
    assert {("ask",), ("pairs", "make"), ("log", "import"), ("policy", "check")} <= set(COMMANDS)


@_those(lambda command: not command.context_settings.get("ignore_unknown_options"))
def test_an_unknown_option_is_named(steerable: Steerable, path: tuple[str, ...]) -> None:
    assert "--magic" in steerable.error(*path, "--magic", "x")


@EACH
def test_an_option_without_its_value_is_named(steerable: Steerable, path: tuple[str, ...]) -> None:
    for option in _options(path):
        if not option.is_flag:
            assert _flag(option) in steerable.error(*path, _flag(option))


@EACH
def test_a_value_of_the_wrong_type_is_told_with_its_option(
    steerable: Steerable, path: tuple[str, ...]
) -> None:
    for option in _options(path):
        if _holds_a_number(option):
            assert _flag(option) in steerable.error(*path, _flag(option), "many")


@EACH
def test_what_must_be_given_and_is_not_is_named(
    steerable: Steerable, path: tuple[str, ...]
) -> None:
    if any(each.required for each in COMMANDS[path].params):
        assert "Missing" in steerable.error(*path)


@_those(lambda command: any(each.required and each.name in FILES for each in command.params))
@pytest.mark.parametrize("given", ["no-such-file", "folder"])
def test_a_file_that_is_none_is_named_and_nothing_made(
    steerable: Steerable, path: tuple[str, ...], given: str
) -> None:
    Path("folder").mkdir()
    needed = [each for each in COMMANDS[path].params if each.required]
    words: list[str] = []
    for each in needed:
        value = given if each.name in FILES else "out.safetensors"
        words += [value] if each.param_type_name == "argument" else [_flag(each), value]
    before = sorted(Path().iterdir())
    assert given in steerable.error(*path, *words)
    assert sorted(Path().iterdir()) == before


# (`ask` says so itself, as part of a request.)
@_those(lambda command: command.name != "ask" and any(p.name == "seed" for p in command.params))
def test_a_seed_that_no_generator_takes_is_told_before_the_work(
    steerable: Steerable, path: tuple[str, ...]
) -> None:
    for seed in (-1, 2**32):
        assert "--seed" in steerable.error(*path, f"--seed={seed}")


def test_a_folder_that_is_a_file_is_told_before_the_work(steerable: Steerable) -> None:
    Path("file").write_text("{}\n")
    compare = ["compare", "file", "--dev", "file", "--test", "file", "--model", "./none"]
    assert "file is a file" in steerable.error(*compare, "--keep", "file")
    assert "file is a file" in steerable.error("pairs", "modes", "file", "--out", "file")
    build = ["build", "file", "--out", "hub:x/y", "--model", "./none"]
    assert "lies on the Hub" in steerable.error(*build)


def test_what_is_much_too_long_is_quoted_in_part(steerable: Steerable) -> None:
    for words in (["inspect", "x" * 5000], ["log", "show", "--limit", "9" * 5000]):
        assert len(steerable.error(*words)) < 1100
    assert steerable.error("ask", "hi", "--scope", "y" * 5000).endswith("prompt\n")


def test_what_a_server_cannot_use_is_told_before_it_listens(steerable: Steerable) -> None:
    Path("file").write_text("name = 1\n")
    Path("folder").mkdir()
    for log in ("file", "folder", "mysql://x/y", "none/a.db"):
        assert "answer log" in steerable.error("serve", "--model", "demo", "--log", log)
    for option in ("--drain-timeout", "--request-timeout"):
        assert option in steerable.error("serve", "--model", "demo", option, "inf")
    assert "--name" in steerable.error("serve", "--model", "demo", "--name", " ")

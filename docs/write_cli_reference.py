"""Writes docs/cli.md from the command line itself; run by `make docs`, checked by the tests."""

import os
from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from steerable_llm.cli.command import app

PAGE = Path(__file__).parent / "cli.md"
INTRODUCTION = """# Command line

<!-- Written by docs/write_cli_reference.py; change steerable_llm/cli/command.py instead. -->

Every verb is one call of the [Python API](api.md). `--json` prints one JSON object on stdout and
nothing else there. Bad input is one line on stderr and exit code 2.
"""


def commands() -> Iterator[tuple[str, ...]]:
    """Yields every command as its words, the groups themselves left out."""
    for command in app.registered_commands:
        yield (command.name or command.callback.__name__.replace("_", "-"),)
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands:
            yield group.name, command.name or command.callback.__name__


def help_of(*words: str) -> str:
    """Returns the help text of a command at a fixed width."""
    # The width comes from the environment, and without a terminal from nowhere else.
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "90"
    try:
        result = CliRunner().invoke(app, [*words, "--help"], prog_name="steerable")
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    if result.exit_code:
        raise RuntimeError(f"steerable {' '.join(words)} --help failed: {result.output}")
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


def reference() -> str:
    """Returns the whole page."""
    parts = [INTRODUCTION, f"```text\n{help_of()}\n```\n"]
    for words in commands():
        parts.append(f"## steerable {' '.join(words)}\n\n```text\n{help_of(*words)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")

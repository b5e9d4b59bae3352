"""The review in a terminal: a pair at a time, and a key for each decision."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.pairs.diff import differences
from steerable_llm.pairs.review import ENOUGH, Review, ReviewItem
from steerable_llm.reports.parts import visible

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]


class Keyboard:
    """The keys of the terminal on standard input, as long as it is entered.

    The terminal hands on each key at once for the whole time, so that what is typed while a screen
    is drawn is read afterwards; `click.getchar` takes the terminal over anew for each key, and what
    was typed in between is lost. Ctrl-C is a key like others and interrupts no write to a file.
    """

    def __init__(self) -> None:
        self._saved: list[Any] | None = None
        self._waiting: deque[str] = deque()

    def __enter__(self) -> Self:
        if termios is not None:
            self._saved = termios.tcgetattr(sys.stdin)
            changed = termios.tcgetattr(sys.stdin)
            changed[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, changed)
        return self

    def __exit__(self, *error: object) -> None:
        if termios is not None and self._saved is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._saved)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Leave the terminal to another program for a while, such as an editor."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def read(self) -> str:
        """Wait for a key and return it; an arrow or function key is several characters.

        Raises:
            EOFError: The terminal is gone.
        """
        if termios is None:
            import typer

            return str(typer.getchar())
        if not self._waiting:
            typed = os.read(sys.stdin.fileno(), 64).decode("utf-8", "replace")
            if not typed:
                raise EOFError
            self._waiting.extend([typed] if typed.startswith("\x1b") else typed)
        return self._waiting.popleft()


_WORD = re.compile(r"\s+|\w+|[^\w\s]")
TAKEN, ADDED = "bold red underline", "bold green underline"
KEYS = "a approve   e edit   s skip   r reject   u undo   q quit"
#: Ctrl-C and Ctrl-D are keys, too.
QUIT = ("q", "\x03", "\x04")


def edit_text(text: str) -> str:
    """Let a person edit a text with ``$VISUAL`` or ``$EDITOR``.

    Returns:
        The text afterwards, without blank lines at its ends.

    Raises:
        InvalidInputError: There is no such editor, or it failed.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answer.txt"
        file.write_text(text + "\n", encoding="utf-8")
        try:
            done = subprocess.run([*shlex.split(editor), str(file)], check=False)
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"the editor {editor!r} cannot be started ({error}): set EDITOR to another one"
            ) from error
        if done.returncode:
            raise InvalidInputError(
                f"the editor {editor!r} ended with code {done.returncode}: nothing was changed"
            )
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(
                f"what the editor {editor!r} left cannot be read ({error}): save it as UTF-8"
            ) from error


def run_review(
    review: Review,
    console: Console,
    read_key: Callable[[], str],
    edit: Callable[[str], str] = edit_text,
) -> None:
    """Show pairs and take decisions until all are decided, or the person quits.

    Args:
        review: What is reviewed; it keeps the decisions.
        console: Where pairs are shown.
        read_key: Waits for a key and returns it; KeyboardInterrupt and EOFError quit.
        edit: Turns a good answer into the one that the person writes.
    """
    chosen = 0
    shown: ReviewItem | None = None
    if review.left_behind:
        said = (
            f"{review.left_behind} pairs that were approved are not in these files any more, or "
            f"have changed: {review.out} is without them, and {review.journal.name} keeps them"
        )
        console.print(said, style="yellow", markup=False, soft_wrap=True)
    while (item := review.current) is not None:
        if item is not shown:
            shown, chosen = item, 0
            console.print(screen(review, item, chosen))
        try:
            key = read_key()
        except (KeyboardInterrupt, EOFError):
            key = "q"
        if key in QUIT:
            break
        try:
            if key == "a":
                review.approve(item, chosen)
            elif key == "e":
                edited = edit(item.options[chosen].good)
                if edited == item.options[chosen].good.strip():
                    console.print("unchanged: press a to approve it as it is", style="yellow")
                    continue
                review.approve(item, chosen, edited)
            elif key == "s":
                review.skip(item)
            elif key == "r":
                review.reject(item)
            elif key == "u":
                if review.undo() is None:
                    console.print("there is nothing to undo", style="yellow")
                    continue
            elif key.isdecimal() and 1 <= int(key) <= len(item.options):
                chosen = int(key) - 1
                console.print(screen(review, item, chosen))
                continue
            else:
                console.print(Text(KEYS, style="yellow"))
                continue
        except (PairError, InvalidInputError) as error:
            console.print(Text(visible(str(error)), "red"))
            continue
        shown = None
    console.print(closing(review))


def screen(review: Review, item: ReviewItem, chosen: int) -> Group:
    """Return what is shown of one item: prompt, both answers, progress and keys."""
    prompt = Text()
    option, score = item.options[chosen], item.scores[chosen]
    for message in option.messages:
        prompt.append(f"{message.role}: ", "dim").append(visible(message.in_words.strip()) + "\n")
    for image in option.images:
        # A terminal shows no pictures, but opens the files that it names.
        if isinstance(image.where, Path):
            prompt.append(f"{visible(str(image.where.resolve()))}\n", "dim")
    prompt.rstrip()
    bad, good = word_diff(option.bad or "", option.good)
    answers = Table.grid(padding=(0, 1))
    if option.bad is not None:
        answers.add_row(Text("bad ", "red"), bad)
    answers.add_row(Text("good", "green"), good)
    about = option.source or "no source"
    if score is not None:
        about += f", judged {score:.2f}"
    parts: list[object] = [
        Rule(Text(visible(item.id))),
        Panel(prompt, title="prompt", title_align="left"),
        answers,
        Text(f"good answer from: {visible(about)}", "dim"),
    ]
    if len(item.options) > 1:
        listed = Text(f"{len(item.options)} answers, choose with a number:\n", "dim")
        for number, other in enumerate(item.options, start=1):
            mark = ">" if number == chosen + 1 else " "
            listed.append(f"{mark}{number} {visible(other.good)}\n")
        parts.append(listed)
    return Group(*parts, progress(review), Text(KEYS, "bold"))  # type: ignore[arg-type]


def word_diff(bad: str, good: str) -> tuple[Text, Text]:
    """Return both answers, with the words marked that only one of them has."""
    words: list[list[str]] = [_WORD.findall(visible(text)) for text in (bad, good)]
    shown = Text(), Text()
    for kind, start, end, other_start, other_end in differences(*words):
        for text, side, style, first, last in (
            (shown[0], words[0], TAKEN, start, end),
            (shown[1], words[1], ADDED, other_start, other_end),
        ):
            text.append("".join(side[first:last]), None if kind == "equal" else style)
    return shown


def progress(review: Review) -> Table:
    """Return the line that shows how far the review is toward enough pairs."""
    counts = review.counts
    line = Table.grid(padding=(0, 1))
    line.add_row(
        Text(f"{counts['approved']} of {ENOUGH} approved"),
        ProgressBar(total=ENOUGH, completed=min(ENOUGH, counts["approved"]), width=25),
        Text(
            f"{counts['rejected']} rejected, {counts['skipped']} skipped, "
            f"{counts['left']} to look at"
        ),
    )
    return line


def closing(review: Review) -> Text:
    """Return what is said at the end."""
    counts = review.counts
    said = f"{counts['approved']} approved, {counts['rejected']} rejected"
    if left := counts["skipped"] + counts["left"]:
        said += f", {left} left for the next time"
    if counts["approved"]:
        said += f"\n{review.out} has what you approved"
    return Text(said)

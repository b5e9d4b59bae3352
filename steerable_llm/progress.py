"""What long work tells while it runs: a progress bar, and what is to be known before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Told how many units of work are done since the last call.
Advance = Callable[[int], object]


@contextmanager
def progress_bar(title: str, total: int, show: bool) -> Iterator[Advance]:
    """Show a progress bar on the error stream that counts; nothing where `show` is false."""
    # Vectors and sets have names that anyone may have given, in files that came from anywhere.
    title = "".join(letter if letter.isprintable() else "\ufffd" for letter in title)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not show,
    )
    with bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def note(text: str, show: bool) -> None:
    """Tell a line on the error stream; nothing where `show` is false."""
    if show:
        Console(stderr=True, highlight=False).print(f"note: {text}", markup=False, soft_wrap=True)

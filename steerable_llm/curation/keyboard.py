"""Single keys from a terminal, none of them lost between two reads."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]


class Keyboard:
    """The keys of the terminal on standard input, as long as it is entered.

    The terminal hands on each key at once for the whole time, so that what is typed while a screen
    is drawn is read afterwards. Ctrl-C is a key like others and interrupts no write to a file.
    """

    def __init__(self) -> None:
        """Change nothing yet."""
        self._saved: list[Any] | None = None
        self._waiting: deque[str] = deque()

    def __enter__(self) -> Self:
        """Take the terminal over."""
        if termios is not None:
            self._saved = termios.tcgetattr(sys.stdin)
            changed = termios.tcgetattr(sys.stdin)
            changed[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, changed)
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the terminal as it was."""
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

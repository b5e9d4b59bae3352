"""What a page is made of. A part says what is shown; the renderers say how."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rich.console import RenderableType

# What steers a terminal or reverses the direction of text, but for new lines and tabs.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Return text with every control character shown as a replacement mark.

    Logged answers come from anywhere, and a terminal would obey what they say.
    """
    return _UNSEEN.sub("\ufffd", text.replace("\r\n", "\n"))


def escaped(json_text: str) -> str:
    """Return JSON with such characters, which stand in its texts only, as their escapes."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json_text)


@dataclass(frozen=True)
class Mono:
    """A name or a number that is to be copied as it is."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Words that must not be overlooked."""

    text: str


@dataclass(frozen=True)
class Ending:
    """A long text whose end says what it is about, such as a prompt that ends in the question.

    HTML shows all of it, the other forms the last 160 characters.
    """

    text: str

    @property
    def end(self) -> str:
        """The last characters, on one line."""
        flat = " ".join(self.text.split())
        return flat if len(flat) <= _ENDING else "… " + flat[-_ENDING:]


_ENDING = 160
Span: TypeAlias = str | Mono | Strong | Ending
#: A string is shown as it is: nothing in it is markup, in no form.
Words: TypeAlias = Span | tuple[Span, ...]


def spans(words: Words) -> tuple[Span, ...]:
    """Return words piece by piece."""
    return words if isinstance(words, tuple) else (words,)


def plain(words: Words) -> str:
    """Return words without their looks."""
    return "".join(
        piece if isinstance(piece, str) else piece.end if isinstance(piece, Ending) else piece.text
        for piece in spans(words)
    )


@dataclass(frozen=True)
class Heading:
    """A heading below the title; level 2 is a section, level 3 a part of one."""

    text: Words
    level: Literal[2, 3] = 2


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    words: Words


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[Words]


@dataclass(frozen=True)
class Callout:
    """The sentence that a page is about; `good` gives it its colour."""

    words: Words
    good: bool | None = None


@dataclass(frozen=True)
class Facts:
    """What is to be known of a thing: a name and a value each."""

    rows: Sequence[tuple[str, Words]]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: The heading; in a terminal it is broken at blanks only.
        numeric: Whether numbers stand in it: they are set to the right, and in a terminal no line
            breaks inside an interval or before a per cent sign.
        key: Whether it says what a row is about, so that it is repeated where a table is too wide
            for a terminal and goes on below. The first column always is.
    """

    title: str
    numeric: bool = False
    key: bool = False


#: The columns of a table; a string is the title of a column of text.
Head: TypeAlias = Sequence[str | Column]


def numeric(*titles: str) -> tuple[Column, ...]:
    """Return columns of numbers."""
    return tuple(Column(title, numeric=True) for title in titles)


@dataclass(frozen=True)
class Table:
    """A table; every row has as many cells as the head.

    Attributes:
        head: The columns.
        rows: Their cells.
        strong: Places of the rows that matter most, from 0.
        faint: Places of the rows that matter least, such as controls.
    """

    head: Head
    rows: Sequence[Sequence[Words]]
    strong: Collection[int] = ()
    faint: Collection[int] = ()

    @property
    def columns(self) -> tuple[Column, ...]:
        """The head, with a string as a column of text."""
        return tuple(Column(c) if isinstance(c, str) else c for c in self.head)


@dataclass(frozen=True)
class Picture:
    """A picture. A terminal shows none.

    Attributes:
        name: What its file is called beside a Markdown page: `PAGE.NAME.png`, or `PAGE.png` where
            the name is empty.
        draw: Makes the PNG, only where one is shown.
        says: What it shows, for those who cannot see it.
    """

    name: str
    draw: Callable[[], bytes]
    says: str

    def file(self, stem: str) -> str:
        """Return the name of its file beside a page `stem`."""
        return f"{stem}.{self.name}.png" if self.name else f"{stem}.png"


@dataclass(frozen=True)
class Code:
    """Lines to be copied as they are."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Rendered:
    """What draws itself, such as a heatmap of tokens.

    Attributes:
        html: An element; what is not its own in it must be escaped.
        terminal: The same for a rich console.
        markdown: A sentence in its place, where it cannot be shown.
        style: Style sheet of the element, once on a page.
    """

    html: str
    terminal: RenderableType
    markdown: str = ""
    style: str = ""


Part: TypeAlias = Heading | Text | Bullets | Callout | Facts | Table | Picture | Code | Rendered

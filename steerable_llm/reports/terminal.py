"""Pages for a rich console, with tables that fit any width without cutting a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text as Styled

from steerable_llm.reports.parts import (
    Bullets,
    Callout,
    Code,
    Column,
    Facts,
    Heading,
    Mono,
    Part,
    Picture,
    Rendered,
    Strong,
    Table,
    Text,
    Words,
    plain,
    spans,
    visible,
)

_GAP = 2
# Blanks that no line breaks at, while a table is laid out: inside brackets, before a per cent sign.
_GLUE = "\ue000"
_TOGETHER = re.compile(r" (?=%)|(?<=,) (?=[^\[(]*[\])])")


def renderable(part: Part) -> RenderableType | None:
    """Return a part for a rich console; None for a picture, which a terminal cannot show."""
    match part:
        case Heading():
            return _styled(part.text, "bold" if part.level == 2 else "underline")
        case Text():
            return _styled(part.words)
        case Callout():
            colour = {True: "bold green", False: "bold red", None: "bold"}[part.good]
            return _styled(part.words, colour)
        case Bullets():
            return Group(*(_indented("- ", _styled(item)) for item in part.items))
        case Code():
            return Padding(Styled(visible(part.text), overflow="fold"), (0, 0, 0, 2))
        case Facts():
            return FittingTable(Table(["", ""], part.rows), headed=False)
        case Table():
            return FittingTable(part)
        case Rendered():
            return part.terminal
        case Picture():
            return None


class FittingTable:
    """A table that is laid out for the width it gets.

    Lines break at blanks only. Where the columns do not fit side by side even so, the table goes
    on below with its key columns repeated. Only a word that is longer than a line is broken.
    """

    def __init__(self, table: Table, headed: bool = True) -> None:
        """Take a table; nothing is measured before the width is known."""
        self.table = table
        self.headed = headed

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield one or several tables for rich."""
        columns = self.table.columns
        head = [_words_of(Column(column.title), column.title) for column in columns]
        body = [
            [_words_of(column, cell) for column, cell in zip(columns, row, strict=True)]
            for row in self.table.rows
        ]
        widths = [
            _Width.of(title, [row[place] for row in body]) for place, title in enumerate(head)
        ]
        for number, places in enumerate(_groups(columns, widths, options.max_width)):
            if number:
                yield ""
            yield self._grid(_fitted(places, columns, widths, options.max_width), head, body)

    def _grid(
        self, places: dict[int, int], head: Sequence[str], body: Sequence[Sequence[str]]
    ) -> Grid:
        grid = Grid(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            show_header=self.headed,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        for place, width in places.items():
            grid.add_column(
                Styled("\n".join(_broken(head[place], width)), no_wrap=True),
                justify="right" if self.table.columns[place].numeric else "left",
                vertical="top",
                width=width,
                no_wrap=True,
            )
        for number, row in enumerate(body):
            style = (
                "bold" if number in self.table.strong
                else "dim" if number in self.table.faint else ""
            )  # fmt: skip
            grid.add_row(
                *(Styled("\n".join(_broken(row[place], width))) for place, width in places.items()),
                style=style,
            )
        return grid


def _words_of(column: Column, words: Words) -> str:
    """A cell as plain text, a numeric one with its groups of figures glued together."""
    text = visible(plain(words)).expandtabs(2)
    return _TOGETHER.sub(_GLUE, text) if column.numeric else text


def _broken(text: str, width: int) -> list[str]:
    """Lines of at most so many cells, broken at blanks, in a word only where it fills a line."""
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else word
            if cell_len(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            *full, line = chop_cells(word, width)
            lines += full
        lines.append(line)
    return [line.replace(_GLUE, " ") for line in lines]


@dataclass(frozen=True)
class _Width:
    """How wide a column may be: with every line broken, with cells whole, with its title whole."""

    least: int
    cells: int
    most: int

    @classmethod
    def of(cls, title: str, cells: Sequence[str]) -> Self:
        word = _longest(title.split())
        whole = max(word, _longest(line for cell in cells for line in cell.split("\n")), 1)
        broken = max(word, _longest(word for cell in cells for word in cell.split()), 1)
        # A title that is much longer than the cells breaks rather than widening the column.
        return cls(broken, whole, max(whole, min(cell_len(title), whole + 4)))


def _groups(columns: Sequence[Column], widths: Sequence[_Width], room: int) -> list[list[int]]:
    """Which columns stand side by side."""
    everything = list(range(len(columns)))
    if _sum([width.least for width in widths]) <= room:
        return [everything]
    keys = [place for place, column in enumerate(columns) if column.key or place == 0]
    # Numbers, and what a row is about, are easier to read on one line each.
    wanted = [
        min(width.cells, 2 * room // 5) if place in keys
        else width.cells if columns[place].numeric else width.least
        for place, width in enumerate(widths)
    ]  # fmt: skip
    groups: list[list[int]] = []
    for place in everything:
        if place in keys:
            continue
        if groups and _sum([wanted[each] for each in (*groups[-1], place)]) <= room:
            groups[-1].append(place)
        else:
            groups.append([*keys, place])
    return groups or [keys]


def _fitted(
    places: Sequence[int], columns: Sequence[Column], widths: Sequence[_Width], room: int
) -> dict[int, int]:
    """Widths that fill the room: numbers first, then the key, then texts."""
    fitted = {place: widths[place].least for place in places}
    spare = room - _sum(list(fitted.values()))
    for place in sorted(places, key=lambda place: not columns[place].numeric):
        if columns[place].numeric or place == 0:
            more = min(widths[place].cells - fitted[place], spare)
            if more > 0 and (place == 0 or fitted[place] + more == widths[place].cells):
                fitted[place] += more
                spare -= more
    # What is left is shared fairly: columns that need little have all of it.
    needs = sorted((widths[place].most - fitted[place], place) for place in places)
    for others, (need, place) in zip(range(len(needs), 0, -1), needs, strict=True):
        more = max(min(need, spare // others), 0)
        fitted[place] += more
        spare -= more
    while spare < 0 and max(fitted.values()) > 1:  # a word is longer than the line
        fitted[max(places, key=lambda place: fitted[place])] -= 1
        spare += 1
    return fitted


def _sum(widths: Sequence[int]) -> int:
    """The width of columns side by side, in cells."""
    return sum(widths) + _GAP * (len(widths) - 1)


def _longest(texts: Iterable[str]) -> int:
    return max((cell_len(text) for text in texts), default=0)


def _indented(mark: str, text: Styled) -> Grid:
    grid = Grid.grid()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(mark, text)
    return grid


def _styled(words: Words, style: str = "") -> Styled:
    text = Styled(style=style, overflow="fold")
    for piece in spans(words):
        look = "cyan" if isinstance(piece, Mono) else "bold" if isinstance(piece, Strong) else None
        text.append(visible(plain(piece)), look)
    return text

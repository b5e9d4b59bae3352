"""A page of headings, sentences, tables and pictures, written as Markdown or as one HTML file."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from steerable_llm.errors import InvalidInputError
from steerable_llm.files import write_whole


@dataclass(frozen=True)
class Heading:
    """A heading below the title."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of plain sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table; every row has as many cells as the head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        name: What its file is called beside a Markdown page: `PAGE.NAME.png`.
        png: Its content.
        says: What it shows, for those who cannot see it.
    """

    name: str
    png: bytes
    says: str


@dataclass(frozen=True)
class Code:
    """Lines to be copied as they are."""

    text: str


SUFFIXES = (".md", ".html", ".json")
Part: TypeAlias = Heading | Text | Bullets | Table | Picture | Code


@dataclass(frozen=True)
class Page:
    """A title, and what stands below it in order."""

    title: str
    parts: Sequence[Part]

    def to_markdown(self, stem: str | None = None) -> str:
        """The page as Markdown; pictures are links to `STEM.NAME.png`, or left out without one."""
        blocks = [f"# {_flat(self.title)}"]
        for part in self.parts:
            if isinstance(part, Picture):
                if stem is not None:
                    blocks.append(f"![{_flat(part.says)}]({quote(_file(stem, part))})")
            else:
                blocks.append(_markdown(part))
        return "\n\n".join(blocks) + "\n"

    def to_html(self) -> str:
        """The page as one file, its pictures inside."""
        title = html.escape(self.title)
        return _PAGE.format(title=title, body="\n".join(map(_html, self.parts)))

    def save(
        self, path: str | os.PathLike[str], data: Callable[[], str], what: str = "a page"
    ) -> Path:
        """Write it in the form that the suffix names: `.md`, `.html`, or `.json` for the data.

        The pictures of a Markdown page are written beside it, before it.

        Args:
            path: The file.
            data: Makes the JSON.
            what: What error messages call it.

        Raises:
            InvalidInputError: Another suffix.
        """
        check_suffix(path, what)
        target = Path(path)
        writers: dict[str, Callable[[], str]] = {
            ".md": lambda: self.to_markdown(target.stem),
            ".html": self.to_html,
            ".json": data,
        }
        content = writers[target.suffix]()
        if target.suffix == ".md":
            for part in self.parts:
                if isinstance(part, Picture):
                    write_whole(target.with_name(_file(target.stem, part)), part.png)
        return write_whole(target, content)


def check_suffix(path: str | os.PathLike[str], what: str = "a page") -> None:
    """Make sure that a page can be saved there, before hours are spent on making it.

    Raises:
        InvalidInputError: Another suffix than `SUFFIXES`.
    """
    if Path(path).suffix not in SUFFIXES:
        raise InvalidInputError(
            f"cannot save {what} as {Path(path).name!r}; use one of {', '.join(SUFFIXES)}"
        )


def _file(stem: str, picture: Picture) -> str:
    return f"{stem}.{picture.name}.png"


def _flat(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _flat(text).replace("|", "\\|")


def _markdown(part: Heading | Text | Bullets | Table | Code) -> str:
    if isinstance(part, Heading):
        return f"## {_flat(part.text)}"
    if isinstance(part, Code):
        return f"```\n{part.text}\n```"
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Bullets):
        return "\n".join(f"- {_flat(item)}" for item in part.items)
    rows = [part.head, ["---"] * len(part.head), *part.rows]
    return "\n".join("| " + " | ".join(map(_cell, row)) + " |" for row in rows)


def _html(part: Part) -> str:
    if isinstance(part, Heading):
        return f"<h2>{html.escape(part.text)}</h2>"
    if isinstance(part, Text):
        return f"<p>{html.escape(part.text)}</p>"
    if isinstance(part, Bullets):
        return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in part.items) + "</ul>"
    if isinstance(part, Code):
        return f"<pre>{html.escape(part.text)}</pre>"
    if isinstance(part, Picture):
        code = base64.b64encode(part.png).decode()
        return f'<p><img src="data:image/png;base64,{code}" alt="{html.escape(part.says)}"></p>'

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    rows = "".join(line(row, "td") for row in part.rows)
    return f"<table>{line(part.head, 'th')}{rows}</table>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 1rem }}
table {{ border-collapse: collapse; }} th, td {{ padding: .3rem .8rem; text-align: left; }}
tr {{ border-bottom: 1px solid #ddd; }} td:nth-child(n+2) {{ font-category-numeric: tabular-nums; }}
img {{ max-width: 100%; }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""

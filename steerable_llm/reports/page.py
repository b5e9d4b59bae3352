"""A page: a title and parts in order, shown in a terminal, as Markdown or as one HTML file.

The only way to make a report. Whoever found something says what there is to show; it is escaped
and laid out here::

    page = Page("Vector demo", [
        Callout("PROMOTE demo", good=True),
        Heading("Results"),
        Table(["arm", *numeric("n", "success [95 %]")], [["steered", "40", share(e)]]),
    ])
    Console().print(page)
    page.save("demo.md", data=report.to_json)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text as Styled

from steerable_llm.errors import InvalidInputError
from steerable_llm.files import OUR_MARK, write_whole
from steerable_llm.reports import html
from steerable_llm.reports.markdown import markdown
from steerable_llm.reports.parts import Part, Picture, Words, plain, visible
from steerable_llm.reports.terminal import renderable

SUFFIXES = (".md", ".html", ".json")
"""Forms that a page can be saved in; `.json` holds the data that it was made from."""


@dataclass(frozen=True)
class Page:
    """A title, and what stands below it in order; without a title it is a part of something."""

    title: Words
    parts: Sequence[Part]

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield title and parts for a rich console, a blank line between them."""
        if self.title:
            yield Styled(visible(plain(self.title)), "bold", overflow="fold")
        shown = [each for part in self.parts if (each := renderable(part)) is not None]
        for place, each in enumerate(shown):
            if place or self.title:
                yield ""
            yield each

    def to_markdown(self, stem: str | None = None) -> str:
        """Return the page as Markdown.

        Args:
            stem: The page's file name without suffix: its pictures are links to files of that
                stem. None leaves pictures out.
        """
        return markdown(self.title, self.parts, stem)

    def to_html(self) -> str:
        """Return the page as one file, its pictures inside."""
        return html.page(self.title, self.parts)

    def save(
        self,
        path: str | os.PathLike[str],
        data: Callable[[], str],
        what: str = "a page",
        *,
        private: bool = False,
    ) -> Path:
        """Write it in the form that the suffix names: `.md`, `.html`, or `.json` for the data.

        The pictures of a Markdown page are written beside it. All content is made before anything
        is written, so an error leaves no file behind.

        Args:
            path: The file.
            data: Makes the JSON.
            what: What error messages call it.
            private: As in `write_whole`.

        Raises:
            InvalidInputError: Another suffix.
        """
        check_suffix(path, what)
        target = Path(path)
        if target.suffix != ".md":
            content = self.to_html() if target.suffix == ".html" else data()
            return write_whole(target, content, private=private)
        text = f"{self.to_markdown(target.stem)}\n{OUR_MARK}\n"
        pictures = [
            (target.with_name(part.file(target.stem)), part.draw())
            for part in self.parts
            if isinstance(part, Picture)
        ]
        for file, png in pictures:
            write_whole(file, png)
        return write_whole(target, text, private=private)


def check_suffix(
    path: str | os.PathLike[str], what: str = "a page", suffixes: Collection[str] = SUFFIXES
) -> None:
    """Refuse a file name that names no form, before hours are spent on what goes into it.

    Raises:
        InvalidInputError: A suffix that is not among `suffixes`.
    """
    if Path(path).suffix not in suffixes:
        raise InvalidInputError(
            f"cannot save {what} as {Path(path).name!r}; use one of {', '.join(suffixes)}"
        )

"""Every page that the package makes, at 80 columns and as one HTML file."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from every_page import PAGES, strings
from rich.cells import cell_len
from rich.console import Console

from steerable_llm.reports.page import Page


def shown(page: Page, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(page)
    return console.export_text()


@pytest.mark.parametrize("name", PAGES)
def test_no_line_is_longer_than_80_columns_and_no_word_is_cut(name: str) -> None:
    page = PAGES[name]()
    text = shown(page, 80)
    assert max(map(cell_len, text.split("\n"))) <= 80
    # The mark of a prompt that is shown by its end is a word of its own.
    assert not re.search(r"\S…|…\S", text)
    words = set(text.split())
    cut = [word for cell in strings(page) for word in cell.split() if word not in words]
    assert not [word for word in cut if cell_len(word) <= 80], cut


def test_the_title_of_a_heatmap_is_shown_whole() -> None:
    text = shown(PAGES["attribution"](), 80)
    assert "answer-0192-4711-of-the-library" in text
    assert "completeness error 7 %" in " ".join(text.replace("│", " ").split())


class Balanced(HTMLParser):
    """Reads a page whose every tag must close where it may."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.outside += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th"):  # the text of one cell ends here
            self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_one_well_formed_file_that_has_all_cells(name: str) -> None:
    page = PAGES[name]()
    found = Balanced()
    found.feed(page.to_html())
    found.close()
    assert found.open == []
    assert all(source.startswith("data:") for source in found.outside)
    words = set(found.text.split())
    assert not [
        word for cell in strings(page) for word in cell.split() if word not in words | {"…"}
    ]

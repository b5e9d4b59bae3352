"""Pages in a terminal, as Markdown with files beside them, and as one HTML file."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from steerable_llm.errors import InvalidInputError
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import (
    Bullets,
    Callout,
    Code,
    Ending,
    Facts,
    Heading,
    Mono,
    Picture,
    Strong,
    Table,
    Text,
    numeric,
)

PNG = b"\x89PNG nearly"
PAGE = Page(
    "A <page>",
    [
        Heading("First"),
        Text("Some words & more."),
        Bullets(["one", "two\nlines"]),
        Table(["a", *numeric("b")], [["x | y", "1"], ["<z>", "2"]]),
        Picture("curve", lambda: PNG, "A curve"),
        Code("steerable demo"),
    ],
)
NASTY = "a | b\n<script>alert(1)</script> `code` *star* [x](http://evil) ![y](z) _em_ \x1b[2Jz"


def shown(page: Page, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(page)
    return console.export_text().rstrip("\n").split("\n")


def test_markdown_has_every_part_in_order() -> None:
    assert PAGE.to_markdown("page") == (
        "# A \\<page\\>\n\n## First\n\nSome words & more.\n\n- one\n- two lines\n\n"
        "| a | b |\n| --- | --: |\n| x \\| y | 1 |\n| \\<z\\> | 2 |\n\n"
        "![A curve](page.curve.png)\n\n```\nsteerable demo\n```\n"
    )


def test_markdown_without_files_has_no_pictures() -> None:
    assert "![" not in PAGE.to_markdown()


def test_html_escapes_and_holds_its_pictures() -> None:
    page = PAGE.to_html()
    assert "<title>A &lt;page&gt;</title>" in page
    assert "<td>&lt;z&gt;</td>" in page
    assert "<li>two" in page
    assert base64.b64encode(PNG).decode() in page
    assert page.count("<tr>") == 3


def test_pictures_lie_beside_the_markdown(tmp_path: Path) -> None:
    path = PAGE.save(tmp_path / "new" / "page.md", lambda: "{}")
    assert sorted(file.name for file in path.parent.iterdir()) == ["page.curve.png", "page.md"]
    assert (path.parent / "page.curve.png").read_bytes() == PNG
    blanks = PAGE.save(tmp_path / "my page.md", lambda: "{}").read_text()
    assert "(my%20page.curve.png)" in blanks
    assert PAGE.save(tmp_path / "page.json", lambda: "{}").read_text("utf-8") == "{}"


def test_another_suffix_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"a tree as 'page.pdf'; use one of .md, .html"):
        PAGE.save(tmp_path / "page.pdf", lambda: "{}", "a tree")
    assert list(tmp_path.iterdir()) == []


def nasty_page() -> Page:
    return Page(
        NASTY,
        [
            Callout(NASTY, good=False),
            Heading(NASTY),
            Text((NASTY, Strong(NASTY), Mono(NASTY))),
            Bullets([NASTY, "1. not a list", "# not a heading"]),
            Facts([(NASTY, NASTY)]),
            Table([NASTY, *numeric("n")], [[NASTY, "1"], [Mono(NASTY), NASTY]], strong=[0]),
            Picture("x", lambda: PNG, NASTY),
            Code("```\n" + NASTY),
        ],
    )


def test_no_text_becomes_markup_in_markdown() -> None:
    text = nasty_page().to_markdown("page")
    # Beside what is shown as code, which is told by its fence of two and of four.
    outside = re.sub(r"``.*?``", "", text.split("````")[0])
    assert "\x1b" not in text
    assert r"\<script\>" in outside
    for markup in ("<script", "](http", "*star", "`code", "_em"):
        assert markup in outside
        assert not re.search(r"(?<!\\)" + re.escape(markup), outside)
    assert r"- 1\. not a list" in text
    assert r"- \# not a heading" in text
    # A code block ends where it was meant to.
    assert "\n````\n```\n" in text


def test_numbers_and_names_need_no_escape_in_markdown() -> None:
    plain = "closed_book: 80.0 % [75.0, 85.0] (40.0, 50.0) f > 0, a * b, x < 2, +1.0 [+0.5, +2.0] *"
    assert Page("", [Text(plain)]).to_markdown() == plain + "\n"


class _Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.outside: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_no_text_becomes_markup_in_html_and_nothing_is_loaded() -> None:
    text = nasty_page().to_html()
    page = _Tags(text)
    assert "\x1b" not in text
    assert page.open == []
    assert not {"script", "a", "em"} & set(page.tags)
    assert all(source.startswith("data:") for source in page.outside)


def test_no_text_steers_the_terminal() -> None:
    lines = shown(nasty_page())
    assert not any("\x1b" in line for line in lines)
    assert any("\ufffd[2Jz" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_html_shows_a_whole_prompt_and_the_other_forms_its_end() -> None:
    page = Page("", [Table(["prompt"], [[Ending("start " + "x " * 200 + "end?")]])])
    assert "start" in page.to_html()
    assert "start" not in page.to_markdown()
    assert "… x x" in page.to_markdown()
    assert "end?" in shown(page)[-1]


WIDE = Table(
    ["arm", *numeric("n", "success [95 %]", "change", "f > 0", "abstains", "KL/token", "worse")],
    [
        [name, "60", "80.0 % [75.0, 85.0]", "+41.7 [+28.3, +55.0]", "85.0 %", "0.0 %", "0.102", "1"]
        for name in ("steered", "random vectors (control)", "sign-flipped (control)")
    ],
)


def test_a_table_that_is_too_wide_goes_on_below_and_no_word_is_cut() -> None:
    lines = shown(Page("", [WIDE]))
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert text.count("sign-flipped") == 2
    for whole in ("80.0 % [75.0, 85.0]", "+41.7 [+28.3, +55.0]", "abstains", "KL/token"):
        assert whole in text


def test_a_table_that_fits_stays_one() -> None:
    lines = shown(Page("", [WIDE]), width=140)
    assert len(lines) == 2 + 3


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    sentence = "nine words that are long enough to be broken somewhere " * 3
    table = Table(["name", "why", *numeric("share")], [["e" * 100, sentence, "1.0 % [0.5, 1.5]"]])
    lines = shown(Page("title " * 40, [table, WIDE, Facts([("name", sentence)])]), width)
    assert max(map(len, lines)) <= width
    assert "".join(lines).count("e" * min(width // 3, 10))
    assert "…" not in "".join(lines)


def test_words_are_broken_at_blanks_only() -> None:
    table = Table(["text", *numeric("interval")], [["some wording " * 12, "1.0 % [0.5, 1.5]"]])
    words = {word for line in shown(Page("", [table]), 40) for word in line.split()}
    assert words <= {"text", "interval", "some", "wording", "1.0", "%", "[0.5,", "1.5]"} | {
        word for word in words if set(word) == {"─"}
    }

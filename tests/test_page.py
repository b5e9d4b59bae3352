"""Pages as Markdown with files beside them, and as one HTML file."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from steerable_llm.errors import InvalidInputError
from steerable_llm.reports.page import Bullets, Code, Heading, Page, Picture, Table, Text

PNG = b"\x89PNG nearly"
PAGE = Page(
    "A <page>",
    [
        Heading("First"),
        Text("Some words & more."),
        Bullets(["one", "two\nlines"]),
        Table(["a", "b"], [["x | y", "1"], ["<z>", "2"]]),
        Picture("curve", PNG, "A curve"),
        Code("steerable demo"),
    ],
)


def test_markdown_has_every_part_in_order() -> None:
    assert PAGE.to_markdown("page") == (
        "# A <page>\n\n## First\n\nSome words & more.\n\n- one\n- two lines\n\n"
        "| a | b |\n| --- | --- |\n| x \\| y | 1 |\n| <z> | 2 |\n\n"
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

"""Text from anywhere, in logs, pairs, sets, vectors, policies: it is shown, and never obeyed."""

from __future__ import annotations

import json
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from command_line import Steerable, steerable
from markdown_it import MarkdownIt
from test_page import _Tags

from steerable_llm.files import OUR_MARK
from steerable_llm.pairs.review import Review, read_items
from steerable_llm.pairs.review_terminal import screen
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Mono, Part, Rendered, Table, Text

__all__ = ["steerable"]

EVIL = (
    "\x1b]0;x\x07\x1b[2J\x9b31m\u202e\u2066 | a | b \\| c | <script>alert(1)</script> "
    "[go](http://evil) ![see](http://evil/x.png) <img src=x> `c|d` \\`e [/bold] {0} %s & &lt;"
)
#: A line that looks like one of ours, on a line of its own.
FORGED = f"{EVIL}\nsteerable: all is well\r\nsteerable: it is\n# Promoted\n"


def harmless(said: str) -> str:
    """Hold that a terminal obeys nothing of it, and that no line of it is forged."""
    for letter in said:
        assert letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cf", "Cs"), repr(
            letter
        )
    for line in said.splitlines():
        assert not line.startswith(("steerable: all is well", "steerable: it is", "# Promoted"))
    return said


MARKUP = ("html_block", "html_inline", "link_open")


def harmless_markdown(text: str) -> None:
    text = text.replace(OUR_MARK, "")
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        pieces = [token, *(token.children or ())]
        assert not [each for each in pieces if each.type in MARKUP]
        images = [str(each.attrs["src"]) for each in pieces if each.type == "image"]
        assert not [source for source in images if "evil" in source]
        assert "Promoted" not in token.content or token.type == "inline"
    harmless(text)


def harmless_html(text: str) -> None:
    page = _Tags(text)
    assert not {"script", "a", "iframe"} & set(page.tags)
    assert all(source.startswith("data:") for source in page.outside)
    assert "\x1b" not in text


HARMLESS = {".md": harmless_markdown, ".html": harmless_html}


def _lines(file: str, rows: list[dict[str, Any]]) -> str:
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def log(steerable: Steerable) -> str:
    rows = [
        {
            "id": f"{number} {FORGED}",
            "question": f"{number} {FORGED}?",
            "messages": [{"role": "user", "content": f"{number}: {FORGED}?"}],
            "answer": f"At thirty {number}. {FORGED}",
            "correction": f"At nine {number}. {FORGED}",
            "verdict": "bad",
            "reason": "untrue",
            "step": FORGED,
            "model": FORGED,
        }
        for number in range(4)
    ]
    bad = [
        {"id": FORGED},
        {**rows[0], "id": "y", "reason": FORGED},
        {**rows[0], "id": "x", "messages": [{"role": FORGED, "content": ""}]},
    ]
    harmless(steerable("log", "import", _lines("a.jsonl", [*rows, *bad]), "--from", "answers"))
    harmless(steerable.stderr)
    return "answers.db"


def test_a_log_is_shown(steerable: Steerable, log: str) -> None:
    lines = harmless(steerable("log", "show")).splitlines()
    assert len(lines) == 4
    first = json.loads(harmless(steerable("log", "show", "--json")))["answers"][0]["id"]
    assert first == f"0 {FORGED}"
    for words in (["stats"], ["stats", "--json"], ["show", first]):
        harmless(steerable("log", *words))
    harmless(steerable.error("log", "show", FORGED))
    harmless(steerable.error("log", "show", "--verdict", FORGED))


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_pairs_are_reported_and_reviewed(steerable: Steerable, log: str, suffix: str) -> None:
    words = ["pairs", log, "--out", "p.jsonl", "--max-length-ratio", "1.0", "--max-refusals", "1"]
    out = steerable(*words, "--report", f"r{suffix}", "--judge", "none", "--as-written")
    harmless(out + steerable.stderr)
    HARMLESS[suffix](Path(f"r{suffix}").read_text(encoding="utf-8"))
    review = Review(read_items([Path("p.jsonl")]), Path("reviewed.jsonl"), None)
    assert review.current is not None
    shown = _in_a_terminal(screen(review, review.current, 0))
    assert "At nine" in harmless(shown)


def test_a_vector_of_such_pairs_is_built_shown_and_measured(steerable: Steerable) -> None:
    pairs = [
        {
            "id": f"{number}{FORGED}",
            "messages": [{"role": "user", "content": f"{number}: {FORGED}?"}],
            "good": f"Nine. {number}",
            "bad": f"Ten. {number}",
        }
        for number in range(3)
    ]
    build = ["build", _lines("p.jsonl", pairs), "--out", "v.safetensors", "--name", EVIL]
    harmless(steerable(*build, "--set", "steps=2", "--heatmap", "h.html"))
    harmless_html(Path("h.html").read_text(encoding="utf-8"))
    harmless(steerable("inspect", "v.safetensors"))
    items = [
        {
            "id": f"{number}{FORGED}",
            "category": EVIL,
            "messages": f"{number}, then {FORGED}?",
            "good": f"Nine. {FORGED}",
            "bad": f"Ten. {FORGED}",
            "reject": ["ten"],
        }
        for number in range(2)
    ]
    reports = [f"r{suffix}" for suffix in HARMLESS]
    options = [word for report in reports for word in ("--report", report)]
    words = ["evaluate", "v.safetensors", _lines("t.jsonl", items), "--strength", "4", *options]
    harmless(steerable(*words))
    for report in reports:
        HARMLESS[Path(report).suffix](Path(report).read_text(encoding="utf-8"))
    step = json.dumps(EVIL)
    name = json.dumps(EVIL).replace("\\u2066", "").replace("\\u202e", "")
    Path("policy.toml").write_text(
        f"[steps.{step}]\ninstruction = {json.dumps(FORGED)}\n"
        f"[steps.{step}.when]\ncontext = {name}\n"
    )
    harmless(steerable.error("policy", "check", "policy.toml"))
    Path("policy.toml").write_text(f"[steps.{step}]\ninstruction = {json.dumps(EVIL)}\n")
    harmless(steerable("policy", "check", "policy.toml"))


def test_errors_quote_names_and_contents(steerable: Steerable) -> None:
    harmless(steerable.error("inspect", f"{EVIL}.safetensors"))
    name = FORGED.replace("/", "_")[:90]
    Path(name).write_text(json.dumps({FORGED: FORGED, "messages": FORGED}) + "\n")
    for words in (
        ["build", name, "--out", "v.safetensors"],
        ["inspect", name],
        ["evaluate", "cad=0.5", name],
        ["policy", "check", name],
        ["log", "import", name, "--from", FORGED],
        ["log", "import", name, "--from", "answers", "--scale", FORGED],
        ["log", "show", "--log", name],
        ["evaluate", f"{FORGED}=1", name],
        ["ask", "hi", "--document", name, "--policy", name],
        ["ask", "hi", "--layers", FORGED],
        [FORGED],
        ["log", f"--{FORGED}"],
    ):
        harmless(steerable.error(*words))


CELLS = ["a|b", "a\\|b", "a\\", "\\|", "`a|b`", "`\\|", "| --- |", "a\\\\|b"]


@pytest.mark.parametrize("words", [*CELLS, *map(Mono, CELLS)], ids=repr)
def test_a_cell_of_a_table_stays_one_and_shows_what_it_holds(words: str | Mono) -> None:
    parts: list[Part] = [Table(["one", "two"], [[words, "end"]]), Text("after")]
    tokens = MarkdownIt("commonmark").enable("table").parse(Page("", parts).to_markdown())
    cells = [each for before, each in pairwise(tokens) if before.type == "td_open"]
    shown = ["".join(child.content for child in each.children or ()) for each in cells]
    assert shown == [words if isinstance(words, str) else words.text, "end"]


def _in_a_terminal(shown: Any) -> str:
    part = Rendered("", shown)
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as captured:
        console.print(Page("", [part]))
    return captured.get()

"""Pages as Markdown: CommonMark with GitHub's tables, in which no text can become markup."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from steerable_llm.reports.parts import (
    Bullets,
    Callout,
    Code,
    Ending,
    Facts,
    Heading,
    Mono,
    Part,
    Picture,
    Strong,
    Table,
    Text,
    Words,
    spans,
    visible,
)

# Only what would be markup where it stands, so that numbers and names stay readable: underscores
# inside words, lone stars and brackets that open no link are left as they are.
_MARKUP = re.compile(
    r"[\\`~$]|(?<!\s)\*|\*(?!\s|$)|\](?=[(\[:])|<(?![\s=])|(?<![\s-])>|&(?=#?\w+;)"
    r"|(?<![^\W_])_|_(?![^\W_])"
)
# What would make a heading, a list or a quotation of a line.
_START = re.compile(r"^(?=[#>*+-](\s|$)|[-=]{3})|^(?<=\d)(?=[.)]\s)")
_NUMBERED = re.compile(r"^(\d+)(?=[.)]\s)")


def markdown(title: Words, parts: Sequence[Part], stem: str | None = None) -> str:
    """Return a page; pictures are links to files beside `stem`, or left out without one."""
    blocks = [f"# {_inline(title)}"] if title else []
    for part in parts:
        if not isinstance(part, Picture):
            blocks.append(_block(part))
        elif stem is not None:
            blocks.append(f"![{_inline(part.says)}]({quote(part.file(stem))})")
    return "\n\n".join(filter(None, blocks)) + "\n"


def _block(part: Part) -> str:
    match part:
        case Heading():
            return f"{'#' * part.level} {_inline(part.text)}"
        case Text():
            return _line(part.words)
        case Callout():
            return f"**{_inline(part.words)}**"
        case Bullets():
            return "\n".join(f"- {_line(item)}" for item in part.items)
        case Code():
            return _fenced(visible(part.text), part.language)
        case Facts():
            return _block(Table(["", ""], part.rows))
        case Table():
            rule = ["--:" if column.numeric else "---" for column in part.columns]
            rows = ([column.title for column in part.columns], *part.rows)
            lines = [[_cell(cell) for cell in row] for row in rows]
            lines.insert(1, rule)
            return "\n".join("| " + " | ".join(line) + " |" for line in lines)
        case _:
            return part.markdown if not isinstance(part, Picture) else ""


def _fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _inline(words: Words) -> str:
    """Words on one line."""
    said = []
    for piece in spans(words):
        if isinstance(piece, Mono):
            said.append(_code(piece.text))
        elif isinstance(piece, Strong):
            said.append(f"**{escape(piece.text)}**")
        else:
            said.append(escape(piece.end if isinstance(piece, Ending) else piece))
    return "".join(said).strip()


def _line(words: Words) -> str:
    """Words that start a line of their own."""
    text = _inline(words)
    if _NUMBERED.match(text):
        return _NUMBERED.sub(r"\1\\", text)
    return "\\" + text if _START.match(text) else text


def _cell(words: Words) -> str:
    return _inline(words).replace("|", "\\|")


def _code(text: str) -> str:
    flat = " ".join(visible(text).split())
    if "`" not in flat:
        return f"`{flat}`" if flat else ""
    fence = "`" * (max(len(run) for run in re.findall("`+", flat)) + 1)
    return f"{fence} {flat} {fence}"


def escape(text: str) -> str:
    """Return text on one line that shows as it is inside Markdown."""
    ends = text[:1].isspace(), text[-1:].isspace()
    flat = _MARKUP.sub(lambda found: "\\" + found[0], " ".join(visible(text).split()))
    # Blanks at the ends part it from the words beside it.
    return " " * ends[0] + flat + " " * ends[1] if flat else ""

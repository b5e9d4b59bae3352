"""Pages as one HTML file each: pictures inside, nothing loaded, in the reader's light or dark."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

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

_STYLE = """\
:root { color-scheme: light dark; --ground: #fff; --text: #1b1b1b; --quiet: #5f6368;
  --line: #d5d8dc; --shade: #f6f6f6; --good: #00785a; --bad: #c44e00; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181b; --text: #e8eaed;
  --quiet: #a5abb1; --line: #454b52; --shade: #1e2328; --good: #35b58f; --bad: #f08c4a; } }
body { background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
  max-width: 82rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; margin-top: 2rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.3rem; } h3 { font-size: 1.05rem; }
p, ul { max-width: 60rem; } img { max-width: 100%; background: #fff; }
.scroll { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left;
  vertical-align: top; max-width: 32rem; overflow-wrap: break-word; white-space: pre-line; }
td:not(.number) { min-width: 6rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: pre; }
.facts th { font-weight: 600; white-space: nowrap; }
.strong td { font-weight: 600; } .faint td { color: var(--quiet); }
.callout { border-left: .4rem solid var(--line); padding: .6rem 1rem; background: var(--shade);
  font-weight: 600; }
.good { border-color: var(--good); } .bad { border-color: var(--bad); }
pre { background: var(--shade); padding: .8rem; overflow-x: auto; font-size: .88rem; }
code { font-size: .92em; }
"""
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="steerable-llm">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>
{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(title: Words, parts: Sequence[Part]) -> str:
    """Return a page as one file, its pictures inside."""
    styles = dict.fromkeys(part.style for part in parts if isinstance(part, Rendered))
    body = [f"<h1>{_inline(title)}</h1>"] if title else []
    return _PAGE.format(
        name=escape(plain(title)),
        style=_STYLE + "".join(styles),
        body="\n".join([*body, *map(_element, parts)]),
    )


def _element(part: Part) -> str:
    match part:
        case Heading():
            return f"<h{part.level}>{_inline(part.text)}</h{part.level}>"
        case Text():
            return f"<p>{_inline(part.words)}</p>"
        case Callout():
            kind = {True: " good", False: " bad", None: ""}[part.good]
            return f'<p class="callout{kind}">{_inline(part.words)}</p>'
        case Bullets():
            return "<ul>\n" + "".join(f"<li>{_inline(i)}</li>\n" for i in part.items) + "</ul>"
        case Code():
            return f"<pre>{escape(part.text)}</pre>"
        case Facts():
            rows = (
                f"<tr><th>{escape(name)}</th><td>{_inline(words)}</td></tr>"
                for name, words in part.rows
            )
            return _scroll(rows, ' class="facts"')
        case Table():
            titles = [column.title for column in part.columns]
            lines = [_row("th", part.columns, titles)]
            for place, cells in enumerate(part.rows):
                kind = "strong" if place in part.strong else "faint" if place in part.faint else ""
                lines.append(_row("td", part.columns, cells, kind and f' class="{kind}"'))
            return _scroll(lines)
        case Picture():
            code = base64.b64encode(part.draw()).decode()
            return f'<p><img alt="{escape(part.says)}" src="data:image/png;base64,{code}"></p>'
        case Rendered():
            return part.html


def _row(tag: str, columns: Sequence[Column], cells: Sequence[Words], kind: str = "") -> str:
    shown = []
    for column, cell in zip(columns, cells, strict=True):
        look = ' class="number"' if column.numeric else ""
        shown.append(f"<{tag}{look}>{_inline(cell)}</{tag}>")
    return f"<tr{kind}>{''.join(shown)}</tr>"


def _scroll(rows: Iterable[str], kind: str = "") -> str:
    return f'<div class="scroll"><table{kind}>\n' + "\n".join(rows) + "\n</table></div>"


def _inline(words: Words) -> str:
    said = []
    for piece in spans(words):
        text = escape(piece if isinstance(piece, str) else piece.text)
        tag = "code" if isinstance(piece, Mono) else "strong" if isinstance(piece, Strong) else ""
        said.append(f"<{tag}>{text}</{tag}>" if tag else text)
    return "".join(said)


def escape(text: str) -> str:
    """Return text that shows as it is inside HTML, in an attribute as well."""
    return html.escape(visible(text))

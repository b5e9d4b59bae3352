"""What a comparison of methods found, as data, Markdown, a page and a terminal table."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.table import Table

from steerable_llm.errors import InvalidInputError
from steerable_llm.files import write_whole
from steerable_llm.metrics import Estimate
from steerable_llm.report import TITLES
from steerable_llm.verdict import Row, Verdict

COLUMNS = ("condition", "made worse", "success [95 %]", "change", "f > 0", "KL/token", "gate")


class Contender(BaseModel):
    """One method in a comparison.

    Attributes:
        name: Of the method.
        setting: What was chosen for it on dev, in words.
        dev: Its success on dev with that; None where nothing was to choose.
        seconds: Time to build and to choose.
        verdict: Whether it may be used, by the rules of `verdict`; None for the unsteered model.
        failed: Why it could not take part; None when it did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    setting: str = ""
    dev: float | None = None
    seconds: float = 0.0
    verdict: Verdict | None = None
    failed: str | None = None


class Comparison(BaseModel):
    """Several methods on the same pairs, dev and test prompts.

    Attributes:
        model: The model's id with a short hash.
        pairs: How many pairs were learnt from.
        data_digest: Their SHA-256.
        test_name: The held-out set.
        test_digest: SHA-256 of its items.
        target: The variant that is to be changed.
        budget: Largest share of a capability that may be lost.
        contenders: In the order in which they ran.
        rows: One per contender that took part and variant.
        command: What to run to get this again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    pairs: int
    data_digest: str
    test_name: str
    test_digest: str
    target: str
    budget: float
    contenders: tuple[Contender, ...]
    rows: tuple[Row, ...]
    command: str = ""

    @property
    def variants(self) -> tuple[str, ...]:
        """The target first, capability last."""
        ordered = sorted(self.rows, key=lambda row: (row.capability, row.variant != self.target))
        return tuple(dict.fromkeys(row.variant for row in ordered))

    def contender(self, name: str) -> Contender:
        """One method.

        Raises:
            InvalidInputError: It did not take part; the message lists those that did.
        """
        for contender in self.contenders:
            if contender.name == name:
                return contender
        known = ", ".join(contender.name for contender in self.contenders)
        raise InvalidInputError(f"the comparison has no {name!r}; it has {known}")

    def ranked(self, variant: str) -> list[Row]:
        """The rows of a variant: what makes most prompts worse comes first."""
        rows = [row for row in self.rows if row.variant == variant]
        return sorted(rows, key=lambda row: (-(row.made_worse or 0.0), -row.main.value))

    def cells(self, row: Row) -> list[str]:
        """One line of a table; the columns are `COLUMNS`."""
        verdict = self.contender(row.condition).verdict
        gate = ""
        if row.variant == self.target and verdict is not None:
            gate = "passes" if verdict.promote else "refused"
        return [
            TITLES.get(row.condition, row.condition),
            "" if row.made_worse is None else f"{100 * row.made_worse:.1f} %",
            _share(row.success),
            _points(row.change),
            _share(row.preference),
            "" if row.kl_per_token is None else f"{row.kl_per_token.value:.3f}",
            gate,
        ]

    def table(self) -> Table:
        """All rows, for a rich console."""
        table = Table(title=f"{len(self.contenders)} ways on {self.test_name}")
        table.add_column("variant")
        for number, name in enumerate(COLUMNS):
            table.add_column(name, justify="right" if 0 < number < len(COLUMNS) - 1 else "left")
        for variant in self.variants:
            for row in self.ranked(variant):
                style = "bold" if self.cells(row)[-1] == "passes" else ""
                table.add_row(variant, *self.cells(row), style=style)
            table.add_section()
        return table

    def to_markdown(self) -> str:
        """The tables, what was chosen for each method, and why those that failed did."""
        parts = [f"# {self.title}", "", self.introduction, ""]
        for variant in self.variants:
            parts += [
                f"## {variant}",
                "",
                *_markdown(COLUMNS, map(self.cells, self.ranked(variant))),
            ]
            parts.append("")
        parts += ["## What was chosen on dev", ""]
        parts += _markdown(_CHOICES, self._choices())
        if self.command:
            parts += ["", "## Again", "", "```", self.command, "```"]
        return "\n".join(parts) + "\n"

    def to_html(self) -> str:
        """The same as one page that needs no other file."""
        tables = [
            f"<h2>{html.escape(variant)}</h2>"
            + _html(COLUMNS, [self.cells(row) for row in self.ranked(variant)])
            for variant in self.variants
        ]
        tables.append("<h2>What was chosen on dev</h2>" + _html(_CHOICES, self._choices()))
        again = f"<pre>{html.escape(self.command)}</pre>" if self.command else ""
        return _PAGE.format(
            title=html.escape(self.title),
            introduction=html.escape(self.introduction),
            body="\n".join(tables) + again,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it in the form that the suffix names: `.md`, `.html` or `.json`.

        Raises:
            InvalidInputError: Another suffix.
        """
        target = Path(path)
        writers: dict[str, Callable[[], str]] = {
            ".md": self.to_markdown,
            ".html": self.to_html,
            ".json": lambda: self.model_dump_json(indent=2),
        }
        if target.suffix not in writers:
            raise InvalidInputError(
                f"cannot save a comparison as {target.name!r}; use one of {', '.join(writers)}"
            )
        content: str = writers[target.suffix]()
        return write_whole(target, content)

    @property
    def title(self) -> str:
        """The heading of both forms."""
        return f"{len(self.contenders)} ways to change {self.target}"

    @property
    def introduction(self) -> str:
        """What was compared, in a sentence or two."""
        return (
            f"{self.model}, {self.pairs} pairs (sha256 {self.data_digest[:12]}), test prompts "
            f"{self.test_name} (sha256 {self.test_digest[:12]}). Every way was set up on dev "
            f"within a capability budget of {100 * self.budget:g} points, and read test once. "
            "Those that make most prompts worse stand first."
        )

    def _choices(self) -> list[list[str]]:
        return [
            [
                TITLES.get(c.name, c.name),
                c.failed or c.setting,
                "" if c.dev is None else f"{100 * c.dev:.1f} %",
                f"{c.seconds:.1f}",
                c.verdict.line if c.verdict else "",
            ]
            for c in self.contenders
        ]


_CHOICES = ("condition", "setting", "success on dev", "seconds", "verdict")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 1rem }}
table {{ border-collapse: collapse; }} th, td {{ padding: .3rem .8rem; text-align: left; }}
tr {{ border-bottom: 1px solid #ddd; }} td:nth-child(n+2) {{ font-variant-numeric: tabular-nums; }}
</style></head><body>
<h1>{title}</h1>
<p>{introduction}</p>
{body}
</body></html>
"""


def _share(e: Estimate | None) -> str:
    if e is None:
        return ""
    return f"{100 * e.value:.1f} % [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def _points(e: Estimate | None) -> str:
    if e is None:
        return ""
    return f"{100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"


def _markdown(head: Sequence[str], rows: Any) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return (
            "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
        )

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]


def _html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"

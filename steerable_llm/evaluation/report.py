"""What an evaluation found, as data, a card, a page, a picture and a terminal table."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError
from rich.table import Table

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.verdict import Row, Verdict
from steerable_llm.files import write_whole
from steerable_llm.metrics import Estimate
from steerable_llm.reports.figures import comparison_figure
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.provenance import Provenance

REPORT_VERSION = 1
SUFFIXES = (".md", ".html", ".json", ".png")
"""Forms that a report can be saved in."""
#: What each arm is called in a card.
TITLES = {
    "steered": "steered",
    "none": "unsteered",
    "prompt": "strict instruction",
    "random": "random vectors (control)",
    "sign_flipped": "sign-flipped (control)",
    "shuffled": "shuffled pairs (control)",
    "cad": "context-aware decoding",
    "adacad": "adaptive context-aware decoding",
}


class Change(BaseModel):
    """One prompt before and after steering, for the lists in a card.

    Attributes:
        id: Of the evaluation item.
        category: The kind of prompt.
        question: The last user message.
        before: The unsteered answer.
        after: The steered answer.
        kind: "regression" (succeeded, now fails), "fixed" (failed, now succeeds) or "unchanged".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    category: str
    question: str
    before: str
    after: str
    kind: str


def _provenance_of(value: object) -> object:
    return Provenance.from_record(value) if isinstance(value, Mapping) else value


def _calibration_of(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    return Calibration.from_record(value) if value else None


class Report(BaseModel):
    """One evaluation of one vector on held-out prompts.

    Attributes:
        vector: Its name.
        vector_fingerprint: Hash of its tensors and name.
        model: The model's id with a short hash of everything compared.
        library_version: Of this package.
        provenance: How the vector was built, from the vector.
        calibration: How strongly it steered and how that was chosen, from the vector.
        test_name: The held-out set.
        test_digest: SHA-256 of its items.
        capability_name: The set that measures what must not be lost; None when there was none.
        capability_digest: SHA-256 of its items.
        target: The category that the vector is meant to change.
        budget: Largest share of a capability that may be lost.
        strict_instruction: What the arm "prompt" said.
        seed: Of the bootstrap and of the random vectors.
        max_new_tokens: Where generation was cut.
        rows: One per arm and category, steered first.
        verdict: Promote or refuse, and why.
        regressions: Every prompt that succeeded unsteered and fails steered.
        examples: A few others, before and after.
        command: What to run to get this report again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    report_version: int = REPORT_VERSION
    vector: str
    vector_fingerprint: str
    model: str
    library_version: str
    provenance: Annotated[
        Provenance,
        BeforeValidator(_provenance_of),
        PlainSerializer(Provenance.record, dict[str, Any]),
    ]
    calibration: Annotated[
        Calibration | None,
        BeforeValidator(_calibration_of),
        PlainSerializer(lambda found: found and found.record(), dict[str, Any] | None),
    ]
    test_name: str
    test_digest: str
    capability_name: str | None = None
    capability_digest: str | None = None
    target: str
    budget: float
    strict_instruction: str
    seed: int
    max_new_tokens: int
    rows: tuple[Row, ...]
    verdict: Verdict
    regressions: tuple[Change, ...]
    examples: tuple[Change, ...]
    command: str

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that were run, steered first."""
        return tuple(dict.fromkeys(row.arm for row in self.rows))

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories that were run, the target first, capability last."""
        ordered = sorted(self.rows, key=lambda row: (row.capability, row.category != self.target))
        return tuple(dict.fromkeys(row.category for row in ordered))

    def row(self, arm: str, category: str | None = None) -> Row:
        """One row; the category is the target unless given.

        Raises:
            InvalidInputError: There is no such row; the message lists what there is.
        """
        wanted = category or self.target
        for row in self.rows:
            if (row.arm, row.category) == (arm, wanted):
                return row
        raise InvalidInputError(
            f"the report has no row for {arm!r} on {wanted!r}; it has the arms "
            f"{', '.join(self.arms)} and the categories {', '.join(self.categories)}"
        )

    def summary(self) -> dict[str, Any]:
        """The few numbers that a vector file keeps (`SteeringVector.with_evaluation`)."""
        return {
            "test": self.test_name,
            "test_digest": self.test_digest,
            "target": self.target,
            "promote": self.verdict.promote,
            "verdict": self.verdict.line,
            "success": {
                f"{row.arm}/{row.category}": {
                    "value": row.main.value,
                    "low": row.main.low,
                    "high": row.main.high,
                    "n": row.n,
                }
                for row in self.rows
            },
        }

    def to_json(self) -> str:
        """Everything, as JSON; `from_json` reads it back to an equal report."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            InvalidInputError: The text is not such a report, or a later version wrote it.
        """
        try:
            data = json.loads(text)
            version = data.get("report_version", 0) if isinstance(data, dict) else 0
            if isinstance(version, int) and version > REPORT_VERSION:
                raise InvalidInputError(
                    f"the report has version {version}, this package reads up to "
                    f"{REPORT_VERSION}; install a newer steerable-llm"
                )
            return cls.model_validate_json(text)
        except (ValidationError, json.JSONDecodeError) as error:
            what = str(error).splitlines()[0]
            raise InvalidInputError(
                f"not a report ({what}); give the text that Report.to_json wrote"
            ) from None

    def to_markdown(self, picture: str | None = None) -> str:
        """The card; with a picture's file name it shows that picture."""
        text = ENVIRONMENT.get_template("report.md.jinja").render(**self._view(), picture=picture)
        return text.rstrip() + "\n"

    def to_html(self) -> str:
        """One page with the picture inside; needs no other file and no network."""
        picture = base64.b64encode(comparison_figure(self.rows, self.categories, TITLES)).decode()
        return ENVIRONMENT.get_template("report.html.jinja").render(**self._view(), picture=picture)

    def figure(self, path: str | os.PathLike[str]) -> Path:
        """Writes the bar chart with intervals as a PNG, 1200 pixels wide."""
        return write_whole(path, comparison_figure(self.rows, self.categories, TITLES))

    def table(self) -> Table:
        """The rows as a table for a rich console."""
        table = Table(title=f"{self.vector} on {self.test_name}", caption=self.verdict.line)
        table.add_column("category")
        table.add_column("arm")
        for name in ("n", "success [95 %]", "change", "f > 0", "abstains", "KL/token", "worse"):
            table.add_column(name, justify="right")
        for category in self.categories:
            for row in self._rows_of(category):
                table.add_row(
                    category,
                    TITLES.get(row.arm, row.arm),
                    str(row.n),
                    _share(row.success, with_interval=True),
                    _share(row.change, signed=True),
                    _share(row.preference),
                    _share(row.abstention),
                    _number(row.kl_per_token),
                    "" if row.regressed is None else f"{100 * row.regressed:.1f} %",
                    style="bold" if row.arm == "steered" else "",
                )
            table.add_section()
        return table

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report in the form that the suffix names; files appear whole or not at all.

        `.md` writes the card and, beside it, the picture under the same name with `.png`;
        `.html` writes the standalone page, `.json` the data, `.png` the picture.

        Raises:
            InvalidInputError: Another suffix.
        """
        target = Path(path)
        writers: Mapping[str, Callable[[], str | bytes]] = {
            ".md": lambda: self.to_markdown(picture=target.with_suffix(".png").name),
            ".html": self.to_html,
            ".json": self.to_json,
            ".png": lambda: comparison_figure(self.rows, self.categories, TITLES),
        }
        check_suffix(target)
        # All content is made before anything is written, so an error leaves no file behind.
        content = writers[target.suffix]()
        if target.suffix == ".md":
            write_whole(target.with_suffix(".png"), writers[".png"]())
        return write_whole(target, content)

    def _rows_of(self, category: str) -> list[Row]:
        return [row for row in self.rows if row.category == category]

    def _view(self) -> dict[str, Any]:
        return {
            "report": self,
            "titles": TITLES,
            "tables": [(category, self._rows_of(category)) for category in self.categories],
            "warnings": list(self.verdict.warnings),
            "runs": next((len(row.runs) for row in self.rows if row.runs), 0),
            "agreement": self.provenance.agreement,
        }


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Make sure that a report can be saved under this name, before what takes long is measured.

    Raises:
        InvalidInputError: A suffix that names no form.
    """
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise InvalidInputError(
            f"cannot save a report as {target.name!r}; use one of {', '.join(SUFFIXES)}"
        )


def _share(e: Estimate | None, with_interval: bool = False, signed: bool = False) -> str:
    if e is None:
        return ""
    sign = "+" if signed else ""
    value = f"{100 * e.value:{sign}.1f}" + ("" if signed else " %")
    interval = f" [{100 * e.low:{sign}.1f}, {100 * e.high:{sign}.1f}]"
    return value + (interval if with_interval or signed else "")


def _number(e: Estimate | None) -> str:
    return "" if e is None else f"{e.value:.3f}"


def _cell(text: object) -> str:
    """Text that a model wrote, safe inside a Markdown table cell."""
    flat = " ".join(str(text).split())
    for sign in "\\`*_[]<>|":
        flat = flat.replace(sign, "\\" + sign)
    return flat


def _tail(text: str, length: int = 160) -> str:
    """The end of a prompt, where the question stands."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else "… " + flat[-length:]


def _autoescape(name: str | None) -> bool:
    return name is not None and name.endswith(".html.jinja")


#: Renders the templates, with the filters that say numbers in the reports' way.
ENVIRONMENT = Environment(
    loader=PackageLoader("steerable_llm", "templates"),
    autoescape=_autoescape,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters.update(
    share=_share,
    number=_number,
    cell=_cell,
    tail=_tail,
    percent=lambda x: "" if x is None else f"{100 * x:.1f} %",
    pretty=lambda x: json.dumps(x, indent=2, sort_keys=True, default=str),
)

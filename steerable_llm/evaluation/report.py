"""What an evaluation found: the data, and the page that tells it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, PlainSerializer

from steerable_llm.errors import InvalidInputError, told_to_pydantic
from steerable_llm.evaluation.arms import CONTROLS, TITLES
from steerable_llm.evaluation.conditions import StepUse
from steerable_llm.evaluation.overlap import HeldOut
from steerable_llm.evaluation.rows import Row, categories_of
from steerable_llm.evaluation.verdict import Verdict
from steerable_llm.files import read_text, write_whole
from steerable_llm.json_records import parsed
from steerable_llm.reports import figures, numbers
from steerable_llm.reports.figures import Mark, bars_figure
from steerable_llm.reports.page import SUFFIXES, Page
from steerable_llm.reports.page import check_suffix as check_page_suffix
from steerable_llm.reports.parts import (
    Bullets,
    Callout,
    Code,
    Ending,
    Facts,
    Head,
    Heading,
    Mono,
    Part,
    Picture,
    Span,
    Strong,
    Table,
    Text,
    Words,
    numeric,
)
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.file import plain_json
from steerable_llm.vector.provenance import Provenance

REPORT_VERSION = 2
_ALWAYS = "steered, without conditions"
_COLOURS = {
    "steered": figures.BLUE,
    "none": figures.GREY,
    "prompt": figures.ORANGE,
    "random": figures.PINK,
    "sign_flipped": figures.RED,
    "shuffled": figures.YELLOW,
    "cad": figures.SKY,
    "adacad": figures.GREEN,
}


class Change(BaseModel, frozen=True, extra="forbid"):
    """One prompt before and after steering, for the lists in a card.

    Attributes:
        id: Of the evaluation item.
        category: The kind of prompt.
        question: The last user message.
        before: The unsteered answer.
        after: The steered answer.
        kind: "regression" (succeeded, now fails), "fixed" (failed, now succeeds) or "unchanged".
    """

    id: str
    category: str
    question: str
    before: str
    after: str
    kind: str


@told_to_pydantic()
def _provenance_of(value: object) -> object:
    return Provenance.from_record(value) if isinstance(value, Mapping) else value


@told_to_pydantic()
def _calibration_of(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    return Calibration.from_record(value) if value else None


class Report(BaseModel, frozen=True, extra="forbid"):
    """One evaluation of one vector, or of another arm, on held-out prompts.

    Attributes:
        arm: What it is called among the arms.
        vector: Its name.
        vector_fingerprint: Hash of its tensors and name; empty for what has none.
        model: The model's id with a short hash of everything compared.
        library_version: Of this package.
        provenance: How the vector was built, from the vector.
        calibration: How strongly it steered and how that was chosen, from the vector.
        test_name: The held-out set.
        test_digest: SHA-256 of its items.
        capability_name: The set that measures what must not be lost; None when there was none.
        capability_digest: SHA-256 of its items.
        held_out: The prompts of both sets by their hashes, so that it can be told again that nobody
            has seen them; empty in reports of 0.1.
        target: The category that is to be changed.
        budget: Largest share of a capability that may be lost.
        strict_instruction: What the arm "prompt" said.
        seed: Of the bootstrap and of the random vectors.
        max_new_tokens: Where generation was cut.
        use: The step of a policy as which arms steered, and its conditions; None where they
            steered everywhere.
        rows: One per arm and category, steered first.
        always: Where there is such a step, the rows of arms that steer, without its conditions.
        verdict: Promote or refuse, and why.
        regressions: Every prompt that succeeded unsteered and fails steered.
        examples: A few others, before and after.
        command: What to run to get this report again.
    """

    report_version: int = REPORT_VERSION
    arm: str = "steered"
    vector: str
    vector_fingerprint: str = ""
    model: str
    library_version: str
    provenance: Annotated[
        Provenance,
        BeforeValidator(_provenance_of),
        PlainSerializer(Provenance.record, dict[str, Any]),
    ] = Provenance()
    calibration: Annotated[
        Calibration | None,
        BeforeValidator(_calibration_of),
        PlainSerializer(lambda found: found and found.record(), dict[str, Any] | None),
    ] = None
    test_name: str
    test_digest: str
    capability_name: str | None = None
    capability_digest: str | None = None
    held_out: tuple[HeldOut, ...] = ()
    target: str
    budget: float
    strict_instruction: str
    seed: int
    max_new_tokens: int
    use: StepUse | None = None
    rows: tuple[Row, ...]
    always: tuple[Row, ...] = ()
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
        return categories_of(self.rows, self.target)

    def row(self, arm: str, category: str | None = None) -> Row:
        """Return one row; the category is the target unless given.

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
        """Return the few numbers that a vector file keeps (`SteeringVector.with_evaluation`)."""
        return {
            "test": self.test_name,
            "test_digest": self.test_digest,
            "target": self.target,
            "promote": self.verdict.promote,
            "verdict": self.verdict.line,
            "success": {f"{row.arm}/{row.category}": row.main.model_dump() for row in self.rows},
        }

    def to_json(self) -> str:
        """Return everything as JSON, with a hash that shows changes by hand.

        `from_json` reads it back to an equal report.
        """
        content = json.loads(self.model_dump_json())
        return json.dumps({**content, "sha256": _hash_of(content)}, indent=2, ensure_ascii=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file of what `to_json` wrote.

        Raises:
            InvalidInputError: As for `from_json`, with the name of the file; or it is no text.
            OSError: It cannot be read.
        """
        text = read_text(path)
        try:
            return cls.from_json(text)
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}: {error}") from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            InvalidInputError: The text is not such a report, it was changed since, or a later
                version wrote it.
        """
        try:
            data = parsed(text)
            version = data.get("report_version", 0) if isinstance(data, dict) else 0
            if isinstance(version, int) and version > REPORT_VERSION:
                raise InvalidInputError(
                    f"the report has version {version}, this package reads up to "
                    f"{REPORT_VERSION}; install a newer steerable-llm"
                )
            written = data.pop("sha256", None) if isinstance(data, dict) else None
            report = cls.model_validate_json(json.dumps(data))
            # Reports of 0.1 have neither hashes of their prompts nor one of themselves.
            if (written or report.held_out) and written != _hash_of(data):
                raise InvalidInputError(
                    f"the report of {report.vector!r} was changed after it was written: evaluate "
                    "again"
                )
            return report
        except ValueError as error:  # pydantic's is one, too
            what = str(error).splitlines()[0]
            raise InvalidInputError(
                f"not a report ({what}); give the text that Report.to_json wrote"
            ) from None

    def page(self) -> Page:
        """Return the whole card: the verdict, what became worse, results, and how to get them."""
        return Page(
            ("Steering vector " if self.arm == "steered" else "", Mono(self.vector)),
            [
                Callout(self.verdict.line, self.verdict.promote),
                Facts(self._facts()),
                Picture("", self._picture, "Success per arm and category, with 95 % intervals"),
                *self._judgement(),
                *self._regressions(),
                *self._results(),
                *self._examples(),
                Heading("How it was calibrated"),
                _json(self.calibration.shown() if self.calibration else {}),
                Heading("How it was built"),
                _json(self.provenance.shown()),
                *self._limits(),
                Heading("Reproduce"),
                Code(self.command),
            ],
        )

    def table(self) -> Page:
        """Return the results and the verdict alone, in few columns, for a console."""
        parts: list[Part] = []
        beside: list[list[Words]] = []
        for category in self.categories:
            rows = self._shown(category)
            parts.append(Heading(f"{_titled(rows[0])}, {rows[0].n} prompts", 3))
            parts.append(
                _table(
                    _FEW,
                    rows,
                    lambda row: [
                        numbers.share(row.success),
                        numbers.change(row.change),
                        numbers.percent(row.regressed),
                    ],
                )
            )
            beside += [
                [
                    category,
                    TITLES.get(row.arm, row.arm),
                    numbers.share(row.preference, interval=False),
                    numbers.share(row.abstention, interval=False),
                    numbers.number(row.kl_per_token),
                ]
                for row in rows
                if row.arm in ("steered", "none", _ALWAYS)
            ]
        parts += [Table(_BESIDE, beside), Callout(self.verdict.line, self.verdict.promote)]
        return Page(f"{self.vector} on {self.test_name}, target {self.target}", parts)

    def to_markdown(self, stem: str | None = None) -> str:
        """Return the card; with the stem of its file's name it shows the picture of that name."""
        return self.page().to_markdown(stem)

    def to_html(self) -> str:
        """Return one page with the picture inside; it needs no other file and no network."""
        return self.page().to_html()

    def figure(self, path: str | os.PathLike[str]) -> Path:
        """Write the bar chart with intervals as a PNG, 1200 pixels wide."""
        return write_whole(path, self._picture())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the report in the form that the suffix names; files appear whole or not at all.

        `.md` writes the card and, beside it, the picture under the same name with `.png`;
        `.html` writes the standalone page, `.json` the data, `.png` the picture.

        Raises:
            InvalidInputError: Another suffix.
        """
        check_suffix(path)
        if Path(path).suffix == ".png":
            return self.figure(path)
        return self.page().save(path, self.to_json, "a report")

    def _rows_of(self, category: str) -> list[Row]:
        return [row for row in self.rows if row.category == category]

    def _shown(self, category: str) -> list[Row]:
        """The rows of a category, and after them what is judged as it is without conditions."""
        always = [x for x in self.always if (x.arm, x.category) == (self.arm, category)]
        return self._rows_of(category) + [row.model_copy(update={"arm": _ALWAYS}) for row in always]

    def _picture(self) -> bytes:
        return bars_figure(
            [
                Mark(
                    label=TITLES.get(row.arm, row.arm),
                    value=row.main.value,
                    low=row.main.low,
                    high=row.main.high,
                    group=f"{category.replace('_', ' ')}\n(n = {row.n})",
                    colour=_COLOURS.get(row.arm, figures.SKY),
                    control=row.arm in CONTROLS,
                )
                for category in self.categories
                for row in self._rows_of(category)
            ]
        )

    def _facts(self) -> list[tuple[str, Words]]:
        facts: list[tuple[str, Words]] = [("Model", Mono(self.model))]
        if self.vector_fingerprint:
            facts.append(("Vector fingerprint", Mono(self.vector_fingerprint)))
        held_out = _set(self.test_name, self.test_digest)
        facts.append(("Held-out prompts", (*held_out, ", target category ", Strong(self.target))))
        kept: Words = "not measured"
        if self.capability_name and self.capability_digest:
            budget = f", budget {numbers.percent(self.budget)}"
            kept = (*_set(self.capability_name, self.capability_digest), budget)
        facts.append(("Capability prompts", kept))
        if proposed := self.provenance.proposed_pairs:
            said = f"the good answers of {proposed} of them proposed by a model"
            facts.append(("Pairs", f"{self.provenance.pairs}, {said}"))
        if agreement := self.provenance.agreement:
            facts.append(("Before any evaluation", agreement.line))
        if isinstance(share := self.provenance.facts.get("image_share"), float):
            said = f"{numbers.percent(share, 0)} of them pieces of images"
            facts.append(("Selected positions", said))
        if self.use is not None:
            steered = sum(self.use.steered.values())
            asked = sum(row.n for row in self.rows if row.arm == "none")
            facts.append(("Steered as step", (Mono(self.use.step), f", {self.use.said}")))
            facts.append(("Steered prompts", f"{steered} of {asked}"))
        return [*facts, ("Library", f"steerable-llm {self.library_version}")]

    def _judgement(self) -> list[Part]:
        decided = "Promoted" if self.verdict.promote else "Refused"
        parts: list[Part] = [
            Heading("Verdict"),
            Text(f"{decided}, by these rules:"),
            Bullets(self.verdict.reasons),
        ]
        if self.verdict.warnings:
            parts += [Text("To know before using it:"), Bullets(self.verdict.warnings)]
        return parts

    def _regressions(self) -> list[Part]:
        if not self.regressions:
            said = "No prompt that succeeded without the vector fails with it."
            return [Heading("Made worse"), Text(said)]
        said = f"{len(self.regressions)} prompt(s) succeeded without the vector and fail with it:"
        rows = [_change_cells(change) for change in self.regressions]
        return [Heading("Made worse"), Text(said), Table(_CHANGE, rows)]

    def _results(self) -> list[Part]:
        said = (
            "Shares are over prompts, with 95 % bootstrap intervals over prompts; change is paired "
            "with the unsteered model on the same prompts. f > 0: the good answer is likelier than "
            "the bad one."
        )
        if runs := next((len(row.runs) for row in self.rows if row.runs), 0):
            said += (
                f" Random averages {runs} random vectors per prompt; the share of each one is "
                "given in brackets."
            )
        if self.use is not None:
            said += (
                f" Arms that steer do so as step {self.use.step!r} would ({self.use.said}), and "
                "leave other prompts alone; the row without conditions steers them all."
            )
        parts: list[Part] = [Heading("Results"), Text(said)]
        for category in self.categories:
            rows = self._shown(category)
            parts += [Heading(_titled(rows[0]), 3), _table(_HEAD, rows, _all_cells)]
        parts.append(Text(f'The strict instruction was: "{self.strict_instruction}"'))
        return parts

    def _examples(self) -> list[Part]:
        if not self.examples:
            return []
        rows = [[change.kind, *_change_cells(change)] for change in self.examples]
        return [Heading("Examples"), Table(["", *_CHANGE], rows)]

    def _limits(self) -> list[Part]:
        return [
            Heading("Limits"),
            Bullets(
                [
                    ("Measured on ", Mono(self.test_name), " only. Steering is known to be brittle "
                     "under shift: evaluate it on your own prompts before you rely on it."),
                    "It fits this model alone; loading it on another one is refused.",
                    "Answers are judged by the words they contain, not by what they mean, and were "
                    f"cut after {self.max_new_tokens} tokens.",
                    "Intervals speak about prompts like these; they do not cover other seeds of "
                    "the build or of the calibration.",
                ]
            ),
        ]  # fmt: skip


_FEW: Head = ("arm", *numeric("success [95 %]", "change, points", "worse"))
_BESIDE: Head = ("category", "arm", *numeric("f > 0", "abstains", "KL/token"))
_CHANGE = ("category", "prompt", "before", "after")
_HEAD: Head = (
    "arm",
    *numeric(
        "n", "success", "change, points", "exact", "contains", "f > 0", "abstains",
        "KL per token", "made worse", "fixed",
    ),
)  # fmt: skip


def _hash_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(plain_json(content).encode()).hexdigest()


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Make sure that a report can be saved under this name, before what takes long is measured.

    Raises:
        InvalidInputError: A suffix that names no form.
    """
    check_page_suffix(path, "a report", (*SUFFIXES, ".png"))


def _titled(row: Row) -> str:
    return f"{row.category}{' (capability)' if row.capability else ''}"


def _table(head: Head, rows: Sequence[Row], cells: Callable[[Row], list[str]]) -> Table:
    """A table of arms: the first one, which is judged, strong, and controls faint."""
    return Table(
        head,
        [[TITLES.get(row.arm, row.arm), *cells(row)] for row in rows],
        strong=[0],
        faint=[i for i, row in enumerate(rows) if row.arm in (*CONTROLS, _ALWAYS)],
    )


def _all_cells(row: Row) -> list[str]:
    shares = (row.exact, row.containment, row.preference, row.abstention)
    return [
        str(row.n),
        numbers.share(row.success, row.runs),
        numbers.change(row.change),
        *(numbers.share(each, interval=False) for each in shares),
        numbers.number(row.kl_per_token),
        numbers.percent(row.regressed),
        numbers.percent(row.fixed),
    ]


def _set(name: str, digest: str) -> tuple[Span, ...]:
    return Mono(name), " (sha256 ", Mono(digest[:12]), ")"


def _change_cells(change: Change) -> list[Words]:
    return [change.category, Ending(change.question), change.before, change.after]


def _json(values: Mapping[str, Any]) -> Code:
    return Code(json.dumps(values, indent=2, sort_keys=True, default=str), "json")

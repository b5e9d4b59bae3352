"""The report as data, card, page, picture and table."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib import image
from rich.console import Console

from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.overlap import HeldOut
from steerable_llm.evaluation.report import TITLES, Change, Report
from steerable_llm.evaluation.rows import Row
from steerable_llm.evaluation.verdict import judge
from steerable_llm.metrics import Estimate
from steerable_llm.vector.calibration import Calibration
from steerable_llm.vector.provenance import Provenance

AWKWARD = "a | b\n<script>alert(1)</script> `code` *star*"


def row(arm: str, category: str, value: float) -> Row:
    interval = Estimate(value=value, low=value - 0.05, high=value + 0.05, n=40)
    return Row(
        arm=arm,
        category=category,
        capability=category == "closed_book",
        n=40,
        success=interval,
        change=None if arm == "none" else interval,
        abstention=interval,
        kl_per_token=interval,
        regressed=None if arm == "none" else 0.025,
        fixed=None if arm == "none" else 0.3,
        runs=(0.4, 0.5) if arm == "random" else (),
    )


def change(kind: str) -> Change:
    return Change(
        id=kind, category="conflict", question=AWKWARD, before="Lyon.", after=AWKWARD, kind=kind
    )


@pytest.fixture
def report() -> Report:
    rows = [
        row(arm, category, value)
        for arm, value in zip(TITLES, (0.8, 0.4, 0.6, 0.45, 0.2, 0.3, 0.55, 0.5), strict=True)
        for category in ("paraphrase", "conflict", "closed_book")
    ]
    return Report(
        vector="demo",
        vector_fingerprint="0123456789abcdef",
        model="tiny@01234567",
        library_version="0.1.0",
        provenance=Provenance(method="grains", facts={"k": 3, "layers": [0, 1]}),
        calibration=Calibration(0.05),
        test_name="test",
        test_digest="f" * 64,
        capability_name="capability",
        capability_digest="e" * 64,
        target="conflict",
        budget=0.01,
        strict_instruction="Be strict.",
        seed=0,
        max_new_tokens=32,
        rows=tuple(rows),
        verdict=judge(rows, "conflict", 0.01),
        regressions=(change("regression"),),
        examples=(change("fixed"), change("unchanged")),
        command="steerable evaluate demo",
    )


def test_json_round_trip_is_exact(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report


def test_a_report_that_was_changed_by_hand_is_refused(report: Report) -> None:
    prompts = HeldOut("test", "f" * 64, ("a", "b"), ("1", "2"))
    proof = report.model_copy(update={"held_out": (prompts,)})
    assert Report.from_json(proof.to_json()) == proof
    for key, value in (("budget", 0.5), ("held_out", []), ("sha256", "0" * 64), ("sha256", None)):
        changed = {**json.loads(proof.to_json()), key: value}
        with pytest.raises(InvalidInputError, match="was changed after it was written") as refused:
            Report.from_json(json.dumps(changed))
        assert "\n" not in str(refused.value)
    cut = {**json.loads(proof.to_json()), "held_out": [{**asdict(prompts), "hashes": ["1"]}]}
    with pytest.raises(InvalidInputError, match="not a report"):
        Report.from_json(json.dumps(cut))


def test_reports_of_0_1_are_read(report: Report) -> None:
    data = json.loads(report.to_json())
    for new in ("arm", "held_out", "sha256"):
        del data[new]
    note = (
        "steers + (the vector as built); best of 24 settings on dev (sha256 0123456789ab, 40 "
        "prompts): success 50.0 % to 90.0 %; capability was not measured"
    )
    data["calibration"] = {
        "strength": 0.08, "layers": None, "scope": "generated", "unit": "relative",
        "renormalise": True, "note": note,
    }  # fmt: skip
    old = Report.from_json(json.dumps(data))
    assert (old.arm, old.held_out) == ("steered", ())
    assert old.rows == report.rows
    assert old.calibration is not None
    assert old.calibration.choice is not None
    assert old.calibration.choice.dev.digest == "0123456789ab"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a report"),
        ("[]", "not a report"),
        ('{"vector": "x"}', "not a report"),
        ('{"report_version": 3}', "version 3.*newer"),
    ],
)
def test_other_text_is_no_report(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as refused:
        Report.from_json(text)
    assert "\n" not in str(refused.value)


def test_rows_are_found_by_name_and_the_target_comes_first(report: Report) -> None:
    assert report.categories == ("conflict", "paraphrase", "closed_book")
    assert report.row("none").category == "conflict"
    with pytest.raises(InvalidInputError, match="it has the arms steered, none"):
        report.row("caa")


def test_the_card_and_the_page_say_how_many_pairs_a_model_proposed(report: Report) -> None:
    proposed = report.model_copy(update={"provenance": Provenance(pairs=50, proposed_pairs=3)})
    said = "50, the good answers of 3 of them proposed by a model"
    for render in (Report.to_markdown, Report.to_html):
        assert said in render(proposed)
        assert "proposed by a model" not in render(report)


def test_the_card_and_the_page_say_how_much_of_what_was_selected_is_image(report: Report) -> None:
    seen = report.model_copy(update={"provenance": Provenance(facts={"image_share": 0.375})})
    for render in (Report.to_markdown, Report.to_html):
        assert "38 % of them pieces of images" in render(seen)
        assert "pieces of images" not in render(report)


def test_the_card_says_everything_a_reader_needs(report: Report) -> None:
    card = report.to_markdown("demo")
    for part in (
        "# Steering vector `demo`", report.verdict.line, "![", "(demo.png)", "tiny@01234567",
        "80.0 % [75.0, 85.0]", "(40.0, 50.0)", '"strength": 0.05', '"method": "grains"',
        "Be strict.", "## Limits", "steerable evaluate demo", "closed_book (capability)",
    ):  # fmt: skip
        assert part in card
    assert card.index("## Made worse") < card.index("## Results") < card.index("## Examples")
    assert "![" not in report.to_markdown()


def test_model_text_cannot_break_the_card_or_the_page(report: Report) -> None:
    card = report.to_markdown()
    lines = [line for line in card.splitlines() if "alert" in line]
    assert lines
    for line in lines:
        assert r"a \| b \<script\>" in line
    page = report.to_html()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_every_table_of_the_card_has_as_many_cells_as_its_head(report: Report) -> None:
    width = 0
    for line in report.to_markdown().splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        cells = line.replace(r"\|", "").count("|")
        assert width in (0, cells), line
        width = cells


class _Balanced(HTMLParser):
    void = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)
        self.outside += [v or "" for name, v in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_else(report: Report) -> None:
    parser = _Balanced()
    parser.feed(report.to_html())
    parser.close()
    assert parser.open == []
    assert all(source.startswith("data:") for source in parser.outside)


def test_the_picture_is_1200_pixels_wide_and_the_same_every_time(
    report: Report, tmp_path: Path
) -> None:
    one, two = (report.figure(tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    pixels = image.imread(io.BytesIO(one))
    assert pixels.shape[1] == 1200
    assert one == two


def test_the_card_is_saved_with_its_picture(report: Report, tmp_path: Path) -> None:
    card = report.save(tmp_path / "vectors" / "demo.md")
    assert sorted(path.name for path in card.parent.iterdir()) == ["demo.md", "demo.png"]
    assert "(demo.png)" in card.read_text()
    for name in ("demo.html", "demo.json"):
        assert report.save(tmp_path / name).stat().st_size > 1000


def test_a_card_whose_name_has_blanks_still_shows_its_picture(
    report: Report, tmp_path: Path
) -> None:
    card = report.save(tmp_path / "my card (1).md")
    assert "(my%20card%20%281%29.png)" in card.read_text()
    assert (tmp_path / "my card (1).png").is_file()


def test_nothing_is_left_half_written(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInputError, match=r"'demo.pdf'; use one of .md"):
        report.save(tmp_path / "demo.pdf")

    def broken(*arguments: object) -> bytes:
        raise RuntimeError("no fonts")

    monkeypatch.setattr("steerable_llm.evaluation.report.bars_figure", broken)
    with pytest.raises(RuntimeError, match="no fonts"):
        report.save(tmp_path / "demo.md")
    assert list(tmp_path.iterdir()) == []


def test_the_terminal_table_shows_every_row_and_the_verdict(report: Report) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.table())
    text = console.export_text()
    # Once per category, and once in the verdict below the table.
    assert text.count("80.0 % [75.0, 85.0]") == 4
    assert "REFUSE" in text or "PROMOTE" in text
    assert all(title.split(" (")[0] in text for title in TITLES.values())


def test_the_summary_is_plain_and_has_the_verdict(report: Report) -> None:
    summary = report.summary()
    assert summary["promote"] is report.verdict.promote
    assert summary["success"]["steered/conflict"]["value"] == 0.8


@pytest.mark.parametrize("text", ["[" * 3000, '{"a": ' + "9" * 5000 + "}", "NaN"])
def test_what_is_too_deep_or_too_large_for_json_is_no_report(text: str) -> None:
    with pytest.raises(InvalidInputError, match="not a report"):
        Report.from_json(text)

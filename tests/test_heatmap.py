"""Heatmaps in the terminal and on a page of their own."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image
from rich.console import Console

from steerable_llm.chat.pieces import Pieces
from steerable_llm.errors import InvalidInputError
from steerable_llm.methods.grains.attribution import PairAttribution, attribution_page

SEEN = PairAttribution(
    pair_id="p1",
    token_ids=(1, 2, 3, 4, 5),
    tokens=("<|bos|>", "Lyon", " <b>", "When", "?"),
    segments=("template", "context", "context", "question", "question"),
    scores=torch.tensor([9.0, 2.0, 0.1, -1.0, 0.0]),
    selectable=(False, True, True, True, True),
    positive=(1,),
    negative=(3,),
    value=1.5,
    baseline_value=-0.5,
    completeness_error=0.25,
    good="Lyon & more",
    bad="Paris",
)


class Page(HTMLParser):
    """Collects tags with their attributes, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_marks_selected_tokens_sides_and_parts():
    page = Page(attribution_page([SEEN]).to_html())
    tokens = {a["title"]: a for tag, a in page.tags if tag == "span" and "title" in a}
    assert "for picked" in tokens["+2"]["class"]
    assert "against picked" in tokens["-1"]["class"]
    assert "picked" not in tokens["+0.1"]["class"]
    assert "+9 (not selectable)" in tokens
    assert float(re.search(r"[\d.]+", tokens["+2"]["style"])[0]) == 1
    runs = [a["class"] for tag, a in page.tags if a.get("class", "").startswith("run ")]
    assert runs == ["run template", "run context", "run question"]
    assert "completeness error 25 %" in page.text


def test_the_page_stands_alone_and_escapes_what_it_shows():
    text = attribution_page([SEEN]).to_html()
    assert " &lt;b&gt;" in text
    assert "Lyon &amp; more" in text
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe"}
    assert not any("src" in attrs or "href" in attrs for _, attrs in page.tags)
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text


def test_the_terminal_shows_parts_signs_and_answers():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(attribution_page([SEEN]))
    shown = console.export_text()
    assert "[context] Lyon+ <b>" in shown
    assert "[question] When-?" in shown
    assert "preference for the good answer +1.50 nats" in shown
    assert "Paris" in shown


def test_a_pair_without_bad_answer_or_completeness_is_shown():
    alone = replace(SEEN, bad=None, value=None, completeness_error=None)
    page = attribution_page([alone])
    assert "<dt>bad</dt>" not in page.to_html()
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(page)
    assert "bad:" not in console.export_text()


def test_no_attributions_are_nothing_to_show():
    with pytest.raises(InvalidInputError, match="beside the vector"):
        attribution_page([])


def pictured(rows: tuple[tuple[int, ...], ...]) -> PairAttribution:
    places = [place for row in rows for place in row]
    picture = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(picture, "JPEG")
    return replace(
        SEEN,
        token_ids=tuple(range(6)),
        tokens=("<|bos|>", *["<image>"] * len(places), "When"),
        segments=("template", *["image"] * len(places), "question"),
        scores=torch.tensor([9.0, 4.0, 1.0, -1.0, -2.0, 0.0]),
        selectable=(False, *[True] * 5),
        positive=(1,),
        negative=(4,),
        pieces=(Pieces(picture.getvalue(), (30, 20), rows),),
    )


def test_scores_of_pieces_lie_over_the_picture():
    page = Page(attribution_page([pictured(((1, 2), (3, 4)))]).to_html())
    [image] = [a for tag, a in page.tags if tag == "img"]
    assert image["src"].startswith("data:image/jpeg;base64,")
    [grid] = [a for _, a in page.tags if a.get("class") == "grid"]
    assert grid["style"] == "--columns:2;--rows:2"
    tokens = [a for tag, a in page.tags if tag == "span" and "title" in a]
    assert [a["title"] for a in tokens][1:5] == ["+4", "+1", "-1", "-2"]
    assert "for picked" in tokens[1]["class"]
    assert "against picked" in tokens[4]["class"]
    assert "<image>" not in page.text  # the picture stands for its tokens
    assert "When" in page.text


def test_pieces_stand_below_a_picture_in_which_nobody_knows_how_they_lie():
    page = Page(attribution_page([pictured(((1, 2, 3, 4),))]).to_html())
    assert "strip" in [a.get("class") for _, a in page.tags]
    assert "grid" not in [a.get("class") for _, a in page.tags]
    titles = [a["title"] for tag, a in page.tags if tag == "span" and "title" in a]
    assert titles[1:5] == ["+4", "+1", "-1", "-2"]


def test_a_terminal_shows_a_piece_as_a_square():
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(attribution_page([pictured(((1, 2), (3, 4)))]))
    assert "[image] ▪+▪▪▪-" in console.export_text()

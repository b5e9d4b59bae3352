"""Pictures from a log to a vector that is proven: at every stop they are the bytes they were."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from slow_vision import picture
from vision_models import vision_llm

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.chat.images import ImagePart
from steerable_llm.chat.message import Message, as_messages
from steerable_llm.chat.vision import read_image
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.evaluate import evaluate
from steerable_llm.evaluation.set import EvaluationSet
from steerable_llm.logs.answer_log import AnswerLog
from steerable_llm.logs.answers import LoggedAnswer
from steerable_llm.logs.importers.importer import import_files
from steerable_llm.methods.build import build_vector
from steerable_llm.pairs.pair import Pairs
from steerable_llm.pairs.proposals import Proposal, ProposedPair, write_proposals
from steerable_llm.pairs.review import Review, read_items
from steerable_llm.pairs.review_terminal import screen
from steerable_llm.vector.calibration import Calibration

pytestmark = pytest.mark.filterwarnings("ignore:the token scores miss")
THINGS = ("shop", "cat", "ship", "dog", "city", "book")


def file_of(seed: int) -> bytes:
    file = BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


FILES = [file_of(seed) for seed in range(len(THINGS))]


def shown(messages: Iterable[Message]) -> list[bytes]:
    """The bytes of every image, wherever they are now."""
    images = (image for message in messages for image in message.images)
    return [image.data or Path(image.where).read_bytes() for image in images]


def spa_vl(folder: Path, form: str) -> Path:
    """Rows as SPA-VL has them: image, question, chosen, rejected."""
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for seed, thing in enumerate(THINGS):
        (folder / "pictures" / f"{thing}.png").write_bytes(FILES[seed])
        coded = base64.b64encode(FILES[seed]).decode()
        image: Any = {
            "path": f"pictures/{thing}.png",
            "file of the Hub": {"bytes": None, "path": f"pictures/{thing}.png"},
            "bytes": {"bytes": coded, "path": f"{thing}.png"},
            "data": [f"data:image/png;base64,{coded}"],
        }[form]
        name = "images" if form == "data" else "image"
        rows.append(
            {
                name: image,
                "question": f"Is there a {thing}?",
                "chosen": f"I see a {thing}.",
                "rejected": "I see none.",
            }
        )
    file = folder / "validation.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def openai(folder: Path) -> Path:
    """Preferences as OpenAI has them, with image parts."""
    folder.mkdir()
    rows = []
    for seed, thing in enumerate(THINGS):
        url = f"data:image/png;base64,{base64.b64encode(FILES[seed]).decode()}"
        content = [
            {"type": "text", "text": f"Is there a {thing}?"},
            {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        ]
        rows.append(
            {
                "input": {"messages": [{"role": "user", "content": content}], "tools": []},
                "preferred_output": [{"role": "assistant", "content": f"I see a {thing}."}],
                "non_preferred_output": [{"role": "assistant", "content": "I see none."}],
            }
        )
    file = folder / "preferences.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def log_of(folder: Path, file: Path, kind: str) -> AnswerLog:
    log = AnswerLog(f"sqlite:///{folder / 'answers.db'}")
    report = import_files(log, file, kind)
    assert not report.skipped, report.skipped
    return log


@pytest.fixture(scope="module")
def llm() -> SteerableHFLLM:
    return vision_llm("llava")


@pytest.mark.parametrize("form", ["path", "file of the Hub", "bytes", "data", "openai"])
def test_a_picture_is_the_same_from_the_log_to_the_proof(
    form: str, llm: SteerableHFLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    file = openai(source) if form == "openai" else spa_vl(source, form)
    with log_of(tmp_path, file, "openai" if form == "openai" else "trl") as log:
        for each in source.rglob("*.png"):
            each.unlink()  # the log needs nothing of where it was read from
        pairs = log.pairs()
    assert sorted(shown(m for pair in pairs for m in pair.messages)) == sorted(FILES)

    work = tmp_path / "work"
    work.mkdir()
    pairs.to_jsonl(work / "pairs.jsonl")
    review = Review(read_items([work / "pairs.jsonl"]), work / "approved" / "kept.jsonl")
    while (item := review.current) is not None:
        edited = "I do see a book." if "book" in item.options[0].good else None
        review.approve(item, edited=edited)
    assert "base64" not in review.journal.read_text()
    again = Review(review.items, review.out)  # what was approved is read out of the journal
    assert shown(m for p in again.approved for m in p.messages) == shown(
        m for p in pairs for m in p.messages
    )
    (work / "approved").rename(tmp_path / "moved")  # images go along with their file
    monkeypatch.chdir(tmp_path)
    kept = Pairs.from_jsonl("moved/kept.jsonl")
    assert [shown(p.messages) for p in kept] == [shown(p.messages) for p in pairs]

    built, held = Pairs(kept[:4]), Pairs(kept[4:])
    vector = build_vector(llm, built, "caa", progress=False)
    plain = build_vector(llm, Pairs(pairs[:4]), "caa", progress=False)
    assert vector.directions[1].equal(plain.directions[1])
    vector = vector.with_calibration(Calibration(0.5))
    EvaluationSet.from_pairs("held", held).to_jsonl("sets/held.jsonl")
    test = EvaluationSet.from_jsonl("sets/held.jsonl")
    assert [shown(item.messages) for item in test] == [shown(pair.messages) for pair in held]
    report = evaluate(llm, vector, test, max_new_tokens=2, progress=False)
    scored = {row.arm: row.preference for row in report.rows if row.arm in ("none", "steered")}
    assert set(scored) == {"none", "steered"}
    with pytest.raises(InvalidInputError, match="not held out"):
        evaluate(llm, vector, EvaluationSet.from_pairs("built", built), progress=False)


def test_pictures_go_with_what_is_proposed(tmp_path: Path) -> None:
    with log_of(tmp_path, openai(tmp_path / "source"), "openai") as log:
        [first, *_] = log.pairs()
    proposed = ProposedPair(
        id=first.id, messages=first.messages, bad="No.", source="log",
        proposals=(Proposal(kind="steered", text="Yes."),),
    )  # fmt: skip
    (tmp_path / "there").mkdir()
    write_proposals(tmp_path / "there" / "proposals.jsonl", [proposed])
    [item] = read_items([tmp_path / "there" / "proposals.jsonl"])
    assert shown(item.options[0].messages) == shown(first.messages)


def test_a_reviewer_is_told_the_file_of_each_picture(tmp_path: Path) -> None:
    with log_of(tmp_path, openai(tmp_path / "source"), "openai") as log:
        log.pairs().to_jsonl(tmp_path / "pairs.jsonl")
    items = read_items([tmp_path / "pairs.jsonl"])
    review = Review(items, tmp_path / "kept.jsonl")
    console = Console(width=300, record=True, file=StringIO())
    console.print(screen(review, items[0], 0))
    [image] = items[0].options[0].images
    assert str(image.where) in console.export_text()


def test_an_answer_about_a_picture_is_logged_with_it(tmp_path: Path) -> None:
    content = [{"type": "image", "image": picture(0)}, {"type": "text", "text": "What is it?"}]
    asked = as_messages([{"role": "user", "content": content}])
    with AnswerLog(f"sqlite:///{tmp_path / 'answers.db'}") as log:
        log.add([LoggedAnswer(id="a", question="What is it?", messages=asked, answer="A cat.")])
        assert shown(log.get("a").messages) == [FILES[0]]


@pytest.mark.parametrize(
    "path", ["../outside.png", "/etc/hostname", "link.png", "Qk0" * 500, "Qk0" * 3000, "a\0.png"]
)
def test_a_row_names_no_files_outside_of_its_folder(path: str, tmp_path: Path) -> None:
    file = spa_vl(tmp_path / "source", "path")
    (tmp_path / "outside.png").write_bytes(FILES[0])
    (tmp_path / "source" / "link.png").symlink_to(tmp_path / "outside.png")
    row = {"image": path, "question": "What?", "chosen": "A.", "rejected": "B."}
    file.write_text(json.dumps(row) + "\n")
    log = AnswerLog(f"sqlite:///{tmp_path / 'answers.db'}")
    report = import_files(log, file, "trl")
    assert list(report.skipped) == [
        "a message names an image by a path: give its data or a http(s) URL"
    ]
    log.close()


@pytest.mark.parametrize("path", ["Qk0" * 500, "a\0.png"])
def test_a_name_that_no_file_can_have_is_one_clear_line(path: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="image 0 of the prompt cannot be read") as told:
        read_image(ImagePart(path, tmp_path).where)
    assert len(str(told.value)) < 400

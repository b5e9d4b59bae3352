"""The application that answers from the pages of a PDF as pictures."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from adapter_models import random_vector
from vision_models import vision_llm

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import InvalidInputError
from steerable_llm.policy.policy import Policy

APP = Path(__file__).resolve().parent.parent / "apps" / "page_images"


@pytest.fixture(scope="module")
def app() -> ModuleType:
    spec = importlib.util.spec_from_file_location("apps_page_images", APP / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_that_is_asked_about_is_found_and_seen(app: ModuleType) -> None:
    model = vision_llm("llava", context_window=8000)
    processor = model.chat_format.vision.processor  # type: ignore[union-attr]
    step = {"vectors": [{"name": "a", "strength": 1.0}], "when": {"context": "present"}}
    policy = Policy.from_dict({"steps": {"text_qa": step}}, {"a": random_vector(model, "a", 0)})
    llm = SteerableHFLLM(
        model.model, model.tokenizer, policy=policy, processor=processor, context_window=8000
    )
    pages = app.pages_of(app.ALBUM, 144)
    assert len(pages) >= 6
    response, record = app.ask(
        llm.as_llama_index(max_tokens=4), pages, 1, "What colour is the snowman?"
    )
    assert [hit.node.metadata["page"] for hit in response.source_nodes] == [3]
    [answer] = record.answers
    assert (answer.step, [vector.name for vector in answer.steered]) == ("text_qa", ["a"])


def test_the_bundled_model_answers_from_the_pages_under_the_policy(
    app: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["--tokens", "12", "What colour is the banana?"]) == 0
    printed = capsys.readouterr().out.splitlines()
    page = (APP / "README.md").read_text(encoding="utf-8")
    promised = [line for line in page.split("```")[3].splitlines() if line.startswith("  ")][:5]
    assert len(promised) == 5
    assert [line for line in promised if line not in printed] == []


def test_any_vision_language_model_answers_by_its_name(
    app: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = vision_llm("llava")
    model.model.save_pretrained(tmp_path)
    model.chat_format.vision.processor.save_pretrained(tmp_path)  # type: ignore[union-attr]
    config = tmp_path / "config.json"
    config.write_text(
        config.read_text().replace(
            '"max_position_embeddings": 1024', '"max_position_embeddings": 9000'
        )
    )
    asked = ["--model", str(tmp_path), "--tokens", "4", "--top", "2", "What colour is the carrot?"]
    assert app.main(asked) == 0
    said = capsys.readouterr().out
    assert "no policy, page 4, " in said
    assert "step text_qa: no vector" in said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--top", "0"], "--top is 0: give at least 1"),
        (["--top", "-1"], "--top is -1: give at least 1"),
        (["--dpi", "0"], "--dpi is 0: give at least 1"),
        ([""], "a question is empty"),
        (["What colour is the swan?", " "], "a question is empty"),
    ],
)
def test_what_cannot_be_asked_is_one_clear_line(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, asked: list[str], said: str
) -> None:
    monkeypatch.setattr(app, "load", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(InvalidInputError, match=said) as told:
        app.main(asked)
    assert "\n" not in str(told.value)


def test_what_is_no_pdf_is_one_clear_line(app: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "notes.pdf"
    file.write_text("no pages", encoding="utf-8")
    for path in (file, tmp_path / "nowhere.pdf"):
        with pytest.raises(InvalidInputError, match=f"cannot read .*{path.name}") as told:
            app.pages_of(path, 72)
        assert "\n" not in str(told.value)

"""The example applications do what their pages say, and are steered as their policies say."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from adapter_models import steered_by
from scripted import calling, scripted_llm

from steerable_llm import Policy, SteerableHFLLM, SteeringVector
from steerable_llm.adapters.llama_index import record_steering
from steerable_llm.errors import InvalidInputError

APPS = Path(__file__).resolve().parent.parent / "apps"


def load(app: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"apps_{app}", APPS / app / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rag() -> ModuleType:
    return load("langchain_rag")


@pytest.fixture(scope="module")
def agent() -> ModuleType:
    return load("langgraph_agent")


def shown(page: str) -> list[str]:
    """The lines of output that a page promises."""
    blocks = page.split("```")[1::2]
    return [line for block in blocks for line in block.splitlines() if line.startswith("  ")]


@pytest.mark.parametrize("app", ["langchain_rag", "langgraph_agent"])
def test_an_app_prints_what_its_page_shows(app: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert load(app).main([]) == 0
    printed = capsys.readouterr().out.splitlines()
    promised = shown((APPS / app / "README.md").read_text(encoding="utf-8"))
    assert len(promised) >= 8
    assert [line for line in promised if line not in printed] == []


@pytest.mark.parametrize(
    "script", [*sorted(APPS.glob("*/main.py")), APPS / "migrating" / "compare.py"], ids=str
)
def test_every_app_shows_its_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(script.parent)  # as Python does for a script
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"usage: {script.name}")
    assert shown.err == ""


@pytest.mark.parametrize("app", ["langchain_rag", "langgraph_agent"])
def test_a_question_that_does_not_fit_ends_in_one_line(
    app: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = str(APPS / app / "main.py")
    monkeypatch.setattr(sys, "argv", [script, "--question", "word " * 3000])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(f"{app}: the prompt has ")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("app", "option"),
    [
        ("langchain_rag", "--question"),
        ("langchain_rag", "--message"),
        ("langgraph_agent", "--question"),
        ("llama_index_qa", "--question"),
        ("llama_index_qa", "--follow-up"),
        ("llama_index_qa", "--message"),
    ],
)
def test_nothing_is_asked_without_a_question(
    app: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SteerableHFLLM, "demo", lambda **_: pytest.fail("the model was loaded"))
    with pytest.raises(InvalidInputError, match="empty: ask something") as told:
        load(app).main([option, " "])
    assert "\n" not in str(told.value)


def test_each_step_of_the_chain_is_steered_in_its_own_way(rag: ModuleType) -> None:
    llm = SteerableHFLLM.demo(policy=rag.HERE / "policy.toml")
    asked = {"question": rag.QUESTION, "message": rag.MESSAGE}
    found = rag.make_chain(llm).invoke(asked)
    messages = [*found["condensed"]["notes"], found["answer"], found["reply"]]
    told = [[(v["name"], v["strength"]) for v in m.response_metadata["steering"]] for m in messages]
    vector = SteeringVector.load(APPS.parent / "vectors" / "demo-faithfulness.safetensors")
    assert vector.calibration is not None
    assert told[0] == told[1] == told[2] == [("demo-faithfulness", 0.04)]
    assert told[3] == [("demo-faithfulness", vector.calibration.strength)]
    assert told[4][0][0] == "demo-toxicity"
    assert "23 days" in found["answer"].text
    plain = rag.make_chain(SteerableHFLLM.demo()).invoke(asked)
    assert "23 days" not in plain["answer"].text
    assert steered_by(plain["answer"]) == steered_by(plain["reply"]) == []


def test_the_chain_reads_each_line_with_text_as_a_page(rag: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "handbook.txt"
    file.write_bytes(b"\xef\xbb\xbfOne.\n\n  \nTwo.\n")
    assert rag.read_handbook(file) == ["One.", "Two."]
    for content, said in ((b" \n", "holds no text"), ("é".encode("latin-1"), "is not UTF-8 text")):
        file.write_bytes(content)
        with pytest.raises(InvalidInputError, match=f"handbook.txt {said}") as told:
            rag.read_handbook(file)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("question", "pages", "value"),
    [
        ("What is the return period of Maple Books?", 1, "23 days"),
        ("For how many months does the warranty of Maple Books last?", 4, "48 months"),
    ],
)
def test_the_agent_opens_pages_until_one_answers(
    agent: ModuleType, question: str, pages: int, value: str
) -> None:
    llm = SteerableHFLLM.demo(policy=agent.HERE / "policy.toml")
    messages = agent.make_agent(llm).invoke({"messages": [("user", question)]})["messages"]
    opened = [message.content for message in messages if message.type == "tool"]
    assert opened == agent.PAGES[:pages]
    decided, replied = messages[-2:]
    assert value in decided.text
    assert (steered_by(decided), steered_by(replied)) == (["demo-faithfulness"], ["demo-toxicity"])
    assert decided.response_metadata["step"] == "decide"


def test_a_model_that_was_trained_for_tools_gets_langchain_s_own_agent(agent: ModuleType) -> None:
    pages: list[Any] = agent.PAGES
    llm = scripted_llm(
        {
            "cost": calling("open_page", {"number": 1}),
            pages[0]: calling("open_page", {"number": 3}),
            pages[2]: "Ten euros.",
        }
    )
    messages = agent.make_agent(llm).invoke({"messages": [("user", agent.QUESTION)]})["messages"]
    assert [m.content for m in messages if m.type == "tool"] == [pages[0], pages[2]]
    assert messages[-1].content == "Ten euros."


@pytest.mark.parametrize("number", [0, -1, 99])
def test_no_model_can_ask_for_a_page_that_is_not_there(agent: ModuleType, number: int) -> None:
    llm = scripted_llm({"cost": calling("open_page", {"number": number})})
    messages = agent.make_agent(llm).invoke({"messages": [("user", agent.QUESTION)]})["messages"]
    [asked] = [call for m in messages if m.type == "ai" for call in m.tool_calls]
    [opened] = [m.content for m in messages if m.type == "tool"]
    assert opened == agent.PAGES[asked["args"]["number"] - 1]
    assert 1 <= asked["args"]["number"] <= len(agent.PAGES)


@pytest.fixture(scope="module")
def app() -> ModuleType:
    return load("llama_index_qa")


def test_the_llama_index_app_shows_each_step_with_what_steered_it(
    app: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    page = (APPS / "llama_index_qa" / "README.md").read_text(encoding="utf-8")
    promised = page.split("```")[3].strip().splitlines()
    assert lines[1 : 1 + len(promised)] == promised
    shown = [line.strip() for line in lines if "step " in line]
    assert [line.partition(" +")[0].partition(" -")[0] for line in shown] == [
        "step (default): not steered",
        "step text_qa: demo-faithfulness",
        "step text_qa: demo-faithfulness",
        "step condense_question: not steered",
        "step text_qa: demo-faithfulness",
        "step (default): not steered",
        "step reply: demo-toxicity",
    ]


def test_what_the_llama_index_app_answers_is_what_the_model_says_when_it_is_steered_so(
    app: ModuleType,
) -> None:
    engine = SteerableHFLLM.demo(policy=Policy.load(APPS / "llama_index_qa" / "policy.toml"))
    with record_steering() as record:
        response = app.make_query_engine(engine.as_llama_index(max_tokens=32)).query(app.QUESTION)
    (page,) = response.source_nodes
    assert page.text == "Customers of Maple Books can return an item within 23 days."
    prompt = f"Documents:\n{page.text}\n\nQuestion: {app.QUESTION}"
    direct = engine.generate(prompt, step="text_qa", max_new_tokens=32)
    assert record.answers == (direct,)
    assert str(response) == direct.text


def test_the_page_of_the_llama_index_app_says_what_its_chat_gets_wrong(app: ModuleType) -> None:
    llm = SteerableHFLLM.demo(policy=APPS / "llama_index_qa" / "policy.toml")
    chat = app.make_chat_engine(llm.as_llama_index(max_tokens=32))
    chat.chat(app.QUESTION)
    with record_steering() as record:
        answer = str(chat.chat(app.FOLLOW_UP))
    page = " ".join((APPS / "llama_index_qa" / "README.md").read_text(encoding="utf-8").split())
    rewritten = record.answers[0].text
    assert ("51 days" in answer) == ("Oak Books" in rewritten)
    assert ("51 days" not in answer) == (f'it answers "{app.FOLLOW_UP}" in place' in page)


def test_the_llama_index_app_cuts_a_long_document_to_the_window(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    handbook = tmp_path / "handbook"
    handbook.mkdir()
    (handbook / "long.txt").write_text("The opening time of Oak Books is 7:45. " * 200)
    monkeypatch.setattr(app, "HERE", tmp_path)
    llm = SteerableHFLLM.demo().as_llama_index(max_tokens=32)
    assert str(app.make_query_engine(llm).query(app.QUESTION)) != ""


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "handbook holds no text"),
        ({"a.txt": b"", "b.txt": b" \n"}, "handbook holds no text"),
        ({"a.txt": b"Read me.", "b.txt": "Rückgabe".encode("latin-1")}, "b.txt is not UTF-8 text"),
        ({"a.txt": "Returns".encode("utf-16")}, "a.txt is not UTF-8 text"),
    ],
)
def test_the_llama_index_app_leaves_out_no_document_in_silence(
    app: ModuleType, tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    for name, content in files.items():
        (tmp_path / "handbook").mkdir(exist_ok=True)
        (tmp_path / "handbook" / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=said) as told:
        app.read_handbook(tmp_path / "handbook")
    assert "\n" not in str(told.value)


def test_the_policy_of_the_llama_index_app_names_every_step_that_it_has(app: ModuleType) -> None:
    policy = Policy.load(APPS / "llama_index_qa" / "policy.toml")
    assert set(policy.steps) == {"text_qa", "condense_question", "reply"}
    assert policy.steering_for("condense_question").terms == ()

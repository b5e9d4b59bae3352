"""The LlamaIndex application runs, and each of its calls is steered as its policy says."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from steerable_llm import Policy, SteerableHFLLM
from steerable_llm.adapters.llama_index import record_steering

FOLDER = Path(__file__).resolve().parent.parent / "apps" / "llama_index_qa"


@pytest.fixture(scope="module")
def app() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("llama_index_qa", FOLDER / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_it_runs_and_shows_each_step_with_what_steered_it(
    app: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main() == 0
    lines = capsys.readouterr().out.splitlines()
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
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


def test_what_it_answers_is_what_the_model_says_when_it_is_steered_so(app: ModuleType) -> None:
    engine = SteerableHFLLM.demo(policy=Policy.load(FOLDER / "policy.toml"))
    with record_steering() as record:
        response = app.make_query_engine(engine.as_llama_index(max_tokens=32)).query(app.QUESTION)
    (page,) = response.source_nodes
    assert page.text == "Customers of Maple Books can return an item within 23 days."
    prompt = f"Documents:\n{page.text}\n\nQuestion: {app.QUESTION}"
    direct = engine.generate(prompt, step="text_qa", max_new_tokens=32)
    assert record.answers == (direct,)
    assert str(response) == direct.text


def test_its_policy_names_every_step_that_it_has(app: ModuleType) -> None:
    policy = Policy.load(FOLDER / "policy.toml")
    assert set(policy.steps) == {"text_qa", "condense_question", "reply"}
    assert policy.steering_for("condense_question").terms == ()

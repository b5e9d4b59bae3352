"""The policies that the project brings work with the bundled model and its vectors."""

from pathlib import Path

import pytest
from llama_index.core.prompts.prompt_type import PromptType

from steerable_llm import Policy, SteerableHFLLM
from steerable_llm.policy.check import TracedCall, check_policy, dry_run

FOLDER = Path(__file__).resolve().parent.parent / "vectors" / "policies"
OTHER_MODEL = "smollm2"
FILES = sorted(file for file in FOLDER.glob("*.toml") if file.stem != OTHER_MODEL)
PASSAGE = "Documents:\n[1] The capital of France is Thornhill.\n\nQuestion: What is the capital?"
BLUNT = "What a terrible shop. Where is my lamp? Hurry up."


@pytest.fixture(scope="module")
def demo_llm() -> SteerableHFLLM:
    return SteerableHFLLM.demo()


def applied(name: str, **facts: object) -> dict[str, float]:
    policy = Policy.load(FOLDER / f"{name}.toml")
    [found] = dry_run(policy, [TracedCall.model_validate(facts)])
    return {term.vector.name: term.strength for term in found.steering.active_terms}


def test_there_are_three_for_the_bundled_model() -> None:
    names = [file.stem for file in FILES]
    assert names == ["document-qa", "evaluation", "support-assistant"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_ready_policy_fits_the_bundled_model_and_nothing_in_it_fights(
    file: Path, demo_llm: SteerableHFLLM
) -> None:
    checked = check_policy(Policy.load(file), demo_llm.fingerprint)
    off = file.stem == "evaluation"
    assert [warning for warning in checked.warnings if "switched off" not in warning] == []
    assert bool(checked.policy.off) == off


def test_the_document_bot_is_faithful_to_documents_and_truthful_without() -> None:
    for told in ({"step": "answer"}, {"node": "generate"}, {"prompt_type": "text_qa"}, {}):
        assert set(applied("document-qa", messages=PASSAGE, **told)) == {"demo-faithfulness"}
        assert set(applied("document-qa", messages="Who?", **told)) == {"demo-truthfulness"}
    assert set(applied("document-qa", messages=PASSAGE, prompt_type="refine")) == {
        "demo-faithfulness"
    }
    assert applied("document-qa", messages="Who?", prompt_type="refine") == {}


@pytest.mark.parametrize(
    "told",
    [
        {"step": "condense_question"},
        {"node": "rewrite"},
        {"node": "tools"},
        {"prompt_type": "choice_select"},
        {"prompt_type": "single_select"},
        {"prompt_type": "sub_question"},
        {"structured": True},
    ],
)
def test_the_document_bot_leaves_everything_but_answers_alone(told: dict[str, object]) -> None:
    assert applied("document-qa", messages=PASSAGE, **told) == {}


# LlamaIndex's calls that write an answer, and those whose prompt tells nothing.
ANSWERS = ("text_qa", "refine", "summary", "simple_input", "sql_response_synthesis",
           "sql_response_synthesis_v2")  # fmt: skip
OPEN = ("custom",)
# What `tag_prompts` calls those that carry no type of their own.
PLACES = ("condense", "condense_question", "query_gen", "hyde", "selector", "question_gen",
          "step_decompose_query")  # fmt: skip
LOOK_UPS = sorted({*(kind.value for kind in PromptType), *PLACES} - {*ANSWERS, *OPEN})


@pytest.mark.parametrize("name", ["document-qa", "support-assistant"])
@pytest.mark.parametrize("messages", [PASSAGE, "Who?"])
def test_what_llama_index_asks_for_itself_is_left_alone(name: str, messages: str) -> None:
    """It rewrites, selects and extracts; a default step is for answers alone."""
    steered = {
        kind for kind in LOOK_UPS if applied(name, messages=messages, prompt_type=kind) != {}
    }
    assert steered == set()


@pytest.mark.parametrize("node", ["retrieve", "rewrite_question", "tools", "condense", "triage"])
def test_the_support_assistant_leaves_look_ups_alone(node: str) -> None:
    assert applied("support-assistant", messages=BLUNT, node=node) == {}


def test_the_support_assistant_is_civil_to_customers_only() -> None:
    assert set(applied("support-assistant", messages=BLUNT)) == {"demo-toxicity"}
    public = applied("support-assistant", messages=BLUNT, tags=["customer-facing"])
    assert set(public) == {"demo-toxicity"}
    assert applied("support-assistant", messages=BLUNT, step="triage") == {}
    both = applied("support-assistant", messages=PASSAGE, node="reply")
    assert len(both) == 2
    assert all(strength > 0 for strength in both.values())


def test_under_the_evaluation_policy_every_step_of_the_others_is_known_and_nothing_steered() -> (
    None
):
    evaluation = Policy.load(FOLDER / "evaluation.toml")
    for file in FILES:
        for step in Policy.load(file).steps:
            assert evaluation.step_for(step) is not None
            assert not evaluation.steering_for(step).is_active
    assert applied("evaluation", messages=PASSAGE, step="whatever") == {}


@pytest.mark.slow
def test_a_ready_policy_changes_what_the_bundled_model_says(demo_llm: SteerableHFLLM) -> None:
    policy = FOLDER / "support-assistant.toml"
    steered = SteerableHFLLM(
        demo_llm.model, demo_llm.tokenizer, policy=policy, model_id="steerable-llm/demo"
    )
    complaints = [
        f"What a terrible shop. Where is my {thing}? Hurry up."
        for thing in ("lamp", "tent", "coat", "radio", "desk", "watch")
    ]
    plain = [demo_llm.generate(text, max_new_tokens=32).text for text in complaints]
    civil = [steered.generate(text, max_new_tokens=32) for text in complaints]
    assert [answer.text for answer in civil] != plain
    for answer in civil:
        assert [each.name for each in answer.steered] == ["demo-toxicity"]
        assert answer.decision is not None
        assert answer.decision.step == "reply"


def test_the_policy_of_smollm2_steers_answers_over_documents_alone() -> None:
    for told in ({"step": "answer"}, {"node": "generate"}, {"prompt_type": "text_qa"}, {}):
        assert set(applied(OTHER_MODEL, messages=PASSAGE, **told)) == {"smollm2-documents"}
        assert applied(OTHER_MODEL, messages="Who?", **told) == {}
    assert applied(OTHER_MODEL, messages=PASSAGE, step="condense_question") == {}


def test_the_policy_of_smollm2_is_civil_to_who_complains() -> None:
    for told in ({"step": "reply"}, {"tags": ["customer-facing"]}):
        assert set(applied(OTHER_MODEL, messages=BLUNT, **told)) == {"smollm2-civility"}
        assert applied(OTHER_MODEL, messages="How do I keep bread fresh?", **told) == {}
    assert applied(OTHER_MODEL, messages=BLUNT, step="answer") == {}

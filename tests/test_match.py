"""A name means a step by its own name, or by the most specific pattern that fits it."""

from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.policy.file import Step, matching_step

STEPS = {
    "answer": Step.model_validate({"match": {"node": ["gen*", "respond"], "step": ["answer_*"]}}),
    "reply": Step.model_validate({"match": {"node": ["*"], "tag": ["customer-facing"]}}),
    "refine": Step.model_validate({"match": {"node": ["gen_refine*"], "prompt_type": ["refine"]}}),
}


def test_a_step_of_exactly_that_name_goes_before_every_pattern() -> None:
    for kind in ("step", "node", "tag", "prompt_type"):
        assert matching_step("answer", kind, STEPS) == "answer"


def test_the_more_specific_pattern_wins() -> None:
    found = {name: matching_step(name, "node", STEPS) for name in ("generate", "gen_refine_2", "x")}
    assert found == {"generate": "answer", "gen_refine_2": "refine", "x": "reply"}


def test_a_pattern_counts_only_for_its_own_kind() -> None:
    assert matching_step("answer_short", "step", STEPS) == "answer"
    assert matching_step("answer_short", "tag", STEPS) is None
    assert matching_step("customer-facing", "tag", STEPS) == "reply"
    assert matching_step("customer-facing", "step", STEPS) is None


def test_upper_and_lower_case_differ() -> None:
    assert matching_step("Customer-Facing", "tag", STEPS) is None


names = st.text("abc*?[]", min_size=1, max_size=4)


@given(st.dictionaries(names, st.lists(names, max_size=3), max_size=4), names)
def test_the_order_of_the_file_decides_nothing(rules: dict[str, list[str]], name: str) -> None:
    steps = {step: Step.model_validate({"match": {"node": list_}}) for step, list_ in rules.items()}
    found = {
        matching_step(name, "node", dict(order)) for order in permutations(list(steps.items()))
    }
    assert len(found) == 1

"""A step takes what it leaves out from the step it inherits from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_models import policy_of

from steerable_llm.errors import PolicyError, UnknownStepError
from steerable_llm.policy.file import Step, with_inherited

ANSWER = {
    "vectors": [{"name": "faithful"}],
    "when": {"context": "present"},
    "steer_structured": True,
    "orthogonalise": True,
    "match": {"node": ["generate"]},
}
KEYS = ("vectors", "when", "steer_structured", "orthogonalise")
OTHERS = {
    "vectors": [{"name": "polite"}],
    "when": {"context": "absent"},
    "steer_structured": False,
    "orthogonalise": False,
}


@given(st.sets(st.sampled_from(KEYS)), st.integers(1, 4))
def test_what_is_given_counts_and_the_rest_is_inherited(own: set[str], depth: int) -> None:
    steps = {"step0": Step.model_validate(ANSWER)}
    for number in range(1, depth + 1):
        given_keys = {key: OTHERS[key] for key in own} if number == depth else {}
        steps[f"step{number}"] = Step.model_validate(
            {"inherits": f"step{number - 1}", **given_keys}
        )
    last = with_inherited(steps)[f"step{depth}"]
    expected = Step.model_validate({**ANSWER, **{key: OTHERS[key] for key in own}})
    assert {key: getattr(last, key) for key in KEYS} == {
        key: getattr(expected, key) for key in KEYS
    }


def test_an_heir_that_says_nothing_steers_as_its_ancestor() -> None:
    policy = policy_of({"answer": ANSWER, "refine": {"inherits": "answer"}})
    assert policy.steering_for("refine") == policy.steering_for("answer")


def test_an_empty_list_of_vectors_is_no_omission() -> None:
    policy = policy_of({"answer": ANSWER, "condense": {"inherits": "answer", "vectors": []}})
    assert not policy.steering_for("condense").is_active


def test_match_rules_are_not_inherited() -> None:
    policy = policy_of({"answer": ANSWER, "aaa": {"inherits": "answer"}})
    assert policy.step_for("generate", "node") == "answer"


def test_a_circle_is_refused_with_its_members() -> None:
    steps = {"a": {"inherits": "b"}, "b": {"inherits": "c"}, "c": {"inherits": "b"}}
    with pytest.raises(PolicyError, match=r"\(b -> c -> b\)"):
        policy_of(steps)
    with pytest.raises(PolicyError, match=r"\(a -> a\)"):
        policy_of({"a": {"inherits": "a"}})


def test_an_unknown_ancestor_is_named_with_the_nearest_step() -> None:
    with pytest.raises(UnknownStepError, match=r"'refine' inherits .*did you mean 'answer'"):
        policy_of({"answer": ANSWER, "refine": {"inherits": "anwser"}})

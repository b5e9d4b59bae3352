"""What is wrong in a policy file is said in its own words, at any depth."""

from typing import Any

import pytest
from policy_models import policy_of

from steerable_llm.errors import PolicyError
from steerable_llm.policy.file import When


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"inherit": "x"}, "steps.answer.inherit: 'inherit' is not a known key; did you mean"),
        ({"match": {"nodes": []}}, "did you mean 'node'"),
        ({"when": {"contxt": "present"}}, "did you mean 'context'"),
        ({"when": {"context": "maybe"}}, "'present' or 'absent'"),
        ({"when": {"conflict": {"form": 1, "to": 2}}}, "did you mean 'from'"),
        ({"when": {"conflict": {"from": 1}}}, "give either from and to, or above"),
        ({"when": {"conflict": {"from": 1, "to": 1}}}, "write above"),
        ({"when": {"gate": {"nmae": "rudeness"}}}, "did you mean 'name'"),
        ({"when": {"gate": {"name": "rudeness", "start": 1}}}, "known: above, from, name, to"),
        ({"when": {"gate": {"name": "rudness"}}}, "did you mean 'rudeness'"),
        (
            {"vectors": [{"name": "true", "when": {"gate": {"name": "r", "abvoe": 1}}}]},
            "steps.answer.vectors.0.when.gate.abvoe: 'abvoe' is not a known key; did you mean "
            "'above'",
        ),
        ({"vectors": [{"name": "true", "when": {"gate": {"name": "rude"}}}]}, "known gate"),
        ({"orthogonalise": 3}, "orthogonalise"),
        ({"match": {"node": "answer"}}, "match.node: Input should be a list"),
        ({"match": ["answer"]}, "steps.answer.match: Input should be a table"),
    ],
)
def test_a_wrong_key_is_named_with_the_nearest_one(step: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy_of({"answer": step})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_vectors_own_condition_takes_the_place_of_the_steps() -> None:
    step = When.model_validate({"context": "present", "conflict": {"above": 1}})
    own = When.model_validate({"conflict": {"above": 2}})
    both = own.over(step)
    assert (both.context, both.conflict) == ("present", own.conflict)
    assert When().over(step) == step
    assert step.over(When()) == step

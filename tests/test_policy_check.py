"""Looking a policy through, and trying it on a chain's calls."""

from dataclasses import replace
from typing import Any

import pytest
from policy_models import MODEL, VECTORS, policy_of, vector

from steerable_llm.errors import InvalidInputError, ModelMismatchError
from steerable_llm.policy.check import TracedCall, check_policy, dry_run
from steerable_llm.policy.policy import Policy

STEPS: dict[str, Any] = {
    "answer": {
        "vectors": [
            {"name": "faithful", "when": {"context": "present"}},
            {"name": "true", "when": {"context": "absent"}},
        ],
        "match": {"node": ["gen*"], "tag": ["public"], "prompt_type": ["text_qa"]},
    },
    "condense": {"match": {"prompt_type": ["*"]}},
}


def call(**facts: Any) -> TracedCall:
    return TracedCall.model_validate(facts)


def test_every_step_is_listed_with_what_it_applies() -> None:
    found = check_policy(policy_of(STEPS, default_step="answer"), MODEL).to_dict()
    assert list(found["steps"]) == ["answer", "condense"]
    first, second = found["steps"]["answer"]["vectors"]
    assert (first["vector"], first["strength"], first["layers"]) == ("faithful", 0.5, [0, 1, 2])
    assert (first["when"], second["when"]) == ({"context": "present"}, {"context": "absent"})
    assert found["steps"]["answer"]["match"]["node"] == ["gen*"]
    assert found["warnings"] == []


def test_vectors_that_fight_are_reported_and_warned_of() -> None:
    vectors = {"a": vector("a", 1, 0, 0, 0), "b": vector("b", -1, 0.1, 0, 0)}
    uses = [{"name": "a"}, {"name": "b"}]
    checked = check_policy(Policy.from_dict({"steps": {"x": {"vectors": uses}}}, vectors))
    [meeting] = checked.steps[0].meetings
    assert meeting.cosines[0] == pytest.approx(-0.995, abs=1e-3)
    assert "a and b fight in layers 0 (-1.00)" in checked.warnings[0]
    apart = {"x": {"vectors": uses, "orthogonalise": True}}
    checked = check_policy(Policy.from_dict({"steps": apart}, vectors))
    assert checked.warnings == ()
    kept = checked.to_dict()["steps"]["x"]["kept"][1]
    assert kept["vector"] == "b"
    assert kept["share"]["0"] == pytest.approx(0.0995, abs=1e-3)


def test_vectors_that_never_act_on_one_request_do_not_meet() -> None:
    assert check_policy(policy_of(STEPS)).steps[0].meetings == ()


def test_what_looks_wrong_is_said() -> None:
    twice = {"answer": {"vectors": [{"name": "true"}, {"name": "true"}]}}
    [off, more] = check_policy(policy_of(twice, enabled=False)).warnings
    assert "enabled = false" in off
    assert "true more than once" in more
    mixed = {**VECTORS, "true": replace(VECTORS["true"], fingerprint=OTHER)}
    both = {"answer": {"vectors": [{"name": "true"}, {"name": "polite"}]}}
    [different] = check_policy(Policy.from_dict({"steps": both}, mixed)).warnings
    assert "different models" in different


OTHER = MODEL.model_copy(update={"weights_hash": "other"})


def test_a_vector_of_another_model_is_refused() -> None:
    with pytest.raises(ModelMismatchError):
        check_policy(policy_of(STEPS), OTHER)


def test_each_call_of_a_trace_gets_what_the_model_would_apply() -> None:
    policy = policy_of(STEPS, default_step="condense")
    passage = "Documents:\n[1] a\n\nQuestion: b"
    found = dry_run(
        policy,
        [
            call(step="answer", messages=passage),
            call(node="generate", messages="b"),
            call(tags=["x", "public"], messages=[{"role": "user", "content": passage}]),
            call(tags=["steer:answer"], node="none", messages="b", context=True),
            call(prompt_type="text_qa", messages=passage, structured=True),
            call(prompt_type="refine", messages=passage),
            call(messages=passage),
        ],
    )
    steered = [[term.vector.name for term in each.steering.terms] for each in found]
    assert steered == [["faithful"], ["true"], ["faithful"], ["faithful"], [], [], []]
    assert [each.step for each in found] == ["answer"] * 5 + ["condense"] * 2


def test_without_messages_a_call_shows_what_it_could_get_at_most() -> None:
    found, structured, nothing = dry_run(
        policy_of(STEPS), [call(step="answer"), call(step="answer", structured=True), call()]
    )
    assert [term.vector.name for term in found.steering.terms] == ["faithful", "true"]
    assert "it depends on the request: context" in found.reasons[-1]
    assert not structured.steering.terms
    assert nothing.step is None


def test_without_messages_a_call_still_tells_its_context() -> None:
    there, texts, absent = dry_run(
        policy_of(STEPS),
        [call(step="answer", context=each) for each in (True, ("a page",), False)],
    )
    for found in (there, texts):
        assert [term.vector.name for term in found.steering.terms] == ["faithful"]
        assert found.reasons[1:] == (
            "faithful: context present: applied",
            "true: context present: not applied",
        )
    assert [term.vector.name for term in absent.steering.terms] == ["true"]
    needing = {"vectors": [{"name": "true"}], "contrast": 0.5, "when": {"conflict": {"above": 0}}}
    policy = policy_of({"a": needing})
    open_, none = dry_run(policy, [call(step="a", context=each) for each in (True, False)])
    assert open_.reasons[-1] == "at most; it depends on the request: conflict, context"
    assert (len(none.steering.terms), none.contrast) == (0, None)


def test_conflict_is_measured_where_a_model_is_given() -> None:
    step = {"vectors": [{"name": "true"}], "when": {"conflict": {"above": 0}}}
    calls = [call(step="a", messages="Documents:\nx\n\nQuestion: y")]
    [unmeasured] = dry_run(policy_of({"a": step}), calls)
    [measured] = dry_run(policy_of({"a": step}), calls, lambda prompts: [1.0] * len(prompts))
    assert (bool(unmeasured.steering.terms), bool(measured.steering.terms)) == (False, True)


def test_an_unknown_step_is_named_with_its_call() -> None:
    with pytest.raises(InvalidInputError, match=r"call 2 of the trace: 'anwser' .*'answer'"):
        dry_run(policy_of(STEPS), [call(), call(step="anwser")])


# Strengths and names.


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (
            {"strength": 0.9},
            "faithful at strength 0.9: calibration chose 0.5, and this is stronger",
        ),
        ({"strength": -0.2}, "calibration chose 0.5, and this is of the other sign"),
        ({"scope": "all"}, "calibration chose it for scope 'generated', not for 'all'"),
        ({}, None),
        ({"strength": 0.3}, None),
    ],
)
def test_a_strength_that_no_calibration_chose_is_warned_of(
    use: dict[str, Any], said: str | None
) -> None:
    checked = check_policy(policy_of({"answer": {"vectors": [{"name": "faithful", **use}]}}))
    assert [said in warning for warning in checked.warnings if said] == ([True] if said else [])
    assert len(checked.warnings) == (said is not None)


def test_a_strength_without_any_calibration_is_warned_of() -> None:
    data = {"steps": {"answer": {"vectors": [{"name": "new", "strength": 0.1}]}}}
    policy = Policy.from_dict(data, {"new": vector("new", strength=None)})
    [warning] = check_policy(policy).warnings
    assert "it was never calibrated" in warning


def test_a_file_whose_vector_has_another_name_is_told_with_both() -> None:
    data = {"steps": {"answer": {"vectors": [{"name": "mine"}]}}}
    checked = check_policy(Policy.from_dict(data, {"mine": vector("faithful")}))
    assert checked.warnings == ("step 'answer': the file 'mine' holds a vector called 'faithful'",)
    [told] = checked.to_dict()["steps"]["answer"]["vectors"]
    assert (told["file"], told["vector"]) == ("mine", "faithful")

"""What a request is steered with follows from the policy and the request, and says why."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_models import VECTORS, WordEmbedder, policy_of, word_gate

from steerable_llm.chat.message import as_messages
from steerable_llm.errors import ModelMismatchError, UnknownStepError
from steerable_llm.policy.decision import Asked, SteeringDecision, decide
from steerable_llm.policy.policy import KILL_SWITCH, Policy
from steerable_llm.vector.steering import Steering

WITH = "Documents:\n[1] The shop opens at nine.\n\nQuestion: When does it open?"
WITHOUT = "When does it open?"
FAITHFUL = {"vectors": [{"name": "faithful", "strength": 0.8}]}


class Conflicts:
    """Answers with fixed numbers and writes down what was to be measured."""

    def __init__(self, *values: float | None) -> None:
        self.values = list(values)
        self.asked: list[Any] = []

    def __call__(self, prompts: Sequence[Any]) -> Sequence[float | None]:
        self.asked.append(list(prompts))
        return [self.values[i % len(self.values)] for i in range(len(prompts))]


def request(text: str = WITH, step: str | None = "answer", **more: Any) -> Asked:
    return Asked([{"role": "user", "content": text}], step, **more)


def decision(
    step: dict[str, Any], asked: Asked | None = None, conflicts: Any = None, **top: Any
) -> SteeringDecision:
    policy = policy_of({"answer": step}, **top)
    return decide(policy, [asked or request()], conflicts or Conflicts(None))[0]


def applied(found: SteeringDecision) -> dict[str, float]:
    return {term.vector.name: term.strength for term in found.steering.active_terms}


@pytest.fixture(autouse=True)
def _no_kill_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KILL_SWITCH, raising=False)


# Who decides.


def test_a_step_without_conditions_gets_its_vectors_as_they_are() -> None:
    policy = policy_of({"answer": FAITHFUL})
    [found] = decide(policy, [request()], Conflicts())
    assert found.steering == policy.steering_for("answer")
    assert (found.step, found.reasons, found.policy) == (
        "answer",
        ("step 'answer'",),
        policy.digest,
    )


def test_a_steering_given_with_the_request_always_wins() -> None:
    own = VECTORS["polite"].steer(0.1)
    for top in ({}, {"enabled": False}):
        found = decision(FAITHFUL, request(steering=own, structured=True), **top)
        assert found.steering is own
        assert found.reasons == ("the request brings its own steering",)
        assert found.policy is None
    assert decision(FAITHFUL, request(steering=Steering.none())).steering == Steering.none()


def test_without_a_policy_nothing_is_steered() -> None:
    [found] = decide(None, [request()], Conflicts())
    assert (found.steering, found.reasons) == (Steering.none(), ("there is no policy",))


def test_a_request_without_a_step_gets_the_default_one_or_none() -> None:
    found = decision(FAITHFUL, request(step=None), default_step="answer")
    assert (found.step, found.reasons) == ("answer", ("step 'answer', the default",))
    found = decision(FAITHFUL, request(step=None))
    assert (found.step, applied(found)) == (None, {})
    assert "no default step" in found.reasons[0]


def test_a_step_name_may_match_by_pattern_and_an_unknown_one_is_refused() -> None:
    step = {**FAITHFUL, "match": {"step": ["answer_*"]}}
    found = decision(step, request(step="answer_long"))
    assert found.reasons == ("step 'answer', which 'answer_long' matches",)
    with pytest.raises(UnknownStepError, match="did you mean 'answer'"):
        decision(step, request(step="anwser"))


# What switches a step off.


def test_a_disabled_policy_says_so() -> None:
    found = decision(FAITHFUL, enabled=False)
    assert applied(found) == {}
    assert "enabled = false" in found.reasons[-1]


def test_the_kill_switch_is_read_per_request(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of({"answer": FAITHFUL})

    def now() -> dict[str, float]:
        return applied(decide(policy, [request()], Conflicts())[0])

    on = policy.digest
    for value in ("1", "true", "whatever"):
        monkeypatch.setenv(KILL_SWITCH, value)
        assert now() == {}
        assert not policy.steering_for("answer").is_active
        assert policy.digest != on
    for value in ("", "0", "false", "No"):
        monkeypatch.setenv(KILL_SWITCH, value)
        assert now() == {"faithful": 0.8}
        assert policy.digest == on


def test_structured_answers_are_steered_only_where_the_step_says_so() -> None:
    found = decision(FAITHFUL, request(structured=True))
    assert applied(found) == {}
    assert "structured" in found.reasons[-1]
    assert applied(decision({**FAITHFUL, "steer_structured": True}, request(structured=True)))


def test_a_step_without_vectors_says_so() -> None:
    assert decision({}).reasons == ("step 'answer'", "the step has no vectors")


# Conditions.


@pytest.mark.parametrize("wanted", ["present", "absent"])
def test_context_decides_whether_a_step_steers(wanted: str) -> None:
    step = {**FAITHFUL, "when": {"context": wanted}}
    there = applied(decision(step, request(WITH)))
    not_there = applied(decision(step, request(WITHOUT)))
    assert (bool(there), bool(not_there)) == (wanted == "present", wanted == "absent")
    told = decision(step, request(WITHOUT, context=["It opens at nine."]))
    assert bool(applied(told)) == (wanted == "present")
    assert "context present" in told.reasons[-1]


def test_vectors_of_one_step_may_have_conditions_of_their_own() -> None:
    step = {
        "vectors": [
            {"name": "faithful", "when": {"context": "present"}},
            {"name": "true", "when": {"context": "absent"}},
        ]
    }
    assert applied(decision(step, request(WITH))) == {"faithful": 0.5}
    assert applied(decision(step, request(WITHOUT))) == {"true": 0.5}


@pytest.mark.parametrize(
    ("text", "strength"), [("a rude one", 0.8), ("neither", 0.4), ("a kind one", None)]
)
def test_a_gate_scales_the_strength_between_its_thresholds(
    text: str, strength: float | None
) -> None:
    gate = {"name": "rudeness", "from": 0.25, "to": 0.75}
    found = decision({**FAITHFUL, "when": {"gate": gate}}, request(text))
    assert applied(found) == ({} if strength is None else {"faithful": pytest.approx(strength)})
    assert "gate 'rudeness' says" in found.reasons[-1]


def test_a_gate_without_thresholds_uses_the_one_of_its_training() -> None:
    step = {**FAITHFUL, "when": {"gate": {"name": "rudeness"}}}
    for threshold, steers in ((0.4, True), (0.6, False)):
        gates = {"rudeness": word_gate(threshold=threshold)}
        assert bool(applied(decision(step, request("neither"), gates=gates))) == steers


def test_a_gate_reads_the_question_without_the_retrieved_text() -> None:
    step = {**FAITHFUL, "when": {"gate": {"name": "rudeness"}}}
    embedder = WordEmbedder()
    decision(step, request("Documents:\n[1] rude\n\nQuestion: Be kind?"), embedder=embedder)
    assert embedder.calls == [["Be kind?"]]


def test_without_a_question_a_gate_stays_shut() -> None:
    step = {**FAITHFUL, "when": {"gate": {"name": "rudeness"}}}
    found = decision(step, Asked([{"role": "system", "content": "rude"}], "answer"))
    assert (applied(found), "no question" in found.reasons[-1]) == ({}, True)


def test_another_embedding_model_is_refused_when_the_policy_is_checked_and_when_asked() -> None:
    other = WordEmbedder(words=("a", "b"))
    step = {**FAITHFUL, "when": {"gate": {"name": "rudeness"}}}
    with pytest.raises(ModelMismatchError):
        decision(step, embedder=other)
    with pytest.raises(ModelMismatchError):
        policy_of({"answer": step}, embedder=other).check(VECTORS["true"].fingerprint)


@pytest.mark.parametrize(
    ("conflict", "strength"), [(2.0, 0.8), (0.5, 0.4), (0.0, None), (-3.0, None)]
)
def test_conflict_scales_the_strength(conflict: float, strength: float | None) -> None:
    step = {**FAITHFUL, "when": {"conflict": {"from": 0, "to": 1}}}
    measure = Conflicts(conflict)
    found = decision(step, request(WITH), measure)
    assert applied(found) == ({} if strength is None else {"faithful": pytest.approx(strength)})
    [[(whole, alone, _)]] = measure.asked
    assert whole[0]["content"] == WITH
    assert alone == as_messages("Question: When does it open?")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (request(WITHOUT), "no context, so no conflict"),
        (request(WITHOUT, context=True), "marks no context"),
        (request(WITH), "could not be measured"),
    ],
)
def test_a_conflict_that_cannot_be_told_does_not_steer(asked: Asked, said: str) -> None:
    found = decision({**FAITHFUL, "when": {"conflict": {"from": -9, "to": -8}}}, asked)
    assert applied(found) == {}
    assert said in found.reasons[-1]


def test_all_conditions_must_hold_and_the_dear_ones_are_measured_last() -> None:
    when = {"context": "present", "gate": {"name": "rudeness"}, "conflict": {"from": 0, "to": 1}}
    measure, embedder = Conflicts(0.5), WordEmbedder()
    step = {**FAITHFUL, "when": when}
    assert not applied(decision(step, request("rude"), measure, embedder=embedder))
    assert (measure.asked, embedder.calls) == ([], [])
    kind = request("Documents:\nx\nQuestion: kind?")
    assert not applied(decision(step, kind, measure, embedder=embedder))
    assert measure.asked == []
    rude = request("Documents:\nx\nQuestion: rude?")
    assert applied(decision(step, rude, measure)) == {"faithful": pytest.approx(0.4)}


def test_requests_of_a_batch_are_measured_together_and_decided_as_alone() -> None:
    when = {"conflict": {"from": 0, "to": 1}, "gate": {"name": "rudeness", "from": 0, "to": 1}}
    policy = policy_of(
        {
            "answer": {**FAITHFUL, "when": when},
            "reply": {"vectors": [{"name": "polite", "when": when}, {"name": "true"}]},
        }
    )
    texts = [WITH.replace("When", word) for word in ("rude", "kind", "who")]
    requests = [request(text, step) for text in texts for step in ("answer", "reply")]
    values = [0.1 * number for number in range(len(requests))]
    measure = Conflicts(*values)
    together = decide(policy, requests, measure)
    assert len(measure.asked) == 1
    for each, value, found in zip(requests, values, together, strict=True):
        assert found == decide(policy, [each], Conflicts(value))[0]


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_the_strength_never_falls_as_conflict_rises_and_never_passes_its_own(
    one: float, other: float
) -> None:
    step = {**FAITHFUL, "when": {"conflict": {"from": -1, "to": 2}}}
    strengths = [
        applied(decision(step, conflicts=Conflicts(value))).get("faithful", 0.0)
        for value in sorted((one, other))
    ]
    assert 0 <= strengths[0] <= strengths[1] <= 0.8


def test_the_record_of_a_decision_is_plain_json() -> None:
    found = decision(FAITHFUL)
    assert found.to_dict() == {
        "step": "answer",
        "reasons": ["step 'answer'"],
        "policy": found.policy,
    }


# The digest.


@given(st.randoms(use_true_random=False))
def test_the_digest_does_not_depend_on_the_order_of_keys(source: Any) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = list(value.items())
        source.shuffle(items)
        return {key: shuffled(each) for key, each in items}

    when = {"context": "present", "gate": {"name": "rudeness", "from": 0.2, "to": 0.8}}
    steps = {
        "answer": {**FAITHFUL, "when": when, "match": {"node": ["a*"], "tag": ["b"]}},
        "refine": {"inherits": "answer", "steer_structured": True},
        "condense": {},
    }
    data = {"default_step": "answer", "steps": steps}
    assert policy_of(**shuffled(data)).digest == policy_of(**data).digest


@pytest.mark.parametrize(
    "change",
    [
        {"when": {"context": "present"}},
        {"when": {"conflict": {"above": 1}}},
        {"when": {"gate": {"name": "rudeness"}}},
        {"match": {"node": ["x"]}},
        {"steer_structured": True},
    ],
)
def test_whatever_changes_decisions_changes_the_digest(change: dict[str, Any]) -> None:
    changed = policy_of({"answer": {**FAITHFUL, **change}})
    assert changed.digest != policy_of({"answer": FAITHFUL}).digest


def test_another_gate_of_the_same_name_changes_the_digest() -> None:
    step = {**FAITHFUL, "when": {"gate": {"name": "rudeness", "above": 0.5}}}
    one = policy_of({"answer": step})
    other = policy_of({"answer": step}, gates={"rudeness": word_gate(bias=0.25)})
    assert one.digest != other.digest


def test_a_policy_that_looked_nothing_up_still_has_its_own_digest() -> None:
    one, other = (Policy.model_validate({"steps": {name: {}}}) for name in ("a", "b"))
    assert one.digest != other.digest


# Where a prompt leaves it in doubt whether it holds retrieved text.

IN_DOUBT = "Context: I am a tourist.\n\nWhere should I eat?"


@pytest.mark.parametrize(("wanted", "gets"), [("present", {}), ("absent", {"faithful": 0.8})])
def test_a_doubt_about_the_context_is_a_reason_and_a_warning_that_comes_once(
    wanted: str, gets: dict[str, float]
) -> None:
    policy = policy_of({"answer": {**FAITHFUL, "when": {"context": wanted}}})
    both = [request(IN_DOUBT), request(IN_DOUBT)]
    with pytest.warns(UserWarning, match="pass context=True") as warned:
        first, second = decide(policy, both, Conflicts())
    assert len(warned) == 1
    [third] = decide(policy, [request(IN_DOUBT)], Conflicts())  # a second warning would fail here
    for found in (first, second, third):
        assert any("context cannot be told" in reason for reason in found.reasons)
        assert applied(found) == gets


def test_the_callers_word_leaves_no_doubt() -> None:
    step = {**FAITHFUL, "when": {"context": "present"}}
    for context, gets in (
        (True, {"faithful": 0.8}),
        (False, {}),
        (["a tourist"], {"faithful": 0.8}),
    ):
        found = decision(step, request(IN_DOUBT, context=context))
        assert applied(found) == gets
        assert not any("cannot be told" in reason for reason in found.reasons)


def test_a_conflict_is_not_measured_where_the_context_is_in_doubt() -> None:
    conflicts = Conflicts(5.0)
    with pytest.warns(UserWarning, match="cannot be told"):
        found = decision(
            {**FAITHFUL, "when": {"conflict": {"above": 0.0}}}, request(IN_DOUBT), conflicts
        )
    assert not conflicts.asked
    assert "nor the context" in found.reasons[-1]

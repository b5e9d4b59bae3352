import pytest
import torch
from conftest import FAMILIES
from slow_states import PAIRS

from steerable_llm.answer.llm import SteerableHFLLM
from steerable_llm.errors import (
    InvalidInputError,
    PromptTooLongError,
    SteerableError,
    SteeringNotAppliedError,
)
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.measure import measure
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.methods.build import build_vector
from steerable_llm.policy.policy import Policy
from steerable_llm.runtime import scores as scoring
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.hooks import steering_hooks
from steerable_llm.runtime.plan import SteeringPlan
from steerable_llm.vector.steering import Steering

PROMPT = "The capital of France is what?"
ANSWERS = ["Paris.", "As I recall, the answer is forty two.", "I"]


def slow_log_probs(llm, messages, answer, steering):
    """One full pass per answer token, each reading only the last position."""
    prompt, tokens = llm.encode(messages), llm.encode_answer(answer)
    found = []
    for count, token in enumerate(tokens):
        ids = torch.tensor([[*prompt, *tokens[:count]]])
        plan = SteeringPlan([steering], torch.ones_like(ids), len(prompt) - 1)
        with torch.no_grad(), steering_hooks(llm.blocks, plan):
            logits = llm.model(ids, use_cache=False).logits[0, -1].double()
        found.append(float(logits[token] - torch.logsumexp(logits, dim=0)))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_slow_way(family, make_llm, make_vector):
    llm = make_llm(family)
    for steering in (Steering.none(), make_vector(llm).steer(0.4), make_vector(llm).steer(-0.4)):
        scores = llm.score(PROMPT, ANSWERS, steering, reduction="none")
        for answer, score in zip(ANSWERS, scores, strict=True):
            expected = slow_log_probs(llm, PROMPT, answer, steering)
            # sums of a few dozen float32 terms against double precision
            torch.testing.assert_close(
                torch.tensor(score), torch.tensor(expected), rtol=1e-4, atol=1e-3
            )


def test_the_end_of_turn_is_part_of_the_answer(tiny_llm):
    (score,) = tiny_llm.score(PROMPT, ["Paris."], reduction="none")
    assert len(score) == len(tiny_llm.tokenizer("Paris.").input_ids) + 1
    assert len(tiny_llm.score(PROMPT, [""], reduction="none")[0]) == 1


def test_sum_and_mean(tiny_llm):
    tokens = tiny_llm.score(PROMPT, ANSWERS, reduction="none")
    assert tiny_llm.score(PROMPT, ANSWERS) == pytest.approx([sum(x) for x in tokens], rel=1e-5)
    assert tiny_llm.score(PROMPT, ANSWERS, reduction="mean") == pytest.approx(
        [sum(x) / len(x) for x in tokens], rel=1e-5
    )


def test_many_prompts_in_small_passes_score_as_alone(tiny_llm, tiny_vector, monkeypatch):
    monkeypatch.setattr(scoring, "TOKENS_PER_PASS", 64)
    items = [(PROMPT * length, answer) for length in (1, 4, 2) for answer in ANSWERS]
    steering = tiny_vector.steer(0.3, scope="prompt")
    together = tiny_llm.score_batch(items, steering)
    alone = [tiny_llm.score(messages, [answer], steering)[0] for messages, answer in items]
    assert together == pytest.approx(alone, rel=1e-5)


def test_the_logits_are_those_the_scores_come_from(tiny_llm, tiny_vector):
    steering = tiny_vector.steer(0.3)
    logits = tiny_llm.answer_logits(PROMPT, "Paris.", steering)
    tokens = torch.tensor(tiny_llm.encode_answer("Paris."))
    assert logits.shape == (len(tokens), len(tiny_llm.tokenizer))
    log_probs = logits.log_softmax(dim=-1)[torch.arange(len(tokens)), tokens]
    (score,) = tiny_llm.score(PROMPT, ["Paris."], steering)
    assert float(log_probs.sum()) == pytest.approx(score, rel=1e-5)


def test_an_answer_that_does_not_fit_is_refused_with_its_lengths(tiny_llm):
    with pytest.raises(PromptTooLongError) as error:
        tiny_llm.score(PROMPT, ["long " * 300])
    assert error.value.prompt_tokens == len(tiny_llm.encode(PROMPT))
    assert error.value.context_window == 256


def test_a_steering_that_reaches_nothing_is_an_error(make_tiny_model, tiny_tokenizer, tiny_vector):
    idle = [torch.nn.Identity() for _ in range(3)]
    llm = SteerableHFLLM(make_tiny_model("llama"), tiny_tokenizer, blocks=idle)
    with pytest.raises(SteeringNotAppliedError):
        llm.score(PROMPT, ["Paris."], tiny_vector.steer(0.1))
    with pytest.raises(SteeringNotAppliedError):
        llm.generate(PROMPT, tiny_vector.steer(0.1))
    assert llm.generate(PROMPT, tiny_vector.steer(0.0), max_new_tokens=2).steered == ()


def test_nothing_to_score_is_an_empty_list(tiny_llm):
    assert tiny_llm.score(PROMPT, []) == []


def test_the_last_token_of_an_answer_takes_no_place_in_the_window(make_llm):
    # Learnt positions: a 257th one would be out of range.
    llm = make_llm("gpt2")
    item = scoring.Scored([7] * 250, [11, 12, 13, 14, 15, 16, 17], Steering.none())
    assert item.length == llm.model.config.n_positions + 1
    [found] = scoring.answer_log_probs(llm, [item])
    with torch.no_grad():
        logits = llm.model(torch.tensor([[*item.prompt, *item.answer[:-1]]])).logits[0, -7:]
    expected = logits.log_softmax(-1)[range(7), item.answer]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_one_answer_without_a_list_is_not_scored_letter_by_letter(tiny_llm):
    with pytest.raises(InvalidInputError, match="list of answers"):
        tiny_llm.score(PROMPT, "Paris")
    with pytest.raises(InvalidInputError, match="give a text"):
        tiny_llm.score(PROMPT, [5])


def test_scores_that_are_not_numbers_are_an_error_as_in_generating(tiny_llm, tiny_vector):
    with pytest.raises(SteerableError, match="not numbers"):
        tiny_llm.score(PROMPT, ["Paris"], tiny_vector.steer(1e300))


def test_a_policy_steers_what_is_asked_and_nothing_that_is_learnt(tiny_llm, make_vector):
    step = {"vectors": [{"name": "v", "strength": 0.9, "scope": "all"}]}
    policy = Policy.from_dict(
        {"default_step": "a", "steps": {"a": step}}, {"v": make_vector(tiny_llm)}
    )
    ruled = SteerableHFLLM(tiny_llm.model, tiny_llm.tokenizer, policy=policy, model_id="tiny-llama")
    plain = HookedModel(tiny_llm.model, tiny_llm.tokenizer, model_id="tiny-llama")
    assert ruled.score(PROMPT, ANSWERS) != plain.score(PROMPT, ANSWERS)

    def learnt(llm):
        items = [
            EvaluationItem(
                id=pair.id, category="x", messages=pair.messages, good=pair.good, bad=pair.bad
            )
            for pair in PAIRS
        ]
        [outcomes] = measure(llm, [Arm("none")], items, max_new_tokens=4)
        directions = build_vector(llm, PAIRS, "caa").directions
        return [(x.text, x.margin) for x in outcomes], [x.tolist() for x in directions.values()]

    assert learnt(ruled) == learnt(plain)

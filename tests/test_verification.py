"""Scores of candidates are what f really loses without them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.methods.build import build
from steerable_llm.methods.grains.attribution import gradient_input_path, random_path
from steerable_llm.methods.grains.verification import Unchecked, _joined
from steerable_llm.pairs.pair import Pairs, PreferencePair

# Of a random model the answers' entropies are most of the preference.
pytestmark = pytest.mark.filterwarnings("ignore:the token scores miss")

PAIRS = Pairs(
    PreferencePair(f"The shop in {city} opens at nine. When?", "At nine.", "At two, as I recall.")
    for city in ("Rome", "Paris")
)


def preference(llm, seen, masked):
    """f with some tokens masked by the mean embedding, one answer at a time."""
    embed = llm.model.get_input_embeddings()
    x = embed(torch.tensor(seen.token_ids)).detach()
    x[list(masked)] = embed.weight.detach().mean(0)
    total = 0.0
    for sign, answer in ((1, seen.good), (-1, seen.bad)):
        ids = torch.tensor(llm.encode_answer(answer))
        with torch.no_grad():
            logits = llm.model(inputs_embeds=torch.cat([x, embed(ids)])[None]).logits[0]
        log_probs = logits[len(x) - 1 : -1].log_softmax(-1)
        total += sign * float(log_probs[range(len(ids)), ids].sum())
    return total


# With one byte of memory every pair is read by itself.
@pytest.mark.parametrize("memory_budget", [None, 1])
@pytest.mark.parametrize("attribution", ["conservative", "smoothgrad"])
def test_candidates_are_scored_by_taking_each_away(tiny_llm, attribution, memory_budget):
    built = build(
        tiny_llm, PAIRS, attribution=attribution, baseline="mean", verified=4, progress=False,
        memory_budget=memory_budget,
    )  # fmt: skip
    for seen in built.attributions:
        assert len(seen.verified) == 4
        whole = preference(tiny_llm, seen, ())
        for place in seen.verified:
            lost = whole - preference(tiny_llm, seen, (place,))
            assert float(seen.scores[place]) == pytest.approx(lost, rel=1e-3, abs=1e-4)


def test_only_what_was_checked_is_selected(tiny_llm):
    built = build(tiny_llm, PAIRS, k=20, verified=3, progress=False)
    for seen in built.attributions:
        assert {*seen.positive, *seen.negative} == {i for i in seen.verified if seen.scores[i]}
        assert all(seen.selectable[i] for i in seen.verified)


def test_without_verification_the_attribution_is_taken_at_its_word(tiny_llm):
    alone = build(tiny_llm, PAIRS, verified=0, progress=False)
    checked = build(tiny_llm, PAIRS, verified=3, progress=False)
    for one, other in zip(alone.attributions, checked.attributions, strict=True):
        assert one.verified == ()
        assert one.completeness_error == other.completeness_error
        left = [i for i in range(len(one.scores)) if i not in other.verified]
        ratio = other.scores[left] / one.scores[left]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-4)


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 9), st.booleans()), min_size=1, max_size=12),
    st.integers(0, 6),
)
def test_candidates_are_the_most_sensitive_tokens_that_may_be_picked(tokens, count):
    scores, sensitivity, flags = zip(*tokens, strict=True)
    each = Unchecked(torch.tensor(scores), torch.tensor(sensitivity), flags)
    found = each.candidates(count)
    allowed = [i for i, flag in enumerate(flags) if flag]
    assert len(found) == min(count, len(allowed))
    assert set(found) <= set(allowed)
    least = min((float(each.sensitivity[i]) for i in found), default=0)
    assert all(float(each.sensitivity[i]) <= least for i in set(allowed) - set(found)) or not count


def test_no_score_is_larger_than_its_sensitivity():
    source = torch.Generator().manual_seed(0)
    x, slope = torch.randn(2, 7, 16, generator=source)
    for path in (gradient_input_path(x), random_path(x)):
        scores, most = path.scores(slope[None]), path.sensitivity(slope[None])
        assert (scores.abs() <= most * 1.0001).all()


def test_the_others_are_scaled_to_predict_the_checked_ones():
    scores = torch.tensor([1.0, 2.0, -3.0, 4.0])
    joined = _joined(scores, (1, 3), torch.tensor([6.0, 12.0]))
    assert joined.tolist() == [3.0, 6.0, -9.0, 12.0]
    # Scores that predict the contrary, or nothing, are worth nothing.
    assert _joined(scores, (1, 3), torch.tensor([-6.0, -12.0])).tolist() == [0, -6, 0, -12]
    assert _joined(scores * 0, (1,), torch.tensor([5.0])).tolist() == [0, 5, 0, 0]

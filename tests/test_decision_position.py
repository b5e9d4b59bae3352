"""Where answers part, and how far into an answer that is."""

from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.methods.decision import decision_tokens, stem_length
from steerable_llm.pairs.pair import Pairs, PreferencePair

ANSWERS = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@given(ANSWERS, ANSWERS)
def test_a_stem_is_common_and_ends_at_the_first_difference(good, bad):
    stem = stem_length(good, bad)
    assert good[:stem] == bad[:stem]
    assert stem < min(len(good), len(bad))
    assert good[stem] != bad[stem] or stem == min(len(good), len(bad)) - 1


def openings(*words):
    """Pairs whose answers share so many of the tiny tokenizer's one-letter tokens."""
    return Pairs(PreferencePair(f"q{i}", "a" * n + "b", "a" * n + "c") for i, n in enumerate(words))


def test_nine_of_ten_pairs_have_decided_where_the_scope_ends(tiny_llm):
    def tokens(n):
        return len(tiny_llm.encode_answer("a" * n + "b")) - 2

    assert tokens(7) > tokens(3) > 0
    pairs = openings(*[0] * 8, 3, 7)
    assert decision_tokens(tiny_llm, pairs) == tokens(3)
    assert decision_tokens(tiny_llm, openings(*[7] * 2)) == tokens(7)


def test_answers_that_differ_at_once_decide_at_the_last_prompt_token(tiny_llm):
    assert decision_tokens(tiny_llm, openings(0, 0)) == 0
    assert decision_tokens(tiny_llm, Pairs([PreferencePair("q", "alone")])) == 0

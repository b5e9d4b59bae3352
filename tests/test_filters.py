"""Each filter drops what it is for, such as duplicates in words or in meaning, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from failures import WordEmbedder, draft
from hypothesis import given
from hypothesis import strategies as st

from steerable_llm.chat.phrases import normalise
from steerable_llm.errors import InvalidInputError
from steerable_llm.logs.answers import Passage
from steerable_llm.pairs.filters import FilterSettings, originals, run_filters
from steerable_llm.pairs.judge import Judge, fixed_terms, judge_named, one_by_one
from steerable_llm.pairs.pairing import Draft

LEXICAL = judge_named("lexical")


def filtered(
    *drafts: Draft, judge: Judge | None = LEXICAL, **limits: float
) -> tuple[list[str], dict[str, str]]:
    """The ids that passed, and why each other one did not."""
    given = FilterSettings(**limits, judge=judge)
    kept, counts, dropped = run_filters(drafts, given)
    assert sum(sum(count.dropped.values()) for count in counts) == len(dropped)
    assert len(kept) + len(dropped) == len(drafts)
    return [entry.answer.id for entry in kept], {d.id: d.why for d in dropped}


def test_a_good_pair_passes() -> None:
    assert filtered(draft()) == (["a1"], {})


def test_good_must_be_grounded_and_bad_must_not() -> None:
    made_up = draft("It opens at noon in Paris.", name="made up")
    both = draft("It opens at ten.", "The shop in Lyon.", name="both", question="Where is it?")
    kept, dropped = filtered(draft(), made_up, both)
    assert kept == ["a1"]
    assert dropped["made up"] == "the good answer is not in the passages"
    assert dropped["both"] == "the bad answer is in the passages, too"


def test_manners_myths_and_prompts_without_passages_are_not_judged() -> None:
    never = one_by_one(lambda *_: 0.0)
    rude = draft("Gladly: at noon.", "Look it up!", name="rude", reason="rude")
    bare = draft("At noon in Rome.", name="bare", passages=[])
    assert filtered(rude, bare, judge=never) == (["rude", "bare"], {})
    _, counts, _ = run_filters([rude, bare], FilterSettings(judge=never))
    assert [count.not_judged for count in counts] == [0, 2, 0, 0, 2]


def test_a_refusal_claims_nothing_and_passes_as_good_and_as_bad() -> None:
    refused = draft("It opens at ten.", "I do not know.", name="missed", reason="missed the answer")
    asked = draft("The text does not say.", "In 1990.", name="refuse", question="Since when?")
    assert filtered(refused, asked)[0] == ["missed", "refuse"]


def test_without_a_judge_the_filter_is_open() -> None:
    assert filtered(draft("At noon."), judge=None)[0] == ["a1"]


@pytest.mark.parametrize(
    ("good", "bad", "why"),
    [
        ("ten " * 15, "nine " * 5, None),
        ("ten " * 16, "nine " * 5, "the good answer is much longer than the bad one"),
        ("ten " * 5, "nine " * 16, "the good answer is much shorter than the bad one"),
        ("ten", "nine " * 15, None),
    ],
)
def test_lengths_match_by_ratio_and_short_answers_are_all_alike(
    good: str, bad: str, why: str | None
) -> None:
    _, dropped = filtered(draft(good, bad), judge=None)
    assert dropped.get("a1") == why


def refusing(number: int) -> Draft:
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()
    return draft(
        "The text does not say.", f"It is {words[number]}.", f"r{number}", question=words[number]
    )


def plain(number: int) -> Draft:
    return draft("At ten.", f"At 1{number}.", f"p{number}", question=f"When on day {number}?")


@pytest.mark.parametrize(("others", "share", "kept"), [(4, 0.5, 4), (4, 0.2, 1), (9, 0.25, 3)])
def test_refusals_are_capped_at_their_share_of_what_is_kept(
    others: int, share: float, kept: int
) -> None:
    mixed = [*map(plain, range(others)), *map(refusing, range(6))]
    names, dropped = filtered(*mixed, refusal_share=share, judge=None)
    assert sum(name.startswith("r") for name in names) == kept
    assert kept / (kept + others) <= share < (kept + 1) / (kept + 1 + others)
    assert set(dropped.values()) == {"too many good answers refuse"}
    assert names[others:] == [f"r{i}" for i in range(kept)]


def test_a_vector_that_teaches_refusing_takes_all_refusals() -> None:
    assert filtered(*map(refusing, range(3)), refusal_share=1.0)[0] == ["r0", "r1", "r2"]
    assert filtered(*map(refusing, range(3)))[0] == []


def test_duplicates_name_their_original_and_are_one_reason() -> None:
    given = FilterSettings(embedder=WordEmbedder())
    twice = [draft(), draft(name="a2"), draft(name="a3")]
    kept, counts, dropped = run_filters(twice, given)
    assert [entry.answer.id for entry in kept] == ["a1"]
    assert [entry.why for entry in dropped] == ["says the same as a1"] * 2
    assert counts[2].dropped == {"says the same": 2}


def vat(name: str, plan: str, good: str, bad: str) -> Draft:
    said = f"For plan {plan}, VAT is {'included' if 'not' in bad else 'not included'}."
    return draft(
        good,
        bad,
        name,
        question="Is VAT included in the price?",
        passages=[Passage(id=f"plan {plan}", text=said)],
        messages=[{"role": "user", "content": said}],
    )


IS, IS_NOT = "VAT is included in the price.", "VAT is not included in the price."


@pytest.mark.parametrize("at", [0.3, 0.95])
@pytest.mark.parametrize("embedder", [WordEmbedder(), None])
def test_opposite_pairs_over_other_passages_are_no_duplicates(
    embedder: WordEmbedder | None, at: float
) -> None:
    given = FilterSettings(embedder=embedder, duplicate_at=at)
    kept, _, dropped = run_filters([vat("a", "A", IS, IS_NOT), vat("b", "B", IS_NOT, IS)], given)
    assert [entry.answer.id for entry in kept] == ["a", "b"]
    assert dropped == []


def test_one_near_answer_makes_no_duplicates_of_pairs() -> None:
    given = FilterSettings(embedder=WordEmbedder(), duplicate_at=0.9)
    other = vat("b", "A", IS, "Nobody who works here has ever been told such things.")
    kept, _, _ = run_filters([vat("a", "A", IS, IS_NOT), other], given)
    assert len(kept) == 2
    near = vat("c", "A", "VAT is included in the price here.", IS_NOT)
    _, _, dropped = run_filters([vat("a", "A", IS, IS_NOT), near], given)
    assert [entry.why for entry in dropped] == ["says the same as a"]


@pytest.mark.parametrize("embedder", [WordEmbedder(), None])
def test_opposite_pairs_over_the_same_prompt_name_each_other(embedder: WordEmbedder | None) -> None:
    given = FilterSettings(embedder=embedder)
    pairs = [vat("a", "A", IS, IS_NOT), vat("b", "A", IS_NOT, IS)]
    same = {"passages": pairs[0].answer.passages, "messages": pairs[0].answer.messages}
    pairs[1] = replace(pairs[1], answer=pairs[1].answer.model_copy(update=same))
    kept, counts, dropped = run_filters([*pairs, draft(name="c")], given)
    assert [entry.answer.id for entry in kept] == ["c"]
    assert {entry.id: entry.why for entry in dropped} == {
        "a": "says the opposite of b over the same prompt",
        "b": "says the opposite of a over the same prompt",
    }
    assert counts[2].dropped == {"says the opposite": 2}


def test_filters_see_only_what_passed_the_ones_before() -> None:
    _, counts, _ = run_filters(
        [draft(), draft("At noon in Paris.", name="a2")],
        FilterSettings(judge=LEXICAL),
    )
    assert [count.seen for count in counts] == [2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    "limits",
    [
        {"grounded_at": 1.1},
        {"refusal_share": -0.1},
        {"length_ratio": 0.5},
        {"duplicate_at": 2},
        {"length_share": 2},
    ],
)
def test_limits_out_of_range_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(limits))):
        FilterSettings(**limits)


LONG = "when does the large shop near the old station open again in the morning"


def test_without_an_embedder_case_and_spacing_do_not_count() -> None:
    assert originals(["At ten.", "at  TEN.", "At nine."], None, 0.95) == [0, 0, 2]


def test_near_texts_are_one_unless_a_number_or_name_differs() -> None:
    texts = [LONG, f"{LONG} please", f"{LONG} ten", f"{LONG} Oslo", "something else"]
    assert originals(texts, WordEmbedder(), 0.9) == [0, 0, 2, 3, 4]


def test_a_repetition_of_a_near_duplicate_leads_to_the_original() -> None:
    texts = [LONG, f"{LONG} please", f"{LONG}  PLEASE"]
    assert originals(texts, WordEmbedder(), 0.9) == [0, 0, 0]


words = st.sampled_from(["shop", "opens", "ten", "nine", "late", "Oslo"])


@given(st.lists(st.lists(words, min_size=1, max_size=4).map(" ".join), max_size=12))
def test_the_blocks_find_what_a_plain_loop_finds(texts: list[str]) -> None:
    rows, expected = WordEmbedder().embed(texts), list(range(len(texts)))
    kept: list[int] = []
    for i, text in enumerate(texts):
        same = [j for j in range(i) if normalise(texts[j]) == normalise(text)]
        near = [
            j
            for j in kept
            if float(np.dot(rows[i], rows[j])) >= 0.8 and fixed_terms(texts[j]) == fixed_terms(text)
        ]
        expected[i] = expected[same[0]] if same else near[0] if near else i
        if expected[i] == i:
            kept.append(i)
    assert originals(texts, WordEmbedder(), 0.8) == expected

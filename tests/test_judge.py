"""Judges: by words and numbers, by entailment, by name, of one's own, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from steerable_llm.errors import InvalidInputError, MissingExtraError
from steerable_llm.pairs.judge import (
    JUDGES,
    Claim,
    EntailmentJudge,
    entailment_column,
    fixed_terms,
    judge_named,
    judged,
    one_by_one,
    sentences,
    support,
    terms,
    windows,
)

CLAIM = Claim("When?", ("It opens at ten.",), "At ten.")


def never(question: str, passages: Sequence[str], answer: str) -> float:
    return 0.0


def test_the_built_in_judge_needs_nothing() -> None:
    assert judged(judge_named("lexical"), [CLAIM]) == [1.0]
    assert set(JUDGES) == {"lexical", "nli"}


def test_any_function_can_be_named() -> None:
    assert judged(judge_named(f"{__name__}:never"), [CLAIM, CLAIM]) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("human", "is no judge: one of lexical, nli"),
        ("no_such_module:f", "cannot be imported"),
        (f"{__name__}:nothing", "cannot be imported"),
        (f"{__name__}:CLAIM", "is no function"),
    ],
)
def test_what_is_no_judge_is_refused(name: str, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        judge_named(name)


def test_the_built_in_judge_takes_no_model() -> None:
    with pytest.raises(InvalidInputError, match="takes no model"):
        judge_named("lexical", "some/model")


@pytest.mark.parametrize("score", [1.5, -0.1, float("nan"), "yes"])
def test_a_score_that_is_none_is_refused(score: Any) -> None:
    with pytest.raises(InvalidInputError, match="from 0 to 1"):
        judged(one_by_one(lambda *_: score), [CLAIM])


def test_a_judge_that_loses_answers_or_fails_is_named() -> None:
    with pytest.raises(InvalidInputError, match="1 scores for 2 answers"):
        judged(lambda _: [1.0], [CLAIM, CLAIM])
    with pytest.raises(InvalidInputError, match="failed with ZeroDivisionError"):
        judged(one_by_one(lambda *_: 1 / 0), [CLAIM])


SHOP = ["Customers of Maple Books can return an item within 23 days.", "It opens at 7:45."]


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("According to the text, it is 23 days.", 1.0),
        ("Within twenty-three days.", 1.0),
        ("As I recall, it is 14 days.", 0.0),
        ("At 7:45.", 1.0),
        ("At 7:15.", 0.0),
        ("Customers may return items.", 1.0),
        ("Ask Maria about it.", 0.0),
        ("You can return an umbrella.", 0.5),
        ("The text does not say.", None),
        ("I do not know.", None),
        ("I cannot find this in the documents.", None),
        ("The fee is not explicitly mentioned in the brochure.", None),
        ("I cannot find this. You can return items.", 1.0),
        ("I do not know whether it is 14 days.", 0.0),
        ("The documents do not mention Maria.", 0.0),
        ("", None),
    ],
)
def test_answers_are_scored_by_what_they_claim(answer: str, score: float | None) -> None:
    assert support("How long?", SHOP, answer) == score


def test_what_only_repeats_the_question_is_no_claim() -> None:
    asked = "Can I return a lamp to Oak Foods within 30 days?"
    assert support(asked, SHOP, "Return a lamp to Oak Foods within 30 days.") is None


def test_a_number_is_not_part_of_a_longer_one() -> None:
    assert support("How much?", ["It costs 1,250 euros."], "250 euros") == 0.0
    assert support("How much?", ["It costs 1,250 euros."], "1250 euros") == 1.0


def test_number_words_are_numbers_and_one_is_a_pronoun() -> None:
    assert [term.key for term in terms("forty-two of the seventeen, and this one")] == ["42", "17"]


def test_numbers_and_names_are_what_must_not_differ() -> None:
    assert fixed_terms("Maple Books opens at ten") == {"book", "10"}
    assert fixed_terms("The shop of Maple Books opens.") == {"mapl", "book"}


def test_a_word_after_a_mark_is_large_because_it_opens_a_sentence() -> None:
    assert fixed_terms('It says: Shops close. Doors open! "Lamps" and Oslo.') == {"oslo"}
    assert fixed_terms("Twenty-two Lamps. Twenty two.") == {"22", "lamp"}


@given(st.lists(st.text(max_size=30), max_size=3), st.text(max_size=40))
def test_a_score_is_a_share_and_what_a_passage_says_is_grounded_in_it(
    passages: list[str], answer: str
) -> None:
    score = support("", passages, answer)
    assert score is None or 0 <= score <= 1
    assert support("", [*passages, answer], answer) in (None, 1.0)


WORDS = "the shop opens at nine ten when ? . it is closed on sunday".split()
LABELS = {0: "contradiction", 1: "neutral", 2: "Entailment"}


def save_cross_encoder(folder: Path, labels: dict[int, str]) -> str:
    """A random model that reads pairs of texts, as sentence-transformers loads it."""
    vocabulary = folder / "words.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = BertTokenizerFast(vocab=str(vocabulary))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def model_folder(tmp_path: Path) -> str:
    return save_cross_encoder(tmp_path, LABELS)


def probability(folder: str, premise: str, hypothesis: str, column: int) -> float:
    """What the model says of one pair, without sentence-transformers."""
    tokenizer: Any = BertTokenizerFast.from_pretrained(folder)
    model: Any = BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**tokenizer(premise, hypothesis, return_tensors="pt")).logits
    return float(logits[0].double().softmax(0)[column])


def test_an_answer_is_as_grounded_as_its_weakest_sentence_and_best_passage(
    model_folder: str,
) -> None:
    passages = ["the shop opens at ten", "it is closed on sunday"]
    claims = [
        Claim("when ?", tuple(passages), "at nine. closed on sunday."),
        Claim("when ?", tuple(passages[:1]), "at ten."),
        Claim("when ?", tuple(passages), "I do not know."),
        Claim("when ?", (), "at ten."),
    ]
    found = EntailmentJudge(model_folder)(claims)

    def best(premises: list[str], sentence: str) -> float:
        return max(probability(model_folder, p, f"when ? {sentence}", 2) for p in premises)

    both = [*passages, "\n".join(passages)]
    weakest = min(best(both, "at nine."), best(both, "closed on sunday."))
    assert found[0] == pytest.approx(weakest, abs=1e-5)
    assert found[1] == pytest.approx(best(passages[:1], "at ten."), abs=1e-5)
    assert found[2] is None
    assert found[3] == 0.0


def test_the_order_of_labels_is_the_models_own(tmp_path: Path) -> None:
    turned = {0: "entailment", 1: "contradiction", 2: "neutral"}
    folder = save_cross_encoder(tmp_path, turned)
    (score,) = EntailmentJudge(folder)([Claim("when ?", ("the shop opens",), "at ten.")])
    expected = [probability(folder, "the shop opens", "when ? at ten.", i) for i in range(3)]
    assert score == pytest.approx(expected[0], abs=1e-5)
    assert abs(expected[0] - expected[2]) > 0.01


@pytest.mark.parametrize(
    "labels",
    [
        {0: "LABEL_0"},
        {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"},
        {0: "not_entailment", 1: "neutral"},
        {0: "entailment"},
    ],
)
def test_a_model_that_does_not_tell_entailment_is_refused(labels: dict[int, str]) -> None:
    with pytest.raises(InvalidInputError, match="one label 'entailment'"):
        entailment_column(labels)


def test_two_labels_are_enough() -> None:
    assert entailment_column({0: "not_entailment", 1: "ENTAILMENT"}) == 1


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    judge = EntailmentJudge(str(tmp_path / "none"))
    with pytest.raises(InvalidInputError, match="cannot load the cross-encoder"):
        judge([Claim("when?", ("x",), "y")])


def test_a_missing_package_is_named_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'steerable-llm\[curate\]'"):
        EntailmentJudge("any")([Claim("when?", ("x",), "y")])


def test_long_passages_are_read_in_windows_that_leave_nothing_out() -> None:
    words = [str(n) for n in range(47)]
    parts = windows(" ".join(words), 10)
    assert all(len(part.split()) <= 10 for part in parts)
    # Whatever is no longer than half a window stands whole in one.
    for at in range(len(words) - 5 + 1):
        run = " ".join(words[at : at + 5])
        assert any(f" {run} " in f" {part} " for part in parts), run
    assert windows("at  ten", 10) == ["at  ten"]


def test_an_answer_at_the_end_of_a_long_passage_counts(model_folder: str) -> None:
    end = "the shop opens at ten"
    long = "closed " * 300 + end
    (found,) = EntailmentJudge(model_folder)([Claim("when ?", (long,), "at ten.")])
    last = windows(long)[-1]
    assert last.endswith(end)
    expected = [probability(model_folder, part, "when ? at ten.", 2) for part in windows(long)]
    assert found == pytest.approx(max(expected), abs=1e-5)


def test_sentences_end_with_their_marks_and_lines() -> None:
    assert sentences("At ten. Or 7.5?\nNo!  ") == ["At ten.", "Or 7.5?", "No!"]

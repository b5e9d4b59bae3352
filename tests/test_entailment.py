"""A cross-encoder as judge: its labels are read, not assumed, and weak sentences count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from steerable_llm.errors import InvalidInputError, MissingExtraError
from steerable_llm.pairs.judge import Claim, EntailmentJudge, entailment_column, sentences, windows

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

"""A gate trained from the bundled answer log: its split, its figures, its card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from policy_models import WordEmbedder
from safetensors import safe_open

from steerable_llm import demo
from steerable_llm.chat.message import Message
from steerable_llm.embedding import SentenceEmbedder
from steerable_llm.errors import InvalidInputError, MissingExtraError
from steerable_llm.logs.answers import LoggedAnswer, Passage
from steerable_llm.policy.gate import Gate
from steerable_llm.policy.gate_training import FEWEST, TrainedGate, gate_card, train_gate


@pytest.fixture(scope="module")
def trained() -> TrainedGate:
    """Which customers get rude replies, learnt from the bundled log."""
    return train_gate(demo.answer_log(), "rude", reasons=["rude"], steps=["reply"])


def logged(number: int, text: str, bad: bool, *documents: str, step: str = "reply") -> LoggedAnswer:
    return LoggedAnswer(
        id=str(number),
        question=text,
        messages=(Message(role="user", content=text),),
        passages=tuple(Passage(id=name, text=name) for name in documents),
        answer="x",
        verdict="bad" if bad else "good",
        reason="rude" if bad else None,
        step=step,
    )


def word_log(count: int = 40) -> list[LoggedAnswer]:
    return [
        logged(i, f"{'rude' if i % 2 else 'kind'} question {i}", bool(i % 2)) for i in range(count)
    ]


def test_on_the_bundled_log_it_tells_rude_replies_far_better_than_chance(
    trained: TrainedGate,
) -> None:
    figures = trained.figures
    assert figures.auc.low > 0.6
    assert figures.caught.value > figures.false_alarms.value + 0.2
    assert figures.bad + figures.good == figures.auc.n
    assert min(figures.bad, figures.good) >= FEWEST


def test_it_knows_a_rude_customer_from_a_friendly_one(trained: TrainedGate) -> None:
    rude, friendly = trained.gate.probabilities(
        [
            "What a terrible shop. Where is my lamp? Are you all stupid? Hurry up.",
            "Hello, I hope you can help me with my lamp. Thank you for your help.",
        ],
        SentenceEmbedder(),
    )
    assert rude > trained.gate.threshold > friendly


def test_the_gate_is_scikit_learns_logistic_regression(trained: TrainedGate) -> None:
    from sklearn.linear_model import LogisticRegression

    log, embedder = word_log(), WordEmbedder()
    gate = train_gate(log, "g", embedder=embedder, held_out=0.5).gate
    rows = embedder.embed(["rude", "kind", "x", "rude kind"])
    twin = LogisticRegression()
    twin.classes_ = np.array([0, 1])
    twin.coef_, twin.intercept_ = gate.weights[None], np.array([gate.bias])
    assert gate.of_embeddings(rows) == pytest.approx(twin.predict_proba(rows)[:, 1])


def test_it_is_the_same_gate_every_time(trained: TrainedGate) -> None:
    again = train_gate(demo.answer_log(), "rude", reasons=["rude"], steps=["reply"])
    assert again.gate.weights == pytest.approx(trained.gate.weights, abs=1e-6)
    assert again.figures.auc.value == pytest.approx(trained.figures.auc.value)


class RecordingModel:
    """Stands for scikit-learn's regression and writes down which rows it was fitted on."""

    def __init__(self, rows: list[Any], model: Any) -> None:
        self.rows, self.model = rows, model

    def __call__(self, **settings: Any) -> Any:
        made = self.model(**settings)
        fit = made.fit

        def recorded(rows: Any, labels: Any) -> Any:
            self.rows.append(rows)
            return fit(rows, labels)

        made.fit = recorded
        return made


def test_no_question_and_no_document_is_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each answer's embedding is its own number, so the rows of the fit tell who was in it.
    log = [
        logged(i, f"{i:03d} {'rude' if i % 2 else 'kind'}", bool(i % 2), f"page {i // 4}")
        for i in range(120)
    ]
    import sklearn.linear_model

    fitted: list[Any] = []
    recording = RecordingModel(fitted, sklearn.linear_model.LogisticRegression)
    monkeypatch.setattr(sklearn.linear_model, "LogisticRegression", recording)

    class Numbers(WordEmbedder):
        def embed(self, texts: Sequence[str]) -> Any:
            return np.array([[float(text[:3]), float("rude" in text)] for text in texts])

    found = train_gate(log, "g", embedder=Numbers())
    trained_on = {int(row[0]) for row in fitted[-1]}
    measured = set(range(120)) - trained_on
    assert len(measured) == found.figures.auc.n == found.figures.bad + found.figures.good
    assert {i // 4 for i in trained_on}.isdisjoint({i // 4 for i in measured})


def test_answers_without_a_verdict_and_of_other_steps_do_not_count() -> None:
    log = word_log()
    others = [logged(100 + i, f"rude {i}", False, step="answer") for i in range(20)]
    open_ = [entry.model_copy(update={"verdict": None}) for entry in others]
    gate = train_gate([*log, *others], "g", steps=["reply"], embedder=WordEmbedder()).gate
    assert gate.training["trained_on"]["bad"] + gate.training["trained_on"]["good"] < 40
    assert gate.weights.tolist() == pytest.approx(
        train_gate([*log, *open_], "g", embedder=WordEmbedder()).gate.weights.tolist()
    )


def test_bad_answers_for_other_reasons_count_as_the_other_class() -> None:
    log = [
        entry.model_copy(update={"reason": "untrue", "verdict": "bad"})
        if entry.verdict == "good"
        else entry
        for entry in word_log()
    ]
    found = train_gate(log, "g", reasons=["rude"], embedder=WordEmbedder())
    assert found.figures.good > 0
    assert found.figures.auc.value == 1.0


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (word_log(12), "at least 10 separate questions with bad answers, and the log has 6"),
        ([logged(i, "rude" if i % 2 else "kind", bool(i % 2)) for i in range(60)], "log has 1"),
        ([logged(i, f"kind {i}", False) for i in range(60)], "log has 0"),
    ],
)
def test_too_small_a_log_is_refused(log: list[LoggedAnswer], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        train_gate(log, "g", embedder=WordEmbedder())


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="held_out is 0"):
        train_gate(word_log(), "g", held_out=0)


def test_without_scikit_learn_the_install_command_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtraError, match=r"steerable-llm\[gate\]"):
        train_gate(word_log(), "g", embedder=WordEmbedder())


def test_the_file_keeps_what_the_gate_was_trained_on(trained: TrainedGate, tmp_path: Path) -> None:
    path = trained.gate.save(tmp_path / "rude.safetensors")
    loaded = Gate.load(path)
    assert loaded.training == trained.gate.training
    assert loaded.training["figures"]["auc"]["value"] == trained.figures.auc.value
    with safe_open(path, framework="pt") as opened:
        assert set(opened.keys()) == {"weights", "bias"}


def card_of(trained: TrainedGate) -> str:
    return gate_card(trained, "steerable policy train-gate log.jsonl").to_markdown()


def test_the_card_tells_the_figures_with_their_intervals(trained: TrainedGate) -> None:
    card, auc = card_of(trained), trained.figures.auc
    assert f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]" in card
    assert f"{trained.gate.threshold:.3f}, chosen by cross-validation" in card
    assert card.count("\n| 0.") + card.count("\n| 1.") == len(trained.figures.roc)
    assert "steerable policy train-gate log.jsonl" in card
    assert "rude, among the answers of the steps reply" in card


def test_the_card_tells_what_a_gate_cannot_do(trained: TrainedGate) -> None:
    assert "hysteresis" in card_of(trained)
    assert "Paraphrases" in card_of(trained)

"""Training a gate from an answer log: which questions are those that get bad answers."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from steerable_llm.chat.context import question_text
from steerable_llm.embedding import Embedder, SentenceEmbedder
from steerable_llm.errors import InvalidInputError, from_extra, unknown
from steerable_llm.logs.answers import REASONS, LoggedAnswer
from steerable_llm.metrics import CONFIDENCE, RESAMPLES, Estimate, estimate
from steerable_llm.pairs.pair import connected
from steerable_llm.policy.gate import Gate
from steerable_llm.reports.numbers import interval
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Code, Facts, Heading, Mono, Part, Table, Text, numeric


class RocPoint(BaseModel, frozen=True, extra="forbid"):
    """What a threshold does.

    Attributes:
        threshold: Scores from here on count as positive.
        caught: Share of the positives that count as such (true positive rate).
        false_alarms: Share of the negatives that count as positive (false positive rate).
    """

    threshold: float
    caught: float
    false_alarms: float


def roc_points(
    positives: Sequence[float], negatives: Sequence[float], thresholds: Sequence[float]
) -> list[RocPoint]:
    """Return what each of some thresholds does to the scores of both classes.

    Raises:
        InvalidInputError: A class is empty.
    """
    high, low = _classes(positives, negatives)
    return [
        RocPoint(
            threshold=float(at),
            caught=float((high >= at).mean()),
            false_alarms=float((low >= at).mean()),
        )
        for at in thresholds
    ]


def best_threshold(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Return the threshold with the largest distance between caught and false alarms (Youden's J).

    It lies half-way between two neighbouring scores, so that it does not hang on one of them; of
    equals, the lowest.

    Raises:
        InvalidInputError: A class is empty.
    """
    scores = sorted({*positives, *negatives})
    gained = [
        point.caught - point.false_alarms for point in roc_points(positives, negatives, scores)
    ]
    best = gained.index(max(gained))
    return float(scores[best] if best == 0 else (scores[best - 1] + scores[best]) / 2)


def roc_auc(
    positives: Sequence[float],
    negatives: Sequence[float],
    groups: tuple[Sequence[int], Sequence[int]] | None = None,
    seed: int = 0,
) -> Estimate:
    """Return the area under the ROC curve, with a 95 % bootstrap interval over groups.

    The area is the probability that a positive scores above a negative, ties counted half. Scores
    that separate the classes wholly leave the bootstrap without spread; the interval then ends
    where `n` disjoint pairs, n the smaller class, could all be in order by chance in one case of
    forty (exact binomial bound).

    Args:
        positives: Scores of one class.
        negatives: Scores of the other.
        groups: What is drawn as a whole, such as a question: its number for each score of either
            class. None draws every score by itself.
        seed: Of the bootstrap.

    Raises:
        InvalidInputError: A class is empty.
    """
    high, low = _classes(positives, negatives)
    order = (high[:, None] > low[None, :]) + 0.5 * (high[:, None] == low[None, :])
    value = float(order.mean())
    if groups is None:
        groups = list(range(high.size)), list(range(high.size, high.size + low.size))
    names, index = np.unique([*groups[0], *groups[1]], return_inverse=True)
    count = names.size
    draws = np.random.default_rng((seed, count)).multinomial(
        count, np.full(count, 1 / count), size=RESAMPLES
    )
    weights = draws[:, index].astype(np.float64)
    w_high, w_low = weights[:, : high.size], weights[:, high.size :]
    pairs = w_high.sum(1) * w_low.sum(1)
    usable = pairs > 0  # a resample may miss a class
    areas = np.einsum("bi,ij,bj->b", w_high[usable], order, w_low[usable], optimize=True)
    areas = areas / pairs[usable]
    tail = (1 - CONFIDENCE) / 2
    if areas.size and np.ptp(areas) > 0:
        lower, upper = (float(end) for end in np.quantile(areas, [tail, 1 - tail]))
    else:
        reach = float(tail ** (1 / min(high.size, low.size)))
        lower, upper = min(value, reach), max(value, 1 - reach)
    return Estimate(
        value=value, low=min(lower, value), high=max(upper, value), n=int(high.size + low.size)
    )


def _classes(
    positives: Sequence[float], negatives: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not len(positives) or not len(negatives):
        raise InvalidInputError(
            f"a ROC curve needs both classes, not {len(positives)} positives and "
            f"{len(negatives)} negatives"
        )
    return np.array(positives, dtype=np.float64), np.array(negatives, dtype=np.float64)


# Fewer separate questions than this in a class leave nothing to choose a threshold on.
FEWEST = 10
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(21))

_Rows: TypeAlias = NDArray[np.float64]
_Bad: TypeAlias = NDArray[np.bool_]
_Groups: TypeAlias = NDArray[np.int64]


class GateFigures(BaseModel, frozen=True, extra="forbid"):
    """How well a gate does on the held-out questions.

    Attributes:
        auc: Area under the ROC curve; the interval is a bootstrap over groups of questions.
        caught: Share of the bad answers at or above the threshold.
        false_alarms: Share of the good answers at or above the threshold.
        roc: The curve, at probabilities 0, 0.05 ... 1.
        bad: Held-out answers of the positive class.
        good: Held-out answers of the other.
    """

    auc: Estimate
    caught: Estimate
    false_alarms: Estimate
    roc: tuple[RocPoint, ...]
    bad: int
    good: int


@dataclass(frozen=True)
class TrainedGate:
    """A gate with what is known of it.

    Attributes:
        gate: The gate; it was fitted on the training questions only.
        figures: Measured on the held-out ones.
    """

    gate: Gate
    figures: GateFigures


def train_gate(
    answers: Iterable[LoggedAnswer],
    name: str,
    *,
    reasons: Iterable[str] | None = None,
    steps: Iterable[str] | None = None,
    embedder: Embedder | None = None,
    held_out: float = 0.3,
    seed: int = 0,
    regularisation: float = 1.0,
) -> TrainedGate:
    """Fit a logistic regression to the embeddings of logged questions.

    Positive are the answers with the verdict "bad" (for one of `reasons`, if given); negative all
    other judged answers. Answers that share a question or a document stay together, wholly in
    training or wholly held out. The threshold is the one with the largest distance between caught
    and false alarms in a cross-validation inside the training part, so the held-out figures have
    had no say in anything.

    Args:
        answers: The log.
        name: What policies will call the gate.
        reasons: Only bad answers for one of these reasons are positive; None takes all.
        steps: Only answers of these chain steps count at all; None takes all.
        embedder: The embedding model; default is all-MiniLM-L6-v2.
        held_out: Share of the answers to measure on.
        seed: Of the split.
        regularisation: scikit-learn's C: smaller is a flatter gate.

    Raises:
        InvalidInputError: Too few answers of a class, a share out of range, an unknown reason, or
            a step that no answer of the log has.
        MissingExtraError: scikit-learn or sentence-transformers is not installed.
    """
    if not 0 < held_out <= 0.5:
        raise InvalidInputError(f"held_out is {held_out}: give a share above 0, at most 0.5")
    answers = list(answers)
    wanted = None if reasons is None else sorted(set(reasons))
    chosen = None if steps is None else sorted(set(steps))
    steps_there = {each.step for each in answers if each.step is not None}
    for kind, names, known in (("reason", wanted, REASONS), ("step", chosen, steps_there)):
        for missing in (each for each in names or () if each not in known):
            raise InvalidInputError(f"the log: {unknown(kind, missing, known)}")
    examples = _examples(answers, wanted, chosen)
    labels = np.array([bad for _, bad, _ in examples])
    groups = np.empty(len(examples), dtype=np.int64)
    for number, members in enumerate(connected([keys for _, _, keys in examples])):
        groups[members] = number
    _enough(labels, groups)
    embedder = embedder or SentenceEmbedder()
    texts = sorted({text for text, _, _ in examples})
    embedded = dict(zip(texts, embedder.embed(texts), strict=True))
    rows = np.stack([embedded[text] for text, _, _ in examples]).astype(np.float64)
    train, test = _split(rows, labels, groups, held_out, seed)
    weights, bias, threshold = _fit(rows[train], labels[train], groups[train], seed, regularisation)
    gate = Gate(name, weights, bias, threshold, embedder.name, embedder.fingerprint)
    figures = _figures(gate, rows[test], labels[test], groups[test], seed)
    used = {"bad": int(labels[train].sum()), "good": int((~labels[train]).sum())}
    training: dict[str, Any] = {
        "log_sha256": _digest(answers),
        "reasons": wanted,
        "steps": chosen,
        "seed": seed,
        "held_out": held_out,
        "regularisation": regularisation,
        "trained_on": used,
        "figures": figures.model_dump(mode="json"),
    }
    return TrainedGate(replace(gate, training=training), figures)


def _examples(
    answers: Sequence[LoggedAnswer], reasons: list[str] | None, steps: list[str] | None
) -> list[tuple[str, bool, list[tuple[str, str]]]]:
    """Question, whether its answer was bad, and what it shares with others."""
    examples = []
    for answer in answers:
        text = question_text(answer.messages)
        if answer.verdict is None or text is None or (steps and answer.step not in steps):
            continue
        bad = answer.verdict == "bad" and (reasons is None or answer.reason in reasons)
        keys = [("question", text), *(("document", passage.id) for passage in answer.passages)]
        examples.append((text, bad, keys))
    return examples


def _enough(labels: _Bad, groups: _Groups) -> None:
    for bad, said in ((True, "bad"), (False, "good")):
        count = len(set(groups[labels == bad].tolist()))
        if count < FEWEST:
            raise InvalidInputError(
                f"a gate needs at least {FEWEST} separate questions with {said} answers, and the "
                f"log has {count}: log and judge more answers, or leave out --reason and --step"
            )


def _sklearn(module: str) -> Any:
    with from_extra("gate", "training a gate needs scikit-learn"):
        found = importlib.import_module(f"sklearn.{module}")
    return found


def _folds(count: int, seed: int) -> Any:
    """What splits answers so that a group stays together and both classes are everywhere."""
    module = _sklearn("model_selection")
    return module.StratifiedGroupKFold(count, shuffle=True, random_state=seed)


def _split(rows: _Rows, labels: _Bad, groups: _Groups, held_out: float, seed: int) -> Any:
    """Places of the training answers and of those held out."""
    folds = _folds(max(2, round(1 / held_out)), seed)
    train, test = next(folds.split(rows, labels, groups))
    if any(len(set(labels[part].tolist())) < 2 for part in (train, test)):
        raise InvalidInputError(
            "a part of the split has only good or only bad answers, since few questions stand "
            "apart from the others: log more of them, or try another --seed"
        )
    return train, test


def _fit(
    rows: _Rows, labels: _Bad, groups: _Groups, seed: int, regularisation: float
) -> tuple[_Rows, float, float]:
    """Weights, bias, and the threshold that is best on answers that a fold has not seen."""
    model = _sklearn("linear_model").LogisticRegression(C=regularisation, max_iter=1000)
    unseen = _sklearn("model_selection").cross_val_predict(
        model, rows, labels, groups=groups, cv=_folds(5, seed), method="predict_proba"
    )[:, 1]
    threshold = best_threshold(unseen[labels], unseen[~labels])
    model.fit(rows, labels)
    return model.coef_[0], float(model.intercept_[0]), threshold


def _figures(gate: Gate, rows: _Rows, truth: _Bad, groups: _Groups, seed: int) -> GateFigures:
    scores = gate.of_embeddings(rows)
    bad, good = scores[truth].tolist(), scores[~truth].tolist()
    return GateFigures(
        auc=roc_auc(bad, good, (groups[truth].tolist(), groups[~truth].tolist()), seed),
        caught=estimate([float(score >= gate.threshold) for score in bad], seed),
        false_alarms=estimate([float(score >= gate.threshold) for score in good], seed),
        roc=tuple(roc_points(bad, good, THRESHOLDS)),
        bad=len(bad),
        good=len(good),
    )


def _digest(answers: Sequence[LoggedAnswer]) -> str:
    hasher = hashlib.sha256()
    for answer in answers:
        hasher.update(answer.model_dump_json().encode())
    return hasher.hexdigest()


def gate_card(trained: TrainedGate, command: str | None = None) -> Page:
    """Return the card of a gate: what it was trained on, how well it does, what it cannot do.

    Args:
        trained: The gate with its figures.
        command: What made it, to make it again.
    """
    gate, figures, facts = trained.gate, trained.figures, trained.gate.training
    reasons = ", ".join(facts["reasons"] or ()) or "any reason"
    steps = (
        f", among the answers of the steps {', '.join(facts['steps'])}" if facts["steps"] else ""
    )
    used = facts["trained_on"]
    curve = [
        [f"{point.threshold:.2f}", f"{point.caught:.3f}", f"{point.false_alarms:.3f}"]
        for point in figures.roc
    ]
    parts: list[Part] = [
        Text(
            (
                "The probability, from the user's question alone, that an answer goes wrong "
                f"(verdict bad: {reasons}{steps}). A policy names it in a condition: ",
                Mono(f'when = {{ gate = {{ name = "{gate.name}" }} }}'),
                ".",
            )
        ),
        Facts(
            [
                ("fingerprint", Mono(gate.fingerprint_id)),
                (
                    "embedding model",
                    (f"{gate.embedder} (weights ", Mono(gate.embedder_fingerprint), ")"),
                ),
                (
                    "kind",
                    "logistic regression over the embedding of the last user message, retrieved "
                    "text left out",
                ),
                ("log", ("sha256 ", Mono(facts["log_sha256"][:16]))),
                ("trained on", f"{used['bad']} bad and {used['good']} good answers"),
                (
                    "measured on",
                    f"{figures.bad} bad and {figures.good} good answers, held out (share "
                    f"{facts['held_out']:g}, seed {facts['seed']}); no question and no document "
                    "is on both sides",
                ),
            ]
        ),
        Heading("Figures"),
        Text("On the held-out answers, with 95 % intervals."),
        Facts(
            [
                ("area under the ROC curve", interval(figures.auc)),
                (
                    "threshold",
                    f"{gate.threshold:.3f}, chosen by cross-validation on the training answers",
                ),
                ("bad answers caught at it", interval(figures.caught)),
                ("false alarms at it", interval(figures.false_alarms)),
            ]
        ),
        Text("An area of 0.5 is chance. The curve:"),
        Table(numeric("probability from", "caught", "false alarms"), curve),
        Heading("What it does not do"),
        Text(
            "It knows the question's wording and nothing else: not the documents, not the answer, "
            "not the turns before. The same question always gets the same probability; there is "
            "no hysteresis. Outside the kind of question that the log holds, the figures say "
            "nothing. Paraphrases of one question count as separate questions unless they quote "
            "the same document."
        ),
    ]
    if command:
        parts += [Heading("To make it again"), Code(command)]
    return Page(f"Gate {gate.name}", parts)

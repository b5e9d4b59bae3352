"""Training a gate from an answer log: which questions are those that get bad answers."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from steerable_llm.chat.context import question_text
from steerable_llm.embedding import Embedder, SentenceEmbedder
from steerable_llm.errors import InvalidInputError, MissingExtraError, unknown
from steerable_llm.logs.answers import REASONS, LoggedAnswer
from steerable_llm.metrics import CONFIDENCE, RESAMPLES, Estimate, estimate
from steerable_llm.pairs.pair import connected
from steerable_llm.policy.gate import Gate
from steerable_llm.reports.numbers import interval
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Code, Facts, Heading, Mono, Part, Table, Text, numeric


class RocPoint(BaseModel):
    """What a threshold does.

    Attributes:
        threshold: Scores from here on count as positive.
        caught: Share of the positives that count as such (true positive rate).
        false_alarms: Share of the negatives that count as positive (false positive rate).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float
    caught: float
    false_alarms: float


def roc_points(
    positives: Sequence[float], negatives: Sequence[float], thresholds: Sequence[float]
) -> list[RocPoint]:
    """Return what each of some thresholds does to the scores of both classes.

    Raises:
        InvalidInputError: A class is empty.
        MissingExtraError: scikit-learn is not installed.
    """
    curve = _roc_curve(positives, negatives)
    found = []
    for threshold in thresholds:
        # The last point of the curve that is not below the threshold; the first is above all.
        point = [each for each in curve if each.threshold >= threshold][-1]
        found.append(point.model_copy(update={"threshold": float(threshold)}))
    return found


def best_threshold(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Return the threshold with the largest distance between caught and false alarms (Youden's J).

    It lies half-way between two neighbouring scores, so that it does not hang on one of them; of
    equals, the lowest.

    Raises:
        InvalidInputError: A class is empty.
        MissingExtraError: scikit-learn is not installed.
    """
    curve = _roc_curve(positives, negatives)[:0:-1]  # without the point above all scores
    best = max(curve, key=lambda point: point.caught - point.false_alarms)
    below = max((p.threshold for p in curve if p.threshold < best.threshold), default=None)
    return best.threshold if below is None else (below + best.threshold) / 2


def _roc_curve(positives: Sequence[float], negatives: Sequence[float]) -> list[RocPoint]:
    """A point per score, from the highest to the lowest, after one above all."""
    labels, scores = _labelled(positives, negatives)
    alarms, caught, thresholds = _sklearn("metrics").roc_curve(
        labels, scores, drop_intermediate=False
    )
    return [
        RocPoint(threshold=float(at), caught=float(share), false_alarms=float(false))
        for at, share, false in zip(thresholds, caught, alarms, strict=True)
    ]


def roc_auc(
    positives: Sequence[float],
    negatives: Sequence[float],
    groups: tuple[Sequence[int], Sequence[int]] | None = None,
    seed: int = 0,
) -> Estimate:
    """The area under the ROC curve, with a 95 % bootstrap interval over groups.

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
        MissingExtraError: scikit-learn is not installed.
    """
    labels, scores = _labelled(positives, negatives)
    value = float(_sklearn("metrics").roc_auc_score(labels, scores))
    high, low = scores[labels], scores[~labels]
    order = (high[:, None] > low[None, :]) + 0.5 * (high[:, None] == low[None, :])
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


def _sklearn(module: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise MissingExtraError(
            "training a gate needs scikit-learn: pip install 'steerable-llm[gate]'"
        ) from error


def _labelled(
    positives: Sequence[float], negatives: Sequence[float]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which scores are of positives, and all scores, positives first."""
    if not len(positives) or not len(negatives):
        raise InvalidInputError(
            f"a ROC curve needs both classes, not {len(positives)} positives and "
            f"{len(negatives)} negatives"
        )
    scores = np.array([*positives, *negatives], dtype=np.float64)
    return np.arange(scores.size) < len(positives), scores


# Fewer separate questions than this in a class leave nothing to choose a threshold on.
FEWEST = 10
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(21))


class GateFigures(BaseModel):
    """How well a gate does on the held-out questions.

    Attributes:
        auc: Area under the ROC curve; the interval is a bootstrap over groups of questions.
        caught: Share of the bad answers at or above the threshold.
        false_alarms: Share of the good answers at or above the threshold.
        roc: The curve, at probabilities 0, 0.05 ... 1.
        bad: Held-out answers of the positive class.
        good: Held-out answers of the other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    _known("reason", wanted, REASONS)
    _known("step", chosen, {each.step for each in answers if each.step is not None})
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
    fitted = _fit(rows, labels, groups, held_out, seed, regularisation)
    gate = Gate(
        name=name,
        weights=fitted.weights,
        bias=fitted.bias,
        threshold=fitted.threshold,
        embedder=embedder.name,
        embedder_fingerprint=embedder.fingerprint,
    )
    figures = _figures(gate, rows, labels, groups, fitted.test, seed)
    training: dict[str, Any] = {
        "log_sha256": _digest(answers),
        "reasons": wanted,
        "steps": chosen,
        "seed": seed,
        "held_out": held_out,
        "regularisation": regularisation,
        "trained_on": {
            "bad": int(labels[fitted.train].sum()),
            "good": int((~labels[fitted.train]).sum()),
        },
        "figures": figures.model_dump(mode="json"),
    }
    described = Gate(
        gate.name, gate.weights, gate.bias, gate.threshold, gate.embedder,
        gate.embedder_fingerprint, training,
    )  # fmt: skip
    return TrainedGate(described, figures)


def _known(kind: str, names: Iterable[str] | None, known: Collection[str]) -> None:
    for name in names or ():
        if name not in known:
            raise InvalidInputError(f"the log: {unknown(kind, name, known)}")


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


def _enough(labels: NDArray[np.bool_], groups: NDArray[np.int64]) -> None:
    for bad, said in ((True, "bad"), (False, "good")):
        count = len(set(groups[labels == bad].tolist()))
        if count < FEWEST:
            raise InvalidInputError(
                f"a gate needs at least {FEWEST} separate questions with {said} answers, and the "
                f"log has {count}: log and judge more answers, or leave out --reason and --step"
            )


@dataclass(frozen=True)
class _Fit:
    weights: NDArray[np.float64]
    bias: float
    threshold: float
    train: NDArray[np.int64]
    test: NDArray[np.int64]


def _fit(
    rows: NDArray[np.float64],
    labels: NDArray[np.bool_],
    groups: NDArray[np.int64],
    held_out: float,
    seed: int,
    regularisation: float,
) -> _Fit:
    selection = _sklearn("model_selection")

    def folds(count: int) -> Any:
        return selection.StratifiedGroupKFold(count, shuffle=True, random_state=seed)

    train, test = next(folds(max(2, round(1 / held_out))).split(rows, labels, groups))
    both = {tuple(sorted(set(labels[part].tolist()))) for part in (train, test)}
    if both != {(False, True)}:
        raise InvalidInputError(
            "a part of the split has only good or only bad answers, since few questions stand "
            "apart from the others: log more of them, or try another --seed"
        )
    model = _sklearn("linear_model").LogisticRegression(C=regularisation, max_iter=1000)
    unseen = selection.cross_val_predict(
        model, rows[train], labels[train], groups=groups[train], cv=folds(5),
        method="predict_proba",
    )[:, 1]  # fmt: skip
    threshold = best_threshold(unseen[labels[train]], unseen[~labels[train]])
    model.fit(rows[train], labels[train])
    return _Fit(model.coef_[0], float(model.intercept_[0]), threshold, train, test)


def _figures(
    gate: Gate,
    rows: NDArray[np.float64],
    labels: NDArray[np.bool_],
    groups: NDArray[np.int64],
    test: NDArray[np.int64],
    seed: int,
) -> GateFigures:
    scores, truth, group = gate.of_embeddings(rows[test]), labels[test], groups[test]
    bad, good = scores[truth].tolist(), scores[~truth].tolist()
    return GateFigures(
        auc=roc_auc(bad, good, (group[truth].tolist(), group[~truth].tolist()), seed),
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

"""Failure modes: kinds of failures that one vector each may mend better than one for all.

Failures are embedded (the question and the bad answer), and clustered by k-means. How many clusters
there are is chosen by the silhouette (Rousseeuw 1987): with a the mean distance of a point to the
others of its cluster and b that to the nearest other cluster, s = (b - a) / max(a, b), averaged.
The silhouette knows no single cluster, and k-means cuts any cloud into parts of some silhouette. So
a split counts only if it is clearer than the clearest split of shapeless clouds: normal
distributions with the failures' own mean and covariance.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerable_llm.chat.context import question_alone, question_text
from steerable_llm.chat.message import as_messages
from steerable_llm.embedding import Embedder, SentenceEmbedder
from steerable_llm.errors import InvalidInputError, PairError, from_extra
from steerable_llm.pairs.pair import Pairs, PreferencePair
from steerable_llm.reports.page import Page
from steerable_llm.reports.parts import Table, Text, numeric

#: Clouds that a split is compared with; the chance that none of them beats nothing at all is 1/20.
CLOUDS = 19
#: Points that a silhouette is taken over; it costs their square.
SAMPLE = 2_000
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Mode:
    """One kind of failure.

    Attributes:
        name: Short enough for a file, made from its most typical example.
        typical: The pair whose failure is nearest to the middle of the mode.
        pairs: All its pairs, in their old order.
    """

    name: str
    typical: PreferencePair
    pairs: Pairs


@dataclass(frozen=True)
class Modes:
    """The kinds of failures among some pairs.

    Attributes:
        modes: The largest first; one that holds everything when no split is better.
        silhouettes: Number of modes to the silhouette of that split; only those were possible in
            which every mode has enough pairs.
        shapeless: The clearest silhouette of a cloud without modes.
    """

    modes: tuple[Mode, ...]
    silhouettes: dict[int, float]
    shapeless: float

    def page(self) -> Page:
        """Return the modes with their examples, and how their number was chosen."""
        rows = [
            [mode.name, str(len(mode.pairs)), " / ".join(failure_text(mode.typical).split("\n"))]
            for mode in self.modes
        ]
        tried = ", ".join(f"{k}: {value:.3f}" for k, value in self.silhouettes.items())
        said = (
            f"Silhouette by number of modes: {tried or 'none was possible'}. The clearest split of "
            f"{CLOUDS} shapeless clouds has {self.shapeless:.3f}"
            + (": no split is better, so this is one mode." if len(self.modes) == 1 else ".")
        )
        table = Table(["mode", *numeric("pairs"), "most typical failure"], rows)
        return Page("Failure modes", [table, Text(said)])

    def to_dict(self) -> dict[str, Any]:
        """Return the modes as plain values."""
        return {
            "modes": [
                {"name": m.name, "pairs": len(m.pairs), "typical": failure_text(m.typical)}
                for m in self.modes
            ],
            "silhouettes": self.silhouettes,
            "shapeless": self.shapeless,
        }


def failure_modes(
    pairs: Pairs,
    *,
    embedder: Embedder | None = None,
    most: int = 8,
    smallest: int = 5,
    seed: int = 0,
) -> Modes:
    """Group pairs by the kind of failure that their bad answer is.

    Args:
        pairs: Pairs with bad answers.
        embedder: Makes unit vectors `[n, d]` of the failures; MiniLM when left out.
        most: At most so many modes.
        smallest: Every mode has so many pairs or more; a vector needs some.
        seed: Of k-means and of the clouds.

    Raises:
        InvalidInputError: Limits that make no sense.
        PairError: No pairs, or one has no bad answer.
        MissingExtraError: scikit-learn or sentence-transformers is not installed.
    """
    if most < 1 or smallest < 2:
        raise InvalidInputError("give at least 1 mode of at least 2 pairs")
    if not pairs:
        raise PairError("there are no pairs to group: give some with bad answers")
    rows = (embedder or SentenceEmbedder()).embed([failure_text(pair) for pair in pairs])
    labels, silhouettes, shapeless = split(rows, most=most, smallest=smallest, seed=seed)
    groups = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    groups.sort(key=lambda members: (-len(members), members[0]))
    modes = []
    for number, members in enumerate(groups, start=1):
        middle = rows[members].mean(axis=0)
        typical = pairs[int(members[int(np.argmax(rows[members] @ middle))])]
        modes.append(
            Mode(f"mode-{number}-{_slug(typical)}", typical, Pairs(pairs[int(i)] for i in members))
        )
    return Modes(tuple(modes), silhouettes, shapeless)


def split(
    rows: Rows, *, most: int, smallest: int, seed: int = 0
) -> tuple[NDArray[np.int64], dict[int, float], float]:
    """Cut points into the number of clusters with the best silhouette, or leave them together.

    Args:
        rows: Points `[n, d]`.
        most: At most so many clusters.
        smallest: Each has so many points or more.
        seed: Of k-means and of the clouds.

    Returns:
        A label per point `[n]`, the silhouettes by number of clusters, and the best silhouette of
        the shapeless clouds.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    together = np.zeros(len(rows), dtype=np.int64)
    centred = rows - rows.mean(axis=0)
    # Nothing can be cut where all points are one, or where there are too few for two clusters.
    if len(rows) < 2 * smallest or float(np.abs(centred).max()) < 1e-6:
        return together, {}, 0.0
    found = _cuts(rows, most, smallest, seed)
    silhouettes = {k: value for k, (value, _) in found.items()}
    if not found:
        return together, {}, 0.0
    chance = np.random.default_rng(seed)
    shapeless = 0.0
    for cloud in range(CLOUDS):
        # Random mixtures of the centred points have exactly their covariance, at any width d.
        mixed = chance.standard_normal((len(rows), len(rows))) @ centred / np.sqrt(len(rows))
        cuts = _cuts(mixed.astype(np.float32), most, smallest, seed + cloud)
        shapeless = max([shapeless, *(value for value, _ in cuts.values())])
    best = max(silhouettes, key=lambda k: silhouettes[k])
    labels = found[best][1] if silhouettes[best] > shapeless else together
    return labels, silhouettes, shapeless


def _cuts(
    rows: Rows, most: int, smallest: int, seed: int
) -> dict[int, tuple[float, NDArray[np.int64]]]:
    """Return silhouette and labels for each number of clusters that leaves none too small."""
    with from_extra("curate", "failure modes need scikit-learn"):
        from sklearn.cluster import KMeans
        from sklearn.metrics import silhouette_score
    found = {}
    for k in range(2, min(most, len(rows) // smallest) + 1):
        labels = KMeans(k, n_init=4, random_state=seed).fit_predict(rows).astype(np.int64)
        if np.bincount(labels, minlength=k).min() < smallest:
            continue
        size = SAMPLE if len(rows) > SAMPLE else None
        score = float(silhouette_score(rows, labels, sample_size=size, random_state=seed))
        found[k] = (score, labels)
    return found


def failure_text(pair: PreferencePair) -> str:
    """Return what a failure is told by: the question, and the bad answer.

    Raises:
        PairError: The pair has no bad answer.
    """
    if pair.bad is None:
        raise PairError(f"the pair {pair.id!r} has no bad answer: leave it out to find the modes")
    alone = question_alone(pair.messages) or as_messages(pair.messages)
    asked = question_text(alone) or pair.messages[-1].content
    return f"{asked}\n{pair.bad}"


def _slug(pair: PreferencePair) -> str:
    words = re.findall(r"[a-z0-9]+", failure_text(pair).casefold())
    return "-".join(words[:6])[:40].strip("-") or "failure"

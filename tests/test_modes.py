"""Planted kinds of failures are found, and a cloud without kinds stays one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest
from failures import WordEmbedder
from numpy.typing import NDArray

from steerable_llm.errors import InvalidInputError, MissingExtraError, PairError
from steerable_llm.pairs.modes import failure_modes, failure_text, split
from steerable_llm.pairs.pair import Pairs, PreferencePair

WIDTH = 12


def blobs(kinds: int, each: int = 20, apart: float = 6.0, seed: int = 0) -> NDArray[np.float32]:
    chance = np.random.default_rng(seed)
    middles = np.eye(WIDTH)[:kinds] * apart
    points = np.repeat(middles, each, axis=0) + chance.standard_normal((kinds * each, WIDTH))
    return points.astype(np.float32)


def plain_silhouette(rows: NDArray[np.float32], labels: Sequence[int]) -> float:
    """Rousseeuw's definition, point by point."""
    scores = []
    for i, own in enumerate(labels):
        distance = {
            label: [
                float(np.linalg.norm(rows[i].astype(float) - rows[j]))
                for j in range(len(rows))
                if labels[j] == label and j != i
            ]
            for label in set(labels)
        }
        a = sum(distance[own]) / len(distance[own])
        b = min(sum(d) / len(d) for label, d in distance.items() if label != own)
        scores.append((b - a) / max(a, b))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("kinds", [2, 3, 4])
def test_planted_clusters_are_found_in_their_number(kinds: int) -> None:
    rows = blobs(kinds)
    labels, silhouettes, shapeless = split(rows, most=6, smallest=5)
    groups = labels.reshape(kinds, -1)
    assert all(len(set(group)) == 1 for group in groups.tolist())
    assert len(set(labels.tolist())) == kinds
    assert silhouettes[kinds] == pytest.approx(plain_silhouette(rows, labels.tolist()), abs=1e-4)
    assert silhouettes[kinds] == max(silhouettes.values()) > shapeless


@pytest.mark.parametrize("seed", [1, 2])
def test_a_cloud_without_kinds_is_one_mode(seed: int) -> None:
    # Longer in some directions than in others, which alone is no reason to cut it.
    cloud = blobs(1, each=60, seed=seed) * np.linspace(0.2, 3, WIDTH, dtype=np.float32)
    labels, silhouettes, _ = split(cloud, most=5, smallest=5, seed=seed)
    assert set(labels.tolist()) == {0}
    assert silhouettes  # cuts were possible, and none was better


def test_no_mode_is_smaller_than_asked() -> None:
    rows = np.concatenate([blobs(1, each=20), blobs(2, each=3, apart=50)[3:]])
    labels, _, _ = split(rows, most=4, smallest=5)
    assert set(labels.tolist()) == {0}


def test_equal_or_few_points_are_one_mode() -> None:
    assert split(np.ones((30, 4), np.float32), most=4, smallest=5)[1] == {}
    assert split(blobs(2, each=2), most=4, smallest=5)[1] == {}


def pairs_of(kinds: dict[str, str], each: int) -> Pairs:
    return Pairs(
        PreferencePair(
            f"{question} number {n}?", good="No.", bad=f"{answer} {n}", id=f"{question[:4]}-{n}"
        )
        for question, answer in kinds.items()
        for n in range(each)
    )


KINDS = {"what does the order of a lamp cost": "it is free for all", "who wrote this": "Homer did"}


def test_modes_hold_every_pair_once_and_are_named_by_their_most_typical_failure() -> None:
    pairs = pairs_of(KINDS, 12) + pairs_of({"who wrote this": "Homer did"}, 15)[12:]
    found = failure_modes(pairs, embedder=WordEmbedder(), most=4)
    assert [len(mode.pairs) for mode in found.modes] == [15, 12]
    assert sorted(p.id for mode in found.modes for p in mode.pairs) == sorted(p.id for p in pairs)
    first, second = found.modes
    assert first.name.startswith("mode-1-who-wrote-this")
    assert second.name.startswith("mode-2-what-does-the-order")
    rows = WordEmbedder().embed([failure_text(pair) for pair in first.pairs])
    near = rows @ rows.mean(axis=0)
    assert first.typical == first.pairs[int(near.argmax())]
    assert found.to_dict()["modes"][1]["pairs"] == 12
    assert "| mode-1-who-wrote-this" in found.page().to_markdown()


def test_the_question_is_told_from_its_passages() -> None:
    for prompt in ("Text:\nThe shop.\n\nQuestion: When?", "Use this.\n- The shop.\n\nWhen?"):
        pair = PreferencePair(prompt, good="At ten.", bad="At nine.")
        assert failure_text(pair) == "When?\nAt nine."


def test_nothing_to_group_is_an_error() -> None:
    with pytest.raises(PairError, match="no pairs to group"):
        failure_modes(Pairs(), embedder=WordEmbedder())
    with pytest.raises(PairError, match="no bad answer"):
        failure_modes(Pairs([PreferencePair("When?", "At ten.")]), embedder=WordEmbedder())
    with pytest.raises(InvalidInputError, match="at least 1 mode"):
        failure_modes(pairs_of(KINDS, 2), embedder=WordEmbedder(), smallest=1)


def test_a_missing_package_is_named_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'steerable-llm\[curate\]'"):
        split(blobs(2), most=3, smallest=5)

"""Do the attributed tokens decide? Masking them and reading the preference again (paper figure 3).

f(x) = log P(good | x) - log P(bad | x) is read with the k tokens of highest score taken away, with
the k of lowest score taken away, and with k tokens drawn at random. "Taken away" is what the method
itself means by it (eq. 4): the token's embedding is replaced by the baseline. If the scores are
worth anything, f falls in the first case, rises in the second, and moves less in the third.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from steerable_llm.errors import InvalidInputError
from steerable_llm.methods.grains.attribution import PairAttribution, select_tokens
from steerable_llm.methods.grains.grains import baseline_embedding
from steerable_llm.methods.grains.objective import EncodedPair, PreferenceObjective
from steerable_llm.metrics import Estimate, estimate
from steerable_llm.reports import numbers
from steerable_llm.reports.figures import BLUE, GREY, RED, Mark, lines_figure
from steerable_llm.reports.parts import Heading, Part, Picture, Table, Text, numeric
from steerable_llm.runtime.hooked_model import HookedModel

Removed = Literal["positive", "negative", "random"]
KS = (1, 2, 3, 5, 10)
_TITLES: dict[Removed, tuple[str, str]] = {
    "positive": ("k tokens that speak most for the good answer", RED),
    "negative": ("k tokens that speak most against it", BLUE),
    "random": ("k tokens at random (control)", GREY),
}


class TokenRow(BaseModel, frozen=True, extra="forbid"):
    """One kind of tokens taken away.

    Attributes:
        removed: Which.
        k: How many at most: a prompt may have fewer of a sign.
        change: Mean change of f over the pairs that have such a token, in nats.
    """

    removed: Removed
    k: int
    change: Estimate


class TokenAblation(BaseModel, frozen=True, extra="forbid"):
    """What taking tokens away does to the preference.

    Attributes:
        attribution: How tokens were scored.
        baseline: What a token's embedding was replaced by.
        pairs: How many pairs.
        preference: Mean f of the whole prompts, in nats.
        rows: One per kind and k.
    """

    attribution: str
    baseline: str
    pairs: int
    preference: float
    rows: tuple[TokenRow, ...]

    def figure(self) -> bytes:
        """The change of f over k, one line per kind, with intervals (PNG)."""
        marks = []
        for row in self.rows:
            e, (title, colour) = row.change, _TITLES[row.removed]
            control = row.removed == "random"
            marks.append(Mark(str(row.k), e.value, e.low, e.high, title, colour, control))
        return lines_figure(marks, "k", "change of f, nats")

    def parts(self) -> list[Part]:
        """The section of a page."""
        told = (
            f"f(x) = log P(good) - log P(bad), {self.preference:+.2f} nats on average over "
            f"{self.pairs} pairs, read again with tokens replaced by the {self.baseline} baseline; "
            f"tokens scored by {self.attribution.replace('_', ' ')}. Means over pairs with 95 % "
            "bootstrap intervals."
        )
        ks = sorted({row.k for row in self.rows})
        known = {
            (row.removed, row.k): numbers.interval(row.change, 2, signed=True) for row in self.rows
        }
        rows = [
            [title, *(known.get((removed, k), "no such token") for k in ks)]
            for removed, (title, _) in _TITLES.items()
        ]
        return [
            Heading("Taking attributed tokens away"),
            Text(told),
            Picture("tokens", self.figure, "Change of the preference over k"),
            Table(["taken away", *numeric(*(f"k = {k}" for k in ks))], rows),
        ]


def token_ablation(
    llm: HookedModel,
    attributions: Sequence[PairAttribution],
    baseline: str = "zero",
    attribution: str = "integrated_gradients",
    ks: Sequence[int] = KS,
    seed: int = 0,
) -> TokenAblation:
    """Measure how f changes when k of the tokens that a build attributed are taken away.

    Model, attributions (with bad answers), baseline and attribution are those of the build; the
    seed is of the random tokens and of the intervals.

    Raises:
        InvalidInputError: No attributions, one without a bad answer, or a k below 1.
    """
    if not attributions:
        raise InvalidInputError(
            "there are no attributions: methods.build.build returns them beside the vector"
        )
    if not ks or min(ks) < 1:
        raise InvalidInputError(f"k must be at least 1, not {list(ks)}")
    pairs = []
    for one in attributions:
        if "image" in one.segments:
            raise InvalidInputError(
                f"pair {one.pair_id} has an image, and only words are ablated here: leave it out"
            )
        if one.bad is None:
            raise InvalidInputError(f"pair {one.pair_id} has no bad answer, so f has no other side")
        good, bad = (tuple(llm.encode_answer(text)) for text in (one.good, one.bad))
        pairs.append(EncodedPair(one.pair_id, tuple(one.token_ids), good, bad))
    objective = PreferenceObjective(llm.model, pairs)
    neutral = baseline_embedding(llm, objective, baseline)
    changes: dict[tuple[Removed, int], list[float]] = {}
    whole = 0.0
    for place, one in enumerate(attributions):
        chosen = _chosen(one, ks, seed + place)
        x = objective.embeddings(place)
        points = x.repeat(len(chosen) + 1, 1, 1)
        for number, positions in enumerate(chosen.values(), start=1):
            points[number, list(positions)] = neutral.to(points.dtype)
        (values,) = objective.values([(place, points)])
        whole += float(values[0])
        for key, value in zip(chosen, values[1:].tolist(), strict=True):
            changes.setdefault(key, []).append(value - float(values[0]))
    return TokenAblation(
        attribution=attribution,
        baseline=baseline,
        pairs=len(attributions),
        preference=whole / len(attributions),
        rows=tuple(
            TokenRow(removed=removed, k=k, change=estimate(changes[removed, k], seed, within=None))
            for removed in _TITLES
            for k in ks
            if (removed, k) in changes
        ),
    )


def _chosen(
    one: PairAttribution, ks: Sequence[int], seed: int
) -> dict[tuple[Removed, int], tuple[int, ...]]:
    """Per kind and k the positions to take away; kinds of which a prompt has none are left out."""
    found: dict[tuple[Removed, int], tuple[int, ...]] = {}
    open_places = [place for place, flag in enumerate(one.selectable) if flag]
    random.Random(seed).shuffle(open_places)
    for k in ks:
        positive, negative = select_tokens(one.scores, one.selectable, k)
        kinds: dict[Removed, tuple[int, ...]] = {
            "positive": positive, "negative": negative, "random": tuple(open_places[:k]),
        }  # fmt: skip
        found.update({(kind, k): places for kind, places in kinds.items() if places})
    return found

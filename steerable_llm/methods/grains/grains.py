"""GrAInS: vectors from the tokens that gradients point at (paper sections 3.1 and 3.2).

For every pair: score the prompt's tokens (eq. 1 to 3), replace the strongest of each sign by the
baseline, and see how the state that decides moves in every block (eq. 4). Over the
pairs: one direction per sign (eq. 5), and their difference (eq. 6).
"""

import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from steerable_llm.chat.template import PromptTokens
from steerable_llm.errors import AttributionError, InvalidInputError, PairError
from steerable_llm.methods.aggregation import aggregate
from steerable_llm.methods.grains.attribution import (
    ATTRIBUTIONS,
    PairAttribution,
    Quadrature,
    completeness_error,
    select_tokens,
)
from steerable_llm.methods.grains.conservation import conservation
from steerable_llm.methods.grains.deltas import contrastive_deltas
from steerable_llm.methods.grains.merged import MergedObjective, Objective
from steerable_llm.methods.grains.objective import EncodedPair, PreferenceObjective
from steerable_llm.methods.grains.verification import Unchecked, verified_scores
from steerable_llm.methods.method import Extraction, Grid, Method, Parts
from steerable_llm.methods.states import chosen_layers
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import Advance
from steerable_llm.reports.numbers import percent
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.provenance import Completeness, Deltas, Provenance

LARGE_COMPLETENESS_ERROR = 1.0
"""Median relative completeness error above which a build warns.

Scores that are all zero have an error of exactly 1, so above it the scores add up to something
further from the preference than no scores at all. Below it they miss a part, as the paper's five
steps nearly always do, and still rank tokens.
"""
_AT_THE_PROMPT = ("conservative", "gradient", "gradient_input")
_MANY_STEPS = 50  # more than so many points on the path rarely change a score


class GrainsConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of GrAInS; the defaults are the paper's for text, but for the aggregation.

    The mean of the deltas did better on held-out prompts than their first principal component for
    every behaviour of the bundled model (`make vectors`); `preset="paper"` is the paper's own.

    Attributes:
        attribution: How tokens are scored, a name in `ATTRIBUTIONS`.
        steps: Points on the path, or SmoothGrad's samples.
        quadrature: How the path's points are placed.
        baseline: The embedding that stands for "no token": all zeros, the mean of the embedding
            matrix, the end-of-text token's or the padding token's.
        verified: So many tokens of each prompt, those whose gradients are largest, are masked one
            at a time: their scores are what f really loses, and only they can be selected. 0
            takes the attribution's word.
        k: Tokens selected per sign.
        objective: Good against bad, or the good answer alone.
        reduction: Sum or mean of the log-probabilities of an answer's tokens.
        aggregation: How deltas become one direction, a name in `AGGREGATIONS`.
        layers: 0-based blocks to build directions for; None means all.
        modality: What can be selected of a prompt with images: words and pieces of the images
            together, words alone, or pieces alone.
        special_tokens_selectable: Also let special and template tokens be selected.
        seed: For SmoothGrad and random scores.
        memory_budget: Bytes of activations per batch; None chooses by the device.
    """

    attribution: Literal[
        "conservative",
        "integrated_gradients",
        "gradient",
        "gradient_input",
        "smoothgrad",
        "random",
    ] = "integrated_gradients"
    steps: int = Field(default=5, ge=1)
    quadrature: Quadrature = "right"
    baseline: Literal["zero", "mean", "eos", "pad"] = "zero"
    verified: int = Field(default=0, ge=0)
    k: int = Field(default=3, ge=1)
    objective: Literal["preference", "likelihood"] = "preference"
    reduction: Literal["sum", "mean"] = "sum"
    aggregation: Literal["pca", "pca_uncentred", "mean", "pca_plus_mean"] = "mean"
    layers: tuple[int, ...] | None = None
    modality: Literal["joint", "text", "vision"] = "joint"
    special_tokens_selectable: bool = False
    seed: int = 0
    memory_budget: int | None = Field(default=None, gt=0)


GRAINS_PRESETS = {
    "paper": GrainsConfig(aggregation="pca"),
    # With images more is selected; for large models the paper takes 10 steps.
    "paper-vlm": GrainsConfig(aggregation="pca", k=20),
}


@dataclass(frozen=True)
class Gathered:
    """What some of the pairs gave: all that the others do not bear on.

    Attributes:
        attributions: Per pair.
        plus: [n+, L, d], how the deciding state moves without the tokens that speak for the good
            answer, of the pairs that have such.
        minus: [n-, L, d], the same of those against it.
        norms: [n, L, d], the deciding state itself.
        packed: Whether several prompts shared a row.
        images: Whether pairs have images.
    """

    attributions: tuple[PairAttribution, ...]
    plus: Tensor
    minus: Tensor
    norms: Tensor
    packed: bool
    images: bool


def gather_grains(
    llm: HookedModel,
    pairs: Pairs,
    config: GrainsConfig,
    progress: Advance | None = None,
    first: int = 0,
) -> Gathered:
    """Attribute some of the pairs and see how the model moves without the tokens selected.

    Args:
        llm: The unsteered model.
        pairs: Some of the pairs, one at least.
        config: Settings.
        progress: Called with the number of pairs done since the last call.
        first: Which of all pairs the first one is; random scores depend on it.

    Raises:
        AttributionError: Gradients that are not finite.
        InvalidInputError: A baseline that the tokenizer lacks.
    """
    layers = chosen_layers(llm, config.layers)
    objective, baseline, attributions = _attributed(llm, pairs, config, progress, first)
    selected = [(each.positive, each.negative) for each in attributions]
    plus, minus, norms = contrastive_deltas(llm, objective, selected, baseline, layers)
    images = isinstance(objective, MergedObjective)
    return Gathered(attributions, plus, minus, norms, objective.reader.packs, images)


def combine_grains(llm: HookedModel, parts: Sequence[Gathered], config: GrainsConfig) -> Extraction:
    """Build directions of what all parts of the pairs gave.

    Raises:
        AttributionError: There is no token of any sign to select.
    """
    layers = chosen_layers(llm, config.layers)
    attributions = tuple(each for part in parts for each in part.attributions)
    plus, minus, norms = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("plus", "minus", "norms")
    )
    if not len(plus) and not len(minus):
        raise AttributionError(
            "no prompt has a token that could be selected: every token is a special or template "
            f"token, or not what modality={config.modality!r} selects from; give prompts with "
            "content, or set special_tokens_selectable=True"
        )
    directions = {}
    for row, layer in enumerate(layers):
        directions[layer] = torch.zeros(norms.shape[-1])
        for sign, deltas in ((1, plus), (-1, minus)):
            if len(deltas):
                try:
                    found = aggregate(deltas[:, row], config.aggregation)
                except AttributionError as error:
                    raise AttributionError(f'{error}, or choose aggregation="mean"') from error
                directions[layer] += sign * found
    values = [a.value for a in attributions if a.value is not None]
    errors = [a.completeness_error for a in attributions if a.completeness_error is not None]
    provenance = Provenance(
        deltas=Deltas(len(plus), len(minus)),
        packed=any(part.packed for part in parts),
        mean_preference=statistics.fmean(values) if values else None,
        completeness_error=Completeness(_finite(statistics.median(errors)), _finite(max(errors)))
        if errors
        else None,
        facts={"image_share": _image_share(attributions)}
        if any(part.images for part in parts)
        else {},
    )
    _warn_of_large(errors, config)
    scales = dict(zip(layers, norms.norm(dim=-1).mean(0).tolist(), strict=True))
    differences = torch.zeros_like(norms)  # of each pair: its two deltas, as eq. 6 joins them
    differences[[i for i, a in enumerate(attributions) if a.positive]] += plus
    differences[[i for i, a in enumerate(attributions) if a.negative]] -= minus
    return Extraction(
        directions, scales, provenance, attributions, differences=differences, layers=layers
    )


def extract_grains(
    llm: HookedModel, pairs: Pairs, config: GrainsConfig, progress: Advance | None = None
) -> Extraction:
    """Build directions with GrAInS.

    Raises:
        AttributionError: Gradients that are not finite, or no token of any sign to select.
        InvalidInputError: A baseline that the tokenizer lacks.
    """
    return combine_grains(llm, [gather_grains(llm, pairs, config, progress)], config)


def attribute(
    llm: HookedModel, pairs: Pairs, config: GrainsConfig, progress: Advance | None = None
) -> tuple[PairAttribution, ...]:
    """Score the tokens of every pair's prompt, and build nothing of it.

    Arguments and errors are those of `extract_grains`.
    """
    return _attributed(llm, pairs, config, progress)[2]


def _attributed(
    llm: HookedModel,
    pairs: Pairs,
    config: GrainsConfig,
    progress: Advance | None,
    first: int = 0,
) -> tuple[Objective, Tensor, tuple[PairAttribution, ...]]:
    prompts, encoded = _encode(llm, pairs, config)
    objective: Objective
    if any(pair.vision for pair in encoded):
        objective = MergedObjective(llm, encoded, config.reduction, config.memory_budget)
    else:
        objective = PreferenceObjective(llm.model, encoded, config.reduction, config.memory_budget)
    baseline = baseline_embedding(llm, objective, config.baseline)
    found = _attribute(
        objective, prompts, pairs, baseline, config, progress or (lambda _: None), first
    )
    return objective, baseline, found


def baseline_embedding(llm: HookedModel, objective: Objective, name: str) -> Tensor:
    """Return the neutral embedding, float32 [d], or those of words and of pieces of images, [2, w].

    Raises:
        InvalidInputError: The tokenizer has no such token.
    """
    word = _neutral_word(llm, objective, name)
    if isinstance(objective, MergedObjective):
        return objective.baseline(word, mean=name == "mean")
    return word


def _neutral_word(llm: HookedModel, objective: Objective, name: str) -> Tensor:
    embedding = objective.reader.embedding
    size, width = next(embedding.parameters()).shape
    if name == "zero":
        return torch.zeros(width, device=objective.reader.device)
    if name == "mean":
        total = torch.zeros(width, dtype=torch.float64, device=objective.reader.device)
        for start in range(0, size, 8192):  # large vocabularies do not fit a second time
            rows = objective.reader.embed(range(start, min(start + 8192, size)))
            total += rows.double().sum(0)
        return (total / size).float()
    token = llm.tokenizer.eos_token_id if name == "eos" else llm.tokenizer.pad_token_id
    if token is None:
        raise InvalidInputError(
            f'the tokenizer has no {name} token: choose baseline="zero" or baseline="mean"'
        )
    return objective.reader.embed([int(token)])[0].float()


def _encode(
    llm: HookedModel, pairs: Pairs, config: GrainsConfig
) -> tuple[list[PromptTokens], list[EncodedPair]]:
    prompts, encoded = [], []
    for pair in pairs:
        bad: tuple[int, ...] = ()
        if config.objective == "preference":
            if pair.bad is None:
                raise PairError(
                    f"pair {pair.id} has no bad answer: give one, leave the pair out, or build "
                    'with objective="likelihood"'
                )
            bad = tuple(llm.encode_answer(pair.bad))
        try:
            prompt = llm.chat_format.tokens(pair.messages)
        except InvalidInputError as error:
            raise PairError(f"pair {pair.id}: {error}") from error
        good = tuple(llm.encode_answer(pair.good))
        llm.check_fit(len(prompt.ids), max(len(good), len(bad)), f"pair {pair.id}")
        prompts.append(prompt)
        encoded.append(EncodedPair(pair.id, prompt.ids, good, bad, prompt.vision))
    return prompts, encoded


def _attribute(
    objective: Objective,
    prompts: Sequence[PromptTokens],
    pairs: Pairs,
    baseline: Tensor,
    config: GrainsConfig,
    progress: Callable[[int], object],
    first: int,
) -> tuple[PairAttribution, ...]:
    plan = ATTRIBUTIONS[config.attribution]
    integrates = config.attribution == "integrated_gradients"
    conserves = config.attribution == "conservative"
    scores: dict[int, Tensor] = {}
    values: dict[int, float] = {}
    rest: dict[int, Tensor] = {}
    sensitivity: dict[int, Tensor] = {}
    for wave in _waves(objective, config):
        how = (config.steps, config.quadrature)
        paths = [
            plan(
                objective.embeddings(i),
                objective.neutral(i, baseline),
                *how,
                seed=config.seed + first + i,
            )
            for i in wave
        ]
        points = [(i, path.points) for i, path in zip(wave, paths, strict=True)]
        with conservation(objective.model) if conserves else nullcontext():
            results = objective.gradients(points, done=lambda _: progress(1))
        for i, path, slope in zip(wave, paths, results, strict=True):
            rest[i] = slope.rest
            try:
                scores[i] = path.scores(slope.gradients).cpu()
                sensitivity[i] = path.sensitivity(slope.gradients).cpu()
            except AttributionError as error:
                raise AttributionError(f"pair {pairs[i].id}: {error}") from error
            if config.attribution == "random":
                progress(1)
            # The last point of these paths is the prompt itself, so f(x) is already there.
            if config.attribution in _AT_THE_PROMPT or (
                integrates and config.quadrature == "right"
            ):
                values[i] = float(slope.values[-1])
    if integrates and config.quadrature != "right":
        inputs = [(i, objective.embeddings(i)[None]) for i in range(len(pairs))]
        values = dict(enumerate(float(value) for value in objective.values(inputs)))
    floor = objective.baseline_values(baseline) if integrates else None
    errors = {
        i: completeness_error(scores[i], values[i], floor[i])
        if floor
        else completeness_error(torch.cat([scores[i], rest[i]]), values[i], 0.0)
        for i in scores
        if floor or conserves
    }
    open_to = [_selectable(prompt, config) for prompt in prompts]
    verified: dict[int, tuple[int, ...]] = {}
    if config.verified:
        unchecked = {i: Unchecked(scores[i], sensitivity[i], open_to[i]) for i in scores}
        checked = verified_scores(objective, unchecked, baseline, config.verified, values)
        scores = {i: one for i, (one, _) in checked.items()}
        verified = {i: places for i, (_, places) in checked.items()}
    result = []
    for i, (prompt, pair) in enumerate(zip(prompts, pairs, strict=True)):
        selectable = open_to[i]
        may = [flag and j in verified.get(i, (j,)) for j, flag in enumerate(selectable)]
        positive, negative = select_tokens(scores[i], may, config.k)
        result.append(
            PairAttribution(
                pair_id=pair.id,
                token_ids=prompt.ids,
                tokens=prompt.texts,
                segments=prompt.segments,
                scores=scores[i],
                selectable=selectable,
                positive=positive,
                negative=negative,
                value=values.get(i),
                baseline_value=floor[i] if floor else None,
                completeness_error=errors.get(i),
                good=pair.good,
                bad=pair.bad,
                verified=verified.get(i, ()),
                pieces=prompt.pieces,
            )
        )
    return tuple(result)


def _selectable(prompt: PromptTokens, config: GrainsConfig) -> tuple[bool, ...]:
    may = config.special_tokens_selectable
    return tuple(
        config.modality != "text" if part == "image"
        else config.modality != "vision" and (may or part != "template")
        for part in prompt.segments
    )  # fmt: skip


def _image_share(attributions: Sequence[PairAttribution]) -> float | None:
    """Return which share of the selected positions are pieces of images; None without any."""
    chosen = [
        one.segments[place] == "image"
        for one in attributions
        for place in (*one.positive, *one.negative)
    ]
    return round(sum(chosen) / len(chosen), 4) if chosen else None


def _waves(objective: Objective, config: GrainsConfig) -> Iterable[list[int]]:
    """Cut the pairs, sorted by length, so that one wave's points stay within the budget."""
    wave: list[int] = []
    used = 0
    for i in sorted(range(len(objective.pairs)), key=lambda i: -objective.shapes[i].length):
        # The points, their gradients, and the float32 copies they are made from.
        size = 12 * config.steps * objective.embeddings(i).numel()
        if wave and used + size > objective.memory_budget:
            yield wave
            wave, used = [], 0
        wave.append(i)
        used += size
    yield wave


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def _warn_of_large(errors: Sequence[float], config: GrainsConfig) -> None:
    if not errors or statistics.median(errors) <= LARGE_COMPLETENESS_ERROR:
        return
    missing = percent(statistics.median(errors), 0)
    if config.attribution == "conservative":
        warnings.warn(
            f"the token scores miss {missing} of the preference they should add up to with those "
            f"of the answers (median over {len(errors)} pairs), which is more than scores of zero "
            "would: biases, learned positions or the entropies of long answers take a large "
            "part of it, or the model computes in a way that no rule reaches; try "
            'attribution="integrated_gradients"',
            stacklevel=5,
        )
        return
    open_to_try = {
        'quadrature="gauss_legendre"': config.quadrature == "right",
        'baseline="mean"': config.baseline == "zero",
        f"more than {config.steps} steps": config.steps < _MANY_STEPS,
    }
    untried = [what for what, is_open in open_to_try.items() if is_open]
    advice = f"try {' or '.join(untried)}" if untried else "read them as a ranking at most"
    warnings.warn(
        f"the token scores miss {missing} of the preference they should add up to (median over "
        f"{len(errors)} pairs, baseline {config.baseline!r}, "
        f"{config.steps} {config.quadrature} steps), which is more than scores of zero would: "
        + advice,
        stacklevel=5,
    )


GRAINS = Method(
    GrainsConfig,
    extract_grains,
    GRAINS_PRESETS,
    # Zero is the paper's baseline, and the end of the text a token that models have seen often.
    grid=Grid(configs=({}, {"baseline": "eos"})),
    parts=Parts(gather_grains, combine_grains),
)

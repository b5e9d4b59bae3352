"""BiPO and its kin: the vector itself is trained on the pairs, the weights stay as they are.

The source is Cao et al. 2024 (arXiv:2406.00045). With f = log P(good) - log P(bad) under the vector
v, f_0 the same without it, and a sign d drawn for every step, its loss is::

    preference    - log sigmoid(d beta (f_{d v} - f_0))

It only asks for a distance, and a vector can make that by pushing both answers down. So the default
is the first of these, and `both` adds them up::

    likelihood    - log P(good)                  under v (of the bad answer under -v, where d = -1)

To either, `kl` adds the divergence of the steered model from the unsteered one along the good
answers that the model gives already. With `gated`, a block adds sigmoid(w x + b) v to a state x in
place of v, so that one vector can turn some prompts and leave others as they are. A vector can be
trained `onto` others: they act meanwhile, so that it mends what they leave, and it takes them in.
"""

import math
import warnings
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn.functional import kl_div, logsigmoid, normalize

from steerable_llm.chat.vision import ReadPrompt, in_one_batch
from steerable_llm.errors import PairError, not_numbers
from steerable_llm.methods.decision import decision_tokens
from steerable_llm.methods.grains.grains import GrainsConfig, extract_grains
from steerable_llm.methods.method import Extraction, Grid, Method
from steerable_llm.methods.onto import described, ground, joined, seen_by
from steerable_llm.methods.pair_answers import AnsweredPair, PairAnswers, answered
from steerable_llm.methods.states import chosen_layers, read_states
from steerable_llm.methods.trainable import TrainableVector, gates
from steerable_llm.pairs.pair import Pairs
from steerable_llm.progress import Advance
from steerable_llm.runtime.blocks import text_config
from steerable_llm.runtime.decoding import log_probs
from steerable_llm.runtime.forward import frozen, run_prompts
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.runtime.hooks import capture_site
from steerable_llm.vector.provenance import Provenance
from steerable_llm.vector.steering import Application, Steering
from steerable_llm.vector.vector import SteeringVector

_WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""
_GATED = (0.47, 0.73)
"""Where in the model gates tell prompts apart, in shares of its depth: blocks 14 to 21 of 30."""
_ROWS = 16
"""Prompts that run together to read their states."""
_GATE_RATE = 0.25
"""Gates start from what they have to tell, so they are moved more slowly than directions."""


class BipoConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of BiPO.

    Attributes:
        loss: What is made small, see the module.
        likelihood_weight: Of the likelihood in the loss "both".
        beta: Of the preference.
        bidirectional: Draw a sign for every step, as the source does, so that the negated vector
            does the opposite; else the vector is trained one way only.
        kl: Weight of the divergence from the model without the vector, in nats per token, along the
            good answers of the pairs that are to be left alone (see `keep_margin`).
        gated: Train a gate for every block, too. It needs pairs of both kinds: to be changed, and
            to be left alone, which count the same in the loss.
        keep_margin: A pair is to be left alone when the model without the vector, but with those of
            `onto`, finds its good answer likelier than its bad one, by more than so many nats per
            token.
        keep_sources: Go by these instead: the pairs with such a `source` are to be left alone.
        onto: Files of vectors to train this one on top of: they steer as they are calibrated
            meanwhile, and the new vector holds them as well. Theirs are the same scope and norm
            rule.
        layers: 0-based blocks to train, all of them together; "middle" is the one in the middle,
            and None all, or with gates those behind the middle.
        scope: Positions that are steered.
        renormalise: Keep each state's norm (eq. 8 of the GrAInS paper).
        shared_end: Also train on what good and bad answer both end with.
        steps: Of the optimiser.
        epochs: Passes over the pairs in place of `steps`.
        batch_size: Pairs per step.
        learning_rate: How far the first full step moves all directions together, in shares of the
            residual norm: divided by the square root of the numbers there are, it is Adam's.
        weight_decay: Of AdamW.
        init: Start from zeros, or one step of `learning_rate` along the directions of GrAInS.
        seed: Of the batches, their order and the signs.
        memory_budget: Bytes of prompts that are kept from step to step; None is a quarter of the
            memory.
    """

    loss: Literal["likelihood", "preference", "both"] = "likelihood"
    likelihood_weight: float = Field(default=1.0, ge=0)
    beta: float = Field(default=0.1, gt=0)
    bidirectional: bool = False
    kl: float = Field(default=0.0, ge=0)
    gated: bool = False
    keep_margin: float = 0.0
    keep_sources: tuple[str, ...] = ()
    onto: tuple[str, ...] = ()
    layers: tuple[int, ...] | Literal["middle"] | None = None
    scope: Literal["generated", "decision", "last_prompt", "all"] = "generated"
    renormalise: bool = True
    shared_end: bool = True
    steps: int = Field(default=50, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=0.33, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    init: Literal["zero", "grains"] = "zero"
    seed: int = 0
    memory_budget: int | None = Field(default=None, gt=0)


BIPO_PRESETS = {
    "paper": BipoConfig(
        loss="preference",
        bidirectional=True,
        layers="middle",
        scope="all",
        renormalise=False,
        epochs=20,
        batch_size=4,
        learning_rate=0.05,
        weight_decay=0.05,
    )
}


@dataclass(frozen=True)
class Plan:
    """What the loss needs to know beside the answers' logits.

    Attributes:
        config: The settings.
        pairs: In tokens.
        before: Log P of the good and of the bad answer of every pair without the vector, float32
            `[n, 2]`; NaN where there is no bad one.
        kept: Places of the pairs that are to be left alone.
        beside: What steers as well; "without the vector" is with it.
    """

    config: BipoConfig
    pairs: Sequence[AnsweredPair]
    before: Tensor
    kept: frozenset[int]
    beside: Steering = Steering()  # noqa: RUF009 - frozen

    def weights(self, batch: Sequence[int]) -> dict[int, float]:
        """Return what each pair of a batch counts; with gates both kinds count the same."""
        kinds = [[p for p in batch if p in self.kept], [p for p in batch if p not in self.kept]]
        groups = [g for g in kinds if g] if self.config.gated else [list(batch)]
        return {place: 1 / len(group) / len(groups) for group in groups for place in group}

    def near(self, batch: Sequence[int]) -> dict[int, float]:
        """Return what the divergence counts of each pair of a batch that is to be left alone."""
        kept = [place for place in batch if place in self.kept] if self.config.kl else []
        return {place: self.config.kl / len(kept) for place in kept}

    @property
    def compares(self) -> bool:
        """Whether the loss needs the bad answers."""
        return self.config.loss != "likelihood" or self.config.bidirectional


def extract_bipo(
    llm: HookedModel, pairs: Pairs, config: BipoConfig, progress: Advance | None = None
) -> Extraction:
    """Train a vector.

    Raises:
        PairError: A pair without a bad answer, where it is needed; a gate or a
            divergence without pairs of the kind that it needs.
        SteerableError: The model's scores are not numbers.
    """
    _check_bad_answers(pairs, config)
    others = [SteeringVector.load(path, llm) for path in config.onto]
    tokens = decision_tokens(llm, pairs)
    beside = ground(others, config.scope, config.renormalise, config.gated, tokens)
    encoded = answered(llm, pairs, whole=config.shared_end)
    source = torch.Generator().manual_seed(config.seed)
    with frozen(llm.model):
        vector, states = _start(llm, pairs, encoded, config, beside)
        batches = _dealt([range(len(pairs))], config.batch_size, source)
        answers = PairAnswers(llm, encoded, batches, config.scope, config.memory_budget)
        before = log_probs_of(answers, len(batches), beside)
        plan = Plan(config, encoded, before, _kept(pairs, encoded, before, config), beside)
        if config.gated:
            kept = torch.tensor([place in plan.kept for place in range(len(pairs))])
            vector = _with_gates(vector, states, ~kept)
            kinds = [(~kept).nonzero()[:, 0].tolist(), sorted(plan.kept)]
            batches = _with_both(_dealt(kinds, config.batch_size, source), plan.kept)
            answers = PairAnswers(llm, encoded, batches, config.scope, config.memory_budget)
        losses = _train(answers, batches, vector, plan, source, progress)
        vector = vector.detached()
        after = log_probs_of(answers, len(batches), vector.steering() + beside)
    facts = _facts(vector, losses, len(batches), plan, after)
    directions, weighed = joined(vector, beside)
    if others:
        facts["onto"] = described(others)
    return Extraction(
        directions=directions,
        scales={**{k: v for other in others for k, v in other.scales.items()}, **vector.scales},
        provenance=Provenance(facts=facts),
        weighed=weighed,
        application=vector.application,
        saw=seen_by(others),
    )


def _check_bad_answers(pairs: Pairs, config: BipoConfig) -> None:
    by_model = (config.gated or config.kl > 0) and not config.keep_sources
    if config.loss == "likelihood" and not config.bidirectional and not by_model:
        return
    for pair in pairs:
        if pair.bad is None:
            raise PairError(
                f"pair {pair.id} has no bad answer: give one, leave the pair out, or train with "
                'loss="likelihood", bidirectional=False'
                + (" and name the pairs to be left alone by keep_sources" if by_model else "")
            )


def _start(
    llm: HookedModel,
    pairs: Pairs,
    encoded: Sequence[AnsweredPair],
    config: BipoConfig,
    beside: Steering,
) -> tuple[TrainableVector, Tensor]:
    """Return the vector to start from, without gates, and the states `[n, L, d]` it steers."""
    layers = _layers(llm, config)
    prompts = [pair.read for pair in encoded]
    states = (
        _steered_states(llm, prompts, beside) if beside.is_active else read_states(llm, prompts)
    )
    states = states[:, list(layers)]
    # A block that gives nothing at all has no length to take shares of; any number will do.
    norms = states.norm(dim=-1).mean(0).clamp_min(torch.finfo(torch.float32).tiny)
    shares = torch.zeros(states.shape[1:])
    if config.init == "grains":
        objective = "preference" if all(pair.bad for pair in encoded) else "likelihood"
        found = extract_grains(llm, pairs, GrainsConfig(objective=objective, layers=layers))
        shares = torch.stack([normalize(found.directions[layer], dim=0) for layer in layers])
        shares = shares * config.learning_rate / len(layers) ** 0.5
    rule: Literal["weigh", "add"] = "weigh" if config.gated else "add"
    vector = TrainableVector(
        scales=dict(zip(layers, norms.tolist(), strict=True)),
        shares=shares.to(llm.device),
        application=Application("block", rule, "absolute", config.scope, config.renormalise),
        decision_tokens=decision_tokens(llm, pairs),
    )
    return vector, states


def _steered_states(llm: HookedModel, prompts: Sequence[ReadPrompt], steering: Steering) -> Tensor:
    """Read every block's output at the last prompt position under a steering, `[n, L, d]`."""
    found = torch.empty(len(prompts), len(llm.blocks), text_config(llm.model).hidden_size)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place].tokens))
    for places in llm.image_batches.split(prompts, order, _ROWS):
        with llm.turns, torch.no_grad(), capture_site(llm.blocks, "block") as captured:
            run_prompts(
                llm,
                [prompts[place].tokens for place in places],
                [steering] * len(places),
                in_one_batch([prompts[place] for place in places], "left"),
                share=False,
            )
        for layer, states in captured.items():
            found[places, layer] = states[:, -1].float().cpu()
    return found


def _layers(llm: HookedModel, config: BipoConfig) -> tuple[int, ...]:
    depth = len(llm.blocks)
    if config.layers == "middle":
        return ((depth - 1) // 2,)
    if config.layers is None and config.gated:
        first, end = (round(share * depth) for share in _GATED)
        return tuple(range(min(first, depth - 1), max(end, min(first, depth - 1) + 1)))
    return chosen_layers(llm, config.layers)


def _kept(
    pairs: Pairs, encoded: Sequence[AnsweredPair], before: Tensor, config: BipoConfig
) -> frozenset[int]:
    """Return the places of the pairs that are to be left alone.

    Raises:
        PairError: There are none, or no others, and the settings need them.
    """
    if config.keep_sources:
        kept = [place for place, pair in enumerate(pairs) if pair.source in config.keep_sources]
        why = f"the source {' or '.join(map(repr, config.keep_sources))}"
    else:
        lengths = torch.tensor([[len(pair.good), max(1, len(pair.bad))] for pair in encoded])
        good, bad = (before / lengths).unbind(1)
        kept = (good - bad > config.keep_margin).nonzero()[:, 0].tolist()
        why = "a good answer that the model finds likelier than the bad one"
    if (config.gated or config.kl) and not kept:
        raise PairError(
            f"none of the {len(pairs)} pairs has {why}, so there is nothing to be left alone, "
            "which gated=True and kl need: add pairs whose good answer is what the model says"
        )
    if config.gated and len(kept) == len(pairs):
        raise PairError(
            f"all {len(pairs)} pairs have {why}, so there is nothing to be changed, which "
            "gated=True needs: add pairs whose bad answer is what the model says"
        )
    return frozenset(kept)


def _with_gates(vector: TrainableVector, states: Tensor, change: Tensor) -> TrainableVector:
    weights, biases = gates(states, change, vector.scales)
    device = vector.shares.device
    return replace(vector, weights=weights.to(device), biases=biases.to(device))


def _dealt(
    kinds: Sequence[Sequence[int]], batch_size: int, source: torch.Generator
) -> list[list[int]]:
    """Shuffle the places of each kind and deal them out, so that batches differ by one at most."""
    number = math.ceil(sum(map(len, kinds)) / batch_size)
    order = [kind[i] for kind in kinds for i in torch.randperm(len(kind), generator=source)]
    return [order[start::number] for start in range(number)]


def _with_both(batches: Sequence[Sequence[int]], kept: Set[int]) -> list[list[int]]:
    """Add to batches that have one kind of pairs alone one of the other kind, in turn."""
    made = [list(batch) for batch in batches]
    for kind in (frozenset(kept), {place for batch in batches for place in batch} - kept):
        turns = cycle(sorted(kind))
        for batch in made:
            if not kind.intersection(batch):
                batch.append(next(turns))
    return made


def log_probs_of(answers: PairAnswers, batches: int, steering: Steering) -> Tensor:
    """Return log P of the good and of the bad answer of every pair, float32 `[n, 2]` on the CPU.

    NaN stands where there is no bad answer.

    Raises:
        SteerableError: The model's scores are not numbers.
    """
    found = torch.full((len(answers.pairs), 2), math.nan)
    with torch.no_grad():
        for batch in range(batches):
            for part in answers.parts(batch):
                for place, *logits in answers.run(part, steering):
                    pair = answers.pairs[place]
                    for side, (one, answer) in enumerate(
                        zip(logits, (pair.good, pair.bad), strict=True)
                    ):
                        if one is not None:
                            found[place, side] = float(log_probs(one, answer).sum())
    if bool(found[:, 0].isnan().any()):
        raise not_numbers()
    return found


def _train(
    answers: PairAnswers,
    batches: Sequence[Sequence[int]],
    vector: TrainableVector,
    plan: Plan,
    source: torch.Generator,
    progress: Advance | None,
) -> list[float]:
    """Move the vector's parameters and return the loss of every step."""
    config, count = plan.config, len(plan.pairs)
    steps = config.steps if config.epochs is None else config.epochs * len(batches)
    rate = config.learning_rate / vector.shares.numel() ** 0.5
    groups = [{"params": [vector.shares], "lr": rate, "weight_decay": config.weight_decay}]
    if vector.weights is not None:
        parameters = [vector.weights, vector.biases]
        groups.append({"params": parameters, "lr": rate * _GATE_RATE, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    losses: list[float] = []
    order: list[int] = []
    with torch.enable_grad():
        for group in groups:
            for parameter in group["params"]:
                parameter.requires_grad_()
        for step in range(steps):
            order = order or torch.randperm(len(batches), generator=source).tolist()
            batch = order.pop()
            sign = 1.0
            if config.bidirectional:
                sign -= 2.0 * float(torch.randint(2, (), generator=source))
            optimizer.zero_grad()
            losses.append(backward(answers, batch, batches[batch], vector, plan, sign))
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(count * (step + 1) // steps - count * step // steps)
    return losses


def _rate(step: int, steps: int) -> float:
    """Return the share of the learning rate: a linear rise, then half a cosine to 0."""
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def backward(
    answers: PairAnswers,
    batch: int,
    places: Sequence[int],
    vector: TrainableVector,
    plan: Plan,
    sign: float,
) -> float:
    """Add a batch's gradients to the parameters and return its loss.

    Raises:
        SteerableError: It is not a number.
    """
    weights, near = plan.weights(places), plan.near(places)
    total = 0.0
    for part in answers.parts(batch):
        unsteered: dict[int, Tensor] = {}
        if any(place in near for place in part):
            with torch.no_grad():
                ran = answers.run(part, plan.beside, bad=False)
                unsteered = {place: good for place, good, _ in ran if place in near}
        loss = torch.zeros((), device=vector.shares.device)
        for place, good, bad in answers.run(
            part, vector.steering(sign) + plan.beside, bad=plan.compares
        ):
            loss = loss + weights[place] * pair_loss(plan, place, good, bad, sign)
            if place in near:
                loss = loss + near[place] * divergence(unsteered[place], good)
        if not bool(torch.isfinite(loss)):
            raise not_numbers()
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    return total


def pair_loss(plan: Plan, place: int, good: Tensor, bad: Tensor | None, sign: float) -> Tensor:
    """Return the loss of one pair by the equations of this module, a scalar.

    Args:
        plan: What else it depends on.
        place: Of the pair.
        good: What the good answer's tokens are predicted from, `[A, V]`, steered.
        bad: The same of the bad answer; None where the loss does without.
        sign: D.
    """
    config, pair = plan.config, plan.pairs[place]
    log_good = log_probs(good, pair.good).sum()
    if bad is None:
        return -log_good
    log_bad = log_probs(bad, pair.bad).sum()
    likelihood = -log_good if sign > 0 else -log_bad
    if config.loss == "likelihood":
        return likelihood
    before = float(plan.before[place, 0] - plan.before[place, 1])
    preference = -logsigmoid(sign * config.beta * (log_good - log_bad - before))
    return preference + (config.likelihood_weight * likelihood if config.loss == "both" else 0.0)


def divergence(unsteered: Tensor, steered: Tensor) -> Tensor:
    """Return the mean KL divergence, in nats, of steered from unsteered scores `[A, V]`."""
    one, other = (torch.log_softmax(logits, dim=-1) for logits in (unsteered, steered))
    return kl_div(other, one, reduction="batchmean", log_target=True)


def _facts(
    vector: TrainableVector, losses: Sequence[float], epoch: int, plan: Plan, after: Tensor
) -> dict[str, Any]:
    """Return what the vector's record tells of its training, and warn of a collapse."""
    changes = {}
    for name, one, other in zip(("good", "bad"), plan.before.T, after.T, strict=True):
        there = ~one.isnan()
        if bool(there.any()):
            changes[name] = {
                "before": round(float(one[there].mean()), 4),
                "after": round(float(other[there].mean()), 4),
            }
    good = changes["good"]
    if good["after"] < good["before"]:
        warnings.warn(
            "the training made the good answers less likely (mean log P from "
            f"{good['before']:.1f} to {good['after']:.1f}), which a preference allows as long as "
            "the bad ones fall further: expect broken text, and train with "
            'loss="likelihood" or "both", fewer steps or a smaller learning_rate',
            stacklevel=5,
        )
    first, last = losses[:epoch], losses[-epoch:]
    return {
        "first_loss": sum(first) / len(first),
        "last_loss": sum(last) / len(last),
        "steps": len(losses),
        "log_prob": changes,
        "kept": len(plan.kept),
        "shares": {
            str(layer): round(float(share.norm()), 4)
            for layer, share in zip(vector.scales, vector.shares, strict=True)
        },
    }


BIPO = Method(
    BipoConfig,
    extract_bipo,
    BIPO_PRESETS,
    application=Application(unit="absolute"),
    grid=Grid(
        (0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.25),
        "absolute",
        scopes=("generated",),
        subsets="whole",
    ),
)

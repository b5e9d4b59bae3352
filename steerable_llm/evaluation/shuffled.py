"""The control of shuffled labels: the same method on the same pairs, with labels that say nothing.

Half of the pairs, drawn at random, have their good and bad answer swapped. What is left is all that
the method finds in such prompts and answers without knowing which of the answers is the good one.
Exactly half: a coin flip per pair would leave a surplus of one side, and since a relative strength
gives any vector the same length, that surplus would come back as the whole vector or its opposite.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch

from steerable_llm.errors import InvalidInputError, PairError
from steerable_llm.methods.build import build_vector
from steerable_llm.methods.onto import check_unchanged
from steerable_llm.pairs.pair import Pairs
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.vector import SteeringVector


def swap_half(pairs: Pairs, seed: int = 0) -> Pairs:
    """Return the pairs with good and bad swapped in half of them (one fewer if they are odd).

    Raises:
        PairError: Fewer than two pairs, or one without a bad answer.
    """
    if len(pairs) < 2:
        raise PairError(f"shuffling needs at least two pairs to swap one of, not {len(pairs)}")
    chosen = set(random.Random(seed).sample(range(len(pairs)), len(pairs) // 2))
    found = []
    for place, pair in enumerate(pairs):
        if pair.bad is None:
            raise PairError(
                f"pair {pair.id} has no bad answer to swap with: leave the control 'shuffled' out"
            )
        if place in chosen:
            pair = pair.model_copy(update={"good": pair.bad, "bad": pair.good})
        found.append(pair)
    return Pairs(found)


def shuffled_vectors(
    llm: HookedModel, vector: SteeringVector, pairs: Pairs, seeds: Sequence[int]
) -> tuple[SteeringVector, ...]:
    """Build the control: what the vector's method makes of its pairs once half are swapped.

    Settings and calibration are the vector's own, and every direction is brought to the length
    of the vector's in that block, so that only the direction differs. Weighed vectors keep what
    their training gave.

    Raises:
        InvalidInputError: Other pairs than the vector was built from, or a method that does not
            look at which answer is the good one, for which the control would be the vector itself.
        PairError: A pair without a bad answer.
    """
    known = vector.provenance.data_digest
    if known != pairs.digest:
        raise InvalidInputError(
            f"vector {vector.name!r} was built from other pairs (sha256 {str(known)[:12]}) than "
            f"those given ({pairs.digest[:12]}): give the pairs it was built from, or leave the "
            "control 'shuffled' out"
        )
    return tuple(_shuffled(llm, vector, pairs, seed) for seed in seeds)


def _shuffled(llm: HookedModel, vector: SteeringVector, pairs: Pairs, seed: int) -> SteeringVector:
    method = str(vector.provenance.method)
    if onto := vector.provenance.config.get("onto"):
        check_unchanged(
            [SteeringVector.load(path, llm) for path in onto], vector.provenance.facts["onto"]
        )
    with warnings.catch_warnings():
        # The completeness of the vector itself was told when it was built.
        warnings.filterwarnings("ignore", "the token scores miss", UserWarning)
        made = build_vector(
            llm,
            swap_half(pairs, seed),
            method=method,
            name=f"{vector.name}-shuffled{seed}",
            progress=False,
            **vector.provenance.config,
        )
    if all(torch.equal(d, made.directions.get(i, d[:0])) for i, d in vector.directions.items()):
        raise InvalidInputError(
            f"method {method!r} made the same vector of shuffled labels: it does not ask which "
            "answer is the good one, so leave the control 'shuffled' out"
        )
    directions = made.directions
    if not made.weighed:
        directions = {
            layer: direction * (length / direction.norm().clamp_min(1e-12))
            for layer, direction in made.directions.items()
            # Heads that only the shuffled labels choose have no length to take over.
            for length in [vector.directions.get(layer, direction).norm()]
        }
    shuffled = replace(made, directions=directions)
    calibration = vector.calibration
    if calibration is not None and calibration.layers is not None:
        kept = tuple(layer for layer in calibration.layers if layer in shuffled.directions)
        if not kept:  # None would steer all blocks
            raise InvalidInputError(
                f"shuffled labels gave {vector.name!r} none of its calibrated blocks: leave the "
                "control 'shuffled' out"
            )
        calibration = replace(calibration, layers=kept)
    return shuffled.with_calibration(calibration)

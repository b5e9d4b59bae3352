"""How strongly to push for a given effect: strengths by divergence instead of by length.

A strength counts shares of the hidden state's length, and equal shares of two vectors may move the
model very differently. KL(steered || unsteered) per token along the unsteered answers says how far
the next-token distribution has really moved, on any model and with any vector. `calibrate` then
chooses among strengths of which none is idle and none destroys the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from steerable_llm.chat.vision import ReadPrompt
from steerable_llm.errors import CalibrationError, InvalidInputError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.measure import Asked, batches, running
from steerable_llm.evaluation.set import EvaluationItem, EvaluationSet
from steerable_llm.metrics import kl_per_token
from steerable_llm.runtime.decoding import forced_logits, greedy_tokens
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.steering import Scope, Steering, Unit
from steerable_llm.vector.vector import SteeringVector

PROMPTS = 24  # enough for a mean; success itself is judged on all of dev afterwards
_START = {"total": 0.3, "relative": 0.05, "absolute": 1.0}
_DOUBLINGS = 8
_HALVINGS = 10
_CLOSE = 0.05  # relative


class KlMeter:
    """KL(steered || unsteered) of one vector, per token along the unsteered answers."""

    def __init__(
        self,
        llm: HookedModel,
        items: Sequence[EvaluationItem],
        max_new_tokens: int = 24,
        batch_size: int = 64,
    ) -> None:
        """Answer the prompts once, unsteered.

        Raises:
            InvalidInputError: No prompts.
            PromptTooLongError: A prompt with its answer does not fit the context window.
        """
        if not items:
            raise InvalidInputError("the divergence needs at least one prompt")
        self.llm, self.max_new_tokens = llm, max_new_tokens
        prompts = [llm.chat_format.read(item.messages) for item in items]
        order = sorted(range(len(items)), key=lambda i: -len(prompts[i].tokens))
        self.chunks = [[items[i] for i in chunk] for chunk in batches(prompts, order, batch_size)]
        self.answers: list[list[list[int]]] = []
        self.before: list[list[Tensor | None]] = []
        for chunk in self.chunks:
            asked, prompts = self._asked(chunk, Steering.none())
            with running(llm, asked, prompts, max_new_tokens) as batch:
                self.answers.append(greedy_tokens(batch, llm.end_ids, max_new_tokens))
                self.before.append(forced_logits(batch, self.answers[-1]))

    def __call__(self, steering: Steering) -> float:
        """Mean over the prompts, in nats per token."""
        found = []
        for chunk, replies, before in zip(self.chunks, self.answers, self.before, strict=True):
            asked, prompts = self._asked(chunk, steering)
            with running(self.llm, asked, prompts, self.max_new_tokens) as batch:
                after = forced_logits(batch, replies)
            found += [
                kl_per_token(a, b)
                for a, b in zip(after, before, strict=True)
                if a is not None and b is not None
            ]
        if not found:
            raise CalibrationError(
                "the unsteered model answers none of the prompts: there is nothing to compare along"
            )
        return sum(found) / len(found)

    def _asked(
        self, chunk: Sequence[EvaluationItem], steering: Steering
    ) -> tuple[list[Asked], list[ReadPrompt]]:
        prompts = [self.llm.chat_format.read(item.messages) for item in chunk]
        return [(Arm("steered", steering), item) for item in chunk], prompts


def strength_for_kl(
    meter: KlMeter,
    vector: SteeringVector,
    kl: float,
    scope: Scope | None = None,
    layers: tuple[int, ...] | None = None,
    unit: Unit | None = None,
) -> float:
    """Find the positive strength at which a vector has this divergence, by doubling and halving.

    Scope, layers and unit that are left out are those of `SteeringVector.steer`.

    Returns:
        The strength, within 5 % of the divergence where that grows smoothly.

    Raises:
        InvalidInputError: A divergence that is not above 0.
        CalibrationError: No strength up to 256 times the usual reaches it.
    """
    if not (math.isfinite(kl) and kl > 0):
        raise InvalidInputError(f"the divergence must be above 0 nats per token, not {kl:g}")
    counted = unit or (vector.calibration or vector.application).unit

    def reached(strength: float) -> float:
        return meter(vector.steer(strength, layers, scope, unit))

    high = _START[counted]
    for _ in range(_DOUBLINGS):
        if (most := reached(high)) >= kl:
            break
        high *= 2
    else:
        raise CalibrationError(
            f"vector {vector.name!r} moves the model by at most {most:.3g} nats per token, even at "
            f"strength {high / 2:g}, and not by {kl:g}: ask for a smaller divergence"
        )
    low = high / 2**_HALVINGS
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        found = reached(middle)
        if abs(found - kl) <= _CLOSE * kl:
            return middle
        low, high = (middle, high) if found < kl else (low, middle)
    return math.sqrt(low * high)


def strengths_for_kl(
    llm: HookedModel,
    vector: SteeringVector,
    dev: EvaluationSet,
    kls: Sequence[float],
    scopes: Sequence[Scope] = ("generated", "all"),
    layers: Sequence[tuple[int, ...] | None] = (None,),
    unit: Unit = "total",
) -> tuple[float, ...]:
    """Find strengths for a sweep, whose arguments these are: one per divergence and scope.

    A sample of the dev prompts is used. Of a method that steers one block at a time, the
    divergences are those in the middle one.

    Raises:
        InvalidInputError: A divergence that is not above 0.
        CalibrationError: One that no strength reaches.
    """
    meter = KlMeter(llm, list(dev.sample(math.ceil(PROMPTS / len(dev.categories)))))
    subset = layers[len(layers) // 2]
    found = {
        float(f"{strength_for_kl(meter, vector, kl, scope, subset, unit):.3g}")
        for kl in kls
        for scope in scopes
    }
    return tuple(sorted(found))

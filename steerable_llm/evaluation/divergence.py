"""How strongly to push for a given effect: strengths by divergence instead of by length.

A strength counts shares of the hidden state's length, and equal shares of two vectors may move the
model very differently. KL(steered || unsteered) per token along the unsteered answers says how far
the next-token distribution has really moved, on any model and with any vector. `calibrate` then
chooses among strengths of which none is idle and none destroys the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from steerable_llm.chat.vision import ReadPrompt
from steerable_llm.errors import InvalidInputError
from steerable_llm.evaluation.arms import Arm
from steerable_llm.evaluation.measure import running
from steerable_llm.evaluation.set import EvaluationItem
from steerable_llm.metrics import kl_per_token
from steerable_llm.runtime.decoding import forced_logits, greedy_tokens
from steerable_llm.runtime.forward import Prefixes
from steerable_llm.runtime.hooked_model import HookedModel
from steerable_llm.vector.steering import Scope, Steering, Unit
from steerable_llm.vector.vector import SteeringVector

# A first guess of what moves a model by a tenth of a nat per token, by what strengths count.
_START: dict[Unit, float] = {"total": 0.3, "relative": 0.05, "absolute": 1.0}
_START_KL = 0.1
_FURTHEST = 256.0  # times the first guess
_STEPS = 24
_CLOSE = 0.05  # of the divergence
_BROKEN = 1e6  # nats per token, where a model's scores are no numbers any more
_LEAP = 8.0  # largest factor between two strengths that are tried


class KlMeter:
    """KL(steered || unsteered) of one steering, per token along the unsteered answers."""

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
        self._chunks = [
            _Chunk(llm, [items[i] for i in places], [prompts[i] for i in places], max_new_tokens)
            for places in llm.image_batches.split(prompts, order, batch_size)
        ]

    def __call__(self, steering: Steering) -> float:
        """Mean over the prompts, in nats per token."""
        found = [kl for chunk in self._chunks for kl in chunk.divergences(steering)]
        return sum(found) / len(found)


class _Chunk:
    """Prompts that run together, with their unsteered answers."""

    def __init__(
        self,
        llm: HookedModel,
        items: Sequence[EvaluationItem],
        prompts: Sequence[ReadPrompt],
        max_new_tokens: int,
    ) -> None:
        self._llm, self._items, self._prompts = llm, items, prompts
        self._max_new_tokens = max_new_tokens
        tokens = [prompt.tokens for prompt in prompts]
        none = [Steering.none()] * len(items)
        # Models that read images may keep what they know of the rows, which are then not shared.
        able = llm.chat_format.vision is None and Prefixes.serve(llm, tokens, none)
        self._prefixes = Prefixes(llm, tokens) if able else None
        asked = [(Arm("none"), item) for item in items]
        with running(llm, asked, prompts, max_new_tokens) as batch:
            self._answers = greedy_tokens(batch, llm.end_ids, max_new_tokens)
            self._before = forced_logits(batch, self._answers)

    def divergences(self, steering: Steering) -> list[float]:
        """Return that of every prompt."""
        pairs = zip(self._after(steering), self._before, strict=True)
        # Every answer has a token, if only the end of turn.
        return [kl_per_token(a, b) for a, b in pairs if a is not None and b is not None]

    def _after(self, steering: Steering) -> list[Tensor | None]:
        rows, tokens = len(self._items), [prompt.tokens for prompt in self._prompts]
        if self._prefixes is not None and Prefixes.serve(self._llm, tokens, [steering]):
            # The prompts' states do not depend on the steering.
            stream = self._prefixes.run(range(rows), [steering] * rows)
            return forced_logits(stream, self._answers)
        asked = [(Arm("steered", steering), item) for item in self._items]
        with running(self._llm, asked, self._prompts, self._max_new_tokens) as batch:
            return forced_logits(batch, self._answers)


class Effect:
    """How far a steering moves the model, by its strength: measured once each, then read off.

    Small strengths act as their square, which is where the search starts; between two measured ones
    the logarithms are taken to lie on a line.
    """

    def __init__(self, measure: Callable[[float], float], start: float) -> None:
        """Remember how to measure.

        Args:
            measure: From a strength above 0 to nats per token.
            start: A strength to begin at.
        """
        self._measure, self._start = measure, start
        self.measured: dict[float, float] = {}

    def strength_for(self, kl: float, close: float = _CLOSE, read: float = 1.0) -> float | None:
        """Return a strength with this divergence, or None if none is strong enough.

        Args:
            kl: Nats per token.
            close: How far off it may be, as a share of it.
            read: Between two measured strengths whose divergences differ by no more than this
                factor it is read off, and not measured.
        """
        for _ in range(_STEPS):
            for strength, found in self.measured.items():
                if abs(found - kl) <= close * kl:
                    return strength
            below = [s for s, found in self.measured.items() if found < kl]
            above = [s for s, found in self.measured.items() if found >= kl]
            high = min(above, default=math.inf)
            low = max((s for s in below if s < high), default=0.0)
            if high < low * (1 + close / 10):  # it jumps here
                return high
            if low >= self._start * _FURTHEST:
                return None
            strength = self._guess(kl, low, high)
            if low and high < math.inf and self.measured[high] <= read * self.measured[low]:
                return strength
            found = self._measure(strength)
            self.measured[strength] = found if math.isfinite(found) else _BROKEN
        return high if high < math.inf else None

    def _guess(self, kl: float, low: float, high: float) -> float:
        if not self.measured:
            return self._start * math.sqrt(kl / _START_KL)
        if low and high < math.inf:
            rise = self._log(high) - self._log(low)
            part = (math.log(kl) - self._log(low)) / rise if rise else 0.5
            return low * math.pow(high / low, min(max(part, 0.1), 0.9))
        known = low or high
        others = sorted(self.measured, key=lambda s: abs(math.log(s / known)))[1:2]
        slope = 2.0
        if others:
            steepness = self._log(others[0]) - self._log(known)
            slope = min(max(steepness / math.log(others[0] / known), 0.5), 4.0)
        step = math.exp((math.log(kl) - self._log(known)) / slope)
        # After the second measurement no small steps: where the divergence levels off, they would
        # lead nowhere.
        least = 2.0 if others else 1.05
        return known * (
            min(max(step, least), _LEAP) if low else min(max(step, 1 / _LEAP), 1 / least)
        )

    def _log(self, strength: float) -> float:
        return math.log(max(self.measured[strength], 1e-12))


def effect_of(
    meter: KlMeter,
    vector: SteeringVector,
    sign: int = 1,
    scope: Scope | None = None,
    layers: tuple[int, ...] | None = None,
    unit: Unit | None = None,
) -> Effect:
    """Return how far a vector moves the model, by the magnitude of its strength.

    Scope, layers and unit that are left out are those of `SteeringVector.steer`.
    """
    counted = unit or (vector.calibration or vector.application).unit
    return Effect(
        lambda strength: meter(vector.steer(sign * strength, layers, scope, unit)), _START[counted]
    )


def checked_divergences(kls: Sequence[float]) -> list[float]:
    """Return divergences in order, each once.

    Raises:
        InvalidInputError: None, or one that is not above 0.
    """
    for kl in kls:
        if not (math.isfinite(kl) and kl > 0):
            raise InvalidInputError(f"the divergence must be above 0 nats per token, not {kl:g}")
    if not kls:
        raise InvalidInputError("there is no divergence to look for: give one at least, as 0.1")
    return sorted(set(kls))
